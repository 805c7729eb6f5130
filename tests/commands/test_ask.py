"""`ask`: what a model prefers after a prompt and after its twin, which heads, and that it is an anecdote."""

import json
import math
import os
import re
import subprocess
import sys

import polars as pl
import pytest

from biasscope.engine.model import planted, weights
from tests.support.cli import biasscope


def ask(*words, where, ok=True):
    return biasscope("ask", *words, "-m", "planted:single", "--cache-dir", where / "c", ok=ok)


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    return tmp_path_factory.mktemp("ask")


def test_the_planted_head_is_first_and_carries_what_was_planted(where):
    answer = json.loads(
        ask("The nurse said that", "he", "she", "--json", where=where)[1], parse_constant=pytest.fail
    )
    known = planted.words().occupations
    assert answer["source"] == "corrupt" and answer["heads"][0]["site"] == "L1H2"
    partner = answer["why"].removeprefix("nurse exchanged for ")
    moved = planted.A * (known[partner]["s"] - known["nurse"]["s"])
    assert answer["heads"][0]["effect"] == pytest.approx(moved, abs=0.05)
    sides = answer["prompt"]["continuations"]
    assert answer["prompt"]["target"] == pytest.approx(sides[0]["logp"] - sides[1]["logp"])
    assert answer["total"] == pytest.approx(answer["twin"]["target"] - answer["prompt"]["target"], abs=1e-4)
    assert answer["prompt"]["tokens"] == ["The", " nurse", " said", " that"] and sides[0]["tokens"] == [" he"]


def test_people_read_odds_tokens_the_twin_and_that_it_is_an_anecdote(where):
    out = ask("The nurse said that", "he", "she", "--format", "table", where=where)[1]
    assert re.search(r"“she” is 3\.\d+ times as likely as “he”", out)
    assert "twin: nurse exchanged for" in out and "[ nurse]" in out and "One prompt is an anecdote" in out


def test_a_long_continuation_is_answered_however_unlikely_it_is(where):
    out = ask("The nurse said that", "a b c d " * 100, "she", "--format", "table", where=where)[1]
    assert "“she” is more than 1000 times as likely" in " ".join(out.split())


def test_numbers_stay_numbers_in_csv(where):
    out = ask("They said that", "she", "he", "--format", "csv", where=where)[1]
    other = ask("They said that", "he", "she", "--format", "csv", where=where)[1]
    effects = [pl.read_csv(text.encode())["effect"] for text in (out, other)]
    assert effects[0].dtype == pl.Float64 and effects[0].to_list() == pytest.approx((-effects[1]).to_list())


def test_without_a_known_term_there_is_no_twin_and_nothing_is_patched(where):
    answer = json.loads(ask("They said that", "he", "she", "--json", where=where)[1])
    assert answer["twin"] is None and answer["total"] is None and answer["source"] == "zero"
    assert "no word of it has a counterpart" in answer["why"] and len(answer["heads"]) == 5


@pytest.mark.parametrize(
    ("words", "message"), [(("he", "he"), "give two that differ"), (("he", " "), "is empty")]
)
def test_nothing_to_compare_is_exit_2_before_a_model_is_looked_for(where, words, message, monkeypatch):
    monkeypatch.setattr(weights, "locate", lambda *a, **k: pytest.fail("the model was loaded first"))
    code, _, err = ask("The nurse said that", *words, where=where, ok=False)
    assert code == 2 and message in err


@pytest.mark.real
def test_smollm2_answers_in_under_ten_seconds_of_a_core(real_model, cache_dir):
    words = ["ask", "The nurse said that", "he", "she", "--cache-dir", str(cache_dir), "--json"]
    before = os.times()
    done = subprocess.run(
        [sys.executable, "-m", "biasscope", *words],
        capture_output=True,
        check=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    after = os.times()
    answer = json.loads(done.stdout)
    assert answer["prompt"]["target"] == pytest.approx(-1.60, abs=0.02)  # as measured outside
    assert answer["heads"][0]["site"] == "L26H2" and math.exp(-answer["prompt"]["target"]) > 4
    assert after.children_user - before.children_user + after.children_system - before.children_system < 14
