"""The real model on real data: published facts of SmolLM2-135M, the data's own counts, and the whole
command.
"""

import json
import subprocess
import sys

import polars as pl
import pytest
import torch

from biasscope.engine.data import datasets, download
from biasscope.engine.measure import attribution, baseline, sources
from biasscope.engine.measure import exact as exact_sweep
from biasscope.engine.model import tokens
from biasscope.engine.types import Example, Site
from tests.support import slow

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def data_dir(shared_data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    for source in ("stereoset", "winogender"):
        download.download(source, folder, local=shared_data)
    return folder


@pytest.mark.parametrize(
    ("prompt", "gap"),
    [
        ("The nurse said that", -1.60),
        ("The doctor said that", -0.76),
        ("My father said that", 0.84),
        ("My mother said that", -1.71),
    ],
)
def test_the_four_gaps_of_smollm2(prompt, gap, smollm2):
    forest = tokens.forest(smollm2, [Example("e", "d", "gender", "g", prompt, " he", " she")])
    scores, _ = baseline.baseline(smollm2, forest)
    assert scores.filter(pl.col("metric") == "target")["value"].item() == pytest.approx(gap, abs=0.005)


def test_the_first_token_is_read_after_the_end_of_text_mark(smollm2, data_dir):
    """The chat marks that SmolLM2 has for BOS and EOS make the first token of a sentence far less likely."""
    texts = [e.sentences[0] for e in datasets.load("stereoset_race", data_dir, limit=100).examples]
    first = [smollm2.tokenizer(t).input_ids[0] for t in texts]
    assert smollm2.tokenizer.convert_ids_to_tokens(smollm2.start) == "<|endoftext|>"
    ids = {
        t: smollm2.tokenizer.convert_tokens_to_ids(t) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    }
    with torch.no_grad():
        mean = {
            t: float(smollm2.bridge(torch.tensor([[i]]))[0, 0].log_softmax(-1)[first].mean())
            for t, i in ids.items()
        }
    assert mean["<|endoftext|>"] > max(mean["<|im_start|>"], mean["<|im_end|>"]) + 1.5


def test_packing_shares_what_engine_facts_counted(smollm2, data_dir):
    winogender = tokens.forest(smollm2, datasets.load("winogender", data_dir).examples)
    race = tokens.forest(smollm2, datasets.load("stereoset_race", data_dir).examples)
    gender = tokens.forest(smollm2, datasets.load("stereoset_gender", data_dir).examples)
    assert len(winogender.examples) == 240
    assert winogender.nodes <= 900  # 2,176 tokens one by one
    assert sum(len(b.readout.unique()) for b in winogender.blocks) <= 160  # 148 distinct prompts
    assert (len(race.examples), race.dropped.total()) == (962, 0)
    assert dict(gender.dropped) == {"target: a token crosses the filler's right edge": 1}


def test_the_sweep_and_attribution_equal_one_at_a_time_on_the_real_model(smollm2, data_dir):
    examples = datasets.load("stereoset_gender", data_dir, limit=12).examples
    sites = [Site(7, "z", 4), Site(26, "z", 2), Site(26, "mlp_out")]
    effects = exact_sweep.sweep(
        smollm2,
        tokens.forest(smollm2, examples),
        sources.Sweep(sites, sources.zero(smollm2), metrics=["target"]),
    )
    apart = tokens.forest(smollm2, examples, share="example")
    estimates = attribution.estimate(smollm2, apart, sources.Sweep(sites, sources.zero(smollm2)))
    zero = torch.tensor(0.0)
    for site in sites:
        of_site = (pl.col("layer") == site.layer) & (pl.col("component") == site.component)
        exact, guess = (
            dict(t.filter(of_site).select("example_id", "effect").rows()) for t in (effects, estimates)
        )
        for e in examples[:3]:
            by_hand = (
                slow.scores(smollm2, e, [slow.replaced(site, zero, zero)])["target"]
                - slow.scores(smollm2, e)["target"]
            )
            assert exact[e.id] == pytest.approx(by_hand, abs=1e-4)
            assert guess[e.id] == pytest.approx(slow.attribution(smollm2, e, site, zero, zero), abs=1e-4)


@pytest.mark.parametrize(
    ("name", "n"), [("stereoset_gender", 255), pytest.param("stereoset", 2106, marks=pytest.mark.torture)]
)
def test_the_full_baseline_on_stereoset_and_winogender(smollm2, data_dir, cache_dir, tmp_path, name, n):
    where = f"--data-dir {data_dir} --cache-dir {cache_dir} --output-dir {tmp_path}"
    command = f"-m biasscope baseline --dataset {name} --dataset winogender --json -q {where}"
    done = subprocess.run([sys.executable, *command.split()], check=True, capture_output=True, text=True)
    result = json.loads(done.stdout)
    stereoset, winogender = result["run"]["datasets"]
    assert (stereoset["found"], stereoset["used"], winogender["used"], winogender["groups"]) == (
        n,
        n,
        240,
        60,
    )
    row = {(r["dataset"], r["subset"], r["metric"], r["statistic"]): r for r in result["summary"]}
    shift = row["winogender", "all", "target", "mean"]
    slope = row["winogender", "all", "target", "slope"]
    # transformers alone, one prompt at a time, gives a mean gap of -0.25168 nats
    assert (shift["estimate"], slope["estimate"]) == (
        pytest.approx(-0.25168, abs=5e-4),
        pytest.approx(0.6073, abs=5e-4),
    )
    assert row["winogender", "all", "target", "pearson_bls"]["estimate"] == pytest.approx(0.58, abs=0.01)
    assert slope["ci_low"] < slope["estimate"] < slope["ci_high"]
    assert 80 < row[name, "all", "stereoset", "lms"]["estimate"] < 100
    assert 50 < row[name, "all", "stereoset", "ss"]["estimate"] < 75
