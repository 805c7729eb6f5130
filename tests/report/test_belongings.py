"""What belongs to a report: words explained, no private folder, a card that others can read, a print."""

import json
import re
from pathlib import Path

import polars as pl
import pytest

import biasscope as bs
from biasscope import api
from biasscope.engine.errors import BiasScopeError, UsageError
from biasscope.report.drawing import chromium
from biasscope.report.page import card, gather, glossary
from tests.support.cli import biasscope

pytestmark = pytest.mark.usefixtures("few_draws")

WHAT = ["--model", "planted:single", "--dataset", "occupations", "--limit", "60", "-q"]


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A baseline, and the heads of one layer."""
    folder = tmp_path_factory.mktemp("belongings") / "results"
    where = [
        *WHAT,
        "-o",
        folder,
        "--cache-dir",
        folder.parent / "cache",
        "--data-dir",
        folder.parent / "data",
    ]
    biasscope("baseline", *where)
    biasscope("ablate", "--layers", "1", *where)
    return folder


@pytest.fixture(scope="module")
def made(results: Path) -> dict[str, str]:
    """The report's documents."""
    biasscope("report", "--card", "-o", results, "-q")
    names = ("report.md", "report.html", "report_card.md")
    return {name: (results / name).read_text(encoding="utf-8") for name in names}


# Words


def test_each_term_is_explained_where_it_first_stands_and_once_more_at_the_end(made: dict[str, str]):
    page = made["report.html"]
    first = re.findall(r'<dfn title="([^"]+)"><a href="#([^"]+)">', page)
    assert len(first) > 8 and len({target for _, target in first}) == len(first)
    assert all(page.count(f'id="{target}"') == 1 for _, target in first)
    slope = page.index("<dfn", page.index("How certain"))
    assert page[slope:].startswith('<dfn title="How much the preference changes')
    ends = made["report.md"].split("## Glossary")[1]
    assert f"- **slope**: {glossary.TERMS['slope']}" in ends and "**ICAT**" not in ends


def test_what_is_quoted_or_part_of_another_word_is_no_term():
    text = "The head of “a head of layer 3 <b>” has L26H2, headings, odds and p."
    said = str(glossary.Explained(str)(text))
    assert said.count("<dfn") == 3 and "“a head of layer 3 &lt;b&gt;”" in said
    assert [term for term, _ in glossary.used([text])] == ["head", "odds", "p"]


def test_no_document_names_a_folder_of_the_machine(results: Path, made: dict[str, str]):
    private = [str(results.parent), str(Path.home()) + "/", str(Path.cwd()) + "/"]
    for name, text in made.items():
        assert not [folder for folder in private if folder in text], name
        assert "--model planted:single --dataset occupations --limit 60" in text, name


# The card


def test_the_card_is_a_model_index_with_the_numbers_of_the_run(results: Path, made: dict[str, str]):
    yaml = pytest.importorskip("yaml")
    from huggingface_hub.repocard_data import model_index_to_eval_results

    head = yaml.safe_load(made["report_card.md"].split("---\n")[1])
    name, (result,) = model_index_to_eval_results(head["model-index"])
    (part,) = gather.gather(results, [], None).parts
    rows = part.baseline.summary.filter(metric="target", statistic="slope", subset="all")
    assert name == "planted-single" and result.metric_type == "target_slope"
    assert result.metric_value == rows["estimate"][0] and result.metric_args["ci_low"] == rows["ci_low"][0]


def test_the_card_has_every_section_that_it_maps_and_says_it_is_no_legal_advice(made: dict[str, str]):
    text = made["report_card.md"]
    assert [name for name, _, _ in card.DUTIES] == re.findall(r"^## (.+)$", text, re.MULTILINE)[:-1]
    assert "no legal advice" in text and text.count(card.OPEN) == 2
    assert "This model repeats the occupational stereotype." in text


def test_hostile_names_stay_text_in_the_card(results: Path):
    yaml = pytest.importorskip("yaml")
    hostile = 'x"\n- evil: [1]\n---\n<script>|`'
    whole = gather.gather(results, [], None)
    (part,) = whole.parts
    text = card.write(gather.Gathered([gather.replace(part, model=hostile)], whole.used))
    head = yaml.safe_load(text.split("\n---\n\n")[0])
    assert head["model-index"][0]["name"] == hostile
    assert "<script" not in text.split("\n---\n\n", 1)[1]


def test_nothing_is_called_bias_or_stereotype_where_the_users_file_does_not(tmp_path: Path):
    mine = tmp_path / "mine.csv"
    names = ("cook", "nurse", "plumber", "clerk", "pilot", "baker")
    mine.write_text("prompt,a,b,group\n" + "".join(f"The {n} said that,she,he,{n}\n" for n in names))
    where = ("--model", "planted:single", "-o", tmp_path, "--cache-dir", tmp_path / "c", "-q")
    biasscope("baseline", "--dataset", mine, *where)
    biasscope("report", "--card", "-o", tmp_path, "-q")
    text, page = ((tmp_path / name).read_text() for name in ("report_card.md", "report.md"))
    head, body = text.split("\n---\n\n")
    assert "stereotypes" not in head and "model's preferences" in body and "from 1 run," in body
    assert page.startswith("# What a model prefers: planted-single on mine\n")
    assert "from 1 run, the newest" in page and "stereotype" not in page.partition("## What this does not")[0]


# Print


@pytest.mark.usefixtures("browser_program")
def test_the_print_is_a_pdf_of_several_pages_with_an_outline(results: Path):
    out = json.loads(biasscope("report", "--pdf", "-o", results, "--json")[1])
    content = (results / "report.pdf").read_bytes()
    assert out["files"][-1].endswith("report.pdf") and content.startswith(b"%PDF")
    assert len(re.findall(rb"/Type /Page\b", content)) > 2 and b"/Outlines" in content


@pytest.mark.usefixtures("browser_program")
def test_a_notebook_prints_too(results: Path, tmp_path: Path):
    page = api.report(out=tmp_path / "page.html", output_dir=results, pdf=True)
    assert page.with_suffix(".pdf").read_bytes().startswith(b"%PDF")


def test_a_browser_that_does_not_answer_is_ended_and_leaves_nothing(monkeypatch, tmp_path: Path):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    browser = chromium.Chromium("/bin/true")
    with pytest.raises(BiasScopeError, match="print the page by hand"), browser:
        pass
    assert not list(tmp_path.iterdir())


def test_without_a_browser_a_print_says_what_to_install_and_writes_nothing(
    results: Path, monkeypatch, tmp_path
):
    monkeypatch.setenv("BIASSCOPE_BROWSER", str(tmp_path / "none"))
    code, _, err = biasscope("report", "--pdf", "-o", results, "--out", tmp_path / "r.md", ok=False)
    assert code == 2 and "install one" in err and not list(tmp_path.iterdir())


def test_a_browser_that_ends_at_once_is_one_line(results: Path, monkeypatch, tmp_path):
    monkeypatch.setenv("BIASSCOPE_BROWSER", "/bin/true")
    code, _, err = biasscope("report", "--pdf", "-o", results, "--out", tmp_path / "r.md", ok=False)
    assert code == 1 and "print the page by hand" in err and "Traceback" not in err


def test_open_shows_the_page_or_says_where_it_is(results: Path, monkeypatch):
    asked = []
    monkeypatch.setattr("webbrowser.open", lambda url: bool(asked.append(url)))
    _, _, err = biasscope("report", "--open", "-o", results)
    assert asked == [(results / "report.html").resolve().as_uri()] and "report.html" in err


def test_figures_are_drawn_anew_when_their_index_is_lost_or_edited(results: Path):
    folder, known = results / "report_figures", '{"../../x": "0", "heads": 3}'
    (folder / "figures.json").write_text(known)
    again = json.loads(biasscope("report", "-o", results, "--json")[1])
    assert again["figures"]["drawn"] > 1 and again["figures"]["unchanged"] == 0
    names = set(json.loads((folder / "figures.json").read_text()))
    assert {"groups-occupations", "heads-occupations-slope-mean"} <= names
    assert all((folder / f"{name}.{end}").is_file() for name in names for end in ("png", "svg", "pdf"))
    header = (folder / "groups-occupations.png").read_bytes()
    assert (
        b"pHYs" in header and round(int.from_bytes(header[header.index(b"pHYs") + 4 :][:4]) * 0.0254) == 300
    )
    assert pl.read_parquet(next(results.glob("*/*/baseline/*/prompts.parquet"))).height == 60


def test_a_notebook_has_the_same_verdict_and_other_runs_have_none(results: Path):
    where = {"limit": 60, "output_dir": results, "cache_dir": results.parent / "cache"}
    said = biasscope("baseline", *WHAT, "-o", results, "--cache-dir", results.parent / "cache", "--json")[1]
    run = bs.baseline("planted:single", "occupations", **where)
    assert run.verdict == json.loads(said)["verdict"][0]["sentence"]
    with pytest.raises(UsageError, match="a run of ablate has no verdict; a baseline has"):
        _ = bs.ablate("planted:single", "occupations", layers="1", **where).verdict
