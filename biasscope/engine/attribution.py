"""Gradient estimates of what replacing each site would do: one forward and one backward pass per row block, whatever the sites.

Attribution = Σ over nodes and dimensions of (source − clean) · ∂target/∂activation, the gradient taken at the clean run: the
first-order estimate of the exact effect (Nanda 2023; Kramár et al. 2024, arXiv:2403.00745). Needs a forest that shares nothing
between examples: at a node that several use, a backward pass gives only the sum over them.
"""

from collections.abc import Sequence
from functools import partial

import numpy as np
import polars as pl
import torch
from jaxtyping import Float
from torch import Tensor

from biasscope.engine import forward
from biasscope.engine.interventions import Source, defined, effects, whole
from biasscope.engine.metrics import METRICS
from biasscope.engine.models import LM
from biasscope.engine.packing import Block
from biasscope.engine.tokens import Forest
from biasscope.engine.types import Site, Track, Unit, silent

COMPONENTS = ("z", "attn_out", "mlp_out", "resid_pre", "resid_post")


def estimate(
    lm: LM, forest: Forest, wanted: Sequence[Site], source: Source, *, metric: str = "target", track: Track = silent
) -> pl.DataFrame:
    """EFFECTS estimated for every site, per example, signed; `value` = baseline + estimated effect.

    `wanted` may hold heads and whole hook points; a whole `z` is the sum of its heads. The forest must be built with
    share="example".
    """
    found = units(lm, forest, wanted, source, metric=metric)
    return pl.concat(unit.compute()["effects"] for unit in track(found, f"attribution ({source.name})"))


def units(lm: LM, forest: Forest, wanted: Sequence[Site], source: Source, *, metric: str = "target") -> list[Unit]:
    """The estimates in pieces of one row block each."""
    points = sorted({whole(s) for s in wanted})

    def compute(block: Block) -> dict[str, pl.DataFrame]:
        before, parts = _gradients(lm, block, points, source, metric)
        clean = torch.from_numpy(before.data)
        change = [parts[whole(s)][:, s.head] if s.head is not None else parts[whole(s)].reshape(len(clean), -1).sum(1) for s in wanted]
        after = clean + torch.stack(change)
        return {"effects": effects(forest, block, source.name, wanted, {metric: before}, {metric: after.numpy()})}

    return [Unit(f"B{number:05}", partial(compute, block)) for number, block in enumerate(forest.blocks)]


def _gradients(lm: LM, block: Block, points: Sequence[Site], source: Source, metric: str) -> tuple[np.ma.MaskedArray, dict[Site, Tensor]]:
    """The clean metric, and per hook point the estimates [example] or, for `z`, [example head]."""
    acts: dict[Site, Tensor] = {}

    def keep(site: Site) -> forward.Hook:
        def hook(act: Tensor) -> Tensor:
            # the first points that are met start the graph: neither weights nor what stands before them needs a gradient
            acts[site] = act if act.requires_grad else act.detach().requires_grad_()
            return acts[site]

        return hook

    with torch.enable_grad():
        logits = forward.run(lm, block, {site.hook: keep(site) for site in points})
        readouts = forward.read(block, logits)
        has = METRICS[metric].defined(readouts)
        grads = torch.autograd.grad(METRICS[metric].fn(readouts)[0, has].sum(), [acts[p] for p in points])
    with torch.no_grad():
        parts = {
            p: _per_example(block, source.where(block, p), (source.at(block, p) - acts[p]) * g) for p, g in zip(points, grads, strict=True)
        }
    return defined(metric, readouts), parts


def _per_example(block: Block, where: Tensor | None, product: Float[Tensor, "row node ..."]) -> Float[Tensor, "example ..."]:
    """The product summed over dimensions and over those of each example's nodes that are replaced."""
    used = block.owner >= 0 if where is None else (block.owner >= 0) & where
    nodes = product.sum(-1)[used.to(product.device)].double().cpu()
    return torch.zeros(len(block.examples), *nodes.shape[1:], dtype=torch.float64).index_add(0, block.owner[used], nodes)
