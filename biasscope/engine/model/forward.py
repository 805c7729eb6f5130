"""Passes of a model over the blocks of a forest. The only file that sets hooks or calls the model.

Every pass may start at the layer it touches, runs several edited copies of a block, unembeds what is read.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from biasscope.engine.model.loading import LM
from biasscope.engine.model.packing import SLOTS, Block
from biasscope.engine.types import Site

Hook = Callable[[Tensor], Tensor | None]
"""What a hook does to the activation [copy×row node …] it sees; what it returns, if any, replaces it."""


@dataclass(frozen=True)
class Put:
    """The replacement of the activation at a site."""

    new: Tensor | Callable[[Tensor], Tensor]
    """[row node d_head] for a head, [row node …] for a whole hook point, one number for all of it, or a
    function of the activation.
    """
    where: Bool[Tensor, "row node"] | None = None
    """The nodes that get it; None: all."""


Puts = Mapping[Site, Put]
"""What stands at which sites of a block: an `Edit` on that block."""


@dataclass(frozen=True)
class Readouts:
    """What is read from one pass over a block, per edited copy."""

    logp: Float[Tensor, "copy example slot"]
    """Σ log p of the scored tokens, nats, or their mean; NaN where the example has no such continuation."""
    count: Int[Tensor, "example slot"]
    """How many tokens the sum is over."""
    form: Int[Tensor, " example"]
    """What the continuations say of competence: see `packing.MASS`."""
    kl: Float[Tensor, "copy example"] | None = None
    """KL(clean ‖ this pass) of the next-token distribution at the last prefix node, nats."""


@dataclass(frozen=True)
class Clean:
    """The clean pass over a block: what it read, and what edited passes start from and are compared with."""

    readouts: Readouts
    residuals: tuple[Float[Tensor, "row node d_model"], ...]
    """Entering each layer."""
    logp: Float[Tensor, "distinct d_vocab"]
    """Log-distribution at each distinct readout place."""
    tuples: bool
    """Whether the model's blocks return a tuple, as what stands in for them must."""


def clean(lm: LM, block: Block, puts: Puts = MappingProxyType({})) -> Clean:
    """The clean pass over a block; with `puts`, of the model in which those sites are replaced already."""
    form: list[bool] = []
    sites = [Site(layer, "resid_pre") for layer in range(lm.n_layers)]
    first = lm.bridge.blocks[0]
    with first.register_forward_hook(lambda module, args, out: form.append(isinstance(out, tuple))):
        residuals, logits = capture(lm, block, sites, puts)
    logp = logits[0, block.readout.unique()].log_softmax(-1)
    return Clean(read(block, logits), tuple(residuals[s] for s in sites), logp, form[0])


def capture(
    lm: LM, block: Block, sites: Sequence[Site], puts: Puts = MappingProxyType({})
) -> tuple[dict[Site, Tensor], Float[Tensor, "1 place d_vocab"]]:
    """The activations [row node …] of whole hook points in a pass (with `puts` in place), and its logits."""
    seen: dict[Site, Tensor] = {}
    hooks = overwrites([puts])

    def keep(site: Site) -> Hook:
        change = hooks.get(site.hook)

        def hook(act: Tensor) -> Tensor:
            seen[site] = act if change is None else change(act)
            return seen[site]

        return hook

    with torch.no_grad():
        return seen, run(lm, block, {**hooks, **{site.hook: keep(site) for site in sites}})


def edited(lm: LM, block: Block, start: Clean, edits: Sequence[Puts]) -> Readouts:
    """What is read when each copy of the block has its own edit, resumed from the first layer edited."""
    layer = min(site.layer for edit in edits for site in edit)
    with torch.no_grad():
        logits = run(lm, block, overwrites(edits), copies=len(edits), layer=layer, start=start)
        return read(block, logits, start.logp)


def overwrites(edits: Sequence[Puts]) -> dict[str, Callable[[Tensor], Tensor]]:
    """Hooks, one per hook point, that overwrite the activation of each copy with its replacement."""
    by_hook: dict[str, list[tuple[int, Site, Put]]] = {}
    for copy, edit in enumerate(edits):
        for site, put in edit.items():
            by_hook.setdefault(site.hook, []).append((copy, site, put))

    def overwrite(changes: list[tuple[int, Site, Put]]) -> Callable[[Tensor], Tensor]:
        def hook(act: Tensor) -> Tensor:
            act = act.clone()
            copies = act.view(len(edits), -1, *act.shape[1:])
            for copy, site, put in changes:
                part = copies[copy] if site.head is None else copies[copy, :, :, site.head]
                # a copy: what is written must not be what a gradient is taken of
                new = put.new(part.clone()) if callable(put.new) else put.new
                if put.where is None:
                    part[:] = new
                else:
                    here = put.where.to(part.device)
                    part[here] = new.expand_as(part)[here]
            return act

        return hook

    return {name: overwrite(changes) for name, changes in by_hook.items()}


def run(
    lm: LM,
    block: Block,
    hooks: Mapping[str, Hook],
    *,
    copies: int = 1,
    layer: int = 0,
    start: Clean | None = None,
) -> Float[Tensor, "copy place d_vocab"]:
    """The logits at the block's places, in float32; with `start`, resumed from what entered `layer`."""
    standing = _standing(lm, block, copies, layer if start else None)
    hooks = {
        **standing,
        **{name: _both(standing[name], f) if name in standing else f for name, f in hooks.items()},
    }
    fwd = [(name, _as_hook(f)) for name, f in hooks.items()]
    where: dict[str, Any] = {}
    if block.mask is not None:
        dtype = getattr(torch, lm.dtype)
        mask = torch.zeros(block.mask.shape, dtype=dtype).masked_fill(~block.mask, torch.finfo(dtype).min)
        where["attention_mask"] = mask[:, None].to(lm.device).expand(copies, -1, -1, -1)
        where["position_ids"] = block.depth.to(lm.device).expand(copies, -1)
    nodes, at = block.places[:, 1].unique(return_inverse=True)
    if lm.keeps_logits:
        where["logits_to_keep"] = nodes.to(lm.device)
    where |= {"fwd_hooks": fwd, "use_cache": False}
    if start is None:
        logits = lm.bridge.run_with_hooks(block.ids.to(lm.device), **where)
    else:
        residual = start.residuals[layer].repeat(copies, 1, 1)
        with _skipped(lm, layer, start.tuples):
            logits = lm.bridge.run_with_hooks(residual, start_at_layer=layer, **where)
    logits = logits.view(copies, len(block.ids), *logits.shape[1:])
    # one packed row whose places are all its kept nodes needs no second copy of the logits
    column = at if lm.keeps_logits else block.places[:, 1]
    whole = len(block.ids) == 1 and column.tolist() == list(range(logits.shape[2]))
    return (logits[:, 0] if whole else logits[:, block.places[:, 0], column]).float()


def _standing(
    lm: LM, block: Block, copies: int, resumed: int | None
) -> dict[str, Callable[[Tensor], Tensor]]:
    """Hooks of the edit that stands in the model; what stood before a resumed pass is in its residuals."""
    puts = lm.edit.puts(block)
    if resumed is not None:
        first = Site(resumed, "resid_pre")
        puts = {site: put for site, put in puts.items() if site.layer >= resumed and site != first}
    return overwrites([puts] * copies)


def _both(one: Callable[[Tensor], Tensor], other: Hook) -> Hook:
    """Both hooks at one point, the first one's result being what the other sees."""

    def hook(act: Tensor) -> Tensor:
        changed = one(act)
        last = other(changed)
        return changed if last is None else last

    return hook


def _as_hook(function: Hook) -> Callable[..., Tensor | None]:
    """The hook in TransformerLens's form, which also passes the hook point (the module's own: no key)."""
    return lambda act, hook: function(act)


@contextmanager
def _skipped(lm: LM, layer: int, tuples: bool) -> Iterator[None]:
    """Blocks below `layer` as pass-through: TransformerLens's start_at_layer runs them for nothing."""

    def straight(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor | tuple[Tensor]:
        return (hidden_states,) if tuples else hidden_states

    blocks = list(lm.bridge.blocks)[:layer]
    for block in blocks:
        block.__dict__["forward"] = straight
    try:
        yield
    finally:
        for block in blocks:
            del block.__dict__["forward"]


def read(block: Block, logits: Float[Tensor, "copy place d_vocab"], before: Tensor | None = None) -> Readouts:
    """Σ log p of every continuation, differentiable; with the clean log-distributions `before`, also kl."""
    place, target, key = block.predict.to(logits.device).unbind(1)
    size = len(block.examples) * len(SLOTS)
    every = logits.log_softmax(-1)
    logp = every[:, place, target]
    count = torch.bincount(key, minlength=size)
    zeros = torch.zeros(len(logits), size, dtype=torch.float64, device=logits.device)
    total, means = zeros.index_add(1, key, logp.double()), block.per_token.to(count.device)
    total = torch.where(means.repeat_interleave(len(SLOTS)), total / count.clamp(min=1), total)
    total = total.masked_fill(count == 0, torch.nan)
    kl = None if before is None else _kl(block, before, every)
    form = block.form.to(count.device)
    return Readouts(total.view(len(logits), -1, len(SLOTS)), count.view(-1, len(SLOTS)), form, kl)


def _kl(
    block: Block, before: Tensor, after: Float[Tensor, "copy place d_vocab"]
) -> Float[Tensor, "copy example"]:
    """KL(clean ‖ edited) as Σ p (eᵈ − 1 − d), d = log q − log p: no term is negative, none cancels."""
    places, example = block.readout.to(after.device).unique(return_inverse=True)
    p, rows = before.exp(), []
    for copy in after:  # one at a time: the difference is as large as the logits
        d = copy[places].sub_(before)
        rows.append((d.expm1().sub_(d) * p).sum(-1))
    return torch.stack(rows)[:, example].double()
