"""What every experiment shares: data read, the model located, runs saved; what can fail early does.

The model is booted when the first unit has to be measured, and not at all for what has been measured before.
"""

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from biasscope.engine.data import datasets
from biasscope.engine.errors import BiasScopeError, not_finite
from biasscope.engine.experiments.parallel import engines, workers
from biasscope.engine.experiments.scans import models
from biasscope.engine.model import devices, loading, weights
from biasscope.engine.model.edits import recipe
from biasscope.engine.schemas import RELIABILITY
from biasscope.engine.settings import SILENT, Forecast, Measure, Voice, clock
from biasscope.engine.store import exports, files, journal, locks, reproduce, runs, seals
from biasscope.engine.store.runs import EDITED
from biasscope.engine.types import Dataset

ROWS = ("effects", "exact", "scores", "triples", "activations", "predictions")
"""Tables that --rows shows."""
TOLERATED = 0.01
"""Share of values that are not finite above which a run has failed."""


@dataclass(kw_only=True)
class Session:
    """One invocation of a measuring command: its options, and what it has saved so far."""

    command: str
    options: Measure
    own: dict[str, Any]
    """The options that only this command takes."""
    voice: Voice
    slug: str
    """The model's name in files and tables."""
    model: runs.ModelPart | None = None
    begun: float = field(default_factory=time.monotonic)
    timing: dict[str, float] = field(default_factory=dict)
    """Phase → seconds; those of `store`, writing and checking, are part of the others'."""
    warnings: dict[str, str] = field(default_factory=dict)
    """Text → the dataset that it is about; empty: all of them."""
    parts: list[runs.DatasetPart] = field(default_factory=list)
    summaries: list[pl.DataFrame] = field(default_factory=list)
    reliability: list[pl.DataFrame] = field(default_factory=list)
    rows: list[Path] = field(default_factory=list)
    """Files of the per-example tables to show."""
    batch_size: int | None = None
    """Tokens × copies of a pass, as decided; None where nothing was decided."""
    lost: int = 0
    """Values left out of the present run because they are not finite."""
    complete: bool = True
    """Whether it measured all that it was asked for; False where Ctrl-C stopped it."""
    engine: engines.Engine = field(default_factory=engines.Serial)
    """What measures the parts."""

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Time a block of code under that name, with the libraries silenced; the record has the seconds.

        Those of a phase within another are the inner one's alone.
        """
        start, others = time.monotonic(), sum(self.timing.values())
        with self.voice.hushed():
            yield
        inner = sum(self.timing.values()) - others
        self.timing[name] = self.timing.get(name, 0.0) + time.monotonic() - start - inner

    def warn(self, text: str, dataset: str = "") -> None:
        """Show a warning once, and keep it for the record of the dataset that it is about, or of all."""
        if text not in self.warnings:
            self.warnings[text] = dataset
            self.voice.warn(text)

    def folder(self, dataset: str, key: str) -> Path:
        """The folder of the run of that dataset and key."""
        return runs.folder(self.options.output_dir, self.slug, dataset, self.command, key)

    def write(self, path: Path, name: str, frames: Iterable[pl.DataFrame]) -> pl.LazyFrame:
        """Write a per-example table to a run's folder and scan it; values that are not finite are counted."""
        lost = total = 0
        prompts: dict[str, None] = {}

        def counted() -> Iterator[pl.DataFrame]:
            nonlocal lost, total
            for frame in frames:
                if "value" in frame.columns:
                    bad = frame.filter(pl.col("value").is_finite().not_())
                    lost, total = lost + bad.height, total + frame.height
                    prompts.update(dict.fromkeys(bad["example_id"]))
                yield frame

        file = runs.write(path, name, counted())
        examples = ", ".join(list(prompts)[:3]) + (", …" if len(prompts) > 3 else "")
        problem = f"{lost} of {total} values are not finite, those of {len(prompts)} prompts ({examples})"
        if lost > TOLERATED * total:
            raise BiasScopeError(f"{problem}; {self.advice}")
        if lost:
            self.warn(f"{problem} in {name}: they enter no statistic; {self.advice}")
        self.lost += lost
        return pl.scan_parquet(file)

    @property
    def advice(self) -> str:
        """Advice for the user about values that are not finite."""
        return not_finite(self.options.dtype.value)

    def keep(
        self, part: runs.DatasetPart, key: str, summary: pl.DataFrame, reliability: pl.DataFrame | None = None
    ) -> None:
        """Close the run whose other tables are written: its record last, sealed; keep what `finish` shows."""
        path = self.folder(part.name, key)
        runs.write(path, "summary", [summary])
        if reliability is not None:
            runs.write(path, "reliability", [reliability])
        tables = {file.stem: runs.digests.of_file(file) for file in sorted(path.glob("*.parquet"))}
        part = part.model_copy(
            update={"run_key": key, "path": str(path), "tables": tables, "lost": self.lost}
        )
        self.lost = 0
        record = self.record([part])
        seals.seal(path, runs.digest(record), self.options.cache_dir / "runs" / key)
        runs.close(record)
        self.add_finished(part)
        self.voice.note(
            f"{part.name}: {part.used} of {part.found} examples in {part.groups} groups, saved to {path}"
        )

    def add_finished(self, part: runs.DatasetPart) -> None:
        """Add a finished run to the result, and refresh the original study's files."""
        folder = Path(part.path)
        summary = pl.read_parquet(folder / "summary.parquet")
        # the original study never removed anything beforehand
        if self.complete and not (self.own.get("given") or self.options.edit):
            effects = pl.scan_parquet(folder / "effects.parquet") if "effects" in part.tables else None
            study = self.options.output_dir / files.safe_name(self.slug)
            exports.export(study, self.command, part.name, summary, effects=effects, key=part.run_key)
        self.parts.append(part)
        self.summaries.append(summary)
        trusted = "reliability" in part.tables
        table = pl.read_parquet(folder / "reliability.parquet") if trusted else RELIABILITY.to_frame()
        self.reliability.append(table)
        if self.options.rows:
            self.rows += [folder / f"{name}.parquet" for name in part.tables if name in ROWS]

    def finish(self) -> runs.Result:
        """The result of all datasets; its `check` says whether values had to be left out."""
        self.engine.close()
        how = "finished in" if self.complete else "stopped after"
        self.voice.note(f"{how} {clock(time.monotonic() - self.begun)}")
        return runs.Result(self.record(self.parts), self.summaries, self.reliability, self.rows)

    def record(self, parts: list[runs.DatasetPart]) -> runs.RunRecord:
        """The record as it stands, with those datasets."""
        names = list(self.options.dataset or [part.name for part in self.parts or parts])
        params = self.options.resolved() | {"dataset": names} | self.own
        record = runs.RunRecord(
            command=self.command,
            model=self.model,
            params=params,
            seed=self.options.seed,
            versions=runs.versions(),
            created=runs.now(),
            batch_size=self.batch_size,
            reproduce="",
            timing={phase: round(seconds, 3) for phase, seconds in self.timing.items()},
            peak_rss_bytes=runs.peak_rss_bytes(),
            warnings=self.warnings_of(parts),
            datasets=parts,
            complete=self.complete,
        )
        return record.model_copy(update={"reproduce": reproduce.of(record)})

    def warnings_of(self, parts: list[runs.DatasetPart]) -> list[str]:
        """The warnings, without those that are about other datasets than these."""
        others = {d.name for d in getattr(self, "datasets", [])} - {part.name for part in parts}
        return [text for text, about in self.warnings.items() if about not in others]


@dataclass(kw_only=True)
class Running(Session):
    """A session with its datasets read and its model located."""

    weights: weights.Weights | loading.LM
    """Where the model's weights are, or the model itself where it is in memory already."""
    device: str
    datasets: list[Dataset]
    edit: recipe.Recipe | None = None
    """What stands in the model in every pass."""
    names: dict[str, str] = field(default_factory=dict)
    """Data set → what it was asked for by: its name, or its file."""

    @cached_property
    def lm(self) -> loading.LM:
        """The model, booted and checked at the first call."""
        if isinstance(self.weights, loading.LM):
            lm = self.weights
        else:
            with self.phase("model"):
                lm = models.booted(self.weights, self.options, self.voice)
        self.model = models.described(lm)
        if not lm.packed:
            self.warn(
                f"{self.options.model} cannot attend by a mask of ancestors: one sequence a row, slower and "
                "just as exact"
            )
        return models.edited(lm, self.edit)


def forecast(run: Running, parts: int) -> Forecast:
    """What says, once the first parts are measured, how long the rest takes, and what is quicker."""

    def say(text: str, long: bool) -> None:
        other = reproduce.quicker(run.command, run.options.resolved() | run.own) if long else None
        run.voice.note(text + (f"; quicker: {other}" if other else ""))

    return Forecast(parts, say)


def start(
    command: str, options: Measure, own: dict[str, Any] | None = None, voice: Voice = SILENT
) -> Running:
    """A running session: everything that can fail before the model is loaded has been tried."""
    engines.check(command, options, own or {})
    files.check_writable(options.output_dir)
    if (network := locks.network(options.cache_dir)) and not options.no_cache:
        voice.note(f"the cache is on {network}, a network: its runs are held by files that name the host")
    names = dict.fromkeys(options.dataset or datasets.default(options.data_dir))
    held = options.held
    loaded = list(held.datasets) or [_read(name, options) for name in names]
    begun = time.monotonic()
    if held.lm is None:
        devices.check_device(options.device)
    edit = None if options.edit is None else recipe.read(options.edit)
    weights = held.lm or models.located(options, voice)
    own = dict(own or {})
    if edit is not None:
        edit.check(weights.digest, options.model)
        own[EDITED] = str(edit)
    running = Running(
        command=command,
        options=options,
        own=own,
        voice=voice,
        slug=files.slug(options.model),
        begun=begun,
        timing={"model": time.monotonic() - begun},
        weights=weights,
        device=devices.device_type(options.device),
        datasets=loaded,
        edit=edit,
        names={d.name: name for d, name in zip(loaded, names, strict=False)},
        engine=options.held.engine or workers.chosen(options),
    )
    for dataset in loaded:
        for note in dataset.notes:
            running.warn(note, dataset.name)
    return running


def _read(name: str, options: Measure) -> Dataset:
    how = {"skip_invalid": options.skip_invalid, "no_space": options.no_space}
    return datasets.drawn(datasets.read(name, options.data_dir, **how), options.limit, options.seed)


def identity(run: Running, dataset: Dataset, parameters: dict[str, Any]) -> dict[str, Any]:
    """All that decides the numbers of one dataset."""
    model = {"name": run.options.model, "revision": run.weights.revision, "digest": run.weights.digest}
    how: dict[str, Any] = {name: getattr(run.options, name) for name in ("batch_size", "max_memory", "seed")}
    how |= {"dtype": run.options.dtype.value, "device": run.device}
    how |= devices.in_identity(run.device, run.options.dtype.value)
    how |= {} if run.edit is None else {"edit": run.edit.digest}
    data = {"dataset": dataset.name, "content": dataset.digest, "examples": [e.id for e in dataset.examples]}
    return journal.identity(
        run.command, model=model, tokenizer=run.weights.tokenizer_digest, **how, **data, **parameters
    )
