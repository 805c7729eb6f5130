"""The page in a real browser: what can be clicked and typed, equal to the tables; whole without scripts; one
file that asks for nothing and runs no text of data.
"""

import base64
import hashlib
import json
import re
import shutil
from pathlib import Path

import polars as pl
import pytest

from biasscope.engine.store import runs
from biasscope.report import tables
from biasscope.report.page import gather, views
from tests.support.cli import biasscope

pytestmark = pytest.mark.usefixtures("few_draws")

WHAT = ["--model", "planted:single", "--dataset", "occupations", "--limit", "60", "-q"]
WIDTHS = pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)], ids=["desktop", "phone"])
PLANTED = "L1H2"
"""The head that carries the bias."""


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A scatter and two maps of a model whose bias head is L1H2, and their page."""
    folder = tmp_path_factory.mktemp("page")
    where = [*WHAT, "-o", folder, "--cache-dir", tmp_path_factory.mktemp("cache")]
    biasscope("baseline", *where)
    biasscope("ablate", "--layers", "1,2", *where)
    biasscope("patch", "--method", "exact", "--components", "z,mlp_out", *where)
    biasscope("report", "-o", folder, "-q")
    return folder


@pytest.fixture
def page(chromium, results):
    """Opens the page with its scripts on; afterwards it has asked for nothing and its console is empty."""

    def opened(width: int = 1280, height: int = 900, **how):
        chromium.open(how.pop("file", results / "report.html"), width, height, scripts=True, **how)
        return chromium

    yield opened
    asked = [url for url in chromium.requests if not url.startswith("data:")]
    assert len(asked) == 1 and asked[0].startswith("file:") and not chromium.problems, chromium.problems


def folder_of(results: Path, command: str) -> Path:
    """The folder of the run of that command."""
    return next(results.glob(f"*/*/{command}/*"))


def interval(row: dict) -> str:
    """The cell of a table with that row's estimate and interval, where nothing is to be aligned."""
    return tables.interval(row).replace("  ", " ")


@pytest.fixture(scope="module")
def chart(results) -> str:
    """The selector of the map of the ablation."""
    return f'figure[data-view="{folder_of(results, "ablate").name}-mean"]'


@pytest.fixture(scope="module")
def head(chart) -> str:
    """The selector of the planted head in that map."""
    return f'{chart} .cell[data-site="{PLANTED}"]'


def text(chromium, selector: str) -> str:
    """What is read in the first element that the selector names."""
    return chromium.value(f"document.querySelector({json.dumps(selector)}).innerText")


@WIDTHS
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_click_on_a_head_shows_its_numbers_groups_prompts_and_attention(
    page, results, head, width, height, dark
):
    chromium, folder = page(width, height, dark=dark), folder_of(results, "ablate")
    assert chromium.value("document.getElementById('panel').hidden")
    chromium.click(head)
    shown = text(chromium, "#panel")
    rows = pl.read_parquet(folder / "summary.parquet").filter(layer=1, head=2, subset="all")
    for metric, statistic in (("target", "slope"), ("target", "mean"), ("kl", "mean")):
        assert interval(rows.filter(metric=metric, statistic=statistic).row(0, named=True)) in shown
    effects = pl.read_parquet(folder / "effects.parquet").filter(layer=1, head=2, metric="target")
    assert chromium.value("document.querySelectorAll('#panel .dot').length") == effects["group"].n_unique()
    most = effects.sort("effect").row(0, named=True)
    looks = pl.read_parquet(folder / "patterns.parquet").filter(
        layer=1, head=2, example_id=most["example_id"]
    )
    first = text(chromium, "#panel h3:last-of-type + .prompt")
    assert "".join(looks["token"]) in first
    assert f"({most['effect']:.2f}".replace("-", "−") in first
    assert f"attention to “{most['group']}” {looks.filter('term')['weight'].sum():.2f}" in first
    assert chromium.value("document.activeElement.id") == "panel"
    assert chromium.value("document.documentElement.scrollWidth") <= width
    chromium.key("Escape")
    assert chromium.value("document.getElementById('panel').hidden")
    assert chromium.value("document.activeElement.dataset.site") == "L1H2"


def test_every_cell_says_what_the_table_says(page, results):
    chromium = page()
    labels = chromium.value("[...document.querySelectorAll('.cell')].map(c => c.getAttribute('aria-label'))")
    (part,) = gather.gather(results, [], None).parts
    rows = [row for m in part.shown for row in m.ranked.iter_rows(named=True)]
    assert len(labels) == len(rows) > 20
    for row in rows:
        site = f"L{row['layer']}" + (".mlp" if row["head"] is None else f"H{row['head']}")
        said = f"{site}, slope {interval(row)} nats/SD"
        assert any(label.startswith(said) for label in labels), said
        if row["p_family"] is not None:
            assert any(f"p_family {tables.probability(row['p_family'])}, n {row['n']}, " in x for x in labels)


@WIDTHS
def test_keys_move_between_heads_open_and_close(page, chart, width, height):
    chromium = page(width, height)
    chromium.value(
        f"document.querySelector({json.dumps(chart)}).querySelector('.cell[tabindex=\"0\"]').focus()"
    )
    before = chromium.value("document.activeElement.dataset.site")
    chromium.key("ArrowRight")
    chromium.key("ArrowDown")
    after = chromium.value("document.activeElement.dataset.site")
    assert (before, after) == ("L2H0", "L1H1") and text(chromium, "#tip").startswith("L1H1")
    assert (
        chromium.value("getComputedStyle(document.activeElement.querySelector('rect')).strokeWidth") == "3px"
    )
    chromium.key("Enter")
    assert text(chromium, "#panel h2") == "L1H1"
    chromium.key("Escape")
    assert chromium.value("document.activeElement.dataset.site") == "L1H1"


def test_a_switch_colours_the_map_anew_and_a_link_holds_the_selection(page, chart, head):
    chromium = page()
    assert chromium.value("[...document.querySelectorAll('.switch button')].map(b => b.textContent)") == [
        *("slope", "shift", "competence", "kl")
    ]
    fill = f"document.querySelector({json.dumps(head)}).querySelector('rect').style.fill"
    before = chromium.value(fill)
    chromium.click(f"{chart} .switch button:last-child")
    assert chromium.value(fill) != before and "kl" in text(chromium, "#live")
    assert chromium.value(
        f"document.querySelector({json.dumps(head)}).getAttribute('aria-label')"
    ).startswith("L1H2, kl ")
    chromium.click(head)
    link = chromium.value("location.hash")
    page(at=link)
    assert text(chromium, "#panel h2") == "L1H2"
    assert chromium.value("document.querySelector('.switch [aria-pressed=true]').textContent") == "kl"
    page(at="#map=none;show=%3Cimg%3E;site=constructor")
    assert chromium.value("document.getElementById('panel').hidden")


def test_tables_are_sorted_and_filtered(page):
    chromium = page()
    table = "document.querySelector('table[data-t]')"
    chromium.value(
        "[...document.querySelectorAll('main table')].find(t => "
        "t.caption?.textContent.startsWith('Strongest sites')).dataset.t = 1"
    )
    column = f"[...{table}.tBodies[0].rows].filter(r => !r.hidden).map(r => r.cells[1].textContent)"
    chromium.click("table[data-t] th:nth-child(2) button")
    down = [float(re.match(r"[−\d.]+", cell)[0].replace("−", "-")) for cell in chromium.value(column)]
    chromium.click("table[data-t] th:nth-child(2) button")
    up = [float(re.match(r"[−\d.]+", cell)[0].replace("−", "-")) for cell in chromium.value(column)]
    assert down == sorted(down, reverse=True) and up == sorted(up) and len(set(up)) > 3
    assert chromium.value(f"{table}.tHead.rows[0].cells[1].getAttribute('aria-sort')") == "ascending"
    first = chromium.value(f"{table}.tBodies[0].rows[0].cells[0].innerText")
    chromium.click("table[data-t] .link")
    assert text(chromium, "#panel h2") == first
    chromium.key("Escape")
    assert chromium.value("document.activeElement.className") == "link"
    chromium.value(f"{table}.previousSibling.querySelector('input').focus()")
    for letter in "mlp":
        chromium.key(letter)
    left = chromium.value(
        f"[...{table}.tBodies[0].rows].filter(r => !r.hidden).map(r => r.cells[0].textContent)"
    )
    assert 0 < len(left) < len(up) and all(site.endswith(".mlp") for site in left)
    assert f"{len(left)} of {len(up)} rows" in chromium.value(f"{table}.previousSibling.innerText")


def test_the_dots_of_the_scatter_say_which_group_they_are(page, results):
    chromium = page()
    rows = pl.read_parquet(folder_of(results, "baseline") / "summary.parquet")
    group = rows.filter(metric="covariate").sort("estimate").row(0, named=True)
    chromium.value("document.querySelector('figure use[tabindex=\"0\"]').focus()")
    assert text(chromium, "#tip").startswith(f"{group['subset'].split(': ')[1]}\nshare of men: ")
    assert re.search(r"target −?[\d.]+ \[[^\]]+\] nats: “s?he” [\d.]+×", text(chromium, "#tip"))


@WIDTHS
def test_without_scripts_the_page_is_whole(chromium, results, width, height):
    chromium.open(results / "report.html", width, height)
    seen = "[...document.querySelectorAll('SELECTOR')].filter(e => e.getClientRects().length).length"
    assert chromium.value(seen.replace("SELECTOR", "figure > svg")) > 3
    assert chromium.value(seen.replace("SELECTOR", "tbody tr")) > 10
    for hidden in (".map", "#panel", "#tip", ".scripted", "input"):
        assert chromium.value(seen.replace("SELECTOR", hidden)) == 0, hidden
    assert chromium.value("document.documentElement.scrollWidth") <= width


def test_what_is_printed_are_the_figures_of_the_paper(page):
    chromium = page()
    chromium.click(".map .cell")
    chromium.call("Emulation.setEmulatedMedia", media="print")
    seen = "[...document.querySelectorAll('SELECTOR')].filter(e => e.getClientRects().length).length"
    assert chromium.value(seen.replace("SELECTOR", ".map-still")) == 2
    assert chromium.value(seen.replace("SELECTOR", ".map, #panel, .tools, .scripted")) == 0


HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script>-->\u2028\u202e\x1b[31m${1}`"


def test_hostile_texts_of_data_stay_text(page, results, head, tmp_path):
    copy = Path(shutil.copytree(results, tmp_path / "results"))
    (copy / "index.json").unlink()  # else they count as edited
    folder = folder_of(copy, "ablate")
    for name, columns in {
        "effects": ["group"],
        "prompts": ["prompt", "stereo", "group"],
        "patterns": ["token"],
    }.items():
        table = pl.read_parquet(folder / f"{name}.parquet")
        table.with_columns((pl.col(c) + HOSTILE) for c in columns).write_parquet(folder / f"{name}.parquet")
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    record["datasets"][0]["tables"] = {
        file.stem: runs.digests.of_file(file) for file in folder.glob("*.parquet")
    }
    (folder / "run.json").write_text(json.dumps(record), encoding="utf-8")
    biasscope("report", "-o", copy, "-q")
    chromium = page(file=copy / "report.html")
    chromium.click(head)
    shown = text(chromium, "#panel")
    assert shown.count("<img src=x onerror=alert(1)>") > 20 and "\u202e" not in shown
    assert chromium.value("document.querySelectorAll('img, iframe, #panel script').length") == 0
    assert chromium.value("document.scripts.length") == 2


# What is embedded


def test_the_only_script_that_may_run_is_the_page_s_own(results):
    content = (results / "report.html").read_text(encoding="utf-8")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', content)[1].replace("&#39;", "'")
    (script,) = re.findall(r"<script>(.*?)</script>", content, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}';" in policy and "unsafe-eval" not in policy
    assert "default-src 'none'" in policy and policy.count("unsafe-inline") == 1  # of styles
    assert len(content) < 3_000_000 and len(script.splitlines()) <= 400


def test_what_does_not_fit_is_left_out_and_said(results, monkeypatch):
    gathered = gather.gather(results, [], None)
    whole = views.embedded(gathered, [])
    monkeypatch.setattr(views, "LARGEST", len(whole.json) - 1)
    fewer = views.embedded(gathered, [])
    assert len(fewer.json) < len(whole.json) and fewer.maps.keys() == whole.maps.keys()
    assert any("strongest of" in line for line in fewer.left)
    monkeypatch.setattr(views, "LARGEST", 1)
    none = views.embedded(gathered, [])
    assert not none.maps and sum("only the figure is shown" in line for line in none.left) == len(whole.maps)
