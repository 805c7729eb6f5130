"""Exact path patching: one input alone receives what a node would add, everything else stays as it is.

So a query, key or value is computed anew from the changed stream, or an MLP or the final norm reads it, and
the model runs on from there (Wang et al. 2023; Goldowsky-Dill et al. 2023, to one input).
"""

from collections.abc import Sequence
from functools import lru_cache, partial

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from biasscope.engine.measure.effects import defined, effects, soundly
from biasscope.engine.measure.sources import Sweep, whole
from biasscope.engine.model import forward, loading
from biasscope.engine.model.metrics import METRICS
from biasscope.engine.model.packing import Block
from biasscope.engine.model.stream import READ, Stream
from biasscope.engine.model.tokens import Forest
from biasscope.engine.types import EDGE, Edge, Site, Unit


def site(graph: Stream, edge: Edge) -> Site:
    """The site by which tables name an edge."""
    return Site(edge.down.layer, EDGE, graph.number[edge])


class Clean:
    """The clean pass over a block, and what nodes would add to it and inputs read of it."""

    def __init__(self, graph: Stream, block: Block, wanted: Sweep, edges: Sequence[Edge]) -> None:
        """Take the clean pass, with the activations that these edges need."""
        self.graph, self.block, self.source = graph, block, wanted.source
        self.start = forward.clean(graph.lm, block)
        ups, downs = {whole(e.up) for e in edges}, {_entered(e.down) for e in edges}
        raw = {Site(up.layer, "attn_raw") for up in ups if up.component == "z" and graph.after(up.layer)}
        self.acts, _ = forward.capture(graph.lm, block, sorted(ups | downs | raw))

    def added(self, up: Site, part: Tensor | None) -> Float[Tensor, "row node d_model"]:
        """(source − clean) of what a node adds to the stream, exactly, at a part of the nodes (None: all)."""
        act = self.acts[whole(up)]
        new, where = self.source.at(self.block, whole(up)), self.source.where(self.block, up, part)
        change = (new - act) if up.head is None else (new - act)[:, :, up.head]
        if where is not None:
            change = change * where[..., None].to(change.device)
        if up.component != "z":
            return change
        written = change @ self.graph.out(up.layer)[up.head].to(change.dtype)
        norm = self.graph.after(up.layer)
        if norm is None:
            return written
        raw = self.acts[Site(up.layer, "attn_raw")]
        return norm(raw + written) - norm(raw)

    def puts(self, edge: Edge, part: Tensor | None) -> forward.Puts:
        """What stands at the input of an edge that is replaced."""
        clean = self.acts[_entered(edge.down)]
        entered = clean + self.added(edge.up, part).view_as(clean)
        return {edge.down: forward.Put(self._read(edge.down, entered))}

    def _read(self, down: Site, entered: Tensor) -> Tensor:
        """What an input is, given the stream that enters its norm."""
        if down.component not in READ:
            return entered
        block = self.graph.block(down.layer)
        parts = getattr(block.attn, down.component)(block.ln1(entered))
        return parts.unflatten(-1, (self.graph.lm.parts(down.component), -1))[:, :, down.head]


def _entered(down: Site) -> Site:
    """Where the stream is before the norm of an input."""
    return Site(down.layer, "attn_in") if down.component in READ else down


def units(
    graph: Stream, forest: Forest, edges: Sequence[Edge], wanted: Sweep, batch: int | None = None
) -> list[Unit]:
    """EFFECTS on target of each edge alone, exact, in pieces of one layer and one row block each."""
    size = loading.batch_size(graph.lm, batch)
    by_layer: dict[int, list[tuple[Edge, str]]] = {}
    for edge in edges:
        for position in wanted.positions:
            by_layer.setdefault(edge.down.layer, []).append((edge, position))

    @lru_cache(maxsize=1)
    def clean(block: Block) -> Clean:
        return Clean(graph, block, wanted, edges)

    def compute(layer: int, block: Block) -> dict[str, pl.DataFrame]:
        here, copies = clean(block), max(1, size // block.ids.numel())
        parts = {position: forest.where(block, position) for position in wanted.positions}
        after: list[np.ndarray] = []
        places = by_layer[layer]
        with torch.no_grad():
            for first in range(0, len(places), copies):
                edits = [here.puts(edge, parts[p]) for edge, p in places[first : first + copies]]
                readouts = forward.edited(graph.lm, block, here.start, edits)
                after.append(METRICS["target"].fn(readouts).cpu().numpy())
        before = {"target": defined("target", here.start.readouts)}
        named = [(site(graph, edge), position) for edge, position in places]
        values = {"target": np.concatenate(after)}
        return {"effects": effects(forest, block, wanted.source.name, named, before, values)}

    return [
        Unit(f"B{number:05}-L{layer:03}", partial(soundly, partial(compute, layer), block))
        for number, block in enumerate(forest.blocks)
        for layer in sorted(by_layer)
    ]
