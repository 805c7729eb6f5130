"""One dataset measured through the store: what is there is reused, what is not is measured and kept, then its run is saved.

The model is booted when the first unit has to be measured, and not at all for what has been measured before.
"""

import contextlib
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from biasscope import session
from biasscope.console import Screen
from biasscope.engine import datasets, journal, models, runs, store, weights
from biasscope.engine.types import Dataset, Example, Site, Unit
from biasscope.options import Measure, memory

if TYPE_CHECKING:
    from biasscope.engine.interventions import Source
    from biasscope.engine.tokens import Forest

TOKENIZER_FILES = ("tokenizer*.json", "tokenizer.model", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json")


@dataclass(kw_only=True)
class Running(session.Session):
    """A session with its datasets read and its model located."""

    found: weights.Weights
    tokenizer_digest: str
    device: str
    datasets: list[Dataset]

    @cached_property
    def lm(self) -> models.LM:
        """The model, booted and checked at the first call."""
        from biasscope.engine import forward

        self.screen.note(f"loading {self.options.model}" + (f", {self.found.note}" if self.found.note else ""))
        with self.phase("model"):
            lm = forward.check_packing(models.boot(self.found, device=self.options.device, dtype=self.options.dtype.value))
        self.model = described(lm, self.tokenizer_digest)
        if not lm.packed:
            self.warn(f"{self.options.model} cannot attend by a mask of ancestors: one sequence a row, slower and just as exact")
        return lm

    def scans(self, **asked: Any) -> Iterator["Scan"]:
        """The datasets that are not finished, one after the other, each locked; the finished ones are taken as they stand."""
        with contextlib.ExitStack() as stack:
            root = self.options.cache_dir / "runs"
            if self.options.no_cache:
                root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="biasscope-")))
            for dataset in self.datasets:
                identity = self.identity(dataset, asked)
                if self.options.verbose and not (root / store.run_key(identity)).is_dir() and (other := journal.nearest(root, identity)):
                    self.screen.note(f"{dataset.name}: the nearest earlier run differs in {', '.join(other)}")
                with journal.opened(root, identity, wait=self.options.wait, fresh=self.options.fresh) as opened:
                    scan = Scan(self, dataset, opened, store.run_key(identity))
                    if not scan.stands():
                        scan.resume()
                        yield scan

    def identity(self, dataset: Dataset, asked: dict[str, Any]) -> dict[str, Any]:
        """All that decides the numbers of one dataset."""
        model = {"name": self.options.model, "revision": self.found.revision, "digest": self.found.digest}
        how: dict[str, Any] = {name: getattr(self.options, name) for name in ("batch_size", "max_memory", "seed")}
        how |= {"dtype": self.options.dtype.value, "device": self.device}
        data = {"dataset": dataset.name, "content": dataset.digest, "examples": [e.id for e in dataset.examples]}
        return store.identity(self.command, model=model, tokenizer=self.tokenizer_digest, **how, **data, **asked)


@dataclass
class Scan:
    """One dataset's measurement."""

    run: Running
    dataset: Dataset
    journal: journal.Journal
    key: str
    before: int = 0
    """Units that had been measured when it was opened."""

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
        record = None if self.run.options.no_cache or self.run.options.fresh else runs.read(path)
        if record is None or record.datasets[0].run_key != self.key:
            return False
        part = record.datasets[0].model_copy(update={"reused": record.datasets[0].units, "path": str(path)})
        self.run.model = record.model
        self.run.batch_size = record.params["batch_size"]
        for warning in record.warnings:
            self.run.warn(warning)
        self.run.adopt(part, pl.read_parquet(path / "summary.parquet"))
        self.run.screen.note(f"{part.name}: reused {part.units}/{part.units}, all measured before, at {path}")
        return True

    @property
    def batch(self) -> int:
        """Nodes × copies of one pass, decided at the run's first start."""
        from biasscope.engine import interventions

        options = self.run.options
        requested = None if options.batch_size == "auto" else int(options.batch_size)
        return int(self.journal.decide("batch_size", interventions.batch_size(self.run.lm, requested, memory(options.max_memory))))

    def forest(self, *, share: Literal["all", "example"] = "all", sentences: bool = False) -> "Forest":
        """The dataset's examples as a forest; what was dropped is said."""
        from biasscope.engine import tokens

        lm = self.run.lm
        with self.run.phase("tokens"):
            forest = tokens.forest(lm, self.dataset.examples, share=share, sentences=sentences)
        for what, reasons in (("dropped", forest.dropped), ("incomplete", forest.partly)):
            for reason, n in reasons.items():
                self.run.warn(f"{self.dataset.name}: {n} of {len(self.dataset.examples)} examples {what}: {reason}")
        return forest

    def source(self, name: str, forest: "Forest", sites: Sequence[Site], prefix: str = "") -> "Source":
        """The source of that name; the dataset's means are stored."""
        from biasscope.engine import interventions

        if name == "zero":
            return interventions.zero(self.run.lm)
        unit = f"{prefix}means"
        self.measure([Unit(unit, lambda: {"means": interventions.means(self.run.lm, forest, sites, self.run.screen.track)})], None)
        return interventions.mean_of(self.run.lm, self.journal.get(unit, "means"))

    def ranked(self, every: Sequence[Site], source: str, top: int) -> list[Site]:
        """The first `top` of the sites by attribution on the same examples, in the model's order."""
        from biasscope.engine import attribution, stats

        lm, seed = self.run.lm, self.run.options.seed
        forest = self.forest(share="example")
        units = attribution.units(lm, forest, every, self.source(source, forest, every, "estimate-"))
        names = self.measure([Unit(f"estimate-{unit.name}", unit.compute) for unit in units], f"attribution ({source})")
        with self.run.phase("attribution"):
            guessed = pl.concat(self.journal.tables("effects", names))
            shares = self.dataset.share_of_men()
            summary = stats.summarise(guessed, model=self.run.slug, method="attribution", share_of_men=shares, seed=seed)
        sites = sorted([site for site in stats.top(summary, summary.height) if site in set(every)][:top])
        chose = f"the {len(sites)} of {len(every)} sites that attribution chose on the same examples"
        self.run.warn(f"{self.dataset.name}: p_family and q are over {chose}")
        return sites

    def measure(self, units: Sequence[Unit], label: str | None) -> list[str]:
        """The names of the units, all of them now stored."""
        pending = [unit for unit in units if unit.name not in self.journal.units]
        if label and len(units) - len(pending) > 0:
            self.run.screen.note(f"{self.dataset.name}: reused {len(units) - len(pending)}/{len(units)}")
        with self.run.phase("passes"):
            for unit in self.run.screen.track(pending, label) if label else pending:
                self.journal.put(unit.name, unit.compute())
        return [unit.name for unit in units]

    def close(self, forest: "Forest", units: list[str]) -> None:
        """Nothing: writes down that the units are all, and what the run is of."""
        found = self.dataset
        part = runs.DatasetPart(
            name=found.name,
            digest=found.digest,
            source=dict(found.record),
            found=found.found,
            used=len(forest.examples),
            not_drawn=found.found - found.dropped.total() - len(found.examples),
            dropped=dict(found.dropped + forest.dropped),
            partly=dict(forest.partly),
            groups=len({e.group for e in forest.examples}),
            units=len(units),
        )
        model = None if self.run.model is None else self.run.model.model_dump()
        warnings = self.run.warnings_of([part])
        said = {"part": part.model_dump(), "model": model, "warnings": warnings, "batch_size": self.batch, "units": units}
        self.journal.set("finished", said)

    def table(self, name: str) -> pl.LazyFrame:
        """That table of all units, in their order, as it now stands in the run's folder."""
        with self.run.phase("tables"):
            frames = self.journal.tables(name, self.journal.facts["finished"]["units"])
            return self.run.write(self.run.folder(self.dataset.name, self.key), name, frames)

    def save(self, summary: pl.DataFrame) -> None:
        """Nothing: closes the run with its summary."""
        said = self.journal.facts["finished"]
        self.run.model = runs.ModelPart.model_validate(said["model"])
        self.run.batch_size = said["batch_size"]
        for warning in said["warnings"]:
            self.run.warn(warning)
        self.run.timing["store"] = self.run.timing.get("store", 0.0) + self.journal.seconds
        reused = min(self.before, len(said["units"]))
        self.run.keep(runs.DatasetPart.model_validate({**said["part"], "reused": reused}), self.key, summary)

    def scored(self, scores: pl.LazyFrame) -> list[Example]:
        """The examples that have scores, in data order."""
        kept = set(scores.select("example_id").unique().collect()["example_id"])
        return [example for example in self.dataset.examples if example.id in kept]


def start(command: str, options: Measure, own: dict[str, Any] | None = None) -> Running:
    """A running session: everything that can fail before the model is loaded has been tried."""
    screen = Screen(options.quiet, options.verbose)
    runs.check_writable(options.output_dir)
    read = {"limit": options.limit, "seed": options.seed, "skip_invalid": options.skip_invalid}
    names = dict.fromkeys(options.dataset or datasets.default(options.data_dir))
    loaded = [datasets.load(name, options.data_dir, **read) for name in names]  # type: ignore[arg-type]
    begun = time.monotonic()
    with screen.hushed():
        found = weights.locate(options.model, revision=options.revision, cache_dir=options.cache_dir, offline=options.offline)
    running = Running(
        command=command,
        options=options,
        own=own or {},
        screen=screen,
        slug=weights.slug(options.model),
        timing={"model": time.monotonic() - begun},
        found=found,
        tokenizer_digest=runs.files_digest(found.folder, TOKENIZER_FILES),
        device=models.device_type(options.device),
        datasets=loaded,
    )
    for note in (note for dataset in loaded for note in dataset.notes):
        running.warn(note)
    return running


def described(lm: models.LM, tokenizer_digest: str) -> runs.ModelPart:
    """The model as the record shows it."""
    same = {name: getattr(lm, name) for name in ("name", "revision", "digest", "dtype", "device", "note", "packed")}
    token = None if lm.start is None else lm.tokenizer.convert_ids_to_tokens(lm.start)
    return runs.ModelPart(**same, tokenizer_digest=tokenizer_digest, start_token=token, layers=lm.n_layers, heads=lm.n_heads)
