"""Gradient estimates of what replacing sites would do: one forward and one backward pass per row block.

Attribution = Σ over nodes and dimensions of (source − clean) · ∂target/∂activation, the gradient taken at the
run that is patched (with `--steps` averaged towards the other): the first-order estimate of the exact effect
(Nanda 2023; Kramár et al. 2024, arXiv:2403.00745). Of queries and keys, which act through a softmax that may
be saturated, the change of the pattern stands in the place of source − clean (see `attention.moved`).

Needs a forest that shares nothing between examples: at a node that several use, a backward pass gives only
the sum over them.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from biasscope.engine.measure.between import attention
from biasscope.engine.measure.effects import defined, effects, soundly, summed, total
from biasscope.engine.measure.sources import Sweep, whole
from biasscope.engine.model import forward
from biasscope.engine.model.loading import LM
from biasscope.engine.model.metrics import METRICS
from biasscope.engine.model.packing import Block
from biasscope.engine.model.tokens import Forest
from biasscope.engine.types import Site, Track, Unit, silent


def estimate(
    lm: LM, forest: Forest, wanted: Sweep, *, steps: int | None = None, track: Track = silent
) -> pl.DataFrame:
    """EFFECTS on the sweep's first metric, estimated per example, signed; value = baseline + the estimate.

    The sites may be heads and whole hook points; a whole `z` is the sum of its heads. The forest must be
    built with share="example". With `steps` the gradient is the mean over so many midpoints of the straight
    line from the prompt's embeddings to its twin's (integrated gradients; Sundararajan et al. 2017, Hanna et
    al. 2024), which needs a twin as source.
    """
    return pl.concat(
        unit.compute()["effects"]
        for unit in track(units(lm, forest, wanted, steps), f"attribution ({wanted.source.name})")
    )


def units(lm: LM, forest: Forest, wanted: Sweep, steps: int | None = None) -> list[Unit]:
    """The estimates in pieces of one row block; with a twin's activations the exact total effect as well."""
    sweep = replace(wanted, metrics=wanted.metrics[:1])
    (metric,), source = sweep.metrics, sweep.source

    def compute(block: Block) -> dict[str, pl.DataFrame]:
        parts = {position: forest.where(block, position) for position in sweep.positions}
        before, products = _products(lm, block, sweep, parts, steps)
        clean = torch.from_numpy(before.data)
        change = []
        for site, position in sweep.places:
            product = products[whole(site), position]
            if site.head is not None:
                nodes = product[..., site.head]
            else:
                nodes = product.flatten(2).sum(-1) if product.dim() > 2 else product
            # a key acts where it is attended to, not where it stands
            elsewhere = site.component == "k" and steps is None
            where = None if elsewhere else source.where(block, site, parts[position])
            change.append(_per_example(block, where, nodes))
        after = (clean + torch.stack(change)).numpy()
        tables = [effects(forest, block, source.name, sweep.places, {metric: before}, {metric: after})]
        if source.twin:
            tables.append(total(lm, forest, block, sweep, {metric: before}))
        return {"effects": pl.concat(tables)}

    return [
        Unit(f"B{number:05}", partial(soundly, compute, block)) for number, block in enumerate(forest.blocks)
    ]


def group_units(lm: LM, forest: Forest, wanted: Sweep, steps: int | None = None) -> list[Unit]:
    """GROUPS of the neurons of whole layers, one after the other, in pieces of one row block."""

    def compute(block: Block) -> dict[str, pl.DataFrame]:
        parts = {position: forest.where(block, position) for position in wanted.positions}
        before, products = _products(lm, block, wanted, parts, steps)
        has, tables = ~np.ma.getmaskarray(before), []
        for position, part in parts.items():
            values = []
            for site in sorted({whole(s) for s in wanted.sites}):
                used = (block.owner >= 0) if part is None else (block.owner >= 0) & part
                nodes = products[site, position][used.to(lm.device)].cpu()
                empty = torch.zeros(len(block.examples), nodes.shape[1], dtype=torch.float64)
                values.append(empty.index_add(0, block.owner[used], nodes))
            scores = torch.cat(values, 1).float().numpy()
            if not np.isfinite(scores[has]).all() and len(block.examples) > 1:
                return {"groups": pl.concat(compute(single)["groups"] for single in block.alone())}
            tables.append(summed(forest, block, (wanted.source.name, position), scores, has))
        twin = wanted.source.twin
        exact = {"effects": total(lm, forest, block, wanted, {wanted.metrics[0]: before})} if twin else {}
        return {"groups": pl.concat(tables), **exact}

    return [Unit(f"B{number:05}", partial(compute, block)) for number, block in enumerate(forest.blocks)]


def _products(
    lm: LM, block: Block, wanted: Sweep, parts: Mapping[str, Tensor | None], steps: int | None
) -> tuple[np.ma.MaskedArray, dict[tuple[Site, str], Tensor]]:
    """The clean metric, and per hook point and position Σ (source − clean) · gradient, `row node …`."""
    places, (metric,) = sorted({whole(s) for s in wanted.sites}), wanted.metrics
    turned = [p for p in places if p.component in ("q", "k")] if steps is None else []
    puts = wanted.edit.puts(block)
    points = sorted({Site(p.layer, "z") if p in turned or p.component == "pattern" else p for p in places})
    readouts, acts, grads = gradients(lm, block, points, wanted, steps)
    before = defined(metric, readouts)
    with torch.no_grad():
        products: dict[tuple[Site, str], Tensor] = {}
        for place in places:
            if place in turned:
                continue
            point = Site(place.layer, "z") if place.component == "pattern" else place
            change = (wanted.source.at(block, place).float() - acts[point].float()) * grads[point].float()
            product = (change if place.component == "neuron" else change.sum(-1)).double()
            products |= {(place, position): product for position in parts}
        for component in ("q", "k"):
            sites = [p for p in turned if p.component == component]
            for position, part in parts.items() if sites else ():
                new = {p: forward.Put(wanted.source.at(block, p), part) for p in sites}
                moved = attention.moved(lm, block, puts, new, grads)
                products |= {(p, position): product.double() for p, product in moved.items()}
        return before, products


def gradients(
    lm: LM, block: Block, points: Sequence[Site], wanted: Sweep, steps: int | None = None
) -> tuple[forward.Readouts, dict[Site, Tensor], dict[Site, Tensor]]:
    """What a pass reads, its activations, and the metric's gradients, there or averaged over `steps`."""
    (metric,), puts = wanted.metrics, wanted.edit.puts(block)
    readouts, acts, grads = pulled(lm, block, points, metric, puts)
    if steps is not None:
        grads = {point: torch.zeros_like(g) for point, g in grads.items()}
        for between in line(lm, block, steps):
            for point, g in pulled(lm, block, points, metric, {**between, **puts})[2].items():
                grads[point] += g / steps
    return readouts, acts, grads


def line(lm: LM, block: Block, steps: int) -> Iterator[forward.Puts]:
    """What stands in each pass at the midpoints of the line between prompts' and twins' embeddings."""
    first = Site(0, "resid_pre")
    with torch.no_grad():
        here, there = (forward.capture(lm, b, [first])[0][first] for b in (block, block.swapped()))
    for step in range(steps):
        yield {first: forward.Put(here + (step + 0.5) / steps * (there - here))}


def pulled(
    lm: LM, block: Block, points: Sequence[Site], metric: str, puts: forward.Puts
) -> tuple[forward.Readouts, dict[Site, Tensor], dict[Site, Tensor]]:
    """What a pass reads, its activations and the metric's gradients; `puts`: what stands in it already."""
    acts: dict[Site, Tensor] = {}
    changes = forward.overwrites([puts])

    def keep(site: Site) -> forward.Hook:
        change = changes.get(site.hook)

        def hook(act: Tensor) -> Tensor:
            act = act if change is None else change(act)
            # the first points that are met start the graph: neither weights nor what stands before them needs
            # a gradient; a view, so that what enters a norm is not also what passes it by
            acts[site] = act.view_as(act) if act.requires_grad else act.detach().requires_grad_()
            return acts[site]

        return hook

    with torch.enable_grad():
        logits = forward.run(lm, block, {**changes, **{site.hook: keep(site) for site in points}})
        readouts = forward.read(block, logits)
        has = METRICS[metric].defined(readouts)
        grads = torch.autograd.grad(METRICS[metric].fn(readouts)[0, has].sum(), [acts[p] for p in points])
    return readouts, {p: acts[p].detach() for p in points}, dict(zip(points, grads, strict=True))


def _per_example(
    block: Block, where: Tensor | None, product: Float[Tensor, "row node"]
) -> Float[Tensor, " example"]:
    """The product summed over those of each example's nodes that are replaced."""
    used = block.owner >= 0 if where is None else (block.owner >= 0) & where
    nodes = product[used.to(product.device)].cpu()
    return torch.zeros(len(block.examples), dtype=torch.float64).index_add(0, block.owner[used], nodes)
