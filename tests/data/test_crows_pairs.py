"""CrowS-Pairs: how a pair becomes two prompts of one text, what of it cannot, and the published counts."""

import csv
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from biasscope.engine.data import datasets
from biasscope.engine.data.datasets import crows_pairs
from biasscope.engine.data.download import download
from biasscope.engine.errors import DataError
from biasscope.engine.types import Dataset, Example
from tests.support.tiny_published import TINY, published, write

FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
HEADER = "\tsent_more\tsent_less\tstereo_antistereo\tbias_type\n"


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A data directory with the tiny CrowS-Pairs, as published."""
    return published(monkeypatch, "crows_pairs", tmp_path / "data")


def store(data: Path, text: str) -> Path:
    """Another English list."""
    return write(data / "crows_pairs", {crows_pairs.FILES["crows_pairs"]: text})


def pair(data: Path, more: str, less: str) -> Example:
    """The example of one row."""
    path = store(data, f"{HEADER}7\t{more}\t{less}\tstereo\tage\n") / crows_pairs.FILES["crows_pairs"]
    ((example,), problems) = crows_pairs.parse("crows_pairs", path)
    assert not problems
    return example


def test_two_prompts_end_in_what_differs_and_share_the_text_after_it(data: Path) -> None:
    e = datasets.load("crows_pairs", data).examples[0]
    assert (e.prompt, e.anti_prompt, e.stereo, e.anti) == (
        "Most Blacks",
        "Most whites",
        " met him.",
        " met him.",
    )
    assert (e.id, e.group, e.bias_type, e.word) == ("0", "black|white", "race-color", "Blacks")
    assert e.sentences == ("Most Blacks met him.", "Most whites met him.")
    assert (e.unrelated, e.suffix, e.flaw) == (None, "", None)


def test_quotes_tabs_and_directions_are_read_as_published(data: Path) -> None:
    first, second, *_ = datasets.load("crows_pairs", data).examples
    assert (second.id, second.prompt, second.stereo) == ("LA1", '"White"', " men saw her.")
    assert [e.meta["direction"] for e in (first, second)] == ["stereo", "antistereo"]


def test_pairs_of_another_form_keep_their_sentences_and_say_why_they_have_no_target(data: Path) -> None:
    loaded = datasets.load("crows_pairs", data)
    assert (len(loaded.examples), loaded.found, loaded.dropped) == (6, 6, {})
    flawed = {e.id: e for e in loaded.examples if e.flaw}
    assert {name: e.flaw for name, e in flawed.items()} == {
        "2": "differs in more than one place",
        "3": "nothing follows the difference",
        "4": "identical",
        "5": "nothing follows the difference",
    }
    assert all((e.prompt, e.stereo, e.anti, e.anti_prompt) == ("", "", "", None) for e in flawed.values())
    assert flawed["2"].sentences == ("He saw his dog.", "She saw her dog.")
    assert flawed["5"].sentences is None
    assert (flawed["3"].group, flawed["4"].group) == ("poor|rich", "4")


@pytest.mark.parametrize(
    ("more", "less", "prompts", "after"),
    [
        ("Old men met us.", "Men met us.", ("Old men", "Men"), " met us."),
        ("They were not old men.", "They were old men.", ("They were not", "They were"), " old men."),
        ("A very very old man.", "A very old man.", ("A very very", "A very"), " old man."),
        (
            "She is poor and old.",
            "She is very rich and old.",
            ("She is poor", "She is very rich"),
            " and old.",
        ),
    ],
)
def test_one_run_of_words_differs(data: Path, more: str, less: str, prompts: tuple, after: str) -> None:
    e = pair(data, more, less)
    assert (e.prompt, e.anti_prompt) == prompts
    assert e.stereo == e.anti == after


@pytest.mark.parametrize(
    ("more", "less", "group"),
    [
        ("The Whites, met.", "The “blacks” met.", "black|white"),
        ("The gas met.", "The his met.", "gas|his"),
        ("African-American boys met.", "White boys' met.", "african-american boy|white boy"),
        ("The not old men.", "The old men.", "|not"),
    ],
)
def test_a_group_is_its_words_without_case_marks_and_plural(
    data: Path, more: str, less: str, group: str
) -> None:
    assert pair(data, more, less).group == pair(data, less, more).group == group


def test_french_says_for_whom_it_is_and_english_does_not(data: Path) -> None:
    assert "French" in datasets.load("crows_pairs_fr", data).notes[0]
    assert "French" not in " ".join(datasets.load("crows_pairs", data).notes)


def test_a_pair_of_words_that_is_most_of_its_type_is_named_with_its_share(data: Path) -> None:
    rows = [f"{n}\tThe old {n} met.\tThe young {n} met.\tstereo\tage\n" for n in range(3)]
    rows += [f"{n}\tThe w{n} men.\tThe v{n} men.\tstereo\tgender\n" for n in range(10, 15)]
    store(
        data,
        HEADER + "".join(rows) + "9\tThe shy men.\tThe bold men.\tstereo\tage\n" + "x\t\t\tstereo\tage\n",
    )
    notes = datasets.load("crows_pairs", data, skip_invalid=True).notes
    assert "more than a fifth of age (old|young, 75%): interval" in notes[-1]


def test_one_list_is_enough_for_a_local_copy(data: Path, tmp_path: Path) -> None:
    file = crows_pairs.FILES["crows_pairs"]
    copy = write(tmp_path / "copy", {file: TINY["crows_pairs"]()[file]})
    record = download("crows_pairs", tmp_path / "new", local=copy)
    assert set(record["content"]) == {"crows_pairs"} and set(record["files"]) == {file}
    assert len(datasets.load("crows_pairs", tmp_path / "new").examples) == 6
    with pytest.raises(
        DataError, match=r"FR_languagearc.* does not exist; run `biasscope download crows_pairs "
    ):
        datasets.load("crows_pairs_fr", tmp_path / "new")


ROW = "7\tOld men met.\tYoung men met.\tstereo\tage\n"
BAD_ROWS = {
    "empty cell": "8\tOld men met.\tYoung men met.\tstereo\t\n",
    "neither stereo nor antistereo": "8\tOld men met.\tYoung men met.\tboth\tage\n",
    "duplicate number": ROW,
}


@pytest.mark.parametrize("reason", BAD_ROWS)
def test_a_faulty_row_is_refused_with_the_line_where_it_begins_or_counted(data: Path, reason: str) -> None:
    store(data, f'{HEADER}6\t"Old\nmen met."\tYoung men met.\tstereo\tage\n{ROW}{BAD_ROWS[reason]}')
    with pytest.raises(DataError, match=rf"(?s)\.csv:5.*: {reason}"):
        datasets.load("crows_pairs", data)
    loaded = datasets.load("crows_pairs", data, skip_invalid=True)
    assert (loaded.dropped, len(loaded.examples)) == ({reason: 1}, 2)
    assert loaded.examples[0].prompt == "Old"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (ROW, r"\.csv:1: the header must be"),
        ("", r"\.csv:1: the header must be"),
        (HEADER + "7\tOld men met.\n", r"\.csv:2: 5 columns are expected, found 2"),
        (HEADER + ROW + '8\t"Old', r"\.csv:3: malformed tab-separated text"),
    ],
)
def test_a_broken_list_is_refused_with_its_place(data: Path, text: str, message: str) -> None:
    store(data, text)
    with pytest.raises(DataError, match=message):
        datasets.load("crows_pairs", data, skip_invalid=True)


@FEW
@given(st.text(max_size=80), st.booleans())
def test_any_text_is_a_dataset_or_a_data_error(data: Path, text: str, whole: bool) -> None:
    text = text.encode("utf-8", "replace").decode()
    store(data, text if whole else HEADER + ROW + f"8\t{text}\tYoung men met.\tstereo\tage\n")
    try:
        loaded = datasets.load("crows_pairs", data, skip_invalid=True)
    except DataError:
        return
    assert loaded.found == len(loaded.examples) + loaded.dropped.total()


# Real lists


@pytest.fixture(scope="module")
def real(shared_data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    """Both lists."""
    folder = tmp_path_factory.mktemp("data")
    download("crows_pairs", folder, local=shared_data)
    return {name: datasets.load(name, folder) for name in crows_pairs.NAMES}


SEVERAL, NOTHING, SAME = "differs in more than one place", "nothing follows the difference", "identical"


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "flaws", "used", "directions"),
    [
        ("crows_pairs", {SEVERAL: 206, NOTHING: 164}, 1307, {"stereo": 1172, "antistereo": 135}),
        ("crows_pairs_fr", {SEVERAL: 176, NOTHING: 262, SAME: 3}, 1236, {"stereo": 1105, "antistereo": 131}),
    ],
)
def test_the_real_counts(
    real: dict[str, Dataset], name: str, flaws: dict, used: int, directions: dict
) -> None:
    loaded = real[name]
    assert (len(loaded.examples), loaded.found, loaded.dropped) == (1677, 1677, {})
    assert Counter(e.flaw for e in loaded.examples) == {**flaws, None: used}
    assert Counter(e.meta["direction"] for e in loaded.examples if not e.flaw) == directions
    assert loaded.digest == crows_pairs.ORIGIN.digests[name]


def effective(groups: list[str]) -> tuple[int, float]:
    """Clusters, and how many equal ones would weigh as much."""
    sizes = Counter(groups).values()
    return len(sizes), sum(sizes) ** 2 / sum(n * n for n in sizes)


@pytest.mark.real
@pytest.mark.parametrize(("name", "k", "weigh"), [("crows_pairs", 669, 44), ("crows_pairs_fr", 675, 46)])
def test_the_real_groups(real: dict[str, Dataset], name: str, k: int, weigh: int) -> None:
    groups = [e.group for e in real[name].examples if not e.flaw]
    assert effective(groups)[0] == k and round(effective(groups)[1]) == weigh


@pytest.mark.real
def test_the_real_english_types(real: dict[str, Dataset]) -> None:
    examples = real["crows_pairs"].examples
    counts = Counter(e.bias_type for e in examples)
    assert [counts[kind] for kind in ("gender", "age", "disability", "autre")] == [320, 91, 65, 11]
    of = {kind: [e.group for e in examples if e.bias_type == kind and not e.flaw] for kind in counts}
    assert Counter(of["sexual-orientation"])["gay|straight"] == 34 and len(of["sexual-orientation"]) == 66
    weights = {kind: effective(groups)[1] for kind, groups in of.items()}
    assert (round(min(weights.values()), 1), round(max(weights.values()))) == (3.6, 73)
    assert "race-color (black|white, 39%)" in real["crows_pairs"].notes[-1]


@pytest.mark.real
@pytest.mark.parametrize("name", crows_pairs.NAMES)
def test_prompt_and_text_make_the_published_sentences_but_for_white_space(
    real: dict[str, Dataset], shared_data: Path, name: str
) -> None:
    with (shared_data / "crows_pairs" / crows_pairs.FILES[name]).open(encoding="utf-8", newline="") as stream:
        rows = {row[""]: row for row in csv.DictReader(stream, delimiter="\t")}
    for e in (e for e in real[name].examples if not e.flaw):
        built = [prompt + text for prompt, text in e.sides]
        assert built == [" ".join(rows[e.id][side].split()) for side in ("sent_more", "sent_less")]
