"""One dataset measured through the store: what is there is reused, the rest measured, kept and saved."""

import contextlib
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from biasscope.engine.errors import DataError
from biasscope.engine.experiments.parallel import engines
from biasscope.engine.experiments.scans import selection, session
from biasscope.engine.experiments.scans.session import Running
from biasscope.engine.settings import memory
from biasscope.engine.statistics import cells
from biasscope.engine.statistics import reliability as trust
from biasscope.engine.store import cache, journal, runs, seals
from biasscope.engine.types import UNEDITED, Dataset, Design, Edit, Example, Site, Unit

if TYPE_CHECKING:
    from biasscope.engine.measure.sources import Source
    from biasscope.engine.model.tokens import Forest

Aggregates = tuple[pl.DataFrame, pl.DataFrame]
"""SUMMARY and RELIABILITY."""


@dataclass
class Scan:
    """One dataset's measurement."""

    run: Running
    dataset: Dataset
    journal: journal.Journal
    key: str
    before: int = 0
    """Units that had been measured when it was opened."""
    prefix: str = ""
    """Before the names of its units, where it measures other prompts than the run's own (see `beside`)."""

    def warn(self, text: str) -> None:
        """Warn about the dataset."""
        self.run.warn(f"{self.dataset.name}: {text}", self.dataset.name)

    def resume(self) -> None:
        """Check the shards of units measured before, and warn of corrupted ones."""
        self.journal.check()
        self.before = len(self.journal.units)
        if damaged := self.journal.damaged:
            shown = ", ".join(damaged[:5])
            self.warn(
                f"{len(damaged)} stored parts are corrupted (checksum mismatch), measured again: {shown}"
            )

    @property
    def complete(self) -> bool:
        """Whether every unit has been measured."""
        return self.journal.complete

    def reuse_finished(self) -> bool:
        """Take the finished run from its folder as the result; False where there is none."""
        path = self.run.folder(self.dataset.name, self.key)
        options = self.run.options
        record = None if options.no_cache or options.fresh else cache.stored(path, options.cache_dir).record
        if record is None or not record.complete or record.datasets[0].run_key != self.key:
            return False
        if options.name and options.name != record.name:
            record = cache.renamed(path, record, options.name, options.cache_dir / "runs" / self.key)
        part = record.datasets[0].model_copy(update={"reused": record.datasets[0].units, "path": str(path)})
        self.run.model = record.model
        self.run.batch_size = record.batch_size
        for warning in record.warnings:
            self.run.warn(warning, self.dataset.name)
        self.run.add_finished(part)
        self.run.voice.note(f"{part.name}: reused {part.units}/{part.units}, all measured before, at {path}")
        return True

    @property
    def batch(self) -> int:
        """Nodes × copies of one pass, decided at the run's first start."""
        from biasscope.engine.model import loading

        options = self.run.options
        requested = None if options.batch_size == "auto" else int(options.batch_size)
        size = loading.batch_size(self.run.lm, requested, memory(options.max_memory))
        return int(self.journal.decide("batch_size", size))

    def forest(
        self,
        *,
        share: Literal["all", "example"] = "all",
        sentences: bool = False,
        twins: bool = False,
        positions: bool = False,
    ) -> "Forest":
        """The dataset's examples as a forest, with counterfactual twins on request; warns of the dropped."""
        from biasscope.engine.model import tokens

        every = self.dataset.examples
        with self.run.phase("tokens"):
            kept, lost = self.twins() if twins else (None, {})
            examples = [e for e in every if e.id not in lost]
            forest = tokens.forest(
                self.run.lm, examples, share=share, sentences=sentences, twins=kept, positions=positions
            )
            forest.dropped.update(lost.values())
        for what, reasons in (("dropped", forest.dropped), ("incomplete", forest.partly)):
            for reason, n in reasons.items():
                self.warn(f"{n} of {len(every)} examples {what}: {reason}")
        return forest

    @property
    def ungrouped(self) -> Design:
        """The design in which each group is a cluster of its own."""
        data = self.dataset
        return Design(data.covariate, seed=self.run.options.seed, templates=data.templates)

    @property
    def design(self) -> Design:
        """The design of the run's groups, with groups that are each other's twin as partners."""
        twins = self.journal.get("twins", "twins") if "twins" in self.journal.units else None
        return self.ungrouped if twins is None else replace(self.ungrouped, partners=cells.partners(twins))

    def twins(self) -> tuple[dict[str, str], dict[str, str]]:
        """Example id → its counterfactual prompt, and id → why it has none; stored as a table of the run."""
        from biasscope.engine.model import twins

        kept, lost = twins.fit(self.run.lm, self.dataset, self.run.options.seed)
        if not kept:
            reasons = ", ".join(f"{n} × {reason}" for reason, n in Counter(lost.values()).most_common())
            n = len(self.dataset.examples)
            raise DataError(
                f"{self.dataset.name}: no example kept: {n} of {n} have no counterfactual twin: {reasons}; "
                "try --source mean"
            )
        self.measure([Unit("twins", lambda: {"twins": twins.table(self.dataset, kept)})], None)
        return {id_: twin.prompt for id_, twin in kept.items()}, lost

    def source(self, name: str, forest: "Forest", sites: Sequence[Site], prefix: str = "") -> "Source":
        """The source of that name; the dataset's means are stored."""
        from biasscope.engine.measure import sources

        lm = self.run.lm
        if name != "mean":
            return sources.source(name, lm, forest, sites, seed=self.run.options.seed)
        means = Unit("means", lambda: {"means": sources.means(lm, forest, sites, self.run.voice.track)})
        (unit,) = self.measure([means], None, prefix=prefix)
        table = self.journal.get(unit, "means")
        if left_out := table["left_out"][0]:
            self.warn(f"the means leave out {left_out} of {len(forest.examples)} examples (not finite)")
        return sources.mean_of(lm, table)

    def standing(self, given: Sequence[Site]) -> Edit:
        """The edit that replaces these sites by the dataset's means throughout."""
        if not given:
            return UNEDITED
        from biasscope.engine.measure import sources

        inside = selection.inside(self.run.lm, given)
        return sources.removed(given, self.source("mean", self.forest(), inside, "given-"))

    def beside(self, dataset: Dataset, prefix: str = "") -> "Scan":
        """The same run measuring other prompts as well, in units of that prefix."""
        return replace(self, dataset=dataset, prefix=prefix)

    def measure(
        self,
        units: Sequence[Unit],
        label: str | None,
        *,
        prefix: str = "",
        table: str | None = None,
        whole: bool = False,
    ) -> list[str]:
        """The names of the units, all stored; `prefix` precedes them, `table` stands in for "effects".

        Those without a label are measured in this process. A shard measures its own share, of the `whole` and
        of those without a label all: other units are made of them.
        """

        def named(unit: Unit) -> Unit:
            tables = unit.compute if table is None else lambda: {table: unit.compute()["effects"]}
            return Unit(self.prefix + prefix + unit.name, tables)

        units = [named(unit) for unit in units]
        pending = [unit for unit in units if unit.name not in self.journal.units]
        engine = self.run.engine if label else engines.Serial()
        if label and (reused := len(units) - len(pending)):
            self.run.voice.note(f"{self.dataset.name}: reused {reused}/{len(units)}")
        pending = pending if whole else engine.share(pending)
        if pending and len(threads := self.journal.threads(engine.threads())) > 1:
            self.warn(journal.in_turn(threads))
        with self.run.phase("passes"):
            ends = label and not self.run.own.get("adaptive")  # a race has further stages
            forecast = session.forecast(self.run, len(pending)) if ends else None
            for name, tables in engine.measured(self, pending, label or ""):
                self.journal.put(name, tables)
                if forecast:
                    forecast.step()
        return [unit.name for unit in units]

    def close(
        self,
        used: Sequence[Example],
        units: list[str],
        dropped: Counter[str],
        partly: Mapping[str, int] | None = None,
    ) -> None:
        """Record in the journal that all units are measured, and what the run is of."""
        self.journal.set("finished", self.finished(used, units, dropped, partly))

    def finished(
        self,
        used: Sequence[Example],
        units: list[str],
        dropped: Counter[str],
        partly: Mapping[str, int] | None = None,
    ) -> dict[str, Any]:
        """What the run is of, where these units are all of it."""
        dataset = self.dataset
        units = [*(["twins"] if "twins" in self.journal.units else []), *units]
        part = runs.DatasetPart(
            name=dataset.name,
            digest=dataset.digest,
            source=dict(dataset.record),
            found=dataset.found,
            used=len(used),
            not_drawn=dataset.found - dataset.dropped.total() - len(dataset.examples),
            dropped=dict(dataset.dropped + dropped),
            partly=dict(partly or {}),
            groups=len({e.group for e in used}),
            **runs.words(dataset),
            per_token=any(e.per_token for e in used),
            units=len(units),
            threads=self.journal.facts.get("threads", []),
        )
        model = None if self.run.model is None else self.run.model.model_dump()
        about = {"part": part.model_dump(), "model": model, "warnings": self.run.warnings_of([part])}
        return {**about, "batch_size": self.batch, "units": units}

    def table(self, name: str) -> pl.LazyFrame:
        """Concatenate the table over all units, write it to the run's folder, and scan it.

        `effects` and `partial` of a race: those of the sites measured in all groups, and those of the others.
        """
        with self.run.phase("tables"):
            stored, facts = "effects" if name == "partial" else name, self.journal.facts
            frames = self.journal.tables(stored, facts["finished"]["units"])
            if "settled" in facts and stored == "effects":
                frames = (cells.of_sites(f, facts["settled"], others=name != stored) for f in frames)
            return self.run.write(self.run.folder(self.dataset.name, self.key), name, frames)

    def put(self, name: str, frame: pl.DataFrame) -> None:
        """Write a table that stands in no unit, because it follows from the data, to the run's folder."""
        runs.write(self.run.folder(self.dataset.name, self.key), name, [frame])

    def save(self, summary: pl.DataFrame, reliability: pl.DataFrame | None = None) -> None:
        """Finish the run: save its summary and how far its ranking can be trusted."""
        if "twins" in self.journal.units:
            self.table("twins")
        if self.dataset.covariates:
            self.put("covariates", cells.covariates(self.dataset))
        finished = self.journal.facts["finished"]
        self.run.model = runs.ModelPart.model_validate(finished["model"])
        self.run.batch_size = finished["batch_size"]
        for warning in finished["warnings"]:
            self.run.warn(warning, self.dataset.name)
        self.run.timing["store"] = self.run.timing.get("store", 0.0) + self.journal.seconds
        reused = min(self.before, len(finished["units"]))
        attention = self.journal.facts.get("patterns", {}).get("says", "")
        # of what an older version measured the words are those of now
        part = finished["part"] | runs.words(self.dataset) | {"reused": reused, "attention": attention}
        part |= {"noise_floor": None if reliability is None else trust.floor(reliability)}
        self.run.keep(runs.DatasetPart.model_validate(part), self.key, summary, reliability)


def scans(run: Running, **parameters: Any) -> Iterator[Scan]:
    """The datasets that are not finished, one after the other, each locked; finished ones are reused."""
    run.slug = seals.claim(run.options.output_dir, run.slug, run.weights.digest)
    with contextlib.ExitStack() as stack:
        root = run.options.cache_dir / "runs"
        if run.options.no_cache:
            root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="biasscope-")))
        for dataset in run.datasets:
            run_identity = session.identity(run, dataset, parameters)
            key = journal.run_key(run_identity)
            new = run.options.verbose and not (root / key).is_dir()
            if new and (differing := journal.nearest(root, run_identity)):
                run.voice.note(f"{dataset.name}: the nearest earlier run differs in {', '.join(differing)}")
            how: dict[str, Any] = {"wait": run.options.wait, "fresh": run.options.fresh}
            with journal.opened(root, run_identity, name=run.engine.folder(key), **how) as opened:
                scan = Scan(run, dataset, opened, key)
                if not scan.reuse_finished():
                    scan.resume()
                    run.engine.begin(scan)
                    yield scan
                    run.engine.end(scan)
