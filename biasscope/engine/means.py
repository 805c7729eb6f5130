"""The data set's mean activations: what the source `mean` puts."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl
import torch
from torch import Tensor

from biasscope.engine import forward
from biasscope.engine.errors import DataError
from biasscope.engine.models import LM
from biasscope.engine.packing import Block
from biasscope.engine.tokens import Forest
from biasscope.engine.types import MEANS, Site, Track, silent


def means(lm: LM, forest: Forest, wanted: Sequence[Site], track: Track = silent) -> pl.DataFrame:
    """MEANS of every hook point that the wanted sites are part of, weighted by how many examples use a node.

    Depth 0 has its own mean (the first position is an attention sink, far from all others); all other nodes share one. Examples whose
    own pass is not finite are left out, and counted.
    """
    points = sorted({Site(s.layer, s.component) for s in wanted})
    sums, left_out = _Sums(), 0
    for block in track(list(forest.blocks), "means"):
        part = _summed(lm, block, points)
        for one, alone in [(block, part)] if part.finite else [(b, _summed(lm, b, points)) for b in block.alone()]:
            if alone.finite:
                sums.add(alone)
            else:
                left_out += sum(map(len, one.examples))
    rows = [
        (point.component, point.layer, depth == 0, left_out, (total[depth] / sums.weight[depth].clamp(min=1)).flatten().tolist())
        for point, total in sums.totals.items()
        for depth in (0, 1)
    ]
    if not rows:
        raise DataError(f"no mean can be taken: {lm.name} gives no prompt finite activations in {lm.dtype}")
    return pl.DataFrame(rows, schema=MEANS, orient="row")


@dataclass
class _Sums:
    """Activations of hook points summed over nodes by depth class, in float64."""

    weight: Tensor = field(default_factory=lambda: torch.zeros(2, dtype=torch.float64))
    totals: dict[Site, Tensor] = field(default_factory=dict)

    @property
    def finite(self) -> bool:
        """Whether all of it is."""
        return all(bool(total.isfinite().all()) for total in self.totals.values())

    def add(self, other: "_Sums") -> None:
        """Take in another sum."""
        self.weight = self.weight + other.weight
        self.totals = {point: self.totals.get(point, 0) + total for point, total in other.totals.items()}


def _summed(lm: LM, block: Block, points: Sequence[Site]) -> _Sums:
    """The sums over one block."""
    share = torch.stack([block.weights * (block.depth == 0), block.weights * (block.depth > 0)]).double()
    acts = forward.capture(lm, block, points)[0]
    return _Sums(share.sum((1, 2)), {p: torch.einsum("crn,rn...->c...", share.to(act), act).double() for p, act in acts.items()})
