"""`mitigate` on models whose heads are known: what each dose leaves, on groups that chose nothing."""

import json
import shutil
from pathlib import Path

import polars as pl
import pytest

import biasscope as bs
from biasscope.engine.errors import UsageError
from biasscope.engine.model.edits import recipe
from tests.support.cli import biasscope
from tests.support.own_prompts import as_csv, row, write

pytestmark = pytest.mark.usefixtures("few_draws")
QUICK = ("--doses", "0.5,1", "--random", 2, "--transfer", "none", "--tokens", 100, "--audit", 1)
SAME = ("--kind", "mean,zero,project,erase,steer", "--sizes", "1,2", "--layers", 3, "--at", "last")


def ranked(folder: Path, model: str, *more) -> str:
    """The key of an ablation of that model, which a mitigation starts from."""
    where = ("-o", folder / "r", "--cache-dir", folder / "c", "--json")
    out = biasscope("ablate", "--model", model, *(more or ("-d", "occupations", "--limit", 120)), *where)[1]
    return json.loads(out)["run"]["datasets"][0]["run_key"][:8]


def mitigated(folder: Path, run: str, *more):
    """What `mitigate` prints as JSON, and the folder of its run."""
    where = ("-o", folder / "r", "--cache-dir", folder / "c", "--json")
    document = json.loads(biasscope("mitigate", "--from", run, *QUICK, *more, *where)[1])
    return document, Path(document["run"]["datasets"][0]["path"])


def left(document, subset: str = "judged") -> dict[str, float]:
    """Edit → what is left of the slope."""
    rows = [r for r in document["summary"] if (r["statistic"], r["subset"]) == ("left", subset)]
    return {r["position"]: r["estimate"] for r in rows}


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("mitigate")


@pytest.fixture(scope="module")
def single(home):
    """All kinds of edits of `planted:single`, whose stereotype one head moves: L1H2."""
    run = ranked(home, "planted:single")
    return run, *mitigated(home, run, *SAME)


def test_an_edit_of_the_planted_head_leaves_what_its_dose_says(single):
    _, document, folder = single
    found = left(document)
    for kind in ("mean", "zero", "project"):
        assert found[f"{kind}-1@0.5"] == pytest.approx(0.504, abs=0.02)
        assert found[f"{kind}-1@1"] == pytest.approx(0.008, abs=0.02)
    assert found["erase-L3@0.5"] == pytest.approx(0.49, abs=0.02)
    assert found["erase-L3@1"] == pytest.approx(-0.03, abs=0.02)
    assert found["steer-L3@1"] == pytest.approx(1, abs=0.02)
    own = pl.read_parquet(folder / "edits.parquet").filter(role="own", name="mean-1@1")
    assert own["sites"].to_list() == ["L1H2"] and own["k"].to_list() == [1]


def test_nothing_of_the_half_that_chose_judges_and_no_random_edit_holds_a_chosen_head(single):
    _, document, folder = single
    effects = pl.read_parquet(folder / "effects.parquet").filter(dataset="occupations")
    controls = effects.filter(pl.col("position").str.contains(".", literal=True) & (pl.col("metric") == "kl"))
    drawn = controls.filter(pl.col("position").str.contains("(size|cost|labels|place|direction)"))
    judges = set(drawn["group"])
    assert len(judges) == 30 and document["run"]["datasets"][0]["groups"] == 30
    rows = [
        r for r in document["summary"] if r["statistic"] == "left" and r["subset"] in ("judged", "choosing")
    ]
    assert {r["clusters"] for r in rows} == {30}
    edits = pl.read_parquet(folder / "edits.parquet")
    chosen = dict(edits.filter(role="own").select("name", "sites").iter_rows())
    for of, role, sites in edits.select("of", "role", "sites").iter_rows():
        if role in ("size", "cost", "place"):
            assert not set(sites.split()) & set(chosen[of].split())
    assert set(edits["role"]) == {"own", "size", "cost", "labels", "place", "direction"}


def test_an_edit_in_the_baseline_gives_the_values_that_were_judged(single, home, tmp_path):
    run, _, folder = single
    to = ("--export", "erase-L3@1", "--to", tmp_path / "out")
    mitigated(home, run, *SAME, *to)
    assert {f.name for f in (tmp_path / "out").iterdir()} == {"edit.safetensors", "card.md"}
    known = pl.read_parquet(folder / "edits.parquet").filter(name="erase-L3@1")
    assert recipe.read(tmp_path / "out" / "edit.safetensors").digest == known["digest"][0]
    where = ("-o", tmp_path / "r", "--cache-dir", home / "c", "--json", "--rows")
    data = ("-m", "planted:single", "-d", "occupations", "--limit", 120)
    _, out, _ = biasscope("baseline", *data, "--edit", tmp_path / "out" / "edit.safetensors", *where)
    scores = {r["example_id"]: r["value"] for r in json.loads(out)["rows"] if r["metric"] == "target"}
    effects = pl.read_parquet(folder / "effects.parquet").filter(
        position="erase-L3@1", metric="target", dataset="occupations"
    )
    values = dict(effects.select("example_id", "value").iter_rows())
    assert len(values) == 120 and values == pytest.approx({i: scores[i] for i in values}, abs=1e-4)
    own = ("-o", tmp_path / "r", "--cache-dir", home / "c", "--json")
    edited = json.loads(out)["run"]["datasets"][0]["path"]
    plain = json.loads(biasscope("baseline", *data, *own)[1])["run"]["datasets"][0]["path"]
    (pair,) = json.loads(biasscope("compare", plain, edited, *own)[1])["models"]
    left = pl.read_parquet(f"{edited}/summary.parquet")["estimate"][0]
    assert pair["case"] == "weaker" and "edited by erase-L3@1" in pair["sentence"]
    assert pair["differences"][0]["second_estimate"] == pytest.approx(left)
    card = (tmp_path / "out" / "card.md").read_text(encoding="utf-8")
    assert "Not testable: 2 random edits" in card and str(home) not in card and "probe --edit" in card


def test_an_audit_has_the_numbers_of_ablate_on_the_edited_model_and_on_the_model_as_it_is(
    single, home, tmp_path
):
    run, document, folder = single
    rows = [r for r in document["summary"] if r["subset"] == "audit" and r["layer"] == 1 and r["head"] == 2]
    found = {r["position"]: r["estimate"] for r in rows}
    assert found["clean"] == pytest.approx(-1.29, abs=0.02)
    assert not {"mean-1@1", "zero-1@1"} & found.keys()  # held at its mean, it has nothing to be replaced
    assert found["project-1@1"] == pytest.approx(0, abs=0.02)
    assert found["steer-L3@1"] == pytest.approx(found["clean"], abs=0.05)
    mitigated(home, run, *SAME, "--export", "mean-2@1", "--to", tmp_path / "out")
    card = (tmp_path / "out" / "card.md").read_text(encoding="utf-8")
    assert "heads with a star: 0 of 16 (before the edit 1)" in card
    where = ("-o", tmp_path / "r", "--cache-dir", home / "c", "--json")
    data = ("-m", "planted:single", "-d", "occupations", "--limit", 120)
    how = ("--edit", tmp_path / "out" / "edit.safetensors", "--layers", "1,3")
    out = json.loads(biasscope("ablate", *data, *how, *where)[1])
    place = ["example_id", "layer", "head"]
    audit = pl.read_parquet(folder / "audit.parquet").filter(position="mean-2@1")
    ablated = pl.read_parquet(Path(out["run"]["datasets"][0]["path"]) / "effects.parquet")
    whole = ablated.filter(metric="target")
    both = audit.join(whole, on=place, how="inner", suffix="_ablated")
    assert both.height >= 60 and audit.n_unique("example_id") == 60
    for column in ("baseline", "value"):
        assert (both[column] - both[f"{column}_ablated"]).abs().max() < 1e-5


def test_a_run_that_was_cut_in_half_ends_with_the_same_bytes(single, home, tmp_path):
    run, document, _ = single
    key = document["run"]["datasets"][0]["run_key"]
    shutil.copytree(home / "c", tmp_path / "c", symlinks=True)
    shutil.copytree(
        home / "r" / "planted-single" / "occupations" / "ablate", tmp_path / "r" / "a" / "b" / "ablate"
    )
    journal = tmp_path / "c" / "runs" / key / "journal.jsonl"
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b"".join(lines[: len(lines) // 2]))
    again, _ = mitigated(tmp_path, run, *SAME)
    (part,) = again["run"]["datasets"]
    assert part["run_key"] == key and len(journal.read_bytes().splitlines()) == len(lines)
    assert part["tables"] == document["run"]["datasets"][0]["tables"]


def test_two_heads_that_clip_each_other_leave_everything_at_any_dose(tmp_path):
    run = ranked(tmp_path, "planted:redundant", "-d", "occupations", "--limit", 60)
    document, _ = mitigated(tmp_path, run, "--kind", "zero", "--sizes", 1)
    assert set(left(document)) == {"zero-1@0.5", "zero-1@1"}
    assert left(document) == pytest.approx(dict.fromkeys(left(document), 1.0), abs=0.03)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("--doses", "0.5,1.5"), 2, "has one outside 0 to 1"),
        (("--doses", "much"), 2, "--doses 'much' cannot be read"),
        (("--kind", "erase", "--layers", 9), 2, "layer 9 is not in the model; it has layers 0-3"),
        (("--kind", "fold"), 2, "--kind 'fold' is not one of mean, zero, project, erase, steer"),
        (("--at", "first"), 2, "--at 'first' is none of: term, last"),
        (("--sizes", "9"), 2, "the run has 16 heads, and as many must be left"),
        (("--transfer", "occupations"), 2, "is the run's own data"),
        (("--transfer", "definitional"), 2, "has a slope and"),
        (("--export", "mean-1@1"), 2, "--export NAME and --to FOLDER go together"),
    ],
)
def test_bad_input_is_refused_in_one_line(single, home, arguments, code, message):
    where = ("-o", home / "r", "--cache-dir", home / "c")
    found, _, err = biasscope("mitigate", "--from", single[0], *arguments, *where, ok=False)
    assert found == code and message in err and "Traceback" not in err


def test_where_one_form_is_refused_none_is_written(single, home, tmp_path):
    where = ("-o", home / "r", "--cache-dir", home / "c", "--to", tmp_path / "out")
    how = ("--export", "zero-1@1", "--as", "weights,gguf")
    code, _, err = biasscope("mitigate", "--from", single[0], *QUICK, *SAME, *how, *where, ok=False)
    assert code == 4 and "--as gguf holds a vector that is added, and zero-1@1 does more" in err
    assert not list((tmp_path / "out").iterdir())


def test_a_folder_that_holds_something_is_left_alone(single, home, tmp_path):
    (tmp_path / "mine.txt").write_text("x", encoding="utf-8")
    where = ("-o", home / "r", "--cache-dir", home / "c", "--to", tmp_path, "--export", "mean-1@1")
    code, _, err = biasscope("mitigate", "--from", single[0], *where, ok=False)
    assert code == 2 and "is not empty; give a new folder" in err
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_prompts_without_a_covariate_are_judged_by_their_mean_and_in_their_own_words(tmp_path):
    words = ["nurse", "engineer", "baker", "clerk", "teacher", "doctor", "lawyer", "painter"] * 2
    rows = [row(prompt=f"The {w} said that", a="he", b="she", group=f"{w}{i}") for i, w in enumerate(words)]
    data = write(tmp_path / "mine.csv", as_csv(rows))
    run = ranked(tmp_path, "planted:single", "-d", data)
    document, _ = mitigated(tmp_path, run, "--sizes", 1)
    assert {r["statistic"] for r in document["summary"]} >= {"mean", "left", "value"}
    assert "slope" not in {r["statistic"] for r in document["summary"]}
    assert "stereotype" not in json.dumps(document["verdicts"])
    where = ("-o", tmp_path / "r", "--cache-dir", tmp_path / "c")
    code, _, err = biasscope("mitigate", "--from", run, "--kind", "erase", *where, ok=False)
    assert code == 2 and "fitted to a number of each group, and mine has none" in err


def test_a_file_may_be_called_text_and_its_covariate_be_yes_or_no(tmp_path):
    """Most groups have a 1: no group is above the median, and the mean parts them."""
    words = ["nurse", "engineer", "baker", "clerk", "teacher", "doctor", "lawyer", "painter"]
    words += ["plumber", "farmer", "chef", "pilot", "judge", "tailor", "guard", "writer"]
    rows = [
        row(prompt=f"The {w} said that", a="he", b="she", group=w, covariate=int(i % 3 != 1))
        for i, w in enumerate(words)
    ]
    run = ranked(tmp_path, "planted:single", "-d", write(tmp_path / "text.csv", as_csv(rows)))
    kinds = ("--kind", "mean,steer", "--sizes", 1, "--layers", 3, "--at", "last")
    document, folder = mitigated(tmp_path, run, *kinds)
    effects = pl.read_parquet(folder / "effects.parquet")
    steered = effects.filter(position="steer-L3@1", metric="target")
    assert steered["value"].is_finite().all() and steered["effect"].abs().max() > 0.01
    sizes = {r["subset"]: r["n"] for r in document["summary"] if r["statistic"] == "value"}
    assert sizes == {"judged": 8, "choosing": 8}


def test_where_the_clean_number_may_be_0_it_is_said_and_no_random_edit_is_made(tmp_path):
    """Every second word the other way round: the mean is about 0."""
    words = [f"{a}{b}" for a in "bcdfghkl" for b in ("aker", "iner")]
    sides = [{"a": "he", "b": "she"}, {"a": "she", "b": "he"}] * 8
    rows = [row(prompt=f"The {w} said that", group=w, **side) for w, side in zip(words, sides, strict=True)]
    run = ranked(tmp_path, "planted:single", "-d", write(tmp_path / "even.csv", as_csv(rows)))
    document, folder = mitigated(tmp_path, run, "--kind", "mean", "--sizes", 1)
    assert set(pl.read_parquet(folder / "edits.parquet")["role"]) == {"own"}
    (said,) = [text for text in document["warnings"] if "half that judges" in text]
    assert "may be 0" in said and said.endswith("no random ones are made")
    assert all("Not testable: the interval of the clean mean" in v["verdict"] for v in document["verdicts"])


@pytest.mark.parametrize(
    ("name", "message"),
    [("winogender.csv", "is the run's own data, or called so"), ("definitional", "gender is a fact there")],
)
def test_data_to_judge_on_too_are_other_data_of_a_stereotype(tmp_path, name, message):
    rows = [row(prompt="The nurse said that", a="he", b="she", group=f"g{i}") for i in range(8)]
    for folder in "ab":
        (tmp_path / folder).mkdir()
    own, other = (write(tmp_path / f / "winogender.csv", as_csv(rows)) for f in ("a", "b"))
    run = ranked(tmp_path, "planted:single", "-d", own)
    where = ("-o", tmp_path / "r", "--cache-dir", tmp_path / "c")
    transfer = ("--transfer", other if name.endswith("csv") else name)
    code, _, err = biasscope("mitigate", "--from", run, *transfer, *where, ok=False)
    assert code == 2 and message in err


def test_the_api_makes_and_writes_an_edit_as_the_command_does(single, home, tmp_path):
    run = bs.mitigate(
        bs.load(single[0], home / "r", home / "c"),
        kind=["mean", "zero", "project", "erase", "steer"],
        sizes=[1, 2],
        layers=3,
        at="last",
        doses=[0.5, 1],
        random=2,
        transfer="none",
        tokens=100,
        audit=1,
    )
    assert run.folder == single[2] and run.table("edits").height > 20
    files = bs.export(run, "steer-L3@1", tmp_path / "out", ["vector", "gguf"])
    names = {"vector.safetensors", "control-vector.gguf", "edit.safetensors", "card.md"}
    assert {file.name for file in files} == names and all(file.is_file() for file in files)
    with pytest.raises(UsageError, match="unknown edit 'mean-9@1'"):
        bs.export(run, "mean-9@1", tmp_path / "other")
    with pytest.raises(UsageError, match="--sizes 9: the run has 16 heads"):
        bs.mitigate(bs.load(single[0], home / "r", home / "c"), sizes=9)
    with pytest.raises(UsageError, match="--audit -1 is no number"):
        bs.mitigate(run, audit=-1)
    with pytest.raises(TypeError, match="unknown option of mitigate 'dose'"):
        bs.mitigate(run, dose=1)
