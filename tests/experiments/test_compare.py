"""`compare` reads runs by their keys: rankings of sites, and two models on one data set."""

import json
import re
import shutil

import numpy as np
import polars as pl
import pytest

from biasscope.engine.model import planted
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
            ("patch", ("--method", "edges")),
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
    code, _, err = biasscope("compare", keys[2], "-o", tmp_path / "r", ok=False)
    assert code == 4 and "give two runs or more" in err
    code, _, err = biasscope("compare", keys[1], "-o", tmp_path / "r", ok=False)
    assert code == 4 and "cannot be compared" in err
    code, _, err = biasscope("compare", keys[1], keys[3], "-o", tmp_path / "r", ok=False)
    assert code == 4 and "rank no sites of one kind" in err and "100 edges" in " ".join(err.split())


@pytest.fixture(scope="module")
def two_models(tmp_path_factory):
    """The results folder with a planted model, and with one of half its strength in a folder of the same
    name: baseline and scan of each.
    """
    home = tmp_path_factory.mktemp("two")
    for model in ("planted:single", "planted:single@0.5"):
        half = home / model.partition("@")[2] / "checkpoint-100"
        half.parent.mkdir(exist_ok=True)
        planted.save(model.removeprefix("planted:"), half)
        for command in ("baseline", "ablate"):
            where = ("--cache-dir", home / "cache", "-o", home / "results", "-q")
            biasscope(command, "-m", half, "-d", "occupations", "--limit", 60, *where)
    return home / "results"


def compared(results, *commands, form="--json"):
    """What `compare` says of the runs of these commands, the first model's first."""
    runs = [run for command in commands for run in sorted(results.glob(f"*/*/{command}/*"))]
    return biasscope("compare", *runs, "-o", results, "--cache-dir", results / "no", *form.split())[1]


def test_a_model_of_half_the_strength_differs_by_what_was_planted(two_models):
    scores, sites = json.loads(compared(two_models, "baseline", "ablate"), parse_constant=pytest.fail)[
        "models"
    ]
    assert (scores["kind"], sites["kind"], scores["case"], scores["examples"]) == (
        "baseline",
        "sites",
        "weaker",
        60,
    )
    assert scores["names"][1].startswith("checkpoint-100·") and scores["names"][0] == "checkpoint-100"
    slope = scores["differences"][0]
    s = np.array(list(planted.words().occupations.values()), dtype=object)
    spread = np.std([each["s"] for each in s])
    assert slope["statistic"] == "slope" and slope["p_family"] < 0.05
    assert slope["estimate"] == pytest.approx(-planted.A / 2 * spread, abs=1e-4)
    assert slope["ci_low"] == pytest.approx(slope["ci_high"], abs=1e-4)
    head, *others = [row for row in sites["differences"] if row["statistic"] == "slope"]
    assert (head["layer"], head["head"]) == (1, 2)  # removing half as much
    assert head["estimate"] == pytest.approx(-slope["estimate"], abs=1e-4)
    assert all(abs(row["estimate"]) < 1e-4 for row in others if row["metric"] == "target")


def test_the_sentence_answers_in_the_table_and_rows_fit_the_other_formats(two_models):
    table = compared(two_models, "baseline", form="--format table")
    assert re.match(
        r"Is checkpoint-100·\w{4} less stereotyped than checkpoint-100\? Yes, on these sen", table
    )
    assert "B − A" in table and max(map(len, table.splitlines()[1:])) < 110
    rows = pl.read_csv(compared(two_models, "baseline", "ablate", form="--format csv").encode())
    assert set(rows["first"]) == {run.name for run in two_models.glob("checkpoint-100/*/*/*")}


def test_a_report_keeps_two_checkpoints_of_one_name_apart_and_answers(two_models, tmp_path):
    biasscope("report", "-o", two_models, "--out", tmp_path / "r.md", "--cache-dir", two_models / "no")
    text = (tmp_path / "r.md").read_text(encoding="utf-8")
    section = text.split("### Between models: occupations")[1].split("\n#")[0]
    assert re.search(r"Is checkpoint-100·\w{4} less stereotyped than checkpoint-100\? Yes", section)
    assert "effects of sites that differ most" in section and section.count("A: checkpoint-100, run") == 2


def test_a_run_beside_a_copy_of_itself_is_the_same(two_models, tmp_path):
    (run,) = two_models.glob("checkpoint-100/*/baseline/*")
    copy = tmp_path / "m" / "occupations" / "baseline" / run.name
    shutil.copytree(run, copy)
    out = biasscope("compare", run, copy, "-o", two_models, "--json")[1]
    (pair,) = json.loads(out)["models"]
    assert pair["case"] == "same" and len(set(pair["names"])) == 2
    assert {row["estimate"] for row in pair["differences"] if row["p"] is not None} == {0.0}
    assert {row["p"] for row in pair["differences"]} == {1.0, None}


def test_models_of_other_shapes_are_compared_by_depth_and_other_data_not_at_all(
    two_models, tiny_folder, tmp_path
):
    (scan,) = two_models.glob("checkpoint-100/*/ablate/*")
    where = ("--cache-dir", tmp_path / "c", "-o", tmp_path / "r", "-q", "--json")
    call = ("-m", tiny_folder("gpt2-narrow"), "-d", "occupations", "--limit", 60)
    small = json.loads(biasscope("ablate", *call, *where)[1])["run"]["datasets"][0]["path"]
    (pair,) = json.loads(biasscope("compare", scan, small, "--json")[1])["models"]
    assert pair["kind"] == "depth" and pair["sentence"] is None
    # two layers of three heads, and four of four: the first tenth and the sixth are in both
    assert {(row["component"], row["layer"]) for row in pair["differences"]} == {
        (component, tenth) for component in ("z", "mlp_out") for tenth in (0, 5)
    }
    (clean,) = two_models.glob("checkpoint-100/*/baseline/*")
    code, _, err = biasscope("compare", scan, clean, ok=False)
    assert code == 4 and "give two runs or more" in err
