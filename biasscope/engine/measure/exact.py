"""The exact sweep: every site's effect measured by running the model.

In less than float32 a copy in which nothing is replaced rides in every pass, and effects are differences from
it: what the shape of a pass does to rounding is in both. Further copies are only rounded anew, which shows
how large an effect of nothing is.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import polars as pl
import torch
from torch import Tensor

from biasscope.engine.measure.effects import Place, defined, effects, soundly, total
from biasscope.engine.measure.sources import Sweep
from biasscope.engine.model import devices, forward, loading
from biasscope.engine.model.loading import LM
from biasscope.engine.model.metrics import METRICS
from biasscope.engine.model.packing import Block
from biasscope.engine.model.tokens import Forest
from biasscope.engine.schemas import NOTHING
from biasscope.engine.types import METRICS as KINDS
from biasscope.engine.types import Site, Track, Unit, silent

DRAWS = 8
"""How often a block is rounded anew, at least, over all layers."""
_ROUND = 37


def sweep(
    lm: LM, forest: Forest, wanted: Sweep, *, batch: int | None = None, track: Track = silent
) -> pl.DataFrame:
    """EFFECTS of replacing each site alone, exact: a row per example, site, position and metric.

    With an edit, baseline and value are of the model in which it stands.
    """
    parts = track(units(lm, forest, wanted, batch), f"ablate ({wanted.source.name})")
    return pl.concat(unit.compute()["effects"] for unit in parts)


def units(lm: LM, forest: Forest, wanted: Sweep, batch: int | None = None) -> list[Unit]:
    """The sweep in pieces of one layer and one row block each; neighbours share the block's clean pass.

    With a twin's activations, each block has a unit more: the total effect of its prompts exchanged for their
    twins.
    """
    size = loading.batch_size(lm, batch)
    by_layer: dict[int, list[Place]] = {}
    for site, position in wanted.places:
        by_layer.setdefault(site.layer, []).append((site, position))

    roundoff = devices.unit_roundoff(lm.dtype)
    draws = 0 if roundoff is None else math.ceil(DRAWS / max(1, len(by_layer)))

    @lru_cache(maxsize=1)
    def start(block: Block) -> tuple[forward.Clean, forward.Puts]:
        puts = wanted.edit.puts(block)
        return forward.clean(lm, block, puts), puts

    def compute(layer: int, number: int, block: Block) -> dict[str, pl.DataFrame]:
        """EFFECTS of one layer's sites on one block, as many copies a pass as the batch size allows."""
        clean, puts = start(block)
        # what is before it is in the residual stream
        standing = {site: put for site, put in puts.items() if site.layer >= layer}
        places = by_layer[layer]
        parts = {position: forest.where(block, position) for _, position in places}
        edits = [
            {**standing, site: wanted.source.put(block, site, parts[position])} for site, position in places
        ]
        here = Site(layer, "resid_pre")
        anew = [
            {**standing, here: forward.Put(_rounded_anew(roundoff or 0.0, (number, layer, draw)))}
            for draw in range(draws)
        ]
        passes = _Passes(lm, block, clean, max(1, size // block.ids.numel()), wanted.metrics)
        values = passes.after([*edits, *anew], standing if draws else None)
        before = {m: defined(m, clean.readouts) for m in wanted.metrics}
        of = partial(effects, forest, block, wanted.source.name)
        tables = {"effects": of(places, before, {m: v[: len(places)] for m, v in values.items()})}
        if draws:
            nothing = [(Site(layer, NOTHING, draw), "all") for draw in range(draws)]
            tables["floor"] = of(nothing, before, {m: v[len(places) :] for m, v in values.items()})
        return tables

    def whole_prompt(block: Block) -> dict[str, pl.DataFrame]:
        return {"effects": total(lm, forest, block, wanted)}

    pieces = []
    for number, block in enumerate(forest.blocks):
        pieces += [
            Unit(f"B{number:05}-L{layer:03}", partial(soundly, partial(compute, layer, number), block))
            for layer in sorted(by_layer)
        ]
        pieces += (
            [Unit(f"B{number:05}-total", partial(soundly, whole_prompt, block))] if wanted.source.twin else []
        )
    return pieces


@dataclass(frozen=True)
class _Passes:
    """Passes over a block, from its clean pass on, of at most so many copies."""

    lm: LM
    block: Block
    clean: forward.Clean
    copies: int
    metrics: Sequence[str]

    def after(self, edits: Sequence[forward.Puts], rider: forward.Puts | None) -> dict[str, np.ndarray]:
        """The metrics [edit example] under each edit; with a rider, what stands in a copy of every pass in
        which nothing is replaced: the clean metric, and by how much each copy differs from that one.
        """
        columns: dict[str, list[np.ndarray]] = {m: [] for m in self.metrics}
        riders = [] if rider is None else [rider]
        for first in range(0, len(edits), self.copies):
            in_pass = [*riders, *edits[first : first + self.copies]]
            readouts = forward.edited(self.lm, self.block, self.clean, in_pass)
            for m, column in columns.items():
                values = METRICS[m].fn(readouts).cpu().numpy()
                if riders and KINDS[m].signed:
                    values = METRICS[m].fn(self.clean.readouts).cpu().numpy() + (values - values[:1])
                column.append(values[len(riders) :])
        return {m: np.concatenate(column) for m, column in columns.items()}


def _rounded_anew(roundoff: float, seed: tuple[int, ...]) -> Callable[[Tensor], Tensor]:
    """What rounds an activation anew: every other number moves to a neighbour of that precision, up or down
    (random rounding; Vignes 1993).
    """

    def moved(act: Tensor) -> Tensor:
        drawn = np.random.default_rng((_ROUND, *seed)).integers(-1, 3, tuple(act.shape), dtype=np.int8)
        steps = torch.from_numpy(np.where(drawn == 2, 0, drawn)).to(act.device)
        return (act.float() * (1 + roundoff * steps)).to(act.dtype)

    return moved
