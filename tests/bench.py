"""`make bench`: the exact sweep and attribution against the loops they replace, in one run; JSON on stdout.

A: one example and one head at a time, full logits (the original study's way); 60 seeded passes, scaled up. B:
batches of 64 sorted by length through TransformerLens hooks, full forward, one head a pass; one head of each
layer, scaled up. C: biasscope, in full. A, B and attribution's loop multiply as torch does by itself, C as
biasscope lets it (engine/kernels.py); `C_plain_s` is C as torch does by itself. All heads of layers 5, 15 and
25 of SmolLM2, zeroed, on WinoGender's 240 prompts.
"""

import argparse
import json
import random
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import torch

from biasscope.engine.data import datasets, download
from biasscope.engine.measure import attribution, exact, sources
from biasscope.engine.model import exactness, loading, tokens
from biasscope.engine.types import Example, Site
from tests.support import slow
from tests.support.real import DATA

LAYERS, PASSES, GRADIENTS, SEED = (5, 15, 25), 60, 24, 0


def plain() -> Any:
    """A stretch in which matrices are multiplied as torch does by itself."""
    return torch.backends.mkldnn.flags(enabled=False)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds and result."""
    begun = time.perf_counter()
    result = work()
    return time.perf_counter() - begun, result


def one_at_a_time(
    lm: loading.LM, examples: list[Example], sites: list[Site]
) -> tuple[float, dict[tuple[str, Site], float]]:
    """A, scaled to every (example, head), and the effects it measured (the clean values are not timed)."""
    drawn = random.Random(SEED).sample([(e, s) for e in examples for s in sites], PASSES)
    clean = {e.id: slow.scores_at_once(lm, e) for e, _ in drawn}
    zero = torch.tensor(0.0)
    seconds, values = timed(
        lambda: [slow.scores_at_once(lm, e, [slow.replaced(s, zero, zero)]) for e, s in drawn]
    )
    effects = {(e.id, s): v - clean[e.id] for (e, s), v in zip(drawn, values, strict=True)}
    return seconds / PASSES * len(examples) * len(sites), effects


def padded_batches(lm: loading.LM, examples: list[Example], sites: list[Site]) -> float:
    """B, scaled to every head."""
    ordered = sorted((lm.tokenizer(e.prompt).input_ids for e in examples), key=len)
    batches = [ordered[i : i + 64] for i in range(0, len(ordered), 64)]
    zero = torch.tensor(0.0)

    def sweep(site: Site) -> None:
        for batch in batches:
            # right padding: causal rows do not see it
            ids = torch.tensor([row + [row[-1]] * (len(batch[-1]) - len(row)) for row in batch])
            last = torch.tensor([len(row) - 1 for row in batch])
            with torch.no_grad():
                logits = lm.bridge.run_with_hooks(ids, fwd_hooks=[slow.replaced(site, zero, zero)])
                logits[torch.arange(len(batch)), last].log_softmax(-1)

    one_each = [Site(layer, "z", 0) for layer in LAYERS]
    seconds, _ = timed(lambda: [sweep(site) for site in one_each])
    return seconds / len(one_each) * len(sites)


def work(lm: loading.LM, forest: tokens.Forest, sites: list[Site]) -> float:
    """Floating-point operations of C's resumed passes: two per weight that a node meets, attention scores
    left out.
    """
    total = sum(p.numel() for p in lm.bridge.original_model.parameters())
    unembed = lm.vocab * lm.d_model
    per_layer = (total - unembed) / lm.n_layers
    places = sum(len(b.places) for b in forest.blocks)
    return sum(2 * (forest.nodes * per_layer * (lm.n_layers - s.layer) + places * unembed) for s in sites)


def matmul_rate(size: int = 2048, repeats: int = 8) -> float:
    """GFLOP/s of a square matmul, the machine's practical ceiling in this run."""
    a = torch.randn(size, size)
    a @ a
    seconds, _ = timed(lambda: [a @ a for _ in range(repeats)])
    return 2 * size**3 * repeats / seconds / 1e9


def gradients(lm: loading.LM, examples: list[Example], forest: tokens.Forest) -> dict[str, float]:
    """Attribution of every head against the one-example loop, zero source: seconds scaled to all examples,
    and the difference.
    """
    sites = [Site(layer, "z") for layer in range(lm.n_layers)]
    drawn = random.Random(SEED).sample(examples, GRADIENTS)
    with plain():
        loop, by_hand = timed(lambda: {e.id: slow.all_attributions(lm, e, sites) for e in drawn})
    heads = [Site(s.layer, "z", h) for s in sites for h in range(lm.n_heads)]
    fast, effects = timed(lambda: attribution.estimate(lm, forest, sources.Sweep(heads, sources.zero(lm))))
    found = {(r["example_id"], r["layer"], r["head"]): r["effect"] for r in effects.iter_rows(named=True)}
    worst = max(
        abs(found[i, s.layer, h] - float(v[n, h]))
        for i, v in by_hand.items()
        for n, s in enumerate(sites)
        for h in range(lm.n_heads)
    )
    scaled = loop / len(drawn) * len(examples)
    return {"loop_s_scaled": scaled, "fast_s": fast, "ratio": scaled / fast, "largest_difference": worst}


def peak_rss(dataset: str, data_dir: Path, cache_dir: Path) -> float:
    """Peak resident memory of `ablate --layers 5` on a dataset, MiB, in a process of its own."""
    where = f"--data-dir {data_dir} --cache-dir {cache_dir} --output-dir {data_dir}/results"
    command = f"ablate --layers 5 --dataset {dataset} {where} -q --format json"
    done = subprocess.run(
        [sys.executable, "-m", "biasscope", *command.split()], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)["run"]["peak_rss_bytes"] / 2**20


def main() -> None:
    """Everything, as one JSON document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--work-dir", type=Path, default=Path("results/bench"), help="where data and conversions are put"
    )
    parser.add_argument("--cache-dir", type=Path, default=None)
    parser.add_argument("--skip-memory", action="store_true")
    options = parser.parse_args()
    cache = options.cache_dir or options.work_dir / "cache"
    options.work_dir.mkdir(parents=True, exist_ok=True)
    for name in ("winogender", "stereoset"):
        download.download(name, options.work_dir / "data", local=DATA)
    torch.set_num_threads(torch.get_num_threads() if torch.get_num_threads() > 1 else 2)
    lm = exactness.check_packing(loading.load(cache_dir=cache, device="cpu"))
    examples = list(datasets.load("winogender", options.work_dir / "data").examples)
    sites = sources.sites(lm, ["z"], LAYERS)
    forest = tokens.forest(lm, examples)
    rate = matmul_rate()
    with plain():
        a, by_hand = one_at_a_time(lm, examples, sites)
        b = padded_batches(lm, examples, sites)
        c_plain, _ = timed(lambda: exact.sweep(lm, forest, sources.Sweep(sites, sources.zero(lm))))
    c, effects = timed(lambda: exact.sweep(lm, forest, sources.Sweep(sites, sources.zero(lm))))
    target = effects.filter(pl.col("metric") == "target")
    found = {
        (r["example_id"], Site(r["layer"], "z", r["head"])): r["effect"] for r in target.iter_rows(named=True)
    }
    gflops = work(lm, forest, sites) / c / 1e9
    report = {
        "threads": torch.get_num_threads(),
        "nodes": forest.nodes,
        "sweep": {
            "A_s_scaled": a,
            "A_passes": PASSES,
            "B_s_scaled": b,
            "C_s": c,
            "C_plain_s": c_plain,
            "A/C": a / c,
            "B/C": b / c,
            "largest_difference": max(abs(found[key] - value) for key, value in by_hand.items()),
            "gflops": gflops,
            "matmul_gflops": rate,
            "share_of_matmul": gflops / rate,
        },
        "attribution": gradients(lm, examples, tokens.forest(lm, examples, share="example")),
    }
    if not options.skip_memory:
        memory = {
            d: peak_rss(d, options.work_dir / "data", cache) for d in ("stereoset_gender", "stereoset_race")
        }
        report["peak_rss_mib"] = memory | {
            "race/gender": memory["stereoset_race"] / memory["stereoset_gender"]
        }
    report["own_peak_rss_mib"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
