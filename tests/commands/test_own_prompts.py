"""Prompts of one's own through the commands: rows by a column, runs that repeat, odd and hostile texts."""

import json
import shlex
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import biasscope as bs
from tests.support.cli import biasscope
from tests.support.own_prompts import as_csv, row, winogender_as_rows, write

pytestmark = pytest.mark.usefixtures("few_draws")
WORDS = ("nurse", "clerk", "plumber", "teacher", "engineer", "carpenter")
ROWS = [
    row(id=f"{word}.{verb}", prompt=f"The {word} {verb} that", group=word, share=n, verb=verb)
    for n, word in enumerate(WORDS)
    for verb in ("said", "had told")
]


@pytest.fixture
def call(tmp_path: Path, tiny_gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A command on rows of one's own, in a folder of its own, as a document."""
    monkeypatch.chdir(tmp_path)
    places = ["--cache-dir", "cache", "-o", "results", "-m", tiny_gpt2, "--device", "cpu"]

    def run(command: str, rows: list[dict[str, Any]], *options: object, ok: bool = True) -> Any:
        file = write(Path("mine.csv"), as_csv(rows))
        code, out, err = biasscope(command, "-d", file, *options, *places, "--json", ok=ok)
        return json.loads(out) if ok else (code, err)

    return run


def test_rows_by_a_column_are_the_means_of_its_values(call: Any) -> None:
    document = call("baseline", ROWS, "--group-by", "verb", "--rows")
    targets = {r["example_id"]: r["value"] for r in document["rows"] if r.get("metric") == "target"}
    for verb in ("said", "had told"):
        (mean,) = [
            r["estimate"]
            for r in document["summary"]
            if (r["subset"], r["metric"], r["statistic"]) == (f"verb: {verb}", "target", "mean")
        ]
        values = [value for name, value in targets.items() if name.endswith(f".{verb}")]
        assert len(values) == 6 and mean == pytest.approx(sum(values) / 6)
    assert "--group-by verb" in document["run"]["reproduce"]


def test_a_slope_that_is_not_found_has_a_verdict_where_some_groups_have_no_covariate(call: Any) -> None:
    without = [r | {"group": f"a {r['group']}", "id": f"a {r['id']}", "share": ""} for r in ROWS]
    (verdict,) = call("baseline", [*ROWS, *without])["verdict"]
    assert verdict["case"] == "none" and "With each 1.71 more in the share" in verdict["sentence"]


@pytest.mark.parametrize(("kinds", "has"), [(("neg", "nonneg"), True), (("neg", "positive"), False)])
def test_a_preference_is_of_questions_in_both_polarities_alone(
    call: Any, kinds: tuple[str, str], has: bool
) -> None:
    summary = call("baseline", [r | {"polarity": kinds[n % 2]} for n, r in enumerate(ROWS)])["summary"]
    assert has == any(r["statistic"] == "preference" for r in summary)


def test_without_the_option_there_are_no_such_rows_and_another_run(call: Any) -> None:
    grouped, plain = call("baseline", ROWS, "--group-by", "verb"), call("baseline", ROWS)
    assert not [r for r in plain["summary"] if r["subset"].startswith("verb")]
    keys = [d["run"]["datasets"][0]["run_key"] for d in (grouped, plain)]
    assert keys[0] != keys[1]


@pytest.mark.parametrize(
    ("column", "message"),
    [
        ("verbs", "unknown column of mine 'verbs' (did you mean 'verb'?); choose from: number, verb"),
        ("number", "--group-by number would make 201 rows; a column of at most 200 values can be taken"),
    ],
)
def test_a_column_that_cannot_group_is_a_usage_error(call: Any, column: str, message: str) -> None:
    rows = [row(id=n, number=n, verb="said", prompt=f"The nurse {n}", group="x") for n in range(201)]
    code, err = call("baseline", rows, "--group-by", column, ok=False)
    assert code == 2 and message in err


def test_a_run_on_a_file_is_repeated_by_its_command_and_feeds_a_circuit_and_a_notebook(call: Any) -> None:
    run = call("ablate", ROWS, "--heads", "1.0,1.1,2.2", "--no-space")["run"]
    assert {"mine.csv", "--no-space"} <= set(shlex.split(run["reproduce"]))
    _, *words = shlex.split(run["reproduce"])
    again = json.loads(biasscope(*words, "--no-cache", "--json")[1])["run"]
    assert again["datasets"][0]["tables"] == run["datasets"][0]["tables"]
    loaded = bs.load(run["datasets"][0]["run_key"][:8], "results", "cache")
    assert loaded.prompts("1.0", 50)["stereo"].unique().to_list() == ["he"]
    folder = run["datasets"][0]["path"]
    code, _, err = biasscope("circuit", "--from", folder, "--cache-dir", "cache", "-o", "results", ok=False)
    assert code in (0, 4) and "unknown dataset" not in err
    write(Path("mine.csv"), as_csv(ROWS[2:]))
    code, _, err = biasscope("circuit", "--from", folder, "--cache-dir", "cache", "-o", "results", ok=False)
    assert code == 4 and "measured other examples than mine has now; measure it again" in err


def test_a_table_in_memory_is_another_run_where_only_its_covariate_differs(tiny_folder, tmp_path) -> None:
    lm = bs.load_model(str(tiny_folder("gpt2")))
    places = {"cache_dir": tmp_path / "cache", "output_dir": tmp_path / "results"}
    first = bs.baseline(lm, bs.prompts(ROWS), **places)
    other = bs.baseline(lm, bs.prompts([r | {"share": -r["share"]} for r in ROWS]), **places)
    assert first.key != other.key
    slopes = [run.summary.filter(subset="all", statistic="slope")["estimate"][0] for run in (first, other)]
    assert slopes[0] == pytest.approx(-slopes[1]) and slopes[0] != 0


def test_a_path_and_its_options_are_the_run_of_the_command(call: Any, tiny_gpt2: Path) -> None:
    rows = [*ROWS, row(group="nurse", b="he")]
    named = call("baseline", rows, "--skip-invalid", "--no-space")["run"]
    data = bs.prompts("mine.csv", skip_invalid=True, no_space=True)
    held = bs.baseline(str(tiny_gpt2), data, cache_dir="cache", output_dir="results", device="cpu")
    assert held.record.reproduce == named["reproduce"] and held.record.datasets[0].reused


@pytest.mark.real
def test_winogender_as_csv_has_winogender_s_numbers(call: Any, shared_data: Path, tmp_path: Path) -> None:
    biasscope("download", "winogender", "--from", shared_data)
    truth = bs.load_dataset("winogender")
    mine = call("baseline", winogender_as_rows(truth))["summary"]
    known = call("baseline", [row()], "-d", "winogender")["summary"]
    mine, known = (
        {
            (r["metric"], r["statistic"].removesuffix("_bls")): [
                r[n] or 0.0 for n in ("estimate", "ci_low", "p")
            ]
            for r in summary
            if r["dataset"] == name and r["subset"] == "all" and "bergsma" not in r["statistic"]
        }
        for summary, name in ((mine, "mine"), (known, "winogender"))
    )
    assert set(mine) == set(known) and ("target", "slope") in mine and len(mine) > 5
    # other subsets beside them move the last bits
    assert all(mine[key] == pytest.approx(known[key], rel=1e-12) for key in mine)


# Designs that give no number, and must give no traceback


DESIGNS = {
    "one group": [r | {"group": "x", "share": 3} for r in ROWS],
    "no group": [{k: v for k, v in r.items() if k not in ("group", "share")} for r in ROWS],
    "constant covariate": [r | {"share": 3} for r in ROWS],
    "a covariate of two groups": [r | ({} if r["group"] in WORDS[:2] else {"share": ""}) for r in ROWS],
    "a bias type of one's own": [r | {"bias_type": "hair colour"} for r in ROWS],
    "one record": ROWS[:1],
    "two records": ROWS[:2],
    "two prompts": [
        {"prompt": f"The {w}", "prompt_b": f"My {w}", "continuation": "said that", "group": w} for w in WORDS
    ],
    "phrases": [r | {"a": "very kind", "b": "very weak or strong", "per_token": True} for r in ROWS],
    "twins": [r | {"twin": r["prompt"].replace("The", "My")} for r in ROWS],
}


@pytest.mark.parametrize("design", DESIGNS)
def test_odd_designs_give_numbers_or_dashes(call: Any, design: str) -> None:
    rows = DESIGNS[design]
    summary = call("baseline", rows)["summary"]
    (mean,) = [r for r in summary if (r["subset"], r["metric"], r["statistic"]) == ("all", "target", "mean")]
    assert mean["estimate"] is not None and (mean["ci_low"] is None) == (mean["clusters"] < 6)
    effects = call(
        "patch", rows, "--source", "mean", "--method", "exact", "--components", "z", "--layers", "1"
    )
    assert effects["summary"]


@pytest.mark.parametrize("design", ["two prompts", "twins"])
def test_twins_of_one_s_own_are_patched(call: Any, design: str) -> None:
    part = call("patch", DESIGNS[design], "--components", "z", "--layers", "1")["run"]["datasets"][0]
    twins = pl.read_parquet(f"{part['path']}/twins.parquet")
    assert twins.height == part["used"] > 0 and (twins["clean"] != twins["twin"]).all()


def test_without_twins_the_source_that_works_is_named(call: Any) -> None:
    code, err = call("patch", ROWS, ok=False)
    assert code == 2 and "--source mean" in err


# Hostile texts


HOSTILE = "<script>alert(1)</script> | `x` [a](http://b) **b** =cmd|' /C calc'!A0 \u202e\u200b"


def test_hostile_cells_stay_harmless_in_table_markdown_and_page(call: Any, tiny_gpt2: Path) -> None:
    rows = [r | {"group": f"{r['group']} {HOSTILE}", "note <b>|": f"{r['verb']} {HOSTILE}"} for r in ROWS]
    rows = [r | {"bias_type": f"{HOSTILE}{n % 2}"} for n, r in enumerate(rows)]
    call("baseline", rows, "--group-by", "note <b>|")
    call("ablate", rows, "--heads", "1.0,1.1")
    assert biasscope("report", "-o", "results", "--cache-dir", "cache", "--json")[0] == 0
    page = Path("results/report.html").read_text(encoding="utf-8")
    text = Path("results/report.md").read_text(encoding="utf-8")
    assert "alert(1)" in page and "<script>alert" not in page
    assert "alert(1)" in text and "<script" not in text and "[a](http" not in text and "**b**" not in text
    options = ["--group-by", "note <b>|", "-m", tiny_gpt2, "--device", "cpu", "--cache-dir", "cache"]
    for form in ("table", "markdown"):
        _, out, err = biasscope("baseline", "-d", "mine.csv", *options, "-o", "results", "--format", form)
        assert "alert(1)" in out and not set("\x1b\u202e\u200b") & set(out + err)
    assert "<script" not in out and len({line.count(" | ") for line in out.splitlines()}) == 1


def test_a_formula_is_a_text_in_a_spreadsheet(call: Any, tiny_gpt2: Path) -> None:
    call("pairs", [row(prompt="=1+1 says", twin="=1+2 says", group="x")])
    options = ["-m", tiny_gpt2, "--device", "cpu", "--cache-dir", "cache", "-o", "results", "--format", "csv"]
    out = biasscope("pairs", "-d", "mine.csv", *options)[1]
    assert out.splitlines() == ["clean,twin", "'=1+1 says,'=1+2 says"]
