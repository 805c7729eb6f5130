"""`import biasscope as bs`: light to import, the command's runs and keys, models of memory, and what a
notebook shows.
"""

import json
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import polars as pl
import pytest
import torch
from transformer_lens.model_bridge import TransformerBridge
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import biasscope as bs
from biasscope import cli
from biasscope.engine.errors import UsageError
from biasscope.engine.types import Dataset
from tests.support.examples import example

pytestmark = pytest.mark.usefixtures("few_draws")
ASKED = {"limit": 12, "layers": "1"}


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A cache and a results folder."""
    folder = tmp_path_factory.mktemp("api")
    return {"cache_dir": folder / "cache", "output_dir": folder / "results"}


@pytest.fixture(scope="module")
def ablated(places):
    """A small run on a planted model."""
    return bs.ablate("planted:single", "occupations", limit=12, **places)


def test_importing_costs_little_and_loads_no_library():
    code = "import time, sys; t = time.process_time(); import biasscope as bs; dir(bs); bs.__version__\n"
    code += "print(time.process_time() - t, *{'torch', 'polars', 'typer', 'numpy'} & set(sys.modules))"
    seconds, *loaded = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, text=True
    ).stdout.split()
    assert float(seconds) < 0.1 and not loaded


@pytest.mark.parametrize(
    ("command", "asked"),
    [
        ("baseline", {}),
        ("ablate", {"source": "zero", "heads": "1.0,1.2"}),
        ("patch", {"method": "exact", "components": "z", "layers": "1"}),
        ("probe", {"split": "holdout"}),
        ("encode", {"site": "z"}),
    ],
)
def test_a_function_finds_what_its_command_measured_and_gives_the_same_tables(places, command, asked):
    where = [word for name, value in places.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    options = [word for name, value in asked.items() for word in (f"--{name}", value)]
    done = CliRunner().invoke(
        cli.app,
        [
            command,
            "-m",
            "planted:single",
            "-d",
            "occupations",
            "--limit",
            "12",
            *options,
            *where,
            "--json",
            "-q",
        ],
    )
    document = json.loads(done.stdout)
    found = getattr(bs, command)("planted:single", "occupations", limit=12, **asked, **places)
    (part,) = found.record.datasets
    assert part.run_key == document["run"]["datasets"][0]["run_key"] and part.reused == part.units > 0
    assert found.record.reproduce == document["run"]["reproduce"]
    assert [row["estimate"] for row in document["summary"]] == found.summary.fill_nan(None)[
        "estimate"
    ].to_list()


def test_a_model_and_a_data_set_already_loaded_make_the_run_of_their_names(ablated, places):
    lm = bs.load_model("planted:single", cache_dir=places["cache_dir"])
    again = bs.ablate(lm, bs.load_dataset("occupations", limit=12), **places)
    assert again.key == ablated.key and again.record.datasets[0].reused == ablated.record.datasets[0].units
    assert again.record.params["limit"] == 12


@pytest.mark.parametrize("family", ["gpt2", "gemma3-narrow"])
@pytest.mark.parametrize("bridged", [False, True], ids=["transformers", "bridge"])
def test_a_model_in_memory_has_the_effects_of_its_files_and_stays_as_it_was(
    tiny_folder, places, family, bridged
):
    folder = tiny_folder(family)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    ids = torch.tensor([tokenizer("The nurse said that").input_ids])
    if bridged:
        tokenizer.pad_token = tokenizer.eos_token
        model = TransformerBridge.boot_transformers(
            str(folder), hf_model=model, tokenizer=tokenizer, device="cpu"
        )
    before, modules = model(ids), [name for name, _ in model.named_modules()]
    lm = bs.load_model(model) if bridged else bs.load_model(model, tokenizer)
    found, files = (bs.ablate(one, "occupations", **ASKED, **places) for one in (lm, str(folder)))
    same = found.effects.join(
        files.effects, on=["example_id", "metric", "component", "layer", "head"], nulls_equal=True
    )
    assert same.height == found.effects.height > 0
    assert (same["effect"] - same["effect_right"]).abs().max() < 1e-4
    after = model(ids)
    before, after = (out if bridged else out.logits for out in (before, after))
    assert torch.equal(before, after) and [name for name, _ in model.named_modules()] == modules
    assert (
        found.record.model.digest != files.record.model.digest
        and "no command line names it" in found.record.reproduce
    )


def test_other_weights_in_memory_are_another_model(tiny_folder):
    model, tokenizer = (
        kind.from_pretrained(tiny_folder("gpt2")) for kind in (AutoModelForCausalLM, AutoTokenizer)
    )
    first, same = (bs.load_model(model, tokenizer).digest for _ in range(2))
    with torch.no_grad():
        model.transformer.h[3].mlp.c_proj.bias[5] += 1e-6
    assert first == same != bs.load_model(model, tokenizer).digest


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"sorce": "zero"}, "unknown option of ablate 'sorce' .did you mean 'source'"),
        ({"source": "zeros"}, "source 'zeros' is none of: mean, zero, resample, all"),
        ({"dtype": "int8"}, "dtype 'int8' is none of: float32, bfloat16, float16"),
        ({"heads": "9"}, "write LAYER.HEAD"),
        ({"dataset": "occupation"}, "did you mean 'occupations'"),
        ({"dataset": ["occupations", Dataset("mine", (), "", 0)]}, "not both"),
        ({"model": object()}, "needs its fast tokenizer"),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(places, asked, message):
    with pytest.raises((UsageError, TypeError), match=message):
        bs.ablate(**({"model": "planted:single", "dataset": "occupations"} | asked), **places)


def test_top_holds_only_what_says_something(ablated):
    top = ablated.top(3)
    assert top["site"][0] == "L1H2" and top["mark"][0] == "*" and top.height == 3
    assert not {"model", "recovered", "layer"} & set(top.columns)


def test_runs_of_edges_and_of_parts_of_heads_have_a_top_and_figures(places):
    asked = {"limit": 12, "source": "mean", **places}
    between = bs.patch("planted:single", "occupations", method="edges", calibrate=2, **asked)
    assert set(between.top(2)["edge"]) == {"L1H2 → logits", "embed → L1KV2.v"}
    assert between.plot().figure.axes
    inside = bs.patch("planted:single", "occupations", components=["q", "v"], **asked)
    assert inside.top(1)["site"].to_list() == ["L1KV2.v"] and inside.plot("v").figure.axes
    with pytest.raises(UsageError, match="no figure of z; it has: v, q"):
        inside.plot()


def test_a_map_is_of_what_was_asked_not_of_its_control_or_of_what_lies_behind_a_head(places):
    asked = {"limit": 40, "source": "zero", **places}
    plain, *others = (
        bs.ablate("planted:redundant", "occupations", **asked, **more)
        for more in ({}, {"control": "definitional"}, {"conditional": True, "rounds": 1})
    )
    assert any("conditional" in part.tables for part in others[1].record.datasets)
    values = [run.plot().figure.axes[0].images[0].get_array().data for run in (plain, *others)]
    assert (values[1] == values[0]).all() and (values[2] == values[0]).all()


def test_the_prompts_of_a_site_are_sorted_by_what_it_does_to_them(ablated):
    found = ablated.prompts("L1H2", 4)
    assert found["effect"].abs().is_sorted(descending=True) and found["prompt"].null_count() == 0
    assert (found["value"] - found["baseline"] - found["effect"]).abs().max() < 1e-12
    with pytest.raises(UsageError, match="did not measure L9H2; it has sites of mlp_out, z in layers 0-3"):
        ablated.prompts("9.2")


def test_attention_of_every_token_sums_to_one_over_those_before_it(ablated):
    found = ablated.attention_matrix("1.2", ablated.effects["example_id"][0])
    weights = found.drop("token").to_numpy()
    assert weights.shape[0] == weights.shape[1] > 3
    assert weights.sum(1) == pytest.approx(1.0, abs=1e-5) and weights[0, 0] == pytest.approx(1.0)


def test_attention_from_the_readout_is_stored_or_computed_alike(ablated, monkeypatch):
    example = ablated.effects["example_id"][0]
    matrix = ablated.attention_matrix("1.2", example).drop("token").to_numpy()
    monkeypatch.setattr(type(ablated), "_load", lambda run: pytest.fail("the model was loaded"))
    stored = ablated.attention("1.2", example)
    assert stored.weights["weight"].to_numpy() == pytest.approx(matrix[-1], abs=1e-5)
    assert "".join(stored.weights["token"]) in set(ablated.prompts("1.2", 99)["prompt"])
    assert stored.term == pytest.approx(stored.weights.filter("term")["weight"].sum()) and stored.term > 0
    shown = stored._repr_html_()
    assert shown.count("<span") == stored.weights.height and "border-bottom" in shown


def test_a_notebook_shows_the_tables_of_the_command_and_acts_on_no_text_of_others():
    from biasscope.report import formats
    from biasscope.report.tables import Table

    tags = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: tags.append(tag)
    parser.feed(formats.html(Table("<script>x", ["a"], [[["<img src=x onerror=y>"]]], ["<b>"])))
    assert tags == ["table", "caption", "thead", "tr", "th", "tbody", "tr", "td", "div", "small"]


def test_figures_report_load_and_compare_take_a_run(ablated, places, tmp_path):
    assert (
        "L1H2" in ablated._repr_html_()
        and ablated.plot()._repr_png_().startswith(b"\x89PNG")
        and ablated.plot("mlp_out").figure.axes
    )
    other = bs.ablate("planted:single", "occupations", limit=12, source="zero", **places)
    compared = bs.compare(ablated, other)
    assert compared.agreement["first"][0] == ablated.key and compared.agreement["shared"].max() <= 10
    assert compared.differences.is_empty() and "top shared" in compared._repr_html_()
    page = bs.report([ablated], tmp_path / "page.html", card=True)
    assert (tmp_path / "page_card.md").read_text(encoding="utf-8").startswith("---\n")
    assert page == tmp_path / "page.html" and ablated.key in page.read_text(encoding="utf-8")
    loaded = bs.load(ablated.key, **{name: places[name] for name in ("output_dir", "cache_dir")})
    assert loaded.summary.equals(ablated.summary) and loaded.reliability.equals(ablated.reliability)
    with pytest.raises(UsageError, match="has no table 'twins'; it has: covariates, effects"):
        loaded.table("twins")


def test_a_circuit_takes_a_run_and_its_model_of_memory(places, tiny_folder):
    larger = bs.ablate("planted:single", "occupations", limit=24, **places)
    named = bs.circuit(larger, sizes=[1, 2])
    assert named.summary.filter(subset="top 1", method="keep")["estimate"][0] == pytest.approx(1.0, abs=0.05)
    lm = bs.load_model("planted:single", cache_dir=places["cache_dir"])
    held = bs.circuit(bs.ablate(lm, bs.load_dataset("occupations", limit=24), **places), sizes=[1, 2])
    assert held.key == named.key and held.record.datasets[0].reused == named.record.datasets[0].units


def test_the_parts_sweep_as_the_experiment_does(ablated, places):
    lm, data = (
        bs.load_model("planted:single", cache_dir=places["cache_dir"]),
        bs.load_dataset("occupations", limit=12),
    )
    swept = bs.sweep(lm, bs.forest(lm, data), bs.sites(lm), source="mean")
    keys = ["example_id", "metric", "component", "layer", "head"]
    both = swept.join(ablated.effects, on=keys, nulls_equal=True)
    assert both.height == swept.height == ablated.effects.height
    assert (both["effect"] - both["effect_right"]).abs().max() < 1e-5


def test_a_data_set_that_was_changed_in_memory_is_another_one(ablated, places):
    data = bs.load_dataset("occupations", limit=12)
    changed = replace(
        data, examples=(replace(data.examples[0], prompt="The nurse said that"), *data.examples[1:])
    )
    found = bs.ablate("planted:single", changed, heads="1.2", **places)
    named = bs.ablate("planted:single", data, heads="1.2", **places)
    assert found.key != named.key and "The nurse said that" in found.prompts("1.2", 12)["prompt"].to_list()
    assert "no command line names them" in found.record.reproduce and "--limit 12" in named.record.reproduce


def test_a_sample_is_drawn_with_the_seed_of_its_run(places):
    data = bs.load_dataset("occupations", limit=12, seed=3)
    assert "--seed 3" in bs.ablate("planted:single", data, heads="1.2", **places).record.reproduce
    with pytest.raises(UsageError, match="drawn with seed 3, the run has 0"):
        bs.ablate("planted:single", data, heads="1.2", seed=0, **places)


def test_a_run_with_several_positions_has_no_one_map(places):
    run = bs.patch(
        "planted:single",
        "occupations",
        limit=12,
        method="exact",
        components="z",
        positions="term,readout",
        **places,
    )
    with pytest.raises(UsageError, match="several positions"):
        run.plot()


def test_prompts_of_ones_own_need_no_name(places):
    mine = Dataset(
        "mine",
        tuple(example(i, f"The {w} said that") for i, w in enumerate(("nurse", "engineer", "clerk"))),
        "0" * 64,
        3,
    )
    found = bs.ablate("planted:single", mine, heads="1.2", **places)
    assert "no command line names them" in found.record.reproduce
    assert found.prompts("1.2")["prompt"].to_list() and isinstance(found.summary, pl.DataFrame)
