"""Sources that replace activations, and the exact sweep: every site's effect measured by running the model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from biasscope.engine import forward
from biasscope.engine.errors import UsageError
from biasscope.engine.metrics import METRICS
from biasscope.engine.models import LM
from biasscope.engine.packing import ROWS, Block
from biasscope.engine.tokens import Forest
from biasscope.engine.types import EFFECTS, MEANS, Site, Track, Unit, silent

ABLATION_METRICS = ("target", "competence", "kl")
PROCESS = 900 * 2**20
"""Bytes of a process with its libraries and a forest, before weights and passes."""


@dataclass(frozen=True)
class Source:
    """What replaces an activation."""

    name: str
    at: Callable[[Block, Site], Tensor]
    """The replacement at a site: [row node …] in the shape of its activation, or one number for all of it."""

    def where(self, block: Block, site: Site) -> Tensor | None:
        """The nodes that are replaced; None: all. At depth 0 the residual stream is an attention sink, which only a twin replaces."""
        return block.depth > 0 if site.component.startswith("resid") and self.name != "corrupt" else None

    def put(self, block: Block, site: Site) -> forward.Put:
        """What stands at a site of a block instead of its activation."""
        return forward.Put(self.at(block, site), self.where(block, site))


def sites(lm: LM, components: Sequence[str], layers: Sequence[int] | None = None) -> list[Site]:
    """The sites of those components in the layers (all by default), heads one by one. UsageError outside the model."""
    wanted = list(range(lm.n_layers) if layers is None else layers)
    wrong = [layer for layer in wanted if not 0 <= layer < lm.n_layers]
    if wrong:
        raise UsageError(f"layer {wrong[0]} is not in {lm.name}; it has layers 0-{lm.n_layers - 1}")
    heads = {"z": list(range(lm.n_heads))}
    return [Site(layer, c, h) for layer in wanted for c in components for h in heads.get(c, [None])]


def whole(site: Site) -> Site:
    """The hook point that a site is part of."""
    return Site(site.layer, site.component)


def zero(lm: LM) -> Source:
    """Nothing at all: off the model's distribution, but the strongest removal."""
    return Source("zero", lambda block, site: torch.zeros((), device=lm.device))


def mean(lm: LM, forest: Forest, wanted: Sequence[Site], track: Track = silent) -> Source:
    """The dataset's mean activation, weighted by how many examples use a node.

    Depth 0 has its own mean (the first position is an attention sink, far from all others); all other nodes share one.
    """
    return mean_of(lm, means(lm, forest, wanted, track))


def means(lm: LM, forest: Forest, wanted: Sequence[Site], track: Track = silent) -> pl.DataFrame:
    """MEANS of every hook point that the wanted sites are part of."""
    points = sorted({whole(s) for s in wanted})
    totals: dict[Site, Tensor] = {}
    weight = torch.zeros(2, dtype=torch.float64)
    for block in track(list(forest.blocks), "means"):
        share = torch.stack([block.weights * (block.depth == 0), block.weights * (block.depth > 0)]).double()
        weight += share.sum((1, 2))
        for point, act in forward.capture(lm, block, points)[0].items():
            part = torch.einsum("crn,rn...->c...", share.to(act), act)
            totals[point] = totals.get(point, 0) + part.double()
    rows = [
        (point.component, point.layer, depth == 0, (total[depth] / weight[depth].clamp(min=1)).flatten().tolist())
        for point, total in totals.items()
        for depth in (0, 1)
    ]
    return pl.DataFrame(rows, schema=MEANS, orient="row")


def mean_of(lm: LM, table: pl.DataFrame) -> Source:
    """The source that puts the means of the table."""
    found: dict[Site, list[Tensor]] = {}
    for row in table.sort("first", descending=True).iter_rows(named=True):
        found.setdefault(Site(row["layer"], row["component"]), []).append(torch.tensor(row["values"], dtype=torch.float64))
    means = {site: torch.stack(both).to(device=lm.device, dtype=getattr(torch, lm.dtype)) for site, both in found.items()}

    def at(block: Block, site: Site) -> Tensor:
        values = means[whole(site)]
        if site.component == "z":
            values = values.view(2, lm.n_heads, -1)
        return (values if site.head is None else values[:, site.head])[(block.depth > 0).long()]

    return Source("mean", at)


def corrupt(lm: LM, wanted: Sequence[Site]) -> Source:
    """The activations of the counterfactual prompts, node for node: of `swapped()` blocks the clean ones (denoising)."""
    points = sorted({whole(s) for s in wanted})
    last: list[tuple[Block, dict[Site, Tensor]]] = []

    def at(block: Block, site: Site) -> Tensor:
        if not last or last[0][0] is not block:  # a sweep goes block by block: one is enough
            last[:] = [(block, forward.capture(lm, block.swapped(), points)[0])]
        act = last[0][1][whole(site)]
        return act if site.head is None else act[:, :, site.head]

    return Source("corrupt", at)


def source(name: str, lm: LM, forest: Forest, wanted: Sequence[Site], track: Track = silent) -> Source:
    """The source of that name, ready for the wanted sites."""
    return zero(lm) if name == "zero" else mean(lm, forest, wanted, track)


def batch_size(lm: LM, requested: int | None = None, max_memory: int | None = None) -> int:
    """Nodes × copies of one pass: as requested, else from the model's device and shape, and the memory it may take, alone.

    On a CPU a pass should stay near its caches (2,048 nodes were as good as any number from 1,000 to 4,100); on a GPU it should fill
    2 GiB of the widest tensors. UsageError where the weights and one row alone need more than `max_memory` bytes.
    """
    widest = max(2 * lm.d_mlp + 8 * lm.d_model, 4 * lm.n_heads * ROWS["all"], lm.vocab // 4)
    if requested is not None:
        return requested
    size = 2048 if lm.device == "cpu" else max(2048, 2**31 // (4 * widest))
    if max_memory is None:
        return size
    # a node's share of a pass: what its layer holds, and its logits twice (log-distribution, divergence) were it read
    per_node = 4 * (3 * widest + 3 * lm.vocab)
    free = max_memory - lm.weight_bytes - PROCESS
    if free < ROWS["all"] * per_node:
        least = (lm.weight_bytes + PROCESS + ROWS["all"] * per_node) / 2**20
        raise UsageError(f"--max-memory is too little for {lm.name}: it needs at least {least:.0f}MiB")
    return min(size, free // per_node)


def sweep(
    lm: LM,
    forest: Forest,
    wanted: Sequence[Site],
    source: Source,
    *,
    metrics: Sequence[str] = ABLATION_METRICS,
    batch: int | None = None,
    track: Track = silent,
) -> pl.DataFrame:
    """EFFECTS of replacing each site alone by the source, exact: one row per example, site and metric."""
    found = units(lm, forest, wanted, source, metrics=metrics, batch=batch)
    return pl.concat(unit.compute()["effects"] for unit in track(found, f"ablate ({source.name})"))


def units(
    lm: LM,
    forest: Forest,
    wanted: Sequence[Site],
    source: Source,
    *,
    metrics: Sequence[str] = ABLATION_METRICS,
    batch: int | None = None,
) -> list[Unit]:
    """The sweep in pieces of one layer and one row block each; neighbours share the block's clean pass."""
    size = batch_size(lm, batch)
    by_layer: dict[int, list[Site]] = {}
    for site in wanted:
        by_layer.setdefault(site.layer, []).append(site)
    start = lru_cache(maxsize=1)(lambda number: forward.clean(lm, forest.blocks[number]))

    def compute(number: int, layer: int) -> dict[str, pl.DataFrame]:
        return {"effects": _unit(lm, forest, forest.blocks[number], start(number), by_layer[layer], source, metrics, size)}

    places = [(number, layer) for number in range(len(forest.blocks)) for layer in sorted(by_layer)]
    return [Unit(f"B{number:05}-L{layer:03}", partial(compute, number, layer)) for number, layer in places]


def _unit(
    lm: LM,
    forest: Forest,
    block: Block,
    start: forward.Clean,
    layer_sites: Sequence[Site],
    source: Source,
    metrics: Sequence[str],
    size: int,
) -> pl.DataFrame:
    """EFFECTS of one layer's sites on one block, as many copies a pass as the batch size allows."""
    copies = max(1, size // block.ids.numel())
    before = {m: defined(m, start.readouts) for m in metrics}
    after: dict[str, list[np.ndarray]] = {m: [] for m in metrics}
    for first in range(0, len(layer_sites), copies):
        readouts = forward.edited(lm, block, start, [{s: source.put(block, s)} for s in layer_sites[first : first + copies]])
        for m in metrics:
            after[m].append(METRICS[m].fn(readouts).cpu().numpy())
    return effects(forest, block, source.name, layer_sites, before, {m: np.concatenate(a) for m, a in after.items()})


def defined(metric: str, readouts: forward.Readouts) -> np.ma.MaskedArray:
    """The clean metric [example], masked where an example does not have it."""
    values = METRICS[metric].fn(readouts)[0].detach().cpu().numpy()
    return np.ma.MaskedArray(values, mask=~METRICS[metric].defined(readouts).cpu().numpy())


def effects(
    forest: Forest,
    block: Block,
    source: str,
    wanted: Sequence[Site],
    before: Mapping[str, np.ma.MaskedArray],
    after: Mapping[str, np.ndarray],
) -> pl.DataFrame:
    """EFFECTS of sites on a block: per metric, `before` [example] and `after` [site example].

    Rows in the order site, metric, example, whatever the batch; an example that does not have a metric has no row.
    """
    examples, of = forest.members(block)
    metrics, e, m = list(before), len(examples), len(before)

    def of_site(values: list[Any], kind: Any) -> pl.Series:
        return pl.Series(values, dtype=kind)[np.repeat(np.arange(len(wanted)), m * e)]

    def of_example(values: list[str]) -> pl.Series:
        return pl.Series(values, dtype=pl.String)[np.tile(np.arange(e), len(wanted) * m)]

    table = pl.DataFrame(
        {
            "example_id": of_example([x.id for x in examples]),
            "group": of_example([x.group for x in examples]),
            "dataset": of_example([x.dataset for x in examples]),
            "metric": pl.Series(metrics, dtype=pl.String)[np.tile(np.repeat(np.arange(m), e), len(wanted))],
            "component": of_site([s.component for s in wanted], pl.String),
            "layer": of_site([s.layer for s in wanted], pl.Int32),
            "head": of_site([s.head for s in wanted], pl.Int32),
            "baseline": np.tile(np.concatenate([before[k].data[of] for k in metrics]), len(wanted)),
            "value": np.stack([after[k][:, of] for k in metrics], axis=1).reshape(-1),
        }
    )
    same = {"source": pl.lit(source), "position": pl.lit("all"), "effect": pl.col("value") - pl.col("baseline")}
    has = np.tile(np.concatenate([~np.ma.getmaskarray(before[k])[of] for k in metrics]), len(wanted))
    return table.with_columns(**same).select(EFFECTS.names()).filter(pl.Series(has))
