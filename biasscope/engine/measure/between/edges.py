"""Every edge of the graph at once: what an input reads of a node, to first order (edge attribution patching).

The score of u → v for an example is Σ over nodes of the forest and dimensions of (source − clean) of what u
adds to the stream · ∂target/∂(the stream as v reads it), the gradient taken through v's own norm (Syed et al.
2023; with `steps` Hanna et al. 2024's EAP-IG). One forward and one backward pass per row block, then matrix
products; what is kept are sums over the examples of a group, never examples × edges.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from biasscope.engine.errors import DataError
from biasscope.engine.measure import attribution, sources
from biasscope.engine.measure.effects import defined, summed, total
from biasscope.engine.measure.sources import Sweep
from biasscope.engine.model import forward
from biasscope.engine.model.loading import LM
from biasscope.engine.model.packing import Block, Scored, pack
from biasscope.engine.model.stream import READ, Stream
from biasscope.engine.model.tokens import Forest
from biasscope.engine.types import FINAL, Site, Unit

TOLERANCE = 1e-3
"""Largest difference, in units of the largest value, between a node's edges and the node."""


def stream(lm: LM) -> Stream:
    """The model's graph. DataError, by the family's name, where its nodes and inputs do not explain it."""
    try:
        graph = Stream(lm, _parallel(lm))
        off = _unexplained(graph)
    except Exception as error:
        raise DataError(
            f"edges cannot be measured in {lm.name} ({lm.family}): {type(error).__name__}: {error}"
        ) from error
    if off > TOLERANCE:
        raise DataError(
            f"edges cannot be measured in {lm.name} ({lm.family}): those of a node sum to another value than "
            f"the node's own, by {off:.2g} of the largest; {_instead(lm)}"
        )
    return graph


def _instead(lm: LM) -> str:
    """What to do where the graph does not explain a model."""
    if any(site.component not in ("z", "mlp_out") for site in lm.edit.at):
        return f"{lm.edit.name} stands between what writes the stream and what reads it: leave out --edit"
    if lm.dtype != "float32":
        return f"{lm.dtype} is too coarse: take --dtype float32"
    return "use a GPT-2, GPT-Neo, Llama, Gemma 3, Qwen or GPT-NeoX model"


def _few(lm: LM) -> Block:
    """A block of two short sequences that share their beginning."""
    ids = [(37 * i + 11) % lm.vocab for i in range(9)]
    groups = [[Scored((*path, 1), len(path), 0), Scored((*path, 2), len(path), 1)] for path in (ids, ids[:5])]
    return pack(groups, [(0,), (1,)], "example", lm.packed)


def _parallel(lm: LM) -> bool:
    pair = [Site(1 % lm.n_layers, "attn_in"), Site(1 % lm.n_layers, "mlp_in")]
    first, second = forward.capture(lm, _few(lm), pair)[0].values()
    return torch.equal(first, second.view_as(first))


def _unexplained(graph: Stream) -> float:
    """The largest difference between Σ of a node's edges and the node's own attribution, of the largest."""
    lm, block = graph.lm, _few(graph.lm)
    zero = sources.Source("zero", lambda block, site: torch.zeros((), device=lm.device), twin=True)
    nodes = sorted({sources.whole(site) for site in graph.ups})
    sweep = Sweep(nodes, zero, metrics=("target",))
    scores = Scores(graph, block, sweep)
    summed = torch.zeros(len(scores.owners), len(graph.ups))
    for up, column in zip((e.up for e in graph.edges), scores.of(block.owner >= 0)[0].T, strict=True):
        summed[:, graph.ups.index(up)] += column
    _, acts, grads = attribution.gradients(lm, block, nodes, sweep)
    whole = []
    for site in graph.ups:
        product = -(acts[sources.whole(site)] * grads[sources.whole(site)])
        per_node = (product if site.head is None else product[:, :, site.head]).sum(-1).cpu()
        whole.append(torch.stack([per_node[block.owner == e].sum() for e in range(len(block.examples))]))
    own = torch.stack(whole, 1)
    return float((summed - own).abs().max() / own.abs().max())


@dataclass(eq=False)
class Scores:
    """The scores of a block's edges, at any part of its nodes; one clean pass, one backward pass a step."""

    graph: Stream
    block: Block
    sweep: Sweep
    steps: int | None = None

    def __post_init__(self) -> None:
        """Take the clean pass; sort the nodes by example."""
        lm, layers = self.graph.lm, range(self.graph.lm.n_layers)
        self.points = [Site(layer, name) for layer in layers for name in (*READ, "mlp_in")]
        self.points.append(Site(lm.n_layers - 1, FINAL))
        owner = self.block.owner.flatten()
        order = owner.argsort(stable=True)
        self.order = order[owner[order] >= 0].to(lm.device)
        self.owners = torch.bincount(owner[owner >= 0], minlength=len(self.block.examples)).tolist()
        nodes = sorted({sources.whole(site) for site in self.graph.ups})
        raw = [Site(layer, "attn_raw") for layer in layers if self.graph.after(layer) is not None]
        self.acts, logits = forward.capture(lm, self.block, [*nodes, *raw])
        self.clean = defined(self.sweep.metrics[0], forward.read(self.block, logits))

    def _flat(self, act: Tensor) -> Tensor:
        """An activation at the nodes of examples, sorted by example."""
        return act.reshape(-1, *act.shape[2:])[self.order].float()

    def changes(self, part: Tensor) -> Float[Tensor, "up node d_model"]:
        """(source − clean) of what each node adds to the stream, at the nodes `row node` of a part."""
        graph, source = self.graph, self.sweep.source
        rows = []
        for site in sorted({sources.whole(site) for site in graph.ups}, key=_in_stream):
            where = source.where(self.block, site, part)
            here = (part if where is None else where).to(graph.lm.device)
            act = self.acts[site]
            moved = (source.at(self.block, site) - act) * here.view(*here.shape, *[1] * (act.dim() - 2))
            if site.component == "z":
                raw = self.acts.get(Site(site.layer, "attn_raw"))
                entered = None if raw is None else self._flat(raw)
                rows.append(graph.added(site.layer, self._flat(moved), entered))
            else:
                rows.append(self._flat(moved)[None])
        return torch.cat(rows)

    def of(self, *parts: Tensor) -> list[Float[Tensor, "example edge"]]:
        """The scores, per example, of replacing what the nodes of each part add."""
        # copied together once, not for every input that reads it
        changes = [[own.flatten(1) for own in self.changes(part).split(self.owners, 1)] for part in parts]
        puts = [{}] if self.steps is None else attribution.line(self.graph.lm, self.block, self.steps)
        scores = [torch.zeros(len(self.owners), len(self.graph.edges)) for _ in parts]
        for standing in puts:
            column = 0
            for above, pulled in self._inputs(standing):
                for change, each in zip(changes, scores, strict=True):
                    self._multiply([own[:above] for own in change], pulled, each, column)
                column += above * len(pulled)
        return [each / (self.steps or 1) for each in scores]

    def _multiply(
        self, changes: Sequence[Float[Tensor, "up flat"]], pulled: Tensor, scores: Tensor, column: int
    ) -> None:
        """Add the products of some nodes and inputs to the scores from a column on; changes: by example."""
        for row, own, read in zip(scores, changes, pulled.split(self.owners, 1), strict=True):
            row[column : column + len(own) * len(read)] += (read.flatten(1) @ own.T).flatten().cpu()

    def _inputs(self, standing: forward.Puts) -> Iterator[tuple[int, Float[Tensor, "input node d_model"]]]:
        """∂target/∂ what inputs read, in the graph's order, with how many nodes they have above them."""
        graph, metric = self.graph, self.sweep.metrics[0]
        entered = [Site(layer, "attn_in") for layer in range(graph.lm.n_layers)]
        points = [*entered, *self.points]
        _, acts, grads = attribution.pulled(graph.lm, self.block, points, metric, standing)
        grads = {point: self._flat(grads[point].view_as(acts[point])) for point in self.points}
        for layer in range(graph.lm.n_layers):
            here = [grads[Site(layer, name)] for name in READ]
            yield (
                graph.above(Site(layer, "q", 0)),
                graph.pulled(layer, self._flat(acts[Site(layer, "attn_in")]), here),
            )
            mlp = Site(layer, "mlp_in")
            yield graph.above(mlp), grads[mlp][None]
        last = self.points[-1]
        yield graph.above(last), grads[last][None]


def _in_stream(site: Site) -> tuple[int, bool, bool]:
    """The place of a whole hook point in the order of `Stream.ups`."""
    return site.layer, site.component != "resid_pre", site.component == "mlp_out"


def units(graph: Stream, forest: Forest, wanted: Sweep, steps: int | None = None) -> list[Unit]:
    """GROUPS of all edges in pieces of one row block; with a twin as source the total effect as well."""

    def compute(block: Block) -> dict[str, pl.DataFrame]:
        scores = Scores(graph, block, wanted, steps)
        tables = {"groups": groups(scores, forest)}
        if wanted.source.twin:
            known = dict(zip(wanted.metrics, [scores.clean], strict=True))
            tables["effects"] = total(graph.lm, forest, block, wanted, known)
        return tables

    return [Unit(f"B{number:05}", partial(compute, block)) for number, block in enumerate(forest.blocks)]


def groups(scores: Scores, forest: Forest) -> pl.DataFrame:
    """GROUPS of a block: of each group the scores of all edges, summed over its examples.

    Where a score is not finite, each example is measured alone, and those whose own is not are left out.
    """
    block, wanted = scores.block, scores.sweep
    parts = {position: forest.where(block, position) for position in wanted.positions}
    everything = block.owner >= 0
    tables = []
    has = ~np.ma.getmaskarray(scores.clean)
    every = scores.of(*(everything if part is None else everything & part for part in parts.values()))
    for position, values in zip(parts, (each.numpy() for each in every), strict=True):
        if not np.isfinite(values[has]).all() and len(block.examples) > 1:
            return pl.concat(groups(replace(scores, block=single), forest) for single in block.alone())
        tables.append(summed(forest, block, (wanted.source.name, position), values, has))
    return pl.concat(tables)
