"""What every measuring command shares: opening (so that it fails early), saving a run per dataset, showing the result."""

import contextlib
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl

from biasscope import repeating, show
from biasscope.console import Screen, clock
from biasscope.engine import exports, runs, sealing
from biasscope.engine.errors import BiasScopeError, PartialError, not_finite
from biasscope.engine.types import RELIABILITY
from biasscope.options import Measure

ROWS = ("effects", "exact", "scores", "triples", "activations", "predictions")
"""Tables that --rows shows."""
TOLERATED = 0.01
"""Share of values that are not finite above which a run has failed."""


@dataclass(kw_only=True)
class Session:
    """One invocation of a measuring command: what it was asked, and what it has saved so far."""

    command: str
    options: Measure
    own: dict[str, Any]
    """The options that only this command takes."""
    screen: Screen
    slug: str
    """The model's name in files and tables."""
    model: runs.ModelPart | None = None
    timing: dict[str, float] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)
    parts: list[runs.DatasetPart] = field(default_factory=list)
    summaries: list[pl.DataFrame] = field(default_factory=list)
    reliability: list[pl.DataFrame] = field(default_factory=list)
    rows: list[Path] = field(default_factory=list)
    """Files of the per-example tables to show."""
    batch_size: int | None = None
    """Tokens × copies of a pass, as decided; None where nothing was decided."""
    plot: bool = False
    """Whether the result is drawn in the terminal too."""
    lost: int = 0
    """Values left out of the present run because they are not finite."""

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """A stretch whose seconds are added to the record under that name, and in which libraries keep quiet."""
        start = time.monotonic()
        with self.screen.hushed():
            yield
        self.timing[name] = self.timing.get(name, 0.0) + time.monotonic() - start

    def warn(self, text: str) -> None:
        """Nothing: shows a warning once and keeps it for the record."""
        if text not in self.warnings:
            self.warnings.append(text)
            self.screen.warn(text)

    def folder(self, dataset: str, key: str) -> Path:
        """Where the run of that dataset and key stands."""
        return runs.folder(self.options.output_dir, self.slug, dataset, self.command, key)

    def write(self, path: Path, name: str, frames: Iterable[pl.DataFrame]) -> pl.LazyFrame:
        """A per-example table of a run, as it now stands in its folder; values that are not finite are counted."""
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
        some = ", ".join(list(prompts)[:3]) + (", …" if len(prompts) > 3 else "")
        found = f"{lost} of {total} values are not finite, those of {len(prompts)} prompts ({some})"
        if lost > TOLERATED * total:
            raise BiasScopeError(f"{found}; {self.advice}")
        if lost:
            self.warn(f"{found} in {name}: they enter no statistic; {self.advice}")
        self.lost += lost
        return pl.scan_parquet(file)

    @property
    def advice(self) -> str:
        """What to do about values that are not finite."""
        return not_finite(self.options.dtype.value)

    def keep(self, part: runs.DatasetPart, key: str, summary: pl.DataFrame, reliability: pl.DataFrame | None = None) -> None:
        """Close the run whose other tables stand in its folder, its record last and sealed; keep what `finish` shows."""
        path = self.folder(part.name, key)
        runs.write(path, "summary", [summary])
        if reliability is not None:
            runs.write(path, "reliability", [reliability])
        tables = {file.stem: runs.digests.of_file(file) for file in sorted(path.glob("*.parquet"))}
        part = part.model_copy(update={"run_key": key, "path": str(path), "tables": tables, "lost": self.lost})
        self.lost = 0
        record = self.record([part])
        sealing.seal(path, runs.digest(record), self.options.cache_dir / "runs" / key)
        runs.close(record)
        self.adopt(part)
        self.screen.note(f"{part.name}: {part.used} of {part.found} examples in {part.groups} groups, saved to {path}")

    def adopt(self, part: runs.DatasetPart) -> None:
        """Nothing: takes a run that stands in its folder into the result; rewrites the original study's files."""
        folder = Path(part.path)
        summary = pl.read_parquet(folder / "summary.parquet")
        if not self.own.get("given"):  # the original study never removed anything beforehand
            effects = pl.scan_parquet(folder / "effects.parquet") if "effects" in part.tables else None
            study = self.options.output_dir / runs.safe_name(self.slug)
            exports.export(study, self.command, part.name, summary, effects=effects, key=part.run_key)
        self.parts.append(part)
        self.summaries.append(summary)
        self.reliability.append(pl.read_parquet(folder / "reliability.parquet") if "reliability" in part.tables else RELIABILITY.to_frame())
        if self.options.rows:
            self.rows += [
                folder / f"{name}.parquet"
                for name in part.tables
                if name not in ("summary", "reliability", "twins", "control", "bands", "probes")
            ]

    def finish(self) -> None:
        """Nothing: shows the result of all datasets; PartialError where some values had to be left out."""
        self.screen.note(f"finished in {clock(sum(self.timing.values()))}")
        show.result(show.Result(self.record(self.parts), self.summaries, self.reliability, self.rows, self.plot), self.options)
        if lost := sum(part.lost for part in self.parts):
            raise PartialError(f"finished, but {lost} values are not finite and were left out; {self.advice}")

    def record(self, parts: list[runs.DatasetPart]) -> runs.RunRecord:
        """The record as it stands, with those datasets."""
        asked = list(self.options.dataset or [part.name for part in self.parts or parts])
        params = self.options.resolved() | {"dataset": asked} | self.own
        return runs.RunRecord(
            command=self.command,
            model=self.model,
            params=params,
            seed=self.options.seed,
            versions=runs.versions(),
            created=runs.now(),
            batch_size=self.batch_size,
            reproduce=repeating.command(self.command, params),
            timing={phase: round(seconds, 3) for phase, seconds in self.timing.items()},
            peak_rss_bytes=runs.peak_rss_bytes(),
            warnings=self.warnings_of(parts),
            datasets=parts,
        )

    def warnings_of(self, parts: list[runs.DatasetPart]) -> list[str]:
        """The warnings, without those that are about other datasets than these."""
        others = {d.name for d in getattr(self, "datasets", [])} - {part.name for part in parts}
        return [text for text in self.warnings if text.split(": ")[0] not in others]
