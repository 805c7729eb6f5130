"""Sources that replace activations, and the exact sweep: every site's effect measured by running the model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from biasscope.engine import forward
from biasscope.engine.errors import UsageError
from biasscope.engine.metrics import METRICS, sentence_logp
from biasscope.engine.models import LM
from biasscope.engine.packing import ROWS, Block
from biasscope.engine.tokens import Forest
from biasscope.engine.types import EFFECTS, SCORES, TRIPLES, Site, Track, silent

ABLATION_METRICS = ("target", "competence", "kl")
BASELINE_METRICS = ("target", "sentence", "competence")


@dataclass(frozen=True)
class Source:
    """What replaces an activation."""

    name: str
    at: Callable[[Block, Site], Tensor]
    """The replacement at a site: [row node …] in the shape of its activation, or one number for all of it."""


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
    points = sorted({whole(s) for s in wanted})
    totals: dict[Site, Tensor] = {}
    weight = torch.zeros(2, dtype=torch.float64)
    for block in track(list(forest.blocks), "means"):
        share = torch.stack([block.weights * (block.depth == 0), block.weights * (block.depth > 0)]).double()
        weight += share.sum((1, 2))
        for point, act in forward.capture(lm, block, points)[0].items():
            part = torch.einsum("crn,rn...->c...", share.to(act), act)
            totals[point] = totals.get(point, 0) + part.double()
    means = {point: (total / weight.clamp(min=1).to(total.device).view(2, *[1] * (total.dim() - 1))) for point, total in totals.items()}

    def at(block: Block, site: Site) -> Tensor:
        values = means[whole(site)].to(getattr(torch, lm.dtype))
        return (values if site.head is None else values[:, site.head])[(block.depth > 0).long()]

    return Source("mean", at)


def source(name: str, lm: LM, forest: Forest, wanted: Sequence[Site], track: Track = silent) -> Source:
    """The source of that name, ready for the wanted sites."""
    return zero(lm) if name == "zero" else mean(lm, forest, wanted, track)


def batch_size(lm: LM, requested: int | None = None) -> int:
    """Nodes × copies of one pass: as requested, else from the model's device and shape alone.

    On a CPU a pass should stay near its caches (2,048 nodes were as good as any number from 1,000 to 2,500, 4,600 took 1.5 times
    as long); on a GPU it should fill 2 GiB of the widest tensors.
    """
    widest = max(2 * lm.d_mlp + 8 * lm.d_model, 4 * lm.n_heads * ROWS["all"], lm.vocab // 4)
    return requested or (2048 if lm.device == "cpu" else max(2048, 2**31 // (4 * widest)))


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
    size = batch_size(lm, batch)
    by_layer: dict[int, list[Site]] = {}
    for site in wanted:
        by_layer.setdefault(site.layer, []).append(site)
    units = [(number, layer) for number in range(len(forest.blocks)) for layer in sorted(by_layer)]
    tables: list[pl.DataFrame] = []
    start: tuple[int, forward.Clean] | None = None
    for number, layer in track(units, f"ablate ({source.name})"):
        block = forest.blocks[number]
        if start is None or start[0] != number:
            start = (number, forward.clean(lm, block))
        tables.append(_unit(lm, forest, block, start[1], by_layer[layer], source, metrics, size))
    return pl.concat(tables)


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
        readouts = forward.edited(lm, block, start, [{s: source.at(block, s)} for s in layer_sites[first : first + copies]])
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


def baseline(lm: LM, forest: Forest, *, track: Track = silent) -> tuple[pl.DataFrame, pl.DataFrame]:
    """SCORES of the clean model, and TRIPLES: the published per-sentence scores, 2^(mean log₂ p), where there are sentences."""
    scores, triples = [], []
    for block in track(list(forest.blocks), "baseline"):
        with torch.no_grad():
            readouts = forward.read(block, forward.run(lm, block, {}))
        examples, of = forest.members(block)
        who = {"example_id": [e.id for e in examples], "group": [e.group for e in examples], "dataset": [e.dataset for e in examples]}
        for m in BASELINE_METRICS:
            values = defined(m, readouts)
            table = pl.DataFrame({**who, "metric": [m] * len(examples), "value": values.data[of]})
            scores.append(table.filter(pl.Series(~np.ma.getmaskarray(values)[of])))
        each = sentence_logp(readouts)[0].exp().cpu().numpy()[of]
        kind = {"split": ["intrasentence"] * len(examples), "bias_type": [e.bias_type for e in examples]}
        columns = {"stereo": each[:, 0], "anti": each[:, 1], "unrelated": each[:, 2]}
        table = pl.DataFrame({**kind, "example_id": who["example_id"], "group": who["group"], **columns})
        triples.append(table.filter(pl.Series(METRICS["sentence"].defined(readouts).cpu().numpy()[of])))
    return pl.concat(scores).select(SCORES.names()), pl.concat(triples).select(TRIPLES.names())
