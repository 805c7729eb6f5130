"""Gradient estimates of what replacing sites would do: one forward and one backward pass per row block.

Attribution = Σ over nodes and dimensions of (source − clean) · ∂target/∂activation, the gradient taken at the
run that is patched (with `--steps` averaged towards the other): the first-order estimate of the exact effect
(Nanda 2023; Kramár et al. 2024, arXiv:2403.00745). Needs a forest that shares nothing between examples: at a
node that several use, a backward pass gives only the sum over them.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from biasscope.engine.measure.effects import defined, effects, soundly, total
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
        before, products = _products(lm, block, sweep, steps)
        clean = torch.from_numpy(before.data)
        parts = {position: forest.where(block, position) for position in sweep.positions}
        change = []
        for site, position in sweep.places:
            product = products[whole(site)]
            if site.head is not None:
                nodes = product[..., site.head]
            else:
                nodes = product.flatten(2).sum(-1) if product.dim() > 2 else product
            change.append(_per_example(block, source.where(block, site, parts[position]), nodes))
        after = (clean + torch.stack(change)).numpy()
        tables = [effects(forest, block, source.name, sweep.places, {metric: before}, {metric: after})]
        return {"effects": pl.concat([*tables, *([total(lm, forest, block, sweep)] if source.twin else [])])}

    return [
        Unit(f"B{number:05}", partial(soundly, compute, block)) for number, block in enumerate(forest.blocks)
    ]


def _products(
    lm: LM, block: Block, wanted: Sweep, steps: int | None
) -> tuple[np.ma.MaskedArray, dict[Site, Tensor]]:
    """The clean metric, and per hook point Σ (source − clean) · gradient, [row node] or [row node head]."""
    points, (metric,) = sorted({whole(s) for s in wanted.sites}), wanted.metrics
    puts = wanted.edit.puts(block)
    readouts, acts, grads = _gradients(lm, block, points, metric, puts)
    before = defined(metric, readouts)
    if steps is not None:
        first = Site(0, "resid_pre")
        with torch.no_grad():
            here, there = (forward.capture(lm, b, [first])[0][first] for b in (block, block.swapped()))
        total_grads = [torch.zeros_like(g) for g in grads]
        for step in range(steps):
            between = forward.Put(here + (step + 0.5) / steps * (there - here))
            for sum_, g in zip(
                total_grads, _gradients(lm, block, points, metric, {first: between, **puts})[2], strict=True
            ):
                sum_ += g / steps
        grads = total_grads
    with torch.no_grad():
        return before, {
            p: ((wanted.source.at(block, p) - acts[p]) * g).sum(-1).double()
            for p, g in zip(points, grads, strict=True)
        }


def _gradients(
    lm: LM, block: Block, points: Sequence[Site], metric: str, puts: forward.Puts
) -> tuple[forward.Readouts, dict[Site, Tensor], list[Tensor]]:
    """What a pass reads, its activations and the metric's gradients; `puts`: what stands in it already."""
    acts: dict[Site, Tensor] = {}
    changes = forward.overwrites([puts])

    def keep(site: Site) -> forward.Hook:
        change = changes.get(site.hook)

        def hook(act: Tensor) -> Tensor:
            act = act if change is None else change(act)
            # the first points that are met start the graph: neither weights nor what stands before them needs
            # a gradient
            acts[site] = act if act.requires_grad else act.detach().requires_grad_()
            return acts[site]

        return hook

    with torch.enable_grad():
        logits = forward.run(lm, block, {**changes, **{site.hook: keep(site) for site in points}})
        readouts = forward.read(block, logits)
        has = METRICS[metric].defined(readouts)
        grads = torch.autograd.grad(METRICS[metric].fn(readouts)[0, has].sum(), [acts[p] for p in points])
    return readouts, {p: acts[p].detach() for p in points}, list(grads)


def _per_example(
    block: Block, where: Tensor | None, product: Float[Tensor, "row node"]
) -> Float[Tensor, " example"]:
    """The product summed over those of each example's nodes that are replaced."""
    used = block.owner >= 0 if where is None else (block.owner >= 0) & where
    nodes = product[used.to(product.device)].cpu()
    return torch.zeros(len(block.examples), dtype=torch.float64).index_add(0, block.owner[used], nodes)
