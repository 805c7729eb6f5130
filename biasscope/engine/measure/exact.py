"""The exact sweep: every site's effect measured by running the model."""

from functools import lru_cache, partial

import numpy as np
import polars as pl

from biasscope.engine.measure.effects import Place, defined, effects, soundly, total
from biasscope.engine.measure.sources import Sweep
from biasscope.engine.model import forward, loading
from biasscope.engine.model.loading import LM
from biasscope.engine.model.metrics import METRICS
from biasscope.engine.model.packing import Block
from biasscope.engine.model.tokens import Forest
from biasscope.engine.types import Track, Unit, silent


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

    @lru_cache(maxsize=1)
    def start(block: Block) -> tuple[forward.Clean, forward.Puts]:
        puts = wanted.edit.puts(block)
        return forward.clean(lm, block, puts), puts

    def compute(layer: int, block: Block) -> dict[str, pl.DataFrame]:
        """EFFECTS of one layer's sites on one block, as many copies a pass as the batch size allows."""
        clean, puts = start(block)
        # what is before it is in the residual stream
        standing = {site: put for site, put in puts.items() if site.layer >= layer}
        places, copies = by_layer[layer], max(1, size // block.ids.numel())
        parts = {position: forest.where(block, position) for _, position in places}
        after: dict[str, list[np.ndarray]] = {m: [] for m in wanted.metrics}
        for first in range(0, len(places), copies):
            in_pass = places[first : first + copies]
            edits = [
                {**standing, site: wanted.source.put(block, site, parts[position])}
                for site, position in in_pass
            ]
            readouts = forward.edited(lm, block, clean, edits)
            for m in wanted.metrics:
                after[m].append(METRICS[m].fn(readouts).cpu().numpy())
        before = {m: defined(m, clean.readouts) for m in wanted.metrics}
        values = {m: np.concatenate(columns) for m, columns in after.items()}
        return {"effects": effects(forest, block, wanted.source.name, places, before, values)}

    def whole_prompt(block: Block) -> dict[str, pl.DataFrame]:
        return {"effects": total(lm, forest, block, wanted)}

    pieces = []
    for number, block in enumerate(forest.blocks):
        pieces += [
            Unit(f"B{number:05}-L{layer:03}", partial(soundly, partial(compute, layer), block))
            for layer in sorted(by_layer)
        ]
        pieces += (
            [Unit(f"B{number:05}-total", partial(soundly, whole_prompt, block))] if wanted.source.twin else []
        )
    return pieces
