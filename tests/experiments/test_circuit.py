"""`circuit` chooses on one half of the groups and reports on the other, and stops where there is nothing to
share out.
"""

import json
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from biasscope.engine.data import datasets
from biasscope.engine.data.datasets import occupations
from biasscope.engine.store import digests
from biasscope.engine.types import Site
from tests.support.cli import biasscope

pytestmark = pytest.mark.usefixtures("few_draws")


def ranked(*arguments) -> str:
    """The name of the run that a command makes."""
    return json.loads(biasscope(*arguments)[1])["run"]["datasets"][0]["run_key"][:8]


def members(document, subset: str) -> list[str]:
    """The sites of a set, as the summary names them."""
    return [
        str(Site(r["layer"], r["component"], r["head"]))
        for r in document["summary"]
        if (r["subset"], r["statistic"]) == (subset, "member")
    ]


def test_circuit_finds_on_one_half_what_holds_on_the_other_and_single_ablation_misses(tmp_path):
    where = ("-o", tmp_path / "r", "--cache-dir", tmp_path / "c", "--json")
    scan = ("--model", "planted:backup", "--dataset", "occupations", "--limit", 120, "--source", "zero")
    ablation = ranked("ablate", *scan, *where)
    _, out, err = biasscope("circuit", "--from", ablation, "--sizes", "1,2,19", "--minimal", *where)
    document = json.loads(out, parse_constant=pytest.fail)
    (part,) = document["run"]["datasets"]
    assert part["groups"] == 30 and part["dropped"] == {"its group chose the sites": 60}
    rows = {(r["method"], r["subset"], r["statistic"]): r for r in document["summary"]}
    # the ranking does not know either of the two
    assert abs(rows["keep", "top 2", "faithfulness"]["estimate"]) < 0.1
    small = rows["keep", "minimal 1", "faithfulness"]
    assert small["ci_low"] < 1.0 < small["ci_high"] and small["estimate"] == pytest.approx(1, abs=0.05)
    assert members(document, "minimal 1") in (["L1H2"], ["L2H1"]) and len(members(document, "top 19")) == 19
    assert document["warnings"] == [] and "1 site keeps" in err
    assert rows["keep", "random 1", "faithfulness"]["n"] == 20
    code, _, err = biasscope("circuit", "--from", ablation, "--sizes", "0", *where, ok=False)
    assert code == 2 and "--sizes '0' cannot be read" in err
    code, _, err = biasscope("circuit", "--from", "ffffffff", *where, ok=False)
    assert code == 2 and "nothing is called 'ffffffff'" in err


@pytest.mark.parametrize(("other", "own"), [("--model", "planted:single"), ("--dataset", "occupations")])
def test_a_circuit_of_a_run_refuses_another_model_and_other_data(tmp_path, other, own):
    where = ("-o", tmp_path / "r", "--cache-dir", tmp_path / "c", "--json")
    scan = ("--model", "planted:single", "--dataset", "occupations", "--limit", 60)
    run = ("--from", ranked("ablate", *scan, *where), "--sizes", 1)
    code, _, err = biasscope("circuit", *run, other, "planted:graded", *where, ok=False)
    assert code == 2 and f"is a run with {other} {own}; leave {other} out" in err
    biasscope("circuit", *run, *scan, *where)  # as its record says to repeat it


def test_circuit_stops_early_where_all_sites_together_do_nothing_and_a_rerun_says_so_at_once(tmp_path):
    where = ("-o", tmp_path / "r", "--cache-dir", tmp_path / "c", "--json")
    scan = ("ablate", "--model", "planted:single", "--dataset", "occupations", *where)
    idle = ranked(*scan, "--limit", 120, "--layers", 3)  # nothing is planted there
    for first in (True, False):
        code, out, err = biasscope("circuit", "--from", idle, "--sizes", "1,2", *where, ok=False)
        assert (code, out) == (4, "") and ("loading" in err) == first and "sets of sites" not in err
        assert (
            "replacing all 5 sites (source mean) changes the slope of target by" in err
            and "which may be 0" in err
        )
        assert "scan more sites (these are 5 of the model's 20 heads and MLPs)" in err
    few = ranked(*scan, "--limit", 8)
    code, _, err = biasscope("circuit", "--from", few, "--sizes", 1, *where, ok=False)
    assert code == 4 and "only 4 groups" in err and "without --limit" in err
    assert not list((tmp_path / "r").glob("*/*/circuit/*/run.json"))


@pytest.mark.parametrize(
    "command",
    [("ablate",), ("patch", "--method", "exact", "--components", "z,mlp_out"), ("patch",)],
    ids="-".join,
)
def test_neither_half_of_a_circuit_depends_on_the_prompts_of_the_other(tmp_path, monkeypatch, command):
    read = occupations.read

    def found(changed=frozenset()):
        """The ranking of one half, and the other's groups and values of the whole model and of none, with
        some groups' prompts changed.
        """

        def texts(*arguments, **options):
            data = read(*arguments, **options)
            other = tuple(
                replace(e, prompt=f"It is raining. {e.prompt}") if e.group in changed else e
                for e in data.examples
            )
            return replace(data, examples=other, digest=digests.of_examples(other))

        monkeypatch.setattr(occupations, "read", texts)
        where = ("-o", tmp_path / "r", "--cache-dir", tmp_path / "c", "--json")
        run = ranked(*command, "--model", "planted:single", "--dataset", "occupations", "--limit", 60, *where)
        document = json.loads(biasscope("circuit", "--from", run, "--sizes", "19", *where)[1])
        folder = Path(document["run"]["datasets"][0]["path"])
        effects, twins = pl.read_parquet(folder / "effects.parquet"), folder / "twins.parquet"
        assert not twins.is_file() or set(pl.read_parquet(twins)["partner"]) <= set(effects["group"])
        return (
            members(document, "top 19"),
            set(effects["group"]),
            effects.filter(position="none").select("example_id", "baseline", "value"),
        )

    ranking, reporting, values = found()
    assert found(reporting)[0] == ranking and not found(reporting)[2].equals(values)
    choosing = {e.group for e in datasets.load("occupations", tmp_path).examples} - reporting
    assert found(choosing)[2].equals(values)


def test_a_circuit_of_chosen_sites_says_that_all_groups_chose_them(tmp_path):
    where = ("-o", tmp_path / "r", "--cache-dir", tmp_path / "c", "--json")
    top = ranked(
        "ablate", "--model", "planted:single", "--dataset", "occupations", "--limit", 60, "--top", 4, *where
    )
    warnings = json.loads(biasscope("circuit", "--from", top, "--sizes", "1", *where)[1])["warnings"]
    assert any("chose its 4 sites on all groups (--top 4)" in text for text in warnings)
