"""`compare` reads runs by their keys."""

import json

import pytest

from tests.support.cli import biasscope

pytestmark = pytest.mark.usefixtures("few_draws")


def test_compare_reads_runs_by_key_and_refuses_what_ranks_nothing(tmp_path):
    where = ("-o", tmp_path / "r", "--cache-dir", tmp_path / "c", "--json")
    data = ("--model", "planted:single", "--dataset", "occupations", "--limit", 60)
    keys = [
        json.loads(biasscope(command, *data, *more, *where)[1])["run"]["datasets"][0]["run_key"][:8]
        for command, more in (
            ("ablate", ("--source", "all")),
            ("patch", ("--components", "z,mlp_out")),
            ("baseline", ()),
        )
    ]
    document = json.loads(
        biasscope("compare", *keys[:2], "--top", 5, "-o", tmp_path / "r", "--json")[1],
        parse_constant=pytest.fail,
    )
    assert {r["first"] for r in document["pairs"]} == {f"{keys[0]} {s}" for s in ("mean", "zero", "resample")}
    assert document["common"][0]["site"] == "L1H2" and len(document["common"][0]["estimates"]) == 4
    _, out, _ = biasscope("compare", *keys[:2], "-o", tmp_path / "r", "--format", "table")
    assert (
        "significant in all" in out and "…" not in out.split("agreement of rankings")[1].split("signif.:")[0]
    )
    code, _, err = biasscope("compare", keys[0], keys[2], "-o", tmp_path / "r", ok=False)
    assert code == 4 and "which ranks no sites" in err
    code, _, err = biasscope("compare", keys[1], "-o", tmp_path / "r", ok=False)
    assert code == 4 and "cannot be compared" in err
