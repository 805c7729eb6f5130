"""`probe` and `encode` on a planted model: what they find, reuse, refuse and store."""

import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from safetensors.numpy import load_file

from biasscope.engine.data import datasets
from biasscope.engine.measure import activations
from biasscope.engine.model import loading
from biasscope.engine.store.journal import Journal
from tests.support.cli import biasscope

pytestmark = pytest.mark.usefixtures("few_draws")

SMALL = ("--dataset", "occupations", "--limit", 120)


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    """Model, data, and the folders that tests share which change nothing for each other."""
    folder = tmp_path_factory.mktemp("probe")
    return ("--model", "planted:single", *SMALL, "-o", folder / "r", "--cache-dir", folder / "c")


def test_probe_finds_the_row_after_the_planted_head_and_its_files_say_the_same(where):
    _, out, _ = biasscope("probe", *where, "--causal", "--json")
    document = json.loads(out, parse_constant=pytest.fail)
    rows = {
        (r["method"], r["statistic"], r["layer"]): r for r in document["summary"] if r["method"] != "removal"
    }
    found = [rows["probe", "accuracy", k]["estimate"] for k in range(5)]
    assert max(found[:2]) < 0.7 < 0.85 < min(found[2:])
    assert rows["shuffled", "accuracy", 2]["ci_high"] < 0.8 < rows["probe", "accuracy", 2]["estimate"]
    assert (
        rows["probe", "auc", 3]["estimate"] > 0.9
        and rows["within groups", "selectivity", 3]["estimate"] > 0.2
    )
    (part,) = document["run"]["datasets"]
    folder = Path(part["path"])
    removed = {
        (r["source"], r["component"], r["layer"]): r
        for r in document["summary"]
        if r["method"] == "removal" and r["statistic"] == "slope"
    }
    assert removed["probe", "resid_pre", 2]["estimate"] < 4 * removed["random", "resid_pre", 2]["ci_low"] < 0
    arrays = load_file(folder / "probes.safetensors")
    assert arrays["weight"].shape == arrays["scale"].shape == (5, 64) and arrays["bias"].shape == (5,)
    study = json.loads((folder.parents[2] / "linear_probing_occupations.json").read_text())
    assert study["2"] == {"accuracy": found[2], "auc": rows["probe", "auc", 2]["estimate"]}
    best = json.loads((folder.parents[2] / "linear_probing_summary.json").read_text())["occupations"]
    assert best["accuracy"] == max(found)


def test_a_second_probe_of_the_same_texts_encodes_nothing(where, monkeypatch):
    where = (*where, "--json")
    first = json.loads(biasscope("probe", *where)[1])["summary"]
    put, stored = Journal.put, []
    monkeypatch.setattr(
        Journal, "put", lambda journal, unit, tables: (stored.extend(tables), put(journal, unit, tables))
    )
    other = json.loads(biasscope("probe", *where, "--seed", 0, "--split", "holdout")[1])["summary"]
    assert first[0]["n"] > other[0]["n"]
    again = json.loads(biasscope("probe", *where, "--fresh")[1])["summary"]
    assert again == first and stored and "activations" not in stored


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--task", "stereotype"), 2, "take --task occupation or lean"),
        (("--causal", "--site", "z"), 2, "needs --site resid"),
        (("--limit", 4), 4, "groups are too few for 5 folds"),
    ],
)
def test_a_probe_that_cannot_be_is_refused(tmp_path, arguments, code, message):
    where = ("--model", "planted:single", *SMALL, "-o", tmp_path / "r", "--cache-dir", tmp_path / "c")
    found, _, err = biasscope("probe", *where, *arguments, ok=False)
    assert found == code and message in " ".join(err.split())


def test_the_table_fits_80_columns_with_and_without_removal(where):
    for more, columns in ((), "row accuracy"), (("--causal",), "Δslope random"):
        _, out, _ = biasscope("probe", *where, *more, "--format", "table")
        assert "…" not in out and columns in " ".join(out.split())


def test_encode_stores_the_activations_of_its_texts(tmp_path):
    where = (
        "--model",
        "planted:single",
        *SMALL,
        "-o",
        tmp_path / "r",
        "--cache-dir",
        tmp_path / "c",
        "--json",
    )
    document = json.loads(biasscope("encode", *where)[1])
    (part,) = document["run"]["datasets"]
    stored = pl.read_parquet(Path(part["path"]) / "activations.parquet").with_columns(
        pl.col("values").arr.to_list()
    )
    lm = loading.load("planted:single", cache_dir=tmp_path / "c", device="cpu")
    examples = datasets.load("occupations", tmp_path, limit=120).examples
    texts = [activations.text(lm, e.id, e.prompt, e.word) for e in examples]
    read = pl.concat(unit.compute()["activations"] for unit in activations.units(lm, texts, "resid", "last"))
    keys = ["example_id", "component", "layer", "head", "position"]
    both = read.join(stored, on=keys, nulls_equal=True)
    assert both.height == read.height == stored.height == part["used"] * 5 == 600
    np.testing.assert_allclose(
        np.array(both["values"].to_list()), np.array(both["values_right"].to_list()), atol=1e-6
    )
    assert np.ptp(np.array(both["values"].to_list()), axis=0).max() > 0.1


@pytest.mark.parametrize("asked", [[], ["--task", "stereotype"]])
def test_a_probe_whose_label_is_the_word_itself_is_refused_before_a_model_is_loaded(
    asked, tmp_path, monkeypatch
):
    monkeypatch.setattr(
        "biasscope.engine.model.loading.boot", lambda *a, **k: pytest.fail("the model was loaded first")
    )
    where = ["-m", "planted:single", "-o", tmp_path, "--cache-dir", tmp_path / "cache"]
    code, _, err = biasscope("probe", "-d", "definitional", *asked, *where, ok=False)
    assert code == 2 and "48 of 48 prompts state the gender as a fact" in err and "--task lean" in err
