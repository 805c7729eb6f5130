"""A model in which an affine edit stands is, under every measurement, the model with those weights."""

import json
from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

import biasscope as bs
from biasscope.engine.errors import DataError
from biasscope.engine.measure import activations, attribution, baseline, exact, sources
from biasscope.engine.measure.between import attention as inside
from biasscope.engine.model import forward, tokens
from biasscope.engine.model.edits import recipe
from biasscope.engine.model.edits.affine import Affine
from biasscope.engine.types import Edit, Site
from tests.support.cli import biasscope
from tests.support.examples import paired

GONE = Site(1, "z", 2)
ERASED = Site(2, "resid_pre")


def affine(width: int, **more) -> Affine:
    """A map of everything at once, seeded."""
    rng = torch.Generator().manual_seed(1)
    vectors = {name: 0.3 * torch.randn(width, generator=rng) for name in ("left", "right", "bias")}
    return Affine(0.7, **vectors, **more)


def standing(lm, at):
    """The model in which these maps stand."""
    return replace(lm, edit=Edit(at))


@pytest.fixture
def without(tiny, tiny_folder):
    """The tiny GPT-2 whose second layer's third head writes nothing, by its weights."""
    folder = tiny_folder("gpt2")
    model = AutoModelForCausalLM.from_pretrained(folder)
    model.transformer.h[1].attn.c_proj.weight.data[24:36] = 0
    return bs.load_model(model, AutoTokenizer.from_pretrained(folder))


def test_the_plain_affine_map_changes_nothing(tiny, examples):
    lm = tiny("llama")
    forest = tokens.forest(lm, examples)
    plain = baseline.baseline(lm, forest)[0]
    same = baseline.baseline(standing(lm, {GONE: Affine(), ERASED: Affine(first=False)}), forest)[0]
    assert same.equals(plain)


def test_every_measurement_in_an_edited_model_is_that_of_the_model_with_those_weights(tiny, without):
    lm = standing(tiny("gpt2"), {GONE: Affine(0.0)})
    sites = [Site(0, "z", 0), Site(1, "z", 1), Site(3, "mlp_out"), Site(2, "resid_pre")]

    def measured(model):
        _, forest = paired(model)
        mean, corrupt = (sources.source(name, model, forest, sites) for name in ("mean", "corrupt"))
        yield exact.sweep(model, forest, sources.Sweep(sites, mean))
        yield exact.sweep(model, forest, sources.Sweep(sites, corrupt))
        yield attribution.estimate(model, forest, sources.Sweep(sites, corrupt), steps=2)
        yield baseline.baseline(model, forest)[0]
        text = activations.text(model, "a", "The nurse said that", "nurse")
        yield from (u.compute()["activations"] for u in activations.units(model, [text], "resid", "last"))

    for found, wanted in zip(measured(lm), measured(without), strict=True):
        for column in found.columns:
            if found[column].dtype == pl.Float64:
                assert found[column].to_list() == pytest.approx(wanted[column].to_list(), abs=2e-5)
            elif column == "values":
                assert (
                    np.abs(np.array(found[column].to_list()) - np.array(wanted[column].to_list())).max()
                    < 1e-4
                )
            else:
                assert found[column].equals(wanted[column])


@pytest.mark.parametrize("family", ["gpt2", "llama", "gemma3-narrow"])
@pytest.mark.parametrize("first", [True, False])
def test_a_resumed_pass_applies_an_edit_once_and_where_it_stands(tiny, examples, family, first):
    lm = tiny(family)
    layer = lm.n_layers - 1
    width = lm.bridge.blocks[0].attn.W_O.shape[-2]
    at = {Site(layer, "resid_pre"): affine(lm.d_model, first=first), Site(layer - 1, "z", 0): affine(width)}
    edited, site = standing(lm, at), Site(layer, "z", 1)
    forest = tokens.forest(lm, examples)
    found = exact.sweep(
        edited, forest, sources.Sweep([site], sources.zero(lm), metrics=("target",)), batch=64
    )
    values = {}
    for block in forest.blocks:  # from the first layer on, all replacements in one pass
        for alone, same in zip(block.alone(), block.examples, strict=True):
            puts = Edit(at).puts(alone) | {site: sources.zero(lm).put(alone, site)}
            logits = forward.run(lm, alone, forward.overwrites([puts]))
            value = forward.read(alone, logits).logp[0]
            values |= {forest.examples[i].id: float(value[0, 0] - value[0, 1]) for i in same}
    by_id = dict(found.select("example_id", "value").iter_rows())
    assert by_id == pytest.approx({i: values[i] for i in by_id}, abs=5e-4)


def test_attention_in_an_edited_model_is_that_of_the_edited_model(tiny):
    lm, head = tiny("gpt2"), Site(2, "z", 0)
    ids = tokens.encode(lm, "The nurse said that")
    plain, same, other = (
        activations.attention(model, ids, head)
        for model in (lm, standing(lm, {GONE: Affine()}), standing(lm, {GONE: Affine(-3.0)}))
    )
    assert torch.equal(plain, same) and not torch.allclose(plain, other, atol=1e-3)
    assert plain.sum(1).numpy() == pytest.approx(1.0, abs=1e-5)


MODEL = {"name": "tiny", "digest": "0" * 64, "type": "gpt2", "layers": 4, "heads": 4}


def test_what_is_inside_heads_is_exact_in_an_edited_model_or_refused(tiny, without):
    lm = standing(tiny("gpt2"), {GONE: Affine(0.0)})
    sites = [Site(1, "q", 1), Site(1, "v", 2), Site(0, "k", 3)]

    def measured(model):
        _, forest = paired(model)
        return exact.sweep(model, forest, sources.Sweep(sites, sources.zero(model), metrics=("target",)))

    found, wanted = (measured(model)["effect"].to_numpy() for model in (lm, without))
    assert np.abs(wanted).max() > 1e-4 and found == pytest.approx(wanted, abs=2e-5)
    inside.check(lm, ["q", "k", "v"], exact=True)
    for refused, by_gradient in (("q", True), ("pattern", False)):
        with pytest.raises(DataError, match=f"outputs, at which .* stands: {refused}; "):
            inside.check(lm, [refused], exact=not by_gradient)


def test_a_recipe_reads_back_as_the_same_edit_with_the_same_digest(tmp_path):
    edit = Edit({GONE: affine(12), ERASED: affine(48, first=False)}, "erase-L2@1", "erase", 1.0)
    wrote = recipe.of(edit, MODEL, {"seed": 0})
    recipe.write(wrote, tmp_path / "edit.safetensors")
    found = recipe.read(tmp_path / "edit.safetensors")
    assert found.digest == wrote.digest and str(found) == f"erase-L2@1 ({wrote.digest[:12]})"
    for site, one in edit.at.items():
        other = found.edit.at[site]
        assert (one.scale, one.first) == (other.scale, other.first)
        assert all(torch.equal(v, other.vectors[n]) for n, v in one.vectors.items())
    with pytest.raises(DataError, match="has 111111111111…; give the model"):
        found.check("1" * 64, "tiny")
    with pytest.raises(DataError, match="layers 0-1 and heads 0-3"):
        found.fit(4, 2, (12, 48))
    with pytest.raises(DataError, match=r"shape \(48,\) at 2.resid_pre"):
        found.fit(4, 4, (12, 24))


def spoilt(folder, change):
    """A recipe's file after a change of its tensors or its JSON."""
    from safetensors.numpy import save_file

    file = folder / "edit.safetensors"
    recipe.write(recipe.of(Edit({GONE: affine(12)}, "mean-1@1", "mean"), MODEL), file)
    vectors, (content,) = load_file(file), [json.loads(_metadata(file))]
    change(vectors, content)
    save_file(vectors, file, {"biasscope": json.dumps(content)} if content else {"other": "x"})
    return file


def _metadata(file) -> str:
    from safetensors import safe_open

    with safe_open(str(file), framework="np") as held:
        return held.metadata()["biasscope"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda v, c: v["0.left"].__setitem__(3, 9.0), "was changed after it was written"),
        (lambda v, c: c["sites"][0].update(scale=0.5), "was changed after it was written"),
        (lambda v, c: c["sites"][0].update(component="query"), "names the site 1.query.2, which is none of"),
        (lambda v, c: c.update(format=9), "of another format; export it again"),
        (lambda v, c: c.clear(), "is no edit of biasscope"),
    ],
)
def test_a_recipe_that_was_changed_or_is_none_is_refused(tmp_path, change, message):
    with pytest.raises(DataError, match=message):
        recipe.read(spoilt(tmp_path, change))


@pytest.mark.usefixtures("few_draws")
@pytest.mark.parametrize(
    "command", ["baseline", "encode --site z", "probe --split holdout", "patch --layers 2"]
)
def test_edit_takes_another_key_names_itself_and_gives_the_edited_model_s_numbers(tmp_path, command):
    where = ["-m", "planted:single", "-d", "occupations", "--limit", 24, "--cache-dir", tmp_path / "c"]
    where += ["-o", tmp_path / "r"]
    plain = json.loads(biasscope(*command.split(), *where, "--json", "--rows")[1])
    digest = plain["run"]["model"]["digest"]
    file = tmp_path / "edit.safetensors"
    edit = Edit({GONE: Affine(0.0)}, "zero-1@1", "zero")
    recipe.write(recipe.of(edit, {**MODEL, "digest": digest}), file)
    _, out, err = biasscope(*command.split(), *where, "--edit", file, "--json", "--rows")
    edited = json.loads(out)["run"]
    assert plain["run"]["datasets"][0]["run_key"] != edited["datasets"][0]["run_key"]
    assert f"--edit {file}" in edited["reproduce"] and json.loads(out)["rows"] != plain["rows"]
    assert "edit" not in plain["run"]["params"]
    if command == "baseline":
        slopes = [abs(d["summary"][0]["estimate"]) for d in (plain, json.loads(out))]
        assert slopes[0] > 0.5 and slopes[1] < 1e-3
        assert (
            "edited by zero-1@1 ("
            in biasscope(*command.split(), *where, "--edit", file, "--format", "table")[1]
        )
        recipe.write(recipe.of(edit, MODEL), file)
        code, _, err = biasscope(command, *where, "--edit", file, ok=False)
        assert code == 4 and "give the model that it was fitted to" in err


def test_a_command_that_measures_no_model_takes_no_edit(tmp_path):
    code, _, err = biasscope("pairs", "--edit", tmp_path / "x", ok=False)
    assert code == 2 and "No such option" in err


@pytest.mark.usefixtures("few_draws")
def test_a_circuit_is_of_the_edited_model_and_refuses_a_file_that_holds_another_edit_by_now(tmp_path):
    places = ["--cache-dir", tmp_path / "c", "-o", tmp_path / "r"]
    data = ["-m", "planted:single", "-d", "occupations", "--limit", 120]
    digest = json.loads(biasscope("baseline", *data, *places, "--json")[1])["run"]["model"]["digest"]
    file = tmp_path / "edit.safetensors"

    def put(scale: float) -> None:
        edit = Edit({GONE: Affine(scale)}, f"zero-1@{1 - scale:g}", "zero", 1 - scale)
        recipe.write(recipe.of(edit, {**MODEL, "digest": digest}), file)

    put(0.5)
    ranked = json.loads(biasscope("ablate", *data, *places, "--edit", file, "--json")[1])["run"]
    run = ["circuit", "--from", ranked["datasets"][0]["run_key"][:8], *places, "--sizes", 1]
    _, out, _ = biasscope(*run, "--format", "table")
    assert "edited by zero-1@0.5 (" in out
    put(0.0)
    code, _, err = biasscope(*run, ok=False)
    assert code == 4 and "holds the edit zero-1@1" in err and "was measured with zero-1@0.5" in err
