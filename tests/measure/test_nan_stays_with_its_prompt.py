"""One prompt's NaN is that prompt's alone, whatever it is packed with."""

from pathlib import Path

import polars as pl
import pytest
import torch
import transformers as hf
from typer.testing import CliRunner

from biasscope import cli
from biasscope.engine.errors import DataError
from biasscope.engine.measure import activations, attribution, baseline, circuits, directions, exact, sources
from biasscope.engine.model import exactness, forward, tokens, weights
from biasscope.engine.model.loading import LM, boot
from biasscope.engine.types import Site
from tests.support.examples import example
from tests.support.tiny_models import tiny_tokenizer

SITES = [Site(1, "z", 2), Site(2, "mlp_out")]
PROMPTS = [
    f"{start} {who} {end}"
    for start in ("The", "My")
    for who in ("nurse", "engineer", "teacher")
    for end in ("said that", "told")
]
MIXED = [example(i, prompt) for i, prompt in enumerate(PROMPTS)]
HEALTHY = [e for e in MIXED if "nurse" not in e.prompt]
SICK = {e.id for e in MIXED} - {e.id for e in HEALTHY}


def spoilt(source: Path, folder: Path, token: str, value: float) -> Path:
    """A copy of a tiny GPT-2 in whose embedding, not its unembedding, one token has only that value."""
    model = hf.AutoModelForCausalLM.from_pretrained(source)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().clone())
    model.config.tie_word_embeddings = False
    rows = tiny_tokenizer()(token).input_ids if token else range(len(model.lm_head.weight))
    model.transformer.wte.weight.data[list(rows)] = value
    model.save_pretrained(folder)
    tiny_tokenizer().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def sick(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of a GPT-2 that gives NaN for " nurse" and is `tiny("gpt2")` for everything else."""
    return spoilt(tiny_gpt2, tmp_path_factory.mktemp("sick"), " nurse", float("nan"))


def booted(folder: Path, dtype: str = "float32") -> LM:
    """The model of a folder, checked."""
    return exactness.check_packing(
        boot(weights.Weights("sick", folder, None, "0" * 64), device="cpu", dtype=dtype)
    )


def measured(lm: LM, examples: list, what: str) -> pl.DataFrame:
    """A table with a row per example, by one of the ways to measure."""
    whole, apart = tokens.forest(lm, examples), tokens.forest(lm, examples, share="example")
    if what == "clean":
        return baseline.baseline(lm, whole)[0]
    if what.startswith("attribution"):
        return attribution.estimate(
            lm, apart, sources.Sweep(SITES, sources.source(what.split()[1], lm, apart, SITES))
        )
    if what == "set":
        units = circuits.units(lm, whole, [circuits.Point("both", frozenset(SITES))], sources.zero(lm))
    elif what == "direction":
        vectors = torch.eye(lm.d_model, dtype=torch.float64)[: len(directions.names())].numpy()
        units = directions.units(
            lm, whole, [directions.Removal("r", Site(2, "resid_pre"), vectors, 0 * vectors[0])]
        )
    else:
        given = [Site(1, "z", 0)] if what == "given" else []
        source = sources.source(what if what != "given" else "zero", lm, whole, [*SITES, *given])
        units = exact.units(lm, whole, sources.Sweep(SITES, source, edit=sources.removed(given, source)))
    return pl.concat(unit.compute()["effects"] for unit in units)


@pytest.mark.parametrize(
    "what", ["clean", "zero", "mean", "given", "attribution zero", "attribution mean", "set", "direction"]
)
def test_what_is_measured_of_other_prompts_is_as_if_the_bad_one_were_not_there(tiny, sick, what):
    found, wanted = measured(booted(sick), MIXED, what), measured(tiny("gpt2"), HEALTHY, what)
    bad = found.filter(pl.col("value").is_finite().not_())
    assert set(bad["example_id"]) == SICK and bad.height == len(SICK) * wanted.height // len(HEALTHY)
    keys = [c for c in wanted.columns if c not in ("baseline", "value", "effect")]
    both = wanted.join(found, on=keys, nulls_equal=True)
    assert both.height == wanted.height and (both["value"] - both["value_right"]).abs().max() < 1e-4


def test_rows_keep_their_order_where_examples_were_measured_alone(tiny, sick):
    found, wanted = (measured(lm, MIXED, "zero") for lm in (booted(sick), tiny("gpt2")))
    assert found.drop("baseline", "value", "effect").equals(wanted.drop("baseline", "value", "effect"))


@pytest.mark.parametrize("kind", ["zero", "attribution"])
def test_no_prompt_gets_a_donor_that_is_not_finite(sick, kind):
    found = measured(booted(sick), MIXED, "resample" if kind == "zero" else "attribution resample")
    assert set(found.filter(pl.col("value").is_finite().not_())["example_id"]) == SICK


def test_means_say_how_many_examples_they_leave_out(tiny, sick):
    lm = booted(sick)
    found = sources.means(lm, tokens.forest(lm, MIXED), SITES)
    wanted = sources.means(tiny("gpt2"), tokens.forest(tiny("gpt2"), HEALTHY), SITES)
    assert found["left_out"].unique().to_list() == [len(SICK)] and wanted["left_out"].unique().to_list() == [
        0
    ]
    assert found["values"].explode().to_list() == pytest.approx(
        wanted["values"].explode().to_list(), abs=1e-5
    )


@pytest.mark.parametrize("position", ["last", "mean"])
def test_activations_are_without_the_texts_that_have_none(tiny, sick, position):
    def read(lm: LM, examples: list) -> pl.DataFrame:
        texts = [activations.text(lm, e.id, e.prompt, e.group) for e in examples]
        return pl.concat(
            u.compute()["activations"] for u in activations.units(lm, texts, "z", position)
        ).sort("example_id", "layer", "head")

    found, wanted = read(booted(sick), MIXED), read(tiny("gpt2"), HEALTHY)
    assert found["example_id"].to_list() == wanted["example_id"].to_list()
    assert found["values"].explode().to_list() == pytest.approx(
        wanted["values"].explode().to_list(), abs=1e-4
    )


def test_a_healthy_block_is_computed_once(tiny, monkeypatch):
    lm, passes = tiny("gpt2"), []
    forest = tokens.forest(lm, HEALTHY)
    run = forward.run
    monkeypatch.setattr(forward, "run", lambda *a, **k: passes.append(1) or run(*a, **k))
    baseline.baseline(lm, forest)
    assert len(passes) == len(forest.blocks)


def test_half_precision_loses_the_prompts_that_overflow_and_no_others(tiny_gpt2, tmp_path):
    folder = spoilt(tiny_gpt2, tmp_path, " nurse", 1e5)
    found = {
        dtype: baseline.baseline(booted(folder, dtype), tokens.forest(booted(folder, dtype), MIXED))[0]
        for dtype in ("float16", "float32")
    }
    assert found["float32"]["value"].is_finite().all()
    assert set(found["float16"].filter(pl.col("value").is_finite().not_())["example_id"]) == SICK


def test_a_model_that_gives_nothing_finite_is_refused_for_that(tiny_gpt2, tmp_path):
    folder = spoilt(tiny_gpt2, tmp_path, "", float("nan"))
    with pytest.raises(DataError, match="not finite for three short texts; its weights give") as refused:
        booted(folder)
    assert "use a" not in str(refused.value) and "float32" not in str(refused.value)


@pytest.mark.parametrize(
    ("value", "dtype", "advice"),
    [(float("nan"), "float32", "its weights give"), (1e5, "float16", "try --dtype bfloat16")],
)
def test_the_command_counts_the_bad_prompts_and_advises_what_can_help(
    tiny_gpt2, tmp_path, shared_data, value, dtype, advice
):
    model = spoilt(tiny_gpt2, tmp_path / "model", " nurse", value)
    where = ["--data-dir", shared_data, "--cache-dir", tmp_path / "cache", "--output-dir", tmp_path]
    done = CliRunner().invoke(
        cli.app, [str(a) for a in ("baseline", "-m", model, "-d", "winogender", "--dtype", dtype, *where)]
    )
    assert (
        done.exit_code == 1
        and "8 of 480 values are not finite, those of 4 prompts (nurse." in done.stderr
        and advice in done.stderr
    )
    assert ("--dtype" in advice) == ("--dtype" in done.stderr)
