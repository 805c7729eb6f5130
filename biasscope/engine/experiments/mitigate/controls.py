"""What an edit is compared with: random edits of its size, of its cost, of its fit and of its direction."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl

from biasscope.engine.experiments.mitigate.fitting import Fitting, row
from biasscope.engine.schemas import EDITS
from biasscope.engine.settings import KINDS
from biasscope.engine.types import Edit, Site

SIZE, COST, LABELS, DIRECTION, PLACE = "size", "cost", "labels", "direction", "place"
_HEADS, _LABELS, _AXES = 61, 62, 63


@dataclass
class Controls:
    """The controls of some own edits."""

    fit: Fitting
    own: Sequence[Edit]
    about: Mapping[str, Mapping[str, Any]]
    """Name → the own edit's row in EDITS."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    """EDITS of the controls, as far as they are made."""

    @property
    def n(self) -> int:
        """Draws that are wanted per control."""
        return self.fit.wanted.random

    def order(self, draw: int, of: Sequence[Site]) -> list[Site]:
        """A random order of some heads: the first k of it are one draw of k."""
        rng = np.random.default_rng((self.fit.here.run.options.seed, _HEADS, draw))
        return [of[i] for i in rng.permutation(len(of))]

    def made(self) -> list[Edit]:
        """All controls but those of cost, each with its row."""
        return [edit for own in self.own for role in self.roles(own) for edit in self._drawn(own, role)]

    def roles(self, own: Edit) -> tuple[str, ...]:
        """The controls of an edit, beside cost."""
        if not KINDS[own.kind].heads:
            return (LABELS,)
        return (PLACE, DIRECTION) if own.kind == "project" else (SIZE,)

    def _drawn(self, own: Edit, role: str) -> Iterator[Edit]:
        make: dict[str, Callable[[Edit, int], dict[Site, Any]]] = {
            SIZE: self._elsewhere,
            PLACE: self._elsewhere,
            DIRECTION: self._axes,
            LABELS: self._dealt,
        }
        for draw in range(self.n):
            yield self.kept(make[role](own, draw), own, role, draw)

    def kept(self, at: dict[Site, Any], own: Edit, role: str, draw: int, /, **more: Any) -> Edit:
        """The control, its row noted; `more`: what differs from the own edit's row."""
        dose = more.get("dose", own.dose)
        edit = Edit(at, f"{own.name}.{role}-{draw:02d}", more.get("kind", own.kind), dose)
        about = {name: self.about[own.name][name] for name in ("k", "layer", "at")} | {"draw": draw} | more
        self.rows.append(row(self.fit.here, edit, role, own.name, **about))
        return edit

    def _elsewhere(self, own: Edit, draw: int) -> dict[Site, Any]:
        """As many random heads, of those not chosen, under the same kind and dose."""
        from biasscope.engine.measure import edits

        others = [site for site in self.fit.heads if site not in own.at]
        heads = self.order(draw, others)[: len(own.at)]
        return dict(edits.at_heads(own.kind, self.fit.vectors(own.kind, heads), own.dose))

    def _axes(self, own: Edit, draw: int) -> dict[Site, Any]:
        """The same heads, each kept from writing along a random unit vector."""
        import torch

        from biasscope.engine.measure import edits

        rng = np.random.default_rng((self.fit.here.run.options.seed, _AXES, draw))
        axes: dict[Site, Any] = {}
        for site, affine in sorted(own.at.items()):
            axis = torch.from_numpy(rng.normal(size=len(affine.right)))
            axes[site] = axis / axis.norm()
        return dict(edits.at_heads(own.kind, axes, own.dose))

    def _dealt(self, own: Edit, draw: int) -> dict[Site, Any]:
        """The same fit, with the covariate dealt anew among the choosing groups."""
        label = self.fit.label()
        rng = np.random.default_rng((self.fit.here.run.options.seed, _LABELS, draw))
        values = [label[group] for group in sorted(label)]
        dealt = dict(zip(sorted(label), rng.permutation(values).tolist(), strict=True))
        layer = self.about[own.name]["layer"]
        return dict(self.fit.direction(own.kind, layer, dealt).at(layer, own.dose))

    @property
    def others(self) -> list[Site]:
        """The heads that no own edit is at."""
        chosen = {site for own in self.own for site in own.at}
        return [site for site in self.fit.heads if site not in chosen]

    def random_heads(self, kind: str, draw: int, k: int, dose: float) -> dict[Site, Any]:
        """The first k heads of a draw among those that no own edit is at."""
        from biasscope.engine.measure import edits

        heads = self.order(draw, self.others)[:k]
        return dict(edits.at_heads(kind, self.fit.vectors(kind, heads), dose))

    def table(self) -> pl.DataFrame:
        """EDITS of the controls made so far."""
        return pl.DataFrame(self.rows, EDITS)
