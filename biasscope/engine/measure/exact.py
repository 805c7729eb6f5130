"""The exact sweep: every site's effect measured by running the model."""

from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np
import polars as pl

from biasscope.engine.measure.effects import Place, defined, effects, soundly, total
from biasscope.engine.measure.sources import Source
from biasscope.engine.model import forward, loading
from biasscope.engine.model.loading import LM
from biasscope.engine.model.metrics import METRICS
from biasscope.engine.model.packing import Block
from biasscope.engine.model.tokens import Forest
from biasscope.engine.types import Site, Track, Unit, silent

ABLATION_METRICS = ("target", "competence", "kl")


def sweep(
    lm: LM,
    forest: Forest,
    wanted: Sequence[Site],
    source: Source,
    *,
    positions: Sequence[str] = ("all",),
    given: Sequence[Site] = (),
    metrics: Sequence[str] = ABLATION_METRICS,
    batch: int | None = None,
    track: Track = silent,
) -> pl.DataFrame:
    """EFFECTS of replacing each site alone, at each position, by the source, exact: one row per example, site, position and metric.

    With `given`, those sites are replaced all the while: baseline and value are of the model without them.
    """
    found = units(lm, forest, wanted, source, positions=positions, given=given, metrics=metrics, batch=batch)
    return pl.concat(unit.compute()["effects"] for unit in track(found, f"ablate ({source.name})"))


def units(
    lm: LM,
    forest: Forest,
    wanted: Sequence[Site],
    source: Source,
    *,
    positions: Sequence[str] = ("all",),
    given: Sequence[Site] = (),
    metrics: Sequence[str] = ABLATION_METRICS,
    batch: int | None = None,
) -> list[Unit]:
    """The sweep in pieces of one layer and one row block each; neighbours share the block's clean pass.

    With a twin's activations, each block has a unit more: the total effect of its prompts exchanged for their twins.
    """
    size = loading.batch_size(lm, batch)
    by_layer: dict[int, list[Place]] = {}
    for site in wanted:
        by_layer.setdefault(site.layer, []).extend((site, position) for position in positions)

    @lru_cache(maxsize=1)
    def start(block: Block) -> tuple[forward.Clean, forward.Edit]:
        gone = {site: source.put(block, site) for site in given}
        return forward.clean(lm, block, gone), gone

    def compute(layer: int, block: Block) -> dict[str, pl.DataFrame]:
        clean, gone = start(block)
        later = {site: put for site, put in gone.items() if site.layer >= layer}  # what is before it is in the residual stream
        return {"effects": _unit(lm, forest, block, clean, later, by_layer[layer], source, metrics, size)}

    def whole_prompt(block: Block) -> dict[str, pl.DataFrame]:
        return {"effects": total(lm, forest, block, source.name, metrics)}

    found = []
    for number, block in enumerate(forest.blocks):
        found += [Unit(f"B{number:05}-L{layer:03}", partial(soundly, partial(compute, layer), block)) for layer in sorted(by_layer)]
        found += [Unit(f"B{number:05}-total", partial(soundly, whole_prompt, block))] if source.twin else []
    return found


def _unit(
    lm: LM,
    forest: Forest,
    block: Block,
    start: forward.Clean,
    given: forward.Edit,
    places: Sequence[Place],
    source: Source,
    metrics: Sequence[str],
    size: int,
) -> pl.DataFrame:
    """EFFECTS of one layer's sites on one block, as many copies a pass as the batch size allows."""
    copies = max(1, size // block.ids.numel())
    before = {m: defined(m, start.readouts) for m in metrics}
    after: dict[str, list[np.ndarray]] = {m: [] for m in metrics}
    parts = {position: forest.where(block, position) for _, position in places}
    for first in range(0, len(places), copies):
        edits = [{**given, site: source.put(block, site, parts[position])} for site, position in places[first : first + copies]]
        readouts = forward.edited(lm, block, start, edits)
        for m in metrics:
            after[m].append(METRICS[m].fn(readouts).cpu().numpy())
    return effects(forest, block, source.name, places, before, {m: np.concatenate(a) for m, a in after.items()})
