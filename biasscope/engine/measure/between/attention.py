"""What is inside a head: queries, keys, values and the pattern that they make.

A head's output is its pattern times its values, in every family that is measured here. So a pattern is
replaced by way of the output, and a query's or key's effect is estimated with its softmax computed anew.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from biasscope.engine.errors import DataError
from biasscope.engine.model import forward
from biasscope.engine.model.loading import LM
from biasscope.engine.model.packing import Block, Scored, pack
from biasscope.engine.types import INSIDE, UNEDITED, Site

TOLERANCE = 1e-3
"""Largest difference, in units of the largest value, from what an edit must do."""


def per_head(lm: LM, v: Float[Tensor, "row node kv d_head"]) -> Float[Tensor, "row node head d_head"]:
    """The values that each head reads: heads of one group share theirs."""
    return v.repeat_interleave(lm.n_heads // lm.n_kv, 2)


def output(
    lm: LM, weights: Float[Tensor, "row head dest src"], v: Float[Tensor, "row src kv d_head"]
) -> Float[Tensor, "row dest head d_head"]:
    """What heads that attend with these weights put out."""
    return torch.einsum("rhij,rjhd->rihd", weights.to(v.dtype), per_head(lm, v))


def twins(lm: LM, block: Block, points: Sequence[Site]) -> tuple[dict[Site, Tensor], forward.Readouts]:
    """The twins' activations at whole hook points, of a pattern what it puts out with the prompts' values;
    and what is read of the twins.
    """
    rows = [Site(point.layer, "weights") for point in points if point.component == "pattern"]
    twin = block.swapped()
    seen, logits = forward.capture(lm, twin, [*_plain(points), *rows])
    if rows:
        values, _ = forward.capture(lm, block, [replace(row, component="v") for row in rows])
        for row in rows:
            v = values[replace(row, component="v")]
            seen[replace(row, component="pattern")] = output(lm, seen.pop(row), v)
    return seen, forward.read(twin, logits)


def _plain(points: Sequence[Site]) -> list[Site]:
    return [point for point in points if point.component != "pattern"]


def moved(
    lm: LM,
    block: Block,
    puts: forward.Puts,
    new: Mapping[Site, forward.Put],
    grads: Mapping[Site, Tensor],
) -> dict[Site, Float[Tensor, "row node part"]]:
    """What queries (or keys) of whole hook points do by way of their patterns, at each node that attends.

    Σ over what it attends to of (pattern with the new ones − pattern) · ∂metric/∂pattern, the softmax
    computed anew (Kramár et al. 2024, 4.1). One pass for all layers: every head's output stays as it is.
    `puts`: what stands in the model; a head whose output that replaces does nothing. `grads`: of the metric,
    at the `z` of these layers.
    """
    layers = sorted({site.layer for site in new})
    read = [Site(layer, name) for layer in layers for name in ("weights", "v", "z")]
    acts, _ = forward.capture(lm, block, read, puts)
    held = {Site(layer, "z"): forward.Put(acts[Site(layer, "z")]) for layer in layers}
    rows = [Site(layer, "weights") for layer in layers]
    after, _ = forward.capture(lm, block, rows, {**puts, **new, **held})
    products = {}
    for site in new:
        row = replace(site, component="weights")
        v = per_head(lm, acts[replace(site, component="v")])
        slope = torch.einsum("rihd,rjhd->rhij", grads[replace(site, component="z")], v)
        slope[
            :, [s.head for s in puts if (s.layer, s.component) == (site.layer, "z") and s.head is not None]
        ] = 0
        product = ((after[row] - acts[row]) * slope).sum(-1).transpose(1, 2)
        parts = lm.parts(site.component) or 1
        products[site] = product.unflatten(2, (parts, -1)).sum(-1)
    return products


def check(lm: LM, components: Sequence[str], *, exact: bool = False) -> None:
    """Refuse components inside heads and MLPs whose edit does not have its effect in this family.

    DataError by the family's name: the hook has other parts than the configuration says, an edit of it
    changes nothing, or a head's output is not its pattern times its values. Or the model is one in which an
    edit stands at heads' outputs, and the component is measured by way of these.
    """
    by_output = [name for name in components if name in (("pattern",) if exact else ("q", "k", "pattern"))]
    if by_output and any(site.component == "z" for site in lm.edit.at):
        raise DataError(
            f"measured by way of heads' outputs, at which {lm.edit.name} stands: {', '.join(by_output)}; "
            "leave that out of --components, or take --method exact for queries and keys"
        )
    plain = replace(lm, edit=UNEDITED)
    for component in dict.fromkeys(name for name in components if name in INSIDE):
        try:
            problem = _problem(plain, component)
        except Exception as error:  # noqa: BLE001  a hook point that a family lacks, in whatever words
            problem = f"{type(error).__name__}: {error}"
        if problem:
            raise DataError(
                f"{component} cannot be replaced in {lm.name} ({lm.family}): {problem}; leave it out of "
                "--components"
            )


def _problem(lm: LM, component: str) -> str | None:
    """Why an edit of the component in a middle layer cannot be trusted, if so."""
    ids = [(37 * i + 11) % lm.vocab for i in range(9)]
    groups = [[Scored((*path, 0), len(path), 0)] for path in (ids[:5], [*ids[:4], *ids[5:]])]
    block = pack(groups, [(0,), (1,)], "example", lm.packed)
    layer = lm.n_layers // 2
    names = ("q", "k", "v", "weights", "z", "neuron", "mlp_out")
    here = {name: Site(layer, name) for name in names}
    before, _ = forward.capture(lm, block, list(here.values()))
    site = here["z" if component == "pattern" else component]
    if before[site].shape[2] != lm.parts(component):
        return f"it has {before[site].shape[2]} parts, its configuration says {lm.parts(component)}"
    edit = {site: forward.Put(torch.zeros((), device=lm.device))}
    after, _ = forward.capture(lm, block, list(here.values()), edit)
    real = block.owner.to(lm.device) >= 0
    if component == "neuron":
        left = after[here["mlp_out"]][real]
        return None if _same(left, left[:1], before[here["mlp_out"]]) else "an edit has not its effect"
    z, v, weights = (after[here[name]] for name in ("z", "v", "weights"))
    if component == "pattern":
        z, v, weights = (before[here[name]] for name in ("z", "v", "weights"))
    if not _same(z[real], output(lm, weights, v)[real], before[here["z"]]):
        return "a head's output is not its pattern times its values"
    if component in ("q", "k") and torch.equal(weights, before[here["weights"]]):
        return "an edit changes no pattern"
    return None


def _same(found: Tensor, wanted: Tensor, scale: Tensor) -> bool:
    """Whether two activations are equal but for rounding, and not merely because both are empty."""
    return bool((found - wanted).abs().max() <= TOLERANCE * scale.abs().max().clamp(min=1e-6))
