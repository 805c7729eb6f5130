"""Sets of edges: what a model keeps with only some of them, or loses without; exact, several sets a pass.

Where an edge is replaced, its input reads the source's contribution of the node in the place of the node's
own; all edges of a set at once, in one forward pass that rebuilds what every input reads.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from biasscope.engine.measure.effects import defined, effects, soundly
from biasscope.engine.measure.sources import Source, whole
from biasscope.engine.model import forward, loading
from biasscope.engine.model.metrics import METRICS
from biasscope.engine.model.packing import Block
from biasscope.engine.model.stream import READ, Stream
from biasscope.engine.model.tokens import Forest
from biasscope.engine.types import FINAL, NO_SITE, SET, Site, Unit

METRIC = "target"
RANDOM = 5
"""Random sets of each size: one costs what some passes of the model cost."""
HELD = 2**28
"""Bytes that the changes of all nodes in all copies of a pass may take."""
_DRAW = 52


@dataclass(frozen=True)
class Edges:
    """A set of edges that are replaced together."""

    name: str
    replaced: frozenset[int]
    """Their numbers in the graph."""


def none(graph: Stream) -> Edges:
    """The set of no kept edge; its rows hold the whole model, as baseline, as well."""
    return Edges(NO_SITE, frozenset(range(len(graph.edges))))


def points(ranked: Sequence[int], sizes: Sequence[int], seed: int) -> list[Edges]:
    """The first k edges kept alone (`keep-k`) and removed (`remove-k`), and random sets of each size."""
    everything, rng, sets = frozenset(ranked), np.random.default_rng((seed, _DRAW)), list[Edges]()
    for k in sizes:
        drawn = [
            frozenset(np.array(ranked)[rng.permutation(len(ranked))[:k]].tolist()) for _ in range(RANDOM)
        ]
        named = {"": frozenset(ranked[:k])} | {f"-random-{i:02d}": some for i, some in enumerate(drawn)}
        for end, some in named.items():
            sets += [Edges(f"keep-{k}{end}", everything - some), Edges(f"remove-{k}{end}", some)]
    return sets


@dataclass(eq=False)
class Pass:
    """One forward pass in which each copy has its own set of edges replaced."""

    graph: Stream
    block: Block
    source: Source
    sets: Sequence[Edges]
    changes: list[Tensor] = field(default_factory=list)
    """Of each node so far, (source − what it adds), `copy×row node d_model`."""
    entered: dict[int, Tensor] = field(default_factory=dict)
    """What stands before each layer's attention."""

    def __post_init__(self) -> None:
        """Say for each input which of its nodes are replaced, in which copies."""
        # both now: in a hook the model would set it off again
        self.new = {site: self.source.at(self.block, site) for site in {whole(up) for up in self.graph.ups}}
        for layer in range(self.graph.lm.n_layers):
            _ = [(self.graph.into(layer, n), self.graph.bias(layer, n)) for n in READ], self.graph.out(layer)
        first, self.masks = 0, dict[Site, Tensor]()
        for down in self.graph.downs:
            above = self.graph.above(down)
            rows = [[number in some.replaced for number in range(first, first + above)] for some in self.sets]
            self.masks[down] = torch.tensor(rows, dtype=torch.float32, device=self.graph.lm.device)
            first += above

    def hooks(self) -> dict[str, forward.Hook]:
        """The hooks of the pass."""
        graph = self.graph
        first, last = Site(0, "resid_pre"), Site(graph.lm.n_layers - 1, FINAL)
        hooks = {first.hook: self._writing(first), last.hook: self._reading(last)}
        for layer in range(graph.lm.n_layers):
            hooks[Site(layer, "attn_in").hook] = self._entering(layer)
            hooks |= {Site(layer, name).hook: self._attending(layer, name) for name in READ}
            hooks |= {site.hook: self._writing(site) for site in (Site(layer, "z"), Site(layer, "mlp_out"))}
            hooks[Site(layer, "mlp_in").hook] = self._reading(Site(layer, "mlp_in"))
        return hooks

    def _writing(self, site: Site) -> forward.Hook:
        return lambda act: self._write(site, act)

    def _reading(self, down: Site) -> forward.Hook:
        return lambda act: act + self._sum([down])[0].view_as(act)

    def _entering(self, layer: int) -> forward.Hook:
        return lambda act: self._enter(layer, act)

    def _attending(self, layer: int, name: str) -> forward.Hook:
        return lambda act: self._attend(layer, name, act)

    def _write(self, site: Site, act: Tensor) -> None:
        """Note what the source would add in the place of what a hook point adds."""
        new, where = self.new[site], self.source.where(self.block, site)
        new = new.expand_as(act[: len(self.block.ids)])
        change = new.repeat(len(self.sets), *[1] * (act.dim() - 1)) - act
        if where is not None:
            here = where.to(act.device).repeat(len(self.sets), 1)
            change = change * here.view(*here.shape, *[1] * (act.dim() - 2))
        if site.component != "z":
            self.changes.append(change.view(-1, *change.shape[-2:]))
            return
        written = torch.einsum("rnhk,hkd->hrnd", change, self.graph.out(site.layer).to(change.dtype))
        norm = self.graph.after(site.layer)
        if norm is not None:
            raw = self.graph.put_out(site.layer, act)
            inner = norm.original_component
            written = inner(raw + written) - inner(raw)
        self.changes += list(written)

    def _sum(self, downs: Sequence[Site]) -> Float[Tensor, "input copyrow node d_model"]:
        """What replaced edges add to what inputs of one place read."""
        changes = torch.stack(self.changes[: self.graph.above(downs[0])])
        changes = changes.unflatten(1, (len(self.sets), -1))
        masks = torch.stack([self.masks[down] for down in downs]).to(changes.dtype)
        return torch.einsum("vcu,ucrnd->vcrnd", masks, changes).flatten(1, 2)

    def _enter(self, layer: int, act: Tensor) -> None:
        downs = [Site(layer, name, p) for name in READ for p in range(self.graph.lm.parts(name) or 0)]
        with torch.no_grad():
            normed = self.graph.block(layer).ln1.original_component(act + self._sum(downs))
        self.entered = {layer: normed}

    def _attend(self, layer: int, name: str, act: Tensor) -> Tensor:
        """Queries, keys or values, each of what it reads itself."""
        before = sum(self.graph.lm.parts(n) or 0 for n in READ[: READ.index(name)])
        parts = self.graph.lm.parts(name) or 0
        normed = self.entered[layer][before : before + parts]
        new = torch.einsum("prnd,pkd->rnpk", normed, self.graph.into(layer, name).to(act.dtype))
        return new + self.graph.bias(layer, name).to(act.dtype)


def units(
    graph: Stream, forest: Forest, wanted: Sequence[Edges], source: Source, batch: int | None = None
) -> list[Unit]:
    """EFFECTS of the sets (component `set`, position: its name) by row block and as many sets as a pass."""
    size = loading.batch_size(graph.lm, batch)
    start = lru_cache(maxsize=1)(partial(forward.clean, graph.lm))

    def compute(sets: Sequence[Edges], block: Block) -> dict[str, pl.DataFrame]:
        clean, hooks = start(block), Pass(graph, block, source, sets).hooks()
        with torch.no_grad():
            logits = forward.run(graph.lm, block, hooks, copies=len(sets), layer=0, start=clean)
        before = {METRIC: defined(METRIC, clean.readouts)}
        after = {METRIC: METRICS[METRIC].fn(forward.read(block, logits)).cpu().numpy()}
        places = [(SET, some.name) for some in sets]
        return {"effects": effects(forest, block, source.name, places, before, after)}

    pieces = []
    for number, block in enumerate(forest.blocks):
        nodes = block.ids.numel()
        held = HELD // (4 * len(graph.ups) * nodes * graph.lm.d_model)
        copies = max(1, min(size // nodes, held))
        for first in range(0, len(wanted), copies):
            some = partial(compute, wanted[first : first + copies])
            pieces.append(Unit(f"B{number:05}-S{first:05}", partial(soundly, some, block)))
    return pieces
