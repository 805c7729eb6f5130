"""What every measuring command shares: opening (so that it fails early), saving a run per dataset, showing the result."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from biasscope import show
from biasscope.console import Screen, clock
from biasscope.engine import datasets, exports, models, runs, weights
from biasscope.engine.errors import BiasScopeError, PartialError
from biasscope.engine.types import Dataset
from biasscope.options import Measure, reproduced

if TYPE_CHECKING:
    from biasscope.engine.tokens import Forest

TOKENIZER_FILES = ("tokenizer*.json", "tokenizer.model", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json")
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
    rows: list[pl.DataFrame] = field(default_factory=list)
    lost: int = 0
    """Values left out because they are not finite."""

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

    def keep(self, part: runs.DatasetPart, identity: dict[str, Any], tables: dict[str, pl.DataFrame]) -> None:
        """Nothing: writes the run's folder and the original study's files; keeps what `finish` shows."""
        self._count_lost(part.name, tables)
        key = runs.run_key({"command": self.command, "seed": self.options.seed, **identity})
        path = runs.folder(self.options.output_dir, self.slug, part.name, self.command, key)
        part = part.model_copy(update={"run_key": key, "path": str(path)})
        runs.save(self.record([part]), tables)
        exports.export(self.options.output_dir / runs.safe_name(self.slug), self.command, part.name, tables["summary"])
        self.parts.append(part)
        self.summaries.append(tables["summary"])
        if self.options.rows:
            self.rows += [frame for name, frame in tables.items() if name != "summary"]
        self.screen.note(f"{part.name}: {part.used} of {part.found} examples in {part.groups} groups, saved to {path}")

    def finish(self) -> None:
        """Nothing: shows the result of all datasets; PartialError where some values had to be left out."""
        self.screen.note(f"finished in {clock(sum(self.timing.values()))}")
        show.result(show.Result(self.record(self.parts), self.summaries, self.rows), self.options)
        if self.lost:
            raise PartialError(f"finished, but {self.lost} values are not finite and were left out; --dtype float32 may help")

    def record(self, parts: list[runs.DatasetPart]) -> runs.RunRecord:
        """The record as it stands, with those datasets."""
        asked = list(self.options.dataset or [part.name for part in self.parts or parts])
        return runs.RunRecord(
            command=self.command,
            model=self.model,
            params=self.options.resolved() | {"dataset": asked} | self.own,
            seed=self.options.seed,
            versions=runs.versions(),
            created=runs.now(),
            reproduce=reproduced(self.command, self.options, asked, self.own),
            timing={phase: round(seconds, 3) for phase, seconds in self.timing.items()},
            peak_rss_bytes=runs.peak_rss_bytes(),
            warnings=self.warnings,
            datasets=parts,
        )

    def _count_lost(self, dataset: str, tables: dict[str, pl.DataFrame]) -> None:
        for frame in (tables[name] for name in ("effects", "scores") if name in tables):
            lost = int(frame["value"].is_finite().not_().sum())
            self.lost += lost
            if lost > TOLERATED * frame.height:
                raise BiasScopeError(f"{lost} of {frame.height} values of {dataset} are not finite; try --dtype float32 or another device")
            if lost:
                self.warn(f"{dataset}: {lost} of {frame.height} values are not finite and enter no statistic")


@dataclass(kw_only=True)
class Running(Session):
    """A session with its datasets read and its model loaded."""

    lm: models.LM
    datasets: list[Dataset]

    def forest(self, dataset: Dataset, *, share: Literal["all", "example"] = "all", sentences: bool = False) -> "Forest":
        """The dataset's examples as a forest; what was dropped is said."""
        from biasscope.engine import tokens

        with self.phase("tokens"):
            forest = tokens.forest(self.lm, dataset.examples, share=share, sentences=sentences)
        for what, reasons in (("dropped", forest.dropped), ("incomplete", forest.partly)):
            for reason, n in reasons.items():
                self.warn(f"{dataset.name}: {n} of {len(dataset.examples)} examples {what}: {reason}")
        return forest

    def save(self, dataset: Dataset, forest: "Forest", identity: dict[str, Any], **tables: pl.DataFrame) -> None:
        """Nothing: keeps the tables of one dataset under the key of everything that decides them."""
        part = runs.DatasetPart(
            name=dataset.name,
            digest=dataset.digest,
            source=dict(dataset.record),
            found=dataset.found,
            used=len(forest.examples),
            not_drawn=dataset.found - dataset.dropped.total() - len(dataset.examples),
            dropped=dict(dataset.dropped + forest.dropped),
            partly=dict(forest.partly),
            groups=len({e.group for e in forest.examples}),
        )
        model = {name: getattr(self.lm, name) for name in ("name", "revision", "digest", "dtype", "packed")}
        device = {"device": self.lm.device.split(":")[0], "batch_size": self.options.batch_size}
        data = {"dataset": dataset.digest, "examples": [e.id for e in dataset.examples]}
        tokenizer = self.model.tokenizer_digest if self.model else None
        self.keep(part, {**identity, "model": model, "tokenizer": tokenizer, **device, **data}, tables)


def start(command: str, options: Measure, own: dict[str, Any] | None = None) -> Running:
    """A session with its model loaded last of all, so that whatever can fail sooner has."""
    screen = Screen(options.quiet, options.verbose)
    runs.check_writable(options.output_dir)
    read = {"limit": options.limit, "seed": options.seed, "skip_invalid": options.skip_invalid}
    names = dict.fromkeys(options.dataset or datasets.default(options.data_dir))
    loaded = [datasets.load(name, options.data_dir, **read) for name in names]  # type: ignore[arg-type]
    begun = time.monotonic()
    screen.note(f"loading {options.model}")
    with screen.hushed():
        found = weights.locate(options.model, revision=options.revision, cache_dir=options.cache_dir, offline=options.offline)
        if found.note:
            screen.note(f"{options.model} is {found.note}")
        lm = models.boot(found, device=options.device, dtype=options.dtype.value)
        from biasscope.engine import forward

        lm = forward.check_packing(lm)
    from biasscope.engine import interventions

    # decided once and recorded: another batch size gives other last bits
    options = dataclasses.replace(options, batch_size=str(interventions.batch_size(lm, options.units())))
    running = Running(
        command=command,
        options=options,
        own=own or {},
        screen=screen,
        slug=weights.slug(options.model),
        model=described(lm, runs.files_digest(found.folder, TOKENIZER_FILES)),
        timing={"model": time.monotonic() - begun},
        lm=lm,
        datasets=loaded,
    )
    for note in (note for dataset in loaded for note in dataset.notes):
        running.warn(note)
    if not lm.packed:
        running.warn(f"{options.model} cannot attend by a mask of ancestors: one sequence a row, slower and just as exact")
    return running


def described(lm: models.LM, tokenizer_digest: str) -> runs.ModelPart:
    """The model as the record shows it."""
    same = {name: getattr(lm, name) for name in ("name", "revision", "digest", "dtype", "device", "note", "packed")}
    token = None if lm.start is None else lm.tokenizer.convert_ids_to_tokens(lm.start)
    return runs.ModelPart(**same, tokenizer_digest=tokenizer_digest, start_token=token, layers=lm.n_layers, heads=lm.n_heads)
