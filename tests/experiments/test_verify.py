"""Planted models serve the commands, and `verify` says which guarantee breaks."""

import json

import pytest

from biasscope.engine.model import planted
from tests.support.cli import biasscope

pytestmark = pytest.mark.usefixtures("few_draws")


def test_a_planted_model_serves_the_commands_and_a_wrong_kind_is_a_usage_error(tmp_path):
    where = (
        "--dataset",
        "occupations",
        "--limit",
        60,
        "-o",
        tmp_path / "results",
        "--cache-dir",
        tmp_path / "cache",
        "--json",
    )
    rows = json.loads(
        biasscope("ablate", "--model", "planted:single", "--control", "definitional", *where)[1]
    )["summary"]
    first = next(r for r in rows if (r["layer"], r["head"], r["statistic"]) == (1, 2, "slope"))
    assert first["specificity"] > 0.8 and rows[0] == first
    assert {r["dataset"] for r in rows} == {"occupations", "definitional"}
    beside = json.loads(
        biasscope("ablate", "--model", "planted:backup", "--given", "1.2", "--source", "zero", *where)[1]
    )["summary"]
    assert (beside[0]["layer"], beside[0]["head"]) == (2, 1)
    assert not [r for r in beside if (r["layer"], r["head"]) == (1, 2)]
    code, _, err = biasscope("baseline", "--model", "planted:nothing", *where, ok=False)
    assert code == 2 and "planted:single, planted:redundant" in err
    code, _, err = biasscope("ablate", "--model", "planted:single", "--given", "9.0", *where, ok=False)
    assert code == 2 and "layers 0-3, heads 0-3" in err


def test_verify_holds_and_says_which_guarantee_breaks_if_one_does(monkeypatch):
    monkeypatch.setattr(
        planted, "KINDS", {k: v for k, v in planted.KINDS.items() if k in ("masked", "backup")}
    )
    findings = json.loads(biasscope("verify", "--limit", 60, "--json", "-q")[1], parse_constant=pytest.fail)
    assert {f["model"] for f in findings} == {"masked", "backup"} and all(f["holds"] for f in findings)
    assert {f["verdict"] for f in findings} >= {"found", "missed"}
    monkeypatch.setattr(planted, "KINDS", {"masked": "one"})
    # weights of other strengths than those that the truth is worked out from
    planted_with = planted.build

    def weaker(kind, known=None, *, seed=0):
        with monkeypatch.context() as m:
            m.setattr(planted, "A", 1.0)
            return planted_with(kind, known, seed=seed)

    monkeypatch.setattr(planted, "build", weaker)
    code, out, err = biasscope("verify", "--limit", 60, "--json", "-q", ok=False)
    assert (
        code == 1
        and "guarantees broken, first: masked" in err
        and any(f["verdict"] == "BROKEN" for f in json.loads(out))
    )
