"""One invocation that measures: datasets read, the model located, each dataset scanned through the store.

The model is booted when the first unit has to be measured, and not at all for what has been measured before.
"""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from biasscope import session
from biasscope.console import Screen, clock
from biasscope.engine import datasets, journal, models, runs, sealing, store, weights
from biasscope.engine.types import Dataset
from biasscope.options import Measure
from biasscope.scan import Scan

TOKENIZER_FILES = ("tokenizer*.json", "tokenizer.model", "vocab.*", "merges.txt", "special_tokens_map.json", "added_tokens.json")

CONVERTED = 3.3e6
"""Bytes of a GGUF file that are converted in a second, roughly."""


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

    def scans(self, **asked: Any) -> Iterator[Scan]:
        """The datasets that are not finished, one after the other, each locked; the finished ones are taken as they stand."""
        self.slug = sealing.claim(self.options.output_dir, self.slug, self.found.digest)
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


def start(command: str, options: Measure, own: dict[str, Any] | None = None) -> Running:
    """A running session: everything that can fail before the model is loaded has been tried."""
    screen = Screen(options.quiet, options.verbose)
    runs.check_writable(options.output_dir)
    read = {"limit": options.limit, "seed": options.seed, "skip_invalid": options.skip_invalid}
    names = dict.fromkeys(options.dataset or datasets.default(options.data_dir))
    loaded = [datasets.load(name, options.data_dir, **read) for name in names]  # type: ignore[arg-type]
    begun = time.monotonic()
    if (file := weights.unconverted(options.model, options.cache_dir)) is not None:
        seconds = max(5.0, file.stat().st_size / CONVERTED)
        screen.note(f"converting {options.model} once ({file.name}), about {clock(seconds)}")
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
