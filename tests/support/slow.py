"""The slow exact twin of every fast path: one example at a time, full forward, full logits, TransformerLens's
own hooks.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from biasscope.engine.model.loading import LM
from biasscope.engine.types import Edge, Example, Site


def span(lm: LM, prompt: str, filler: str) -> tuple[list[int], int]:
    """Ids of prompt + filler and the index of the filler's first token."""
    ids, first = lm.tokenizer(prompt + filler).input_ids, len(lm.tokenizer(prompt).input_ids)
    return (ids, first) if first else ([lm.start, *ids], 1)


def logp(lm: LM, ids: list[int], first: int, hooks=()) -> Tensor:
    """Σ log p of ids[first:], each read at the position before it."""
    logits = (
        lm.bridge.run_with_hooks(torch.tensor([ids], device=lm.device), fwd_hooks=list(hooks))[0]
        .float()
        .log_softmax(-1)
    )
    return torch.stack([logits[t - 1, ids[t]] for t in range(first, len(ids))]).sum()


def replaced(site: Site, first: Tensor, rest: Tensor):
    """A hook that puts `first` at position 0 and `rest` at all others."""

    def hook(act: Tensor, hook) -> Tensor:
        act = act.clone()
        part = act if site.head is None else act[:, :, site.head]
        part[:, 0], part[:, 1:] = first, rest
        return act

    return (site.hook, hook)


def sources(
    name: str, lm: LM, examples: list[Example], sites: list[Site]
) -> dict[Site, tuple[Tensor, Tensor]]:
    """Per site, what a source puts at depth 0 and at all other depths: zero, or the mean over each example's
    own prefixes.
    """
    if name == "zero":
        return {site: (torch.tensor(0.0), torch.tensor(0.0)) for site in sites}
    seen: dict[Site, dict[tuple, Tensor]] = {site: {} for site in sites}
    for number, e in enumerate(examples):
        for prompt, filler in e.sides:
            ids = span(lm, prompt, filler)[0][:-1]
            with torch.no_grad():
                acts = lm.bridge.run_with_cache(torch.tensor([ids]), names_filter=[s.hook for s in sites])[1]
            for site in sites:
                act = acts[site.hook][0] if site.head is None else acts[site.hook][0, :, site.head]
                seen[site] |= {(number, *ids[: t + 1]): act[t] for t in range(len(ids))}

    def mean(site: Site, first: bool) -> Tensor:
        return torch.stack([act for path, act in seen[site].items() if (len(path) == 2) == first]).mean(0)

    return {site: (mean(site, True), mean(site, False)) for site in sites}


def scores(lm: LM, example: Example, hooks=()) -> dict[str, float]:
    """target and competence of one example; no competence where a mean has no mass."""
    spans = [span(lm, *side) for side in example.sides]
    with torch.no_grad():
        each = [logp(lm, *s, hooks) / (len(s[0]) - s[1] if example.per_token else 1) for s in spans]
    both = {"target": float(each[0] - each[1])}
    begins = example.anti.startswith(example.stereo) and not example.anti_prompt
    if len(each) == 2 and (example.per_token or begins):
        return both
    half, mass = (each[0] + each[1]) / 2, torch.logaddexp(each[0], each[1])
    alone = half if example.anti_prompt else mass
    return both | {"competence": float(half - each[2] if len(each) == 3 else alone)}


def kl(lm: LM, example: Example, hooks, before=()) -> float:
    """KL(clean ‖ edited) of the next token after the prompt; `before`: hooks of the run that counts as
    clean.
    """
    ids, first = span(lm, example.prompt, example.stereo)
    with torch.no_grad():
        clean, edited = (
            lm.bridge.run_with_hooks(torch.tensor([ids[:first]]), fwd_hooks=list(h))[0, -1]
            .log_softmax(-1)
            .double()
            for h in (before, hooks)
        )
    return float((clean.exp() * (clean - edited)).sum())


def attribution(lm: LM, example: Example, site: Site, first: Tensor, rest: Tensor) -> float:
    """Σ (source − clean) · ∂target/∂activation of one example: one forward and one backward pass a
    continuation.
    """
    total = 0.0
    for (prompt, filler), sign in zip(example.sides, (1, -1), strict=False):
        kept: list[Tensor] = []

        def keep(act: Tensor, hook, kept=kept) -> Tensor:
            kept.append(act if act.requires_grad else act.detach().requires_grad_())
            kept[-1].retain_grad()
            return kept[-1]

        hooks = (
            [("blocks.0.hook_resid_pre", keep)]
            if site.hook == "blocks.0.hook_resid_pre"
            else [("blocks.0.hook_resid_pre", keep), (site.hook, keep)]
        )
        with torch.enable_grad():
            ids, begin = span(lm, prompt, filler)
            (logp(lm, ids, begin, hooks) / (len(ids) - begin if example.per_token else 1)).backward()
        clean, grad = kept[-1].detach(), kept[-1].grad
        source = rest.expand_as(clean[:, :, site.head] if site.head is not None else clean).clone()
        source[:, 0] = first
        if site.head is not None:
            clean, grad = clean[:, :, site.head], grad[:, :, site.head]
        product = (source - clean) * grad
        total += sign * float((product[:, 1:] if site.component.startswith("resid") else product).sum())
    return total


def scores_at_once(lm: LM, example: Example, hooks=()) -> float:
    """target of one prompt whose two continuations are single tokens: one full forward, all logits."""
    ids = lm.tokenizer(example.prompt).input_ids
    he, she = (
        lm.tokenizer(example.prompt + filler).input_ids[-1] for filler in (example.stereo, example.anti)
    )
    with torch.no_grad():
        last = lm.bridge.run_with_hooks(torch.tensor([ids]), fwd_hooks=list(hooks))[0, -1].log_softmax(-1)
    return float(last[he] - last[she])


def all_attributions(lm: LM, example: Example, points: list[Site]) -> Tensor:
    """Zero-source attribution [point head] of one prompt: hook, retain gradient, one forward and one backward
    pass.
    """
    kept: dict[str, Tensor] = {}

    def start(act: Tensor, hook) -> Tensor:
        return act.detach().requires_grad_()

    def keep(name: str):
        def hook(act: Tensor, hook) -> Tensor:
            act.retain_grad()
            kept[name] = act
            return act

        return (name, hook)

    ids = lm.tokenizer(example.prompt).input_ids
    he, she = (
        lm.tokenizer(example.prompt + filler).input_ids[-1] for filler in (example.stereo, example.anti)
    )
    hooks = [("blocks.0.hook_resid_pre", start), *(keep(p.hook) for p in points)]
    with torch.enable_grad():
        last = lm.bridge.run_with_hooks(torch.tensor([ids]), fwd_hooks=hooks)[0, -1]
        (last[he] - last[she]).backward()
    return torch.stack([-(kept[p.hook] * kept[p.hook].grad).detach().sum((0, 1, 3)) for p in points])


@lru_cache(maxsize=8)
def _cached(bridge: Any, ids: tuple[int, ...]) -> Any:
    """Everything that a prompt sets off: the same for each of its edges."""
    with torch.no_grad():
        return bridge.run_with_cache(torch.tensor([ids]))[1]


def path(lm: LM, prompts: tuple[str, str], filler: str, edge: Edge, eps: Tensor) -> Tensor:
    """log p of a filler where one input alone reads a prompt's stream with `eps` times the change that a node
    would make in its twin.
    """
    (ids, first), (there, _) = (span(lm, prompt, filler) for prompt in prompts)
    up, down = edge.up, edge.down
    block, under = lm.bridge.blocks[up.layer], lm.bridge.blocks[down.layer]
    reads = down.component in ("q", "k", "v")
    entered = Site(down.layer, "attn_in" if reads else down.component).hook
    whole = Site(up.layer, up.component).hook
    here, twin = (_cached(lm.bridge, tuple(tokens)) for tokens in (ids, there))
    change = eps * (twin[whole] - here[whole])
    if up.component == "z":
        moved = here[whole].clone()
        moved[:, :, up.head] = moved[:, :, up.head] + change[:, :, up.head]
        norm = getattr(block, "ln1_post", lambda out: out)
        change = norm(block.attn.o(moved.flatten(2))) - norm(block.attn.o(here[whole].flatten(2)))
    x = here[entered] + change
    new = (
        getattr(under.attn, down.component)(under.ln1(x)) if reads else x
    )  # not in the hook, which it sets off

    def hook(act: Tensor, hook) -> Tensor:
        if not reads:
            return new
        part = torch.arange(act.shape[2]) == down.head
        return torch.where(part[:, None], new.unflatten(-1, act.shape[2:]), act)

    return logp(lm, ids, first, [(down.hook, hook)])
