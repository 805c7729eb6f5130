"""In less than float32: the read-out is float32, what a pass does to all its copies cancels, and how large an
effect of nothing is, is measured and decides on stars.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch
from torch.nn.functional import layer_norm

import biasscope as bs
from biasscope.engine import schemas
from biasscope.engine.measure import exact, sources
from biasscope.engine.measure.sources import Sweep
from biasscope.engine.model import devices, forward, loading, tokens, weights
from biasscope.engine.model.exactness import check_packing
from biasscope.engine.model.loading import LM, batch_size, boot
from biasscope.engine.statistics import reliability, summary
from biasscope.engine.types import Site
from tests.support.cli import biasscope

pytestmark = pytest.mark.usefixtures("few_draws")


@pytest.fixture(scope="module")
def coarse(tiny_folder):
    """Family → its tiny model in bfloat16."""

    def get(family: str) -> LM:
        lm = boot(
            weights.Weights(family, tiny_folder(family), None, "0" * 64), device="cpu", dtype="bfloat16"
        )
        return check_packing(lm)

    return get


def swept(lm: LM, examples, sites: list[Site]) -> dict[str, pl.DataFrame]:
    """All tables of an exact sweep with zeros."""
    forest = tokens.forest(lm, examples)
    units = exact.units(lm, forest, Sweep(sites, sources.zero(lm), metrics=("target", "kl")))
    parts = [unit.compute() for unit in units]
    return {name: pl.concat(part[name] for part in parts) for name in parts[0]}


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_the_last_norm_and_the_unembedding_are_float32_by_hand(family: str, coarse, examples):
    lm = coarse(family)
    block, last = tokens.forest(lm, examples).blocks[0], Site(lm.n_layers - 1, "resid_post")
    acts, logits = forward.capture(lm, block, [last])
    x, model = acts[last].float(), lm.bridge.original_model
    assert acts[last].dtype == torch.bfloat16
    if family == "gpt2":
        norm = model.transformer.ln_f
        table = model.transformer.wte.weight
        x = layer_norm(x, x.shape[-1:], norm.weight.float(), norm.bias.float(), 1e-5)
    else:
        norm, table = model.model.norm, model.model.embed_tokens.weight
        x = x * (x.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * norm.weight.float()
        table = table if model.config.tie_word_embeddings else model.lm_head.weight
    rows, nodes = block.places.unbind(1)
    torch.testing.assert_close(logits[0], (x @ table.float().T)[rows, nodes], atol=1e-5, rtol=1e-5)


def test_what_a_pass_does_to_all_of_its_copies_cancels(coarse, examples, monkeypatch):
    lm, sites = coarse("llama"), [Site(1, "z", 0), Site(2, "z", 3), Site(2, "mlp_out")]
    plain, edited, drift = swept(lm, examples, sites), forward.edited, iter(range(1, 1000))

    def drifting(*given):
        readouts, by = edited(*given), torch.zeros(6, dtype=torch.float64)
        by[0] = 0.125 * next(drift)  # another in every pass
        return replace(readouts, logp=readouts.logp + by)

    monkeypatch.setattr(forward, "edited", drifting)
    for name, table in swept(lm, examples, sites).items():
        changed = (table["effect"] - plain[name]["effect"]).abs()
        assert changed.max() < 1e-12, name


def test_an_effect_of_nothing_is_as_large_as_what_the_precision_does_to_effects(tiny, coarse, examples):
    fine, lm = tiny("llama"), coarse("llama")
    sites = [Site(layer, "z", head) for layer in range(lm.n_layers) for head in range(lm.n_heads)]
    here, there = swept(fine, examples, sites), swept(lm, examples, sites)
    assert set(here) == {"effects"} and set(there) == {"effects", "floor"}

    def rms(values: pl.Series) -> float:
        return float(np.sqrt((values**2).mean()))

    keys = ["example_id", "metric", "layer", "head"]
    both = here["effects"].join(there["effects"], on=keys).filter(metric="target")
    really = rms(both["effect"] - both["effect_right"])
    nothing = there["floor"].filter(metric="target")
    assert set(nothing["component"]) == {schemas.NOTHING} and nothing["layer"].n_unique() == lm.n_layers
    assert nothing.group_by("layer").agg(pl.col("head").n_unique())["head"].to_list() == [2] * 4  # 8 draws
    assert really / 3 < rms(nothing["effect"]) < 3 * really
    again = swept(lm, examples, sites)["floor"]
    assert again.equals(there["floor"])


def test_the_floor_is_the_rms_of_the_ranking_statistic_and_three_of_it_are_needed_for_a_star():
    effects = [0.3, 0.5, -0.2, -0.4]  # two draws over two groups: means 0.4 and −0.3
    rows = [
        {"example_id": str(i), "group": "ab"[i % 2], "dataset": "d", "source": "zero", "metric": "target"}
        | {"component": schemas.NOTHING, "layer": 1, "head": i // 2, "position": "all"}
        | {"baseline": 0.0, "value": effect, "effect": effect}
        for i, effect in enumerate(effects)
    ]
    table = reliability.noise_floor(pl.DataFrame(rows, schema=schemas.EFFECTS), model="m", method="exact")
    floor = reliability.floor(table)
    assert floor == pytest.approx(np.sqrt((0.4**2 + 0.3**2) / 2)) and table["unit"].to_list() == ["nats"]
    row = {"ci_low": 0.5, "ci_high": 9.0, "carried_by": None, "caution": None}
    judged = pl.DataFrame(
        [
            row | {"estimate": size * floor, "p_family": p}
            for size, p in ((3.1, 0.01), (-2.9, 0.01), (1, None))
        ],
        schema={name: schemas.SUMMARY[name] for name in ("estimate", "p_family", *row)},
    )
    doubted = summary.doubted(judged, floor)
    assert [schemas.mark(row) for row in doubted.iter_rows(named=True)] == ["*", "≈", ""]
    assert doubted.filter(schemas.starred()).height == 1 and summary.doubted(judged, None) is judged
    assert "three noise floors" in schemas.legend(doubted.iter_rows(named=True))[1]


def test_a_command_shows_and_records_its_noise_floor(tmp_path: Path):
    what = ("--model", "planted:single", "--dataset", "occupations", "--limit", "60", "--dtype", "bfloat16")
    where = ("-o", tmp_path, "--cache-dir", tmp_path / "c", "--format", "table", "-q")
    _, out, _ = biasscope("ablate", "--source", "zero", "--layers", "1", *what, *where)
    run = bs.load(next(tmp_path.glob("*/*/ablate/*")).name, output_dir=tmp_path, cache_dir=tmp_path / "c")
    floor = run.record.datasets[0].noise_floor
    assert 0 < floor < 0.1 and f"floor of the model's precision: {schemas.number(floor)} nats/SD" in out
    assert "floor" in run.record.datasets[0].tables and "L1H2" in out.split("*")[0]
    _, _, err = biasscope("patch", *what, *where[:-1])
    assert "the noise floor of estimates is not known" in err


def test_only_what_is_not_as_always_enters_a_key():
    assert devices.in_identity("cpu", "float32") == {}
    assert devices.in_identity("cuda", "bfloat16") == {"readout": "float32", "rows": 512}
    torch.set_float32_matmul_precision("high")
    try:
        assert devices.in_identity("cpu", "float32") == {"matmul": "high"}
        assert devices.unit_roundoff("float32") == 2**-11
    finally:
        torch.set_float32_matmul_precision("highest")
    assert devices.unit_roundoff("float32") is None and devices.unit_roundoff("bfloat16") == 2**-8


def test_a_pass_fills_an_accelerator_as_far_as_its_memory_goes(tiny, monkeypatch):
    lm = replace(tiny("llama"), device="cuda:0")
    rooms = iter([80 * 2**30, 100 * 2**20, None])
    monkeypatch.setattr(loading, "free_memory", lambda device: next(rooms))
    wide, narrow, unknown = (batch_size(lm) for _ in range(3))
    assert wide == unknown == 512 * (lm.n_heads + 1) and 512 <= narrow < wide
    assert batch_size(tiny("llama")) == 2048
