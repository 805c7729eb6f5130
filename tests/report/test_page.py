"""The report says what the tables say, no more; it stands alone, stays harmless, and is not drawn twice."""

import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import polars as pl
import pytest

from biasscope.engine.schemas import number
from biasscope.engine.statistics import summary
from biasscope.engine.store import runs
from biasscope.report import words
from biasscope.report.page import first_screen, gather, pairing
from tests.support.cli import biasscope

pytestmark = pytest.mark.usefixtures("few_draws")

WHAT = ["--model", "planted:single", "--dataset", "occupations", "--limit", "120", "-q"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of every kind on a model whose bias head is known."""
    folder = tmp_path_factory.mktemp("report")
    where = [*WHAT, "-o", folder, "--cache-dir", tmp_path_factory.mktemp("cache")]
    biasscope("baseline", *where)
    biasscope("patch", "--method", "exact", *where)
    biasscope("patch", "--method", "attribution", *where)
    biasscope(
        "patch",
        "--method",
        "exact",
        "--components",
        "resid_post",
        "--positions",
        "term,between,readout",
        *where,
    )
    biasscope("patch", "--method", "edges", *where)
    biasscope("ablate", "--control", "definitional", *where)
    biasscope("probe", "--position", "term", *where)
    run = next(path.name for path in folder.glob("*/*/ablate/*"))
    biasscope("circuit", "--from", run, "-o", folder, "-q", "--cache-dir", tmp_path_factory.mktemp("sets"))
    quick = (
        "--kind",
        "mean",
        "--sizes",
        2,
        "--doses",
        1,
        "--random",
        5,
        "--transfer",
        "none",
        "--tokens",
        100,
    )
    biasscope(
        "mitigate", "--from", run, *quick, "-o", folder, "-q", "--cache-dir", tmp_path_factory.mktemp("e")
    )
    return folder


@pytest.fixture
def copy(results: Path, tmp_path: Path) -> Path:
    """The same runs in a folder of the test's own."""
    return Path(shutil.copytree(results, tmp_path / "results"))


@pytest.fixture(scope="module")
def made(results: Path) -> tuple[dict, str, str]:
    """What `report` says it used, its Markdown and its page."""
    _, out, _ = biasscope("report", "-o", results, "--json")
    return (
        json.loads(out, parse_constant=pytest.fail),
        (results / "report.md").read_text(),
        (results / "report.html").read_text(),
    )


class Page(HTMLParser):
    """The tags, attributes and visible text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text.append(data)


# What it says


def test_the_main_numbers_are_those_of_the_tables(results: Path, made: tuple[dict, str, str]):
    found = gather.gather(results, [], None)
    (part,) = found.parts
    summary = pl.read_parquet(part.baseline.folder / "summary.parquet").filter(
        metric="target", statistic="slope", subset="all"
    )
    row = summary.row(0, named=True)
    ends = f"[{number(row['ci_low'])}, {number(row['ci_high'])}]"
    said = f"slope {number(row['estimate'])} {ends} nats/SD, p = {number(row['p'])} (run {part.baseline.key})"
    assert said in "".join(Page(made[2]).text)
    assert said.translate({91: "\\[", 93: "\\]"}) in made[1]


def test_terminal_json_page_and_notebook_give_one_verdict(results: Path, made: tuple[dict, str, str]):
    where = [*WHAT, "-o", results, "--cache-dir", results.parent / "again"]
    (told,) = json.loads(biasscope("baseline", *where, "--json")[1])["verdict"]
    assert told["case"] == "found" and told["sentence"].startswith("This model repeats the occupational")
    page = " ".join("".join(Page(made[2]).text).split())
    assert page.count("This model repeats the occupational stereotype.") == 1
    shown = " ".join(biasscope("baseline", *where, "--format", "table")[1].split())
    for sentence in told["sentence"].split(". ")[:2]:
        assert sentence in page and sentence in shown
    quoted = re.findall("“([^”]+___[^”]*)”", told["sentence"])
    assert quoted and all(text in page for text in quoted)


def test_the_planted_head_is_what_is_found(made: tuple[dict, str, str]):
    first = made[1].split("## occupations")[0]
    heads = re.findall(r"L\d+H\d+", first)
    exact = pl.concat(
        [
            pl.read_parquet(Path(used["path"]) / "summary.parquet")
            for used in made[0]["used"]
            if used["command"] == "patch"
        ]
    )
    exact = exact.filter(method="exact", source="corrupt", component="z", position="all").filter(
        pl.col("head").is_not_null()
    )
    strongest = summary.ranking(exact).sort(pl.col("estimate").abs(), descending=True).row(0, named=True)
    assert heads[0] == words.site(strongest)


def test_every_kind_of_run_is_shown_and_what_is_missing_is_named(made: tuple[dict, str, str]):
    used, text, _ = made
    assert {row["command"] for row in used["used"]} == {
        "baseline",
        "patch",
        "ablate",
        "probe",
        "circuit",
        "mitigate",
    }
    names = {re.split("[-.]", name)[0] for name in re.findall(r"\]\(report_figures/([^)]+)\)", text)}
    assert names >= {
        "groups",
        "heads",
        "mlps",
        "positions",
        "attribution",
        "probe",
        "sets",
        "edges",
        "edits",
        "agreement",
    }
    assert "Not measured" not in text and "How to repeat it" in text
    assert all(
        row["reproduce"].split()[1] in ("baseline", "patch", "ablate", "probe", "circuit", "mitigate")
        for row in used["used"]
    )
    assert all(row["reproduce"] in text for row in used["used"])


def test_a_missing_part_is_named_with_the_command_that_measures_it(copy: Path):
    for name in ("probe", "circuit", "mitigate", "baseline"):
        shutil.rmtree(next(copy.glob(f"*/*/{name}")))
    biasscope("report", "-o", copy)
    text = (copy / "report.md").read_text()
    assert (
        "biasscope probe --model" in text
        and "biasscope baseline --model" in text
        and "biasscope circuit --from RUN" in text
        and "biasscope mitigate --from RUN" in text
    )


def test_two_models_stand_side_by_side_on_one_scale(copy: Path, tmp_path: Path):
    other = ["--model", "planted:graded", *WHAT[2:], "-o", copy, "--cache-dir", tmp_path / "cache"]
    biasscope("baseline", *other)
    biasscope("patch", "--method", "exact", *other)
    biasscope("report", "-o", copy)
    text = (copy / "report.md").read_text()
    first = text.split("## occupations")[0]
    assert "planted-single, occupations" in first and "planted-graded, occupations" in first
    assert "Clean models on occupations" in text and "By relative depth" in text
    assert (
        "; `biasscope probe --model planted:graded --dataset occupations`" in text
        and text.count("*Not measured for planted-graded:*") == 1
    )
    page = (copy / "report.html").read_text()
    assert page.count('<section class="verdict">') == 2 and 'id="heads-planted-graded-occupations' in page
    alone = json.loads(
        biasscope("report", "-o", copy, "--model", "planted-graded", "--out", copy / "one.md", "--json")[1]
    )
    assert {used["model"] for used in alone["used"]} == {"planted-graded"}


def test_chosen_sites_are_called_so_and_stand_after_whole_maps(copy: Path, tmp_path: Path):
    shutil.rmtree(next(copy.glob("*/*/ablate")))
    biasscope(
        "ablate", "--top", 3, "--by", "attribution", *WHAT, "-o", copy, "--cache-dir", tmp_path / "cache"
    )
    (part,) = gather.gather(copy, [], None).parts
    assert not part.maps[0].partial and [m.name for m in part.maps if m.partial] == [
        "mean ablation, exact, chosen sites"
    ]
    biasscope("report", "-o", copy)
    assert "(mean ablation, exact, chosen sites" in (copy / "report.md").read_text()


def test_what_was_used_can_be_shown_in_every_format(results: Path, made: tuple[dict, str, str]):
    keys = [used["run"] for used in made[0]["used"]]
    for form in ("table", "jsonl", "csv", "markdown"):
        out = biasscope("report", "-o", results, "--format", form, "-q")[1]
        assert all(key in out for key in keys), form


# The files


def test_the_page_stands_alone_and_every_picture_has_words(made: tuple[dict, str, str]):
    page = Page(made[2])
    assert not {"iframe", "object", "link", "img"} & {tag for tag, _ in page.tags}
    scripts = [attributes for tag, attributes in page.tags if tag == "script"]
    assert scripts == [{"type": "application/json", "id": "views"}, {}]  # data, and what the policy allows
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert any(
        "default-src 'none'" in (attributes.get("content") or "")
        for tag, attributes in page.tags
        if tag == "meta"
    )
    targets = [
        a[name] or "" for _, a in page.tags for name in ("src", "href", "xlink:href", "action") if name in a
    ]
    outside = [target for target in targets if not target.startswith(("#", "data:"))]
    assert not outside
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    assert pictures and all(len(a.get("aria-label") or "") > 20 and a.get("role") == "img" for a in pictures)
    ids = [a["id"] for _, a in page.tags if "id" in a]
    assert len(ids) == len(set(ids))


def test_markdown_pictures_exist_and_have_words(results: Path, made: tuple[dict, str, str]):
    pictures = re.findall(r"!\[(.+?)\]\((\S+?)\)\n", made[1])
    assert len(pictures) > 6
    assert all(
        (results / file).read_bytes().startswith(b"\x89PNG") and len(alt) > 20 for alt, file in pictures
    )


def test_markdown_tables_have_as_many_cells_in_every_row(made: tuple[dict, str, str]):
    for block in re.findall(r"(?:^\|.*\n)+", made[1], re.MULTILINE):
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block


def test_the_second_report_draws_nothing_and_has_the_same_bytes(copy: Path):
    biasscope("report", "-o", copy)
    first = {file: file.read_bytes() for file in [copy / "report.md", copy / "report.html"]}
    again = json.loads(biasscope("report", "-o", copy, "--json")[1])
    assert again["figures"]["drawn"] == 0 and again["figures"]["unchanged"] > 6
    assert first == {file: file.read_bytes() for file in first}


def test_figures_that_no_report_shows_any_more_go_and_strangers_stay(copy: Path):
    biasscope("report", "-o", copy)
    (copy / "report_figures" / "mine.png").write_bytes(b"mine")
    shutil.rmtree(next(copy.glob("*/*/probe")))
    biasscope("report", "-o", copy)
    left = {file.name for file in (copy / "report_figures").iterdir()}
    assert "mine.png" in left and not [name for name in left if name.startswith("probe-")]
    assert {f"groups-occupations.{end}" for end in ("png", "svg", "pdf")} < left


def test_a_damaged_run_is_named_and_ends_with_3(copy: Path):
    table = next(copy.glob("*/*/ablate/*/summary.parquet"))
    table.write_bytes(table.read_bytes()[:-1])
    code, out, err = biasscope("report", "-o", copy, "--json", ok=False)
    assert code == 3 and str(table.parent) in err and json.loads(out)["damaged"] == [str(table.parent)]
    assert "Not read" in (copy / "report.md").read_text()


def test_named_runs_alone_are_used_and_a_damaged_one_is_refused(copy: Path):
    run = next(copy.glob("*/*/ablate/*"))
    out = json.loads(biasscope("report", run.name, "-o", copy, "--out", copy / "one.md", "--json")[1])
    assert (
        [used["run"] for used in out["used"]] == [run.name]
        and (copy / "one.html").is_file()
        and (copy / "one_figures").is_dir()
    )
    (run / "summary.parquet").write_bytes(b"")
    assert biasscope("report", str(run), "-o", copy, ok=False)[0] == 12


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["-o", "EMPTY"], 4), (["-o", "COPY", "--model", "gpt5"], 4), (["-o", "COPY", "--out", "x.pdf"], 2)],
)
def test_what_cannot_be_reported_says_why(copy: Path, tmp_path: Path, arguments: list[str], code: int):
    places = {"EMPTY": tmp_path / "empty", "COPY": copy}
    found, _, err = biasscope("report", *[places.get(a, a) for a in arguments], ok=False)
    assert found == code and err.startswith("error: ") and ("planted" in err or "gpt5" not in err)


HOSTILE = "<script>alert(1)</script>|`x`[a](javascript:b)\x1b[31m\u202e$x$"


def test_markup_of_names_and_reasons_stays_text(copy: Path):
    (copy / "index.json").unlink()  # else they count as edited
    for file in copy.glob("*/*/*/*/run.json"):
        record = json.loads(file.read_text())
        summary = pl.read_parquet(file.parent / "summary.parquet").with_columns(
            model=pl.lit(HOSTILE + "x" * 500)
        )
        summary.write_parquet(file.parent / "summary.parquet")
        record["warnings"] = [f"first\nsecond {HOSTILE}"]
        record["reproduce"] += f"\n```\n# {HOSTILE}"
        record["datasets"][0]["dropped"] = {HOSTILE: 1}
        record["datasets"][0]["tables"]["summary"] = runs.digests.of_file(file.parent / "summary.parquet")
        file.write_text(json.dumps(record))
    biasscope("report", "-o", copy)
    text, page = (copy / "report.md").read_text(), (copy / "report.html").read_text()
    seen = Page(page)
    assert [tag for tag, _ in seen.tags].count("script") == 2 and "alert(1)" in "".join(seen.text)
    for form in (text, page):
        assert not [c for c in form if c in "\x1b\u202e" or (ord(c) < 32 and c != "\n")]
    outside = re.sub(r"```\n.*?\n```", "", text, flags=re.DOTALL)  # in a block of code all of it is letters
    assert "<script" not in outside and not re.search(r"(?<!\\)\]\(javascript", outside)
    assert text.count("\n```") % 2 == 0
    test_markdown_tables_have_as_many_cells_in_every_row(({}, text, page))


def test_a_report_loads_no_torch(results: Path, tmp_path: Path):
    lines = ["import sys", "from biasscope import cli", "try: cli.main()", "except SystemExit: pass"]
    script = "\n".join([*lines, "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"])
    call = [sys.executable, "-c", script, "report", "-o", str(results), "--out", str(tmp_path / "r.md"), "-q"]
    assert subprocess.run(call, capture_output=True, check=False).returncode == 0


# In a real browser


SEEN = (
    "[...document.querySelectorAll('h1,.verdict p,.verdict dt,.verdict dd,.verdict figure')].filter(e => "
    "e.getBoundingClientRect().bottom <= LIMIT)"
)
WIDE = (
    "[...document.querySelectorAll('figure,p,li,h1,h2,h3')].filter(e => e.getBoundingClientRect().right > "
    "innerWidth + 1).length"
)
SHADES = (
    "(s => [s.color, s.backgroundColor].map(c => c.match(/\\d+/g).slice(0, 3).reduce((a, b) => a + +b, 0)))"
)


@pytest.mark.parametrize(
    ("width", "height", "screens"), [(1280, 900, 1), (390, 844, 2)], ids=["desktop", "phone"]
)
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_the_first_screens_hold_what_matters(
    chromium, results: Path, made, width: int, height: int, screens: int, dark: bool
):
    chromium.open(results / "report.html", width, height, dark=dark)
    text = chromium.value(SEEN.replace("LIMIT", str(screens * height)) + ".map(e => e.innerText).join('\\n')")
    for wanted in (
        "planted",
        "repeats",
        "likelier",
        "___",
        "nats/SD",
        "heads",
        "How certain",
        "free of bias",
    ):
        assert wanted in text
    assert chromium.value("document.documentElement.scrollWidth") <= width and chromium.value(WIDE) == 0
    ink, paper = chromium.value(f"{SHADES}(getComputedStyle(document.body))")
    assert (ink > paper) is dark and abs(ink - paper) > 400


def test_a_model_without_some_of_its_heads_is_never_called_clean(tmp_path):
    where = [*WHAT, "-o", tmp_path / "r", "--cache-dir", tmp_path / "c"]
    _, shown, _ = biasscope("baseline", "--given", "1.2", *where, "--format", "table")
    assert "with 1.2 ablated" in shown and "clean" not in shown.splitlines()[0]
    edited = gather.gather(tmp_path / "r", [], None)
    assert edited.parts[0].baseline is None
    assert first_screen.of(edited.parts[0]) is None
    biasscope("baseline", *where)
    biasscope("probe", "--position", "term", "--split", "holdout", "--given", "1.2", *where)
    (part,) = gather.gather(tmp_path / "r", [], None).parts
    assert part.baseline.record.given == "" and [run.record.given for run in part.edited] == [
        ", with 1.2 ablated"
    ]
    assert first_screen.of(part).title.startswith("This model repeats")
    said = words.edited(part.edited[0])
    assert said.startswith(f"Run {part.edited[0].key}, with 1.2 ablated: ") and "this model" not in said
    assert "the model with 1.2 ablated repeats" in said
    biasscope("report", "-o", tmp_path / "r", "--cache-dir", tmp_path / "c", "-q")
    page = (tmp_path / "r" / "report.md").read_text(encoding="utf-8")
    assert page.count("with 1.2 ablated") >= 4  # the sentences and the tables of both
    asked = "Is planted-single, with 1.2 ablated, less stereotyped than planted-single? "
    assert f"{asked}Yes, on these sentences." in page
    (pair,) = pairing.of_parts([part])
    run = part.edited[0]
    assert (pair.first, pair.second) == (part.baseline, run)
    slopes = [words.clean(replace(part, baseline=each))["estimate"] for each in (part.baseline, run)]
    assert pair.headline["estimate"] == pytest.approx(slopes[1] - slopes[0])
    assert f"`biasscope compare {part.baseline.key} {run.key} --json`" in page.replace("\\", "")
    assert page.index("planted-single, clean") < page.index("planted-single, with 1.2 ablated**")


def test_maps_of_an_edited_model_say_nothing_of_the_clean_one(tmp_path):
    where = [*WHAT, "-o", tmp_path / "r", "--cache-dir", tmp_path / "c"]
    biasscope("baseline", *where)
    biasscope("ablate", "--given", "1.2", "--layers", "1", *where)
    (part,) = gather.gather(tmp_path / "r", [], None).parts
    assert part.first is None and [m.given for m in part.shown] == [", with 1.2 ablated"]
    assert words.where(part) == "Not measured of the clean model."
    biasscope("ablate", "--layers", "1", *where)
    (part,) = gather.gather(tmp_path / "r", [], None).parts
    assert words.where(part).startswith("1 of 4 heads changes this when replaced: L1H2 (mean ablation, exact")
    assert "ablated" not in words.where(part)


def test_commands_on_the_page_name_the_users_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = ("cook", "nurse", "plumber", "clerk", "pilot", "baker")
    Path("mine.csv").write_text(
        "prompt,a,b,group\n" + "".join(f"The {n} said that,she,he,{n}\n" for n in names)
    )
    model = ("--model", "planted:single", "--cache-dir", tmp_path / "c", "-q")
    biasscope("baseline", "--dataset", "mine.csv", *model)
    (part,) = gather.gather(Path("results"), [], None).parts
    asked = "biasscope probe --model planted:single --dataset mine.csv"
    assert part.data.name == "mine" and words.command("probe", part) == asked


def test_predictions_of_others_cannot_be_edited(tmp_path):
    (tmp_path / "p.json").write_text("{}")
    code, _, err = biasscope("baseline", "--predictions", tmp_path / "p.json", "--given", "1.2", ok=False)
    assert code == 2 and "--given does not go with --predictions" in err
