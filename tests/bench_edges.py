"""`make bench-edges`: all edges, and path patching of some, against the loops they replace, in one run; JSON.

Edges: TransformerLens's `attribution_patching` a pair at a time (it takes no grouped queries, so on GPT-2's
architecture: the planted model, and one of 6 layers, 8 heads and width 256 with random weights), on a few
pairs, scaled up to all. Paths: one hooked pass for each prompt and edge, what the two prompts give kept in
between, on the same models and SmolLM2; a few (prompt, edge) pairs, scaled up to all prompts and EDGES edges.
Processor time, threads as torch is told.
"""

import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from torch import Tensor
from transformer_lens.tools.analysis import attribution_patching

from biasscope.engine.data import datasets
from biasscope.engine.measure import sources
from biasscope.engine.measure.between import edges, paths
from biasscope.engine.model import forward, loading, planted, tokens, twins, weights
from biasscope.engine.settings import Measure
from biasscope.engine.types import Edge, Example, Site

PROMPTS, PAIRS, EDGES, PASSES, SEED = 120, 8, 20, 40, 0
LARGER = {"n_layer": 6, "n_head": 8, "n_embd": 256, "initializer_range": 0.1, "layer_norm_epsilon": 1e-5}


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of the processor, and result."""
    begun = time.process_time()
    result = work()
    return time.process_time() - begun, result


def gpt2(folder: Path, **larger: float) -> loading.LM:
    """The planted model, or a random one of the same words."""
    model, tokenizer = planted.build("single", planted.words())
    if larger:
        torch.manual_seed(SEED)
        config = type(model.config)(**{**model.config.to_dict(), **larger, "n_inner": None})
        model = type(model)(config)
    for part in (model, tokenizer):
        part.save_pretrained(folder)
    return forward.check_packing(loading.boot(weights.Weights("gpt2", folder, None, "0" * 64), device="cpu"))


def loop_of_pairs(lm: loading.LM, pairs: Sequence[tuple[Example, str]]) -> list[dict[Any, float]]:
    """Every edge's score by TransformerLens, a pair at a time."""
    config = attribution_patching.EdgeAttributionConfig(granularity="edge")
    found = []
    for e, twin in pairs:
        here, there = (torch.tensor([lm.tokenizer(text).input_ids]) for text in (e.prompt, twin))
        he, she = (lm.tokenizer(e.prompt + filler).input_ids[-1] for filler in (e.stereo, e.anti))
        result = attribution_patching.attribution_patch(
            lm.bridge, there, here, lambda logits, a=he, b=she: logits[0, -1, a] - logits[0, -1, b], config
        )
        found.append(result.edge_scores)
    return found


class Pair:
    """A prompt and its twin, run once: what a hooked pass of each edge then needs."""

    def __init__(self, lm: loading.LM, e: Example, twin: str) -> None:
        self.lm = lm
        self.ids, there = (torch.tensor([lm.tokenizer(text).input_ids]) for text in (e.prompt, twin))
        self.sides = [
            lm.tokenizer(e.prompt + filler).input_ids[self.ids.shape[1]] for filler in (e.stereo, e.anti)
        ]
        with torch.no_grad():
            logits, self.here = lm.bridge.run_with_cache(self.ids)
            _, self.twin = lm.bridge.run_with_cache(there)
        self.clean = self._target(logits)

    def _target(self, logits: Tensor) -> float:
        he, she = logits[0, -1].log_softmax(-1)[self.sides].tolist()
        return float(he - she)

    def path(self, edge: Edge) -> float:
        """The effect of the edge, in one pass."""
        up, down = edge.up, edge.down
        reads = down.component in ("q", "k", "v")
        whole = Site(up.layer, up.component).hook
        change = self.twin[whole] - self.here[whole]
        block, under = self.lm.bridge.blocks[up.layer], self.lm.bridge.blocks[down.layer]
        if up.component == "z":
            moved = self.here[whole].clone()
            moved[:, :, up.head] += change[:, :, up.head]
            change = block.attn.o(moved.flatten(2)) - block.attn.o(self.here[whole].flatten(2))
        x = self.here[Site(down.layer, "attn_in" if reads else down.component).hook] + change
        new = getattr(under.attn, down.component)(under.ln1(x)) if reads else x

        def hook(act: Tensor, hook: Any) -> Tensor:
            if not reads:
                return new
            part = torch.arange(act.shape[2]) == down.head
            return torch.where(part[:, None], new.unflatten(-1, act.shape[2:]), act)

        return (
            self._target(self.lm.bridge.run_with_hooks(self.ids, fwd_hooks=[(down.hook, hook)])) - self.clean
        )


def measured(lm: loading.LM, *, tool: bool) -> Iterator[tuple[str, Any]]:
    """What a model takes: seconds of each way, scaled to all prompts, ratio, largest difference."""
    data = datasets.load("occupations", Path(), limit=PROMPTS)
    kept, _ = twins.fit(lm, data, SEED)
    prompts = {id_: twin.prompt for id_, twin in kept.items()}
    known = [e for e in data.examples if e.id in kept]
    forest = tokens.forest(lm, known, share="example", twins=prompts)
    setup, graph = timed(lambda: edges.stream(lm))
    nodes = sorted({sources.whole(site) for site in graph.ups})
    sweep = sources.Sweep(nodes, sources.corrupt(lm, nodes), metrics=("target",))
    yield (
        "model",
        {"layers": lm.n_layers, "heads": lm.n_heads, "edges": len(graph.edges), "prompts": len(known)},
    )
    rng = random.Random(SEED)
    some = rng.sample(known, PAIRS)
    if tool:
        for p in lm.bridge.parameters():
            p.requires_grad_(True)
        with torch.backends.mkldnn.flags(enabled=False):
            seconds, _ = timed(lambda: loop_of_pairs(lm, [(e, prompts[e.id]) for e in some]))
        loop = seconds / PAIRS * len(known)
        for p in lm.bridge.parameters():
            p.requires_grad_(False)
        fast, _ = timed(lambda: [unit.compute() for unit in edges.units(graph, forest, sweep)])
        yield "edges", {"loop_s_scaled": loop, "fast_s": fast, "start_s": setup, "ratio": loop / fast}
    chosen = rng.sample(graph.edges, EDGES)
    shared = tokens.forest(lm, known, share="all", twins=prompts)
    fast, tables = timed(lambda: [u.compute()["effects"] for u in paths.units(graph, shared, chosen, sweep)])
    effects = {(r["example_id"], r["head"]): r["effect"] for t in tables for r in t.iter_rows(named=True)}
    each = PASSES // PAIRS
    with torch.no_grad(), torch.backends.mkldnn.flags(enabled=False):
        begun, run = timed(lambda: [Pair(lm, e, prompts[e.id]) for e in some])
        tried = [
            (pair, e, edge) for pair, e in zip(run, some, strict=True) for edge in rng.sample(chosen, each)
        ]
        seconds, values = timed(lambda: [pair.path(edge) for pair, _, edge in tried])
    loop = (begun / PAIRS + seconds / len(tried) * EDGES) * len(known)
    worst = max(
        abs(v - effects[e.id, graph.number[edge]]) for v, (_, e, edge) in zip(values, tried, strict=True)
    )
    yield (
        "paths",
        {
            "edges": EDGES,
            "loop_s_scaled": loop,
            "fast_s": fast,
            "ratio": loop / fast,
            "largest_difference": worst,
        },
    )


def main() -> None:
    """All models, as one JSON document."""
    report: dict[str, Any] = {"threads": torch.get_num_threads()}
    with TemporaryDirectory() as folder:
        report["planted"] = dict(measured(gpt2(Path(folder) / "a"), tool=True))
        report["gpt2 6 × 8 × 256"] = dict(measured(gpt2(Path(folder) / "b", **LARGER), tool=True))
    if "--tiny" not in sys.argv:
        report["smollm2"] = dict(
            measured(
                forward.check_packing(loading.load(cache_dir=Measure().cache_dir, device="cpu")), tool=False
            )
        )
    sys.stdout.write(json.dumps(report, indent=2) + "\n")


if __name__ == "__main__":
    main()
