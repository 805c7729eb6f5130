"""One dataset measured through the store: what is there is reused, what is not is measured and kept, then its run is saved."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import polars as pl

from biasscope.engine import journal, runs, upkeep
from biasscope.engine.errors import DataError
from biasscope.engine.types import Dataset, Example, Site, Unit
from biasscope.options import memory

if TYPE_CHECKING:
    from biasscope.engine.interventions import Source
    from biasscope.engine.tokens import Forest
    from biasscope.running import Running


@dataclass
class Scan:
    """One dataset's measurement."""

    run: "Running"
    dataset: Dataset
    journal: journal.Journal
    key: str
    before: int = 0
    """Units that had been measured when it was opened."""
    prefix: str = ""
    """Before the names of its units, where it measures other prompts than the run's own (see `beside`)."""

    def resume(self) -> None:
        """Nothing: looks at what has been measured before, and says what of it is damaged."""
        self.journal.check()
        self.before = len(self.journal.units)
        if damaged := self.journal.damaged:
            shown = ", ".join(damaged[:5])
            self.run.warn(f"{self.dataset.name}: {len(damaged)} stored parts are not what was written, measured again: {shown}")

    @property
    def complete(self) -> bool:
        """Whether every unit has been measured."""
        facts = self.journal.facts
        return "finished" in facts and all(unit in self.journal.units for unit in facts["finished"]["units"])

    def stands(self) -> bool:
        """Whether the run's folder holds the finished run, which is then the result."""
        path = self.run.folder(self.dataset.name, self.key)
        options = self.run.options
        record = None if options.no_cache or options.fresh else upkeep.stored(path, options.cache_dir).record
        if record is None or record.datasets[0].run_key != self.key:
            return False
        part = record.datasets[0].model_copy(update={"reused": record.datasets[0].units, "path": str(path)})
        self.run.model = record.model
        self.run.batch_size = record.batch_size
        for warning in record.warnings:
            self.run.warn(warning)
        self.run.adopt(part)
        self.run.screen.note(f"{part.name}: reused {part.units}/{part.units}, all measured before, at {path}")
        return True

    @property
    def batch(self) -> int:
        """Nodes × copies of one pass, decided at the run's first start."""
        from biasscope.engine import budget

        options = self.run.options
        requested = None if options.batch_size == "auto" else int(options.batch_size)
        return int(self.journal.decide("batch_size", budget.batch_size(self.run.lm, requested, memory(options.max_memory))))

    def forest(
        self, *, share: Literal["all", "example"] = "all", sentences: bool = False, twins: bool = False, positions: bool = False
    ) -> "Forest":
        """The dataset's examples as a forest, with counterfactual twins where asked; what was dropped is said."""
        from biasscope.engine import tokens

        lm, found, missing = self.run.lm, self.dataset, Counter[str]()
        with self.run.phase("tokens"):
            kept, lost = self.twins() if twins else (None, {})
            missing.update(lost.values())
            examples = [e for e in found.examples if e.id not in lost]
            forest = tokens.forest(lm, examples, share=share, sentences=sentences, twins=kept, positions=positions)
            forest.dropped.update(missing)
        for what, reasons in (("dropped", forest.dropped), ("incomplete", forest.partly)):
            for reason, n in reasons.items():
                self.run.warn(f"{found.name}: {n} of {len(found.examples)} examples {what}: {reason}")
        return forest

    def twins(self) -> tuple[dict[str, str], dict[str, str]]:
        """Example id → its counterfactual prompt, and example id → why it has none; stored as a table of the run."""
        from biasscope.engine import twins

        kept, lost = twins.fit(self.run.lm, self.dataset, self.run.options.seed)
        if not kept:
            reasons = ", ".join(f"{n} × {reason}" for reason, n in Counter(lost.values()).most_common())
            n = len(self.dataset.examples)
            raise DataError(f"{self.dataset.name}: no example kept: {n} of {n} have no counterfactual twin: {reasons}; try --source mean")
        self.measure([Unit("twins", lambda: {"twins": twins.table(self.dataset.examples, kept)})], None)
        return {id_: twin.prompt for id_, twin in kept.items()}, lost

    def source(self, name: str, forest: "Forest", sites: Sequence[Site], prefix: str = "") -> "Source":
        """The source of that name; the dataset's means are stored."""
        from biasscope.engine import interventions

        lm = self.run.lm
        if name != "mean":
            return interventions.source(name, lm, forest, sites, seed=self.run.options.seed)
        means = Unit("means", lambda: {"means": interventions.means(lm, forest, sites, self.run.screen.track)})
        (unit,) = self.measure([means], None, prefix=prefix)
        table = self.journal.get(unit, "means")
        if left_out := table["left_out"][0]:
            self.run.warn(f"{self.dataset.name}: the means leave out {left_out} of {len(forest.examples)} examples (not finite)")
        return interventions.mean_of(lm, table)

    def estimated(self, every: Sequence[Site], *sources: str) -> pl.DataFrame:
        """SUMMARY of the sites by attribution with the first source on the same examples.

        The estimates of all sources are kept: their sites could have been chosen, and stand beside the measured ones in the family.
        """
        from biasscope.engine import attribution, stats

        lm, seed = self.run.lm, self.run.options.seed
        forest, names = self.forest(share="example"), []
        for source in sources:
            prefix = "estimate-" if source == sources[0] else f"estimate-{source}-"
            units = attribution.units(lm, forest, every, self.source(source, forest, every, prefix))
            names.append(self.measure(units, f"attribution ({source})", prefix=prefix))
        self.journal.set("estimates", [name for some in names for name in some])
        with self.run.phase("attribution"):
            guessed = pl.concat(self.journal.tables("effects", names[0]))
            shares = self.dataset.share_of_men()
            return stats.summarise(guessed, model=self.run.slug, method="attribution", share_of_men=shares, seed=seed)

    def beside_measured(self) -> pl.LazyFrame | None:
        """EFFECTS of the estimated sites that were not measured; None where nothing chose among them."""
        if "estimates" not in self.journal.facts:
            return None
        estimates = pl.concat(self.journal.tables("effects", self.journal.facts["estimates"])).filter(pl.col("metric") == "target")
        keys = ["source", "component", "layer", "head"]
        return estimates.lazy().join(self.table("effects").select(keys).unique(), on=keys, how="anti", nulls_equal=True)

    def ranked(self, every: Sequence[Site], sources: Sequence[str], top: int) -> list[Site]:
        """The first `top` of the sites by attribution with the first source on the same examples, in the model's order."""
        from biasscope.engine import stats

        estimates = self.estimated(every, *sources)
        return sorted([site for site in stats.top(estimates, estimates.height) if site in set(every)][:top])

    def calibrated(self, names: list[str], n: int, forest: "Forest", source: "Source", positions: Sequence[str]) -> list[str]:
        """The names of the units that hold the exact effects of the first n and n random sites of each kind."""
        from biasscope.engine import interventions, reliability, stats

        with self.run.phase("attribution"):
            effects, shares = pl.concat(self.journal.tables("effects", names)), self.dataset.share_of_men()
            summary = stats.summarise(effects, model=self.run.slug, method="attribution", share_of_men=shares, seed=self.run.options.seed)
        sites = sorted(site for part in reliability.chosen(summary, n, self.run.options.seed) for site in part)
        units = interventions.units(self.run.lm, forest, sites, source, positions=positions, metrics=("target",), batch=self.batch)

        return self.measure(units, f"exact ({source.name})", prefix="exact-", table="exact")

    def beside(self, dataset: Dataset, prefix: str = "") -> "Scan":
        """The same run measuring other prompts as well, in units of that prefix."""
        return replace(self, dataset=dataset, prefix=prefix)

    def controlled(self, sites: Sequence[Site], sources: Sequence[str], given: Sequence[Site]) -> list[str]:
        """The names of the units that hold the same sites' effects on this dataset, each source made of its own prompts."""
        from biasscope.engine import interventions

        forest, names = self.forest(), []
        for name in sources:
            source = self.source(name, forest, [*sites, *given], "control-")
            units = interventions.units(self.run.lm, forest, sites, source, given=given, metrics=("target",), batch=self.batch)
            names += self.measure(units, f"control ({name})", prefix=f"control-{name}-", table="control")
        return names

    def measure(self, units: Sequence[Unit], label: str | None, *, prefix: str = "", table: str | None = None) -> list[str]:
        """The names of the units, all of them now stored; `prefix` goes before their names, `table` takes the place of "effects"."""

        def named(unit: Unit) -> Unit:
            tables = unit.compute if table is None else lambda: {table: unit.compute()["effects"]}
            return Unit(self.prefix + prefix + unit.name, tables)

        units = [named(unit) for unit in units]
        pending = [unit for unit in units if unit.name not in self.journal.units]
        if label and len(units) - len(pending) > 0:
            self.run.screen.note(f"{self.dataset.name}: reused {len(units) - len(pending)}/{len(units)}")
        if pending and len(threads := self.journal.threads()) > 1:
            self.run.warn(f"{self.dataset.name}: measured with {', '.join(map(str, threads))} threads in turn: last digits depend on it")
        with self.run.phase("passes"):
            for unit in self.run.screen.track(pending, label) if label else pending:
                self.journal.put(unit.name, unit.compute())
        return [unit.name for unit in units]

    def encode(self, site: str, position: str) -> None:
        """Nothing: reads the activations of every example's prompt."""
        from biasscope.engine import activations

        lm, dropped = self.run.lm, Counter[str]()
        texts, used = [], []
        for example in self.dataset.examples:
            text = activations.text(lm, example.id, example.prompt, example.word)
            if isinstance(text, str) or (position == "term" and text.term is None):
                dropped[text if isinstance(text, str) else "its prompt does not name the term"] += 1
            else:
                texts.append(text)
                used.append(example)
        names = self.measure(activations.units(lm, texts, site, position), "encode")
        there = set().union(*(table["example_id"] for table in self.journal.tables("activations", names)))
        dropped.update(activations.NOT_FINITE for example in used if example.id not in there)
        for reason, n in dropped.items():
            self.run.warn(f"{self.dataset.name}: {n} of {len(self.dataset.examples)} examples dropped: {reason}")
        self.close([example for example in used if example.id in there], names, dropped)

    def close(self, used: Sequence[Example], units: list[str], dropped: Counter[str], partly: Mapping[str, int] | None = None) -> None:
        """Nothing: writes down that the units are all, and what the run is of."""
        found = self.dataset
        part = runs.DatasetPart(
            name=found.name,
            digest=found.digest,
            source=dict(found.record),
            found=found.found,
            used=len(used),
            not_drawn=found.found - found.dropped.total() - len(found.examples),
            dropped=dict(found.dropped + dropped),
            partly=dict(partly or {}),
            groups=len({e.group for e in used}),
            units=len(units) + ("twins" in self.journal.units),
            threads=self.journal.facts.get("threads", []),
        )
        model = None if self.run.model is None else self.run.model.model_dump()
        warnings = self.run.warnings_of([part])
        units = [*(["twins"] if "twins" in self.journal.units else []), *units]
        said = {"part": part.model_dump(), "model": model, "warnings": warnings, "batch_size": self.batch, "units": units}
        self.journal.set("finished", said)

    def table(self, name: str) -> pl.LazyFrame:
        """That table of all units, in their order, as it now stands in the run's folder."""
        with self.run.phase("tables"):
            frames = self.journal.tables(name, self.journal.facts["finished"]["units"])
            return self.run.write(self.run.folder(self.dataset.name, self.key), name, frames)

    def save(self, summary: pl.DataFrame, reliability: pl.DataFrame | None = None) -> None:
        """Nothing: closes the run with its summary, and how far it can be trusted."""
        said = self.journal.facts["finished"]
        self.run.model = runs.ModelPart.model_validate(said["model"])
        self.run.batch_size = said["batch_size"]
        for warning in said["warnings"]:
            self.run.warn(warning)
        self.run.timing["store"] = self.run.timing.get("store", 0.0) + self.journal.seconds
        reused = min(self.before, len(said["units"]))
        self.run.keep(runs.DatasetPart.model_validate({**said["part"], "reused": reused}), self.key, summary, reliability)

    def scored(self, scores: pl.LazyFrame) -> list[Example]:
        """The examples that have scores, in data order."""
        kept = set(scores.select("example_id").unique().collect()["example_id"])
        return [example for example in self.dataset.examples if example.id in kept]
