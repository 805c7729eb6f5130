"""What removing a direction from the residual stream does, against random ones: readable is not used."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
import polars as pl
import torch
from torch import Tensor

from biasscope.engine.measure.effects import defined, effects, soundly
from biasscope.engine.measure.sources import SWEPT
from biasscope.engine.model import forward, loading
from biasscope.engine.model.loading import LM
from biasscope.engine.model.metrics import METRICS
from biasscope.engine.model.packing import Block
from biasscope.engine.model.tokens import Forest
from biasscope.engine.types import UNEDITED, Edit, Site, Unit

RANDOM = 20
"""Random directions beside the probe's."""
PROBE = "probe"
_RANDOM = 15


def names() -> list[str]:
    """The sources of the rows: the probe's direction, then the random ones."""
    return [PROBE, *(f"random-{i:02d}" for i in range(RANDOM))]


def drawn(width: int, layer: int, seed: int) -> np.ndarray:
    """Random unit vectors, `direction d`."""
    vectors = np.random.default_rng((seed, _RANDOM, layer)).normal(size=(RANDOM, width))
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@dataclass(frozen=True)
class Removal:
    """x → x − ((x − centre) · v) v at a residual site, for each of some directions."""

    name: str
    site: Site
    vectors: np.ndarray
    """`direction d`, unit length, in the order of `names()`."""
    centre: np.ndarray


def units(
    lm: LM, forest: Forest, removals: Sequence[Removal], edit: Edit = UNEDITED, batch: int | None = None
) -> list[Unit]:
    """EFFECTS of the removals at all nodes but the first position: a unit per row block and removal.

    Neighbours share the block's clean pass.
    """
    size = loading.batch_size(lm, batch)

    @lru_cache(maxsize=1)
    def start(block: Block) -> tuple[forward.Clean, forward.Puts]:
        puts = edit.puts(block)
        return forward.clean(lm, block, puts), puts

    def compute(removal: Removal, block: Block) -> dict[str, pl.DataFrame]:
        clean, puts = start(block)
        standing = {site: put for site, put in puts.items() if site.layer >= removal.site.layer}
        before, copies = {m: defined(m, clean.readouts) for m in SWEPT}, max(1, size // block.ids.numel())
        changed, frames = _without(lm, block, start(block), removal), []
        for first in range(0, len(changed), copies):
            edits = [
                {**standing, removal.site: forward.Put(new, block.depth > 0)}
                for new in changed[first : first + copies]
            ]
            readouts = forward.edited(lm, block, clean, edits)
            after = {m: METRICS[m].fn(readouts).cpu().numpy() for m in SWEPT}
            for copy, name in enumerate(names()[first : first + copies]):
                values = {m: a[copy : copy + 1] for m, a in after.items()}
                frames.append(effects(forest, block, name, [(removal.site, "all")], before, values))
        return {"effects": pl.concat(frames)}

    return [
        Unit(f"{r.name}-B{i:05}", partial(soundly, partial(compute, r), block))
        for i, block in enumerate(forest.blocks)
        for r in removals
    ]


def _without(
    lm: LM, block: Block, start: tuple[forward.Clean, forward.Puts], removal: Removal
) -> list[Tensor]:
    """The activation at the removal's site without each of its directions."""
    (clean, puts), site, to = start, removal.site, {"device": lm.device, "dtype": getattr(torch, lm.dtype)}
    vectors, centre = torch.tensor(removal.vectors, **to), torch.tensor(removal.centre, **to)
    entering = site.component == "resid_pre"
    act = clean.residuals[site.layer] if entering else forward.capture(lm, block, [site], puts)[0][site]
    return [act - ((act - centre) @ v)[..., None] * v for v in vectors]
