"""Prompts of one's own: every form of the same rows gives the same examples, each column its own field."""

from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest

import biasscope as bs
from biasscope.engine.data import datasets
from biasscope.engine.data.download import download
from biasscope.engine.settings import Form
from biasscope.engine.types import Covariate, Example
from tests.support.cli import biasscope
from tests.support.own_prompts import ROWS, as_csv, form, load, own, row, winogender_as_rows, write

# Forms


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl", "json", "parquet", "polars", "pandas", "list"])
def test_every_form_of_the_same_rows_has_the_same_examples_and_digest(tmp_path: Path, kind: str) -> None:
    found = bs.prompts(form(kind, tmp_path, ROWS), name="mine")
    first = bs.prompts(ROWS, name="mine")
    assert (found.examples, found.digest, found.covariates) == (
        first.examples,
        first.digest,
        first.covariates,
    )
    assert first.covariates == (Covariate("share", "", {"nurse": 10.42, "baker": 60.0}),)
    assert first.examples[3].meta == {"source": "Ärzteblatt | <b>5</b>"} and first.examples[3].per_token
    assert [n for n in first.notes if n.startswith("1 of 4 rows are per token, the others sums")]
    assert (found.name, found.found, found.rule, found.noun) == ("mine", 4, "none", "group")


def test_another_covariate_is_another_digest() -> None:
    more = [{**ROWS[0], "share": 11}, {**ROWS[1], "share": 11}, *ROWS[2:]]
    assert bs.prompts(more).examples == bs.prompts(ROWS).examples
    assert bs.prompts(more).digest != bs.prompts(ROWS).digest


@pytest.mark.parametrize("text", ['"The nurse, she\nsaid"', '"The nurse, she\r\nsaid"'])
def test_a_spreadsheet_s_quoting_and_line_ends_are_read(tmp_path: Path, text: str) -> None:
    lines = ["\ufeffprompt,a,b,group", f'{text},"""he""",she,nurse', "", ",,,", "x,he,she,y", ",,,", ""]
    found = load(write(tmp_path / "x.csv", "\r\n".join(lines)))
    assert [(e.id, e.prompt, e.stereo) for e in found.examples] == [
        ("1", "The nurse, she\nsaid", '"he"'),
        ("2", "x", " he"),
    ]


def test_semicolons_and_decimal_commas_are_read(tmp_path: Path) -> None:
    text = "\ufeffprompt;a;b;group;covariate: share, of men [%]\r\n"
    text += "X;he;she;nurse;10,42\r\nY, Z;he;she;baker;1.5e1\r\n"
    found = load(write(tmp_path / "x.csv", text))
    assert found.covariates == (Covariate("share, of men", "%", {"nurse": 10.42, "baker": 15.0}),)
    assert found.examples[1].prompt == "Y, Z"


@pytest.mark.real
def test_the_shared_files_are_read_and_csv_is_parquet(shared_data: Path) -> None:
    folder = shared_data / "prompts"
    found = {p.name: load(str(p)) for p in folder.iterdir() if p.name != "faulty.csv"}
    assert {name: len(d.examples) for name, d in found.items()} == {
        "pronouns.csv": 12,
        "pronouns.parquet": 12,
        "fillers.tsv": 4,
        "paired.jsonl": 3,
        "phrases.jsonl": 2,
        "twins.csv": 3,
    }
    assert found["pronouns.csv"].digest == found["pronouns.parquet"].digest
    assert found["pronouns.csv"].covariates[0].values["baker"] == 39.2
    rules = {"pronouns": "none", "fillers": "none", "paired": "sides", "phrases": "none", "twins": "given"}
    assert all(d.rule == rules[name.split(".")[0]] and not d.notes for name, d in found.items())
    boys = found["paired.jsonl"].examples[0]
    assert (boys.anti_prompt, boys.stereo, boys.anti) == (
        "The girls",
        *[" in our class are good at maths."] * 2,
    )
    assert (
        found["fillers.tsv"].examples[0].suffix == " at noon." and found["twins.csv"].examples[2].twin is None
    )
    assert all(e.per_token and e.bias_type == "gender" for e in found["phrases.jsonl"].examples)


@pytest.mark.real
def test_winogender_as_csv_is_winogender(shared_data: Path, tmp_path: Path) -> None:
    download("winogender", tmp_path, local=shared_data)
    truth = datasets.read("winogender", tmp_path)
    found = load(write(tmp_path / "winogender.csv", as_csv(winogender_as_rows(truth))))
    assert [replace(e, dataset="", meta={}) for e in found.examples] == [
        replace(e, dataset="", meta={}) for e in truth.examples
    ]
    assert found.covariates[0].values == truth.covariates[0].values and (found.name, found.noun) == (
        "prompts_winogender",
        "occupation",
    )


@pytest.mark.parametrize("kind", get_args(Form))
def test_every_form_has_a_file_of_examples_without_a_fault(tmp_path: Path, kind: str) -> None:
    code, out, _ = biasscope("example-prompts", "--form", kind)
    found = load(write(tmp_path / "prompts.csv", out))
    assert code == 0 and len(found.examples) == found.found >= 2 and not found.notes
    assert (found.rule, bool(found.covariates)) == (
        {"paired": "sides", "twins": "given"}.get(kind, "none"),
        kind == "pronouns",
    )
    assert any(e.per_token for e in found.examples) == (kind == "phrases")
    assert any(e.unrelated for e in found.examples) == (kind == "fillers")


# What the columns mean


@pytest.mark.parametrize(
    ("prompt", "he", "no_space", "expected"),
    [
        ("X", "he", False, ("X", " he")),
        ("X", " he", False, ("X", " he")),
        ("X ", "he", False, ("X", " he")),
        ("X ", " he", False, ("X", " he")),
        ("X", ", he", False, ("X", ", he")),
        ("X ", ", he", False, ("X", " , he")),
        ("X", "5", False, ("X", " 5")),
        ("X", "  he", False, ("X", "  he")),
        ("Q: who?\n", "he", False, ("Q: who?\n", "he")),
        ("彼", "は", True, ("彼", "は")),
        ("X ", "he", True, ("X", " he")),
    ],
)
def test_one_space_stands_before_a_word(
    prompt: str, he: str, no_space: bool, expected: tuple[str, str]
) -> None:
    (e,) = own(row(prompt=prompt, a=he), no_space=no_space).examples
    assert (e.prompt, e.stereo) == expected


def test_unrelated_and_shared_continuations_get_their_space_too() -> None:
    assert own(row(unrelated="it")).examples[0].unrelated == " it"
    (e,) = own({"prompt_a": "He", "prompt_b": "She ", "shared": "is kind", "suffix": "."}).examples
    assert (e.prompt, e.anti_prompt, e.stereo, e.anti, e.suffix) == ("He", "She", " is kind", " is kind", ".")


@pytest.mark.parametrize(
    ("cells", "sides"),
    [
        ({"a": "he", "b": "she"}, ("“he”", "“she”")),
        ({"stereo": "he", "anti": "she"}, ("the stereotype", "the anti-stereotype")),
        ({"stereo": "he", "b": "she"}, ("“he”", "“she”")),
        ({"a": "a pronoun of some length", "b": "she"}, ("side a", "side b")),
        ({"prompt_b": "Y", "continuation": "he"}, ("the first prompt", "the second prompt")),
    ],
)
def test_a_stereotype_is_one_only_where_the_file_says_so(
    cells: dict[str, str], sides: tuple[str, str]
) -> None:
    assert own({"prompt": "X", **cells}).sides == sides


@pytest.mark.parametrize(
    ("column", "noun"),
    [("group", "group"), ("cluster", "cluster"), ("occupation", "occupation"), (None, "prompt")],
)
def test_a_group_is_called_as_its_column(column: str | None, noun: str) -> None:
    assert own(row(**({column: "x"} if column else {}))).noun == noun


@pytest.mark.parametrize(
    ("header", "name", "unit"),
    [
        ("covariate", "covariate", ""),
        ("share", "share", ""),
        ("share_of_men", "share of men", ""),
        ("covariate: age", "age", ""),
        ("covariate:  mean age [years]", "mean age", "years"),
        ("covariate: x []", "x", ""),
    ],
)
def test_a_covariate_has_the_name_and_unit_of_its_header(header: str, name: str, unit: str) -> None:
    found = own(row(group="x", **{header: 1}), row(id="z", group="y", **{header: 2}), row(id="w", group="v"))
    assert found.covariates == (Covariate(name, unit, {"x": 1.0, "y": 2.0}),)


def test_without_a_column_of_groups_each_distinct_prompt_is_one() -> None:
    found = own(row(), row(b="they"), row(prompt="Y"))
    assert [e.group for e in found.examples] == ["1", "1", "3"]
    assert all(e.term == "" for e in found.examples) and "prompts count as independent" in found.notes[0]


def test_other_columns_are_kept_as_text_and_named_once() -> None:
    found = own(row(year=1990, src="web", ok=True), row(src="web", b="they"))
    assert [e.meta for e in found.examples] == [{"year": "1990", "src": "web", "ok": "true"}, {"src": "web"}]
    assert found.notes[1] == "other columns, kept for --group-by: year, src, ok"


def test_equal_rows_are_kept_and_counted() -> None:
    found = own(row(group="x"), row(group="x"), row(group="y"))
    assert len(found.examples) == 3 and found.notes == ("1 rows are equal to another one but for the id",)


@pytest.mark.parametrize(
    ("value", "note"), [(3, "covariate is 3 in every"), (None, "covariate is empty through")]
)
def test_a_constant_or_empty_covariate_is_none_and_said(value: int | None, note: str) -> None:
    found = own(row(group="x", covariate=value), row(group="y", covariate=value))
    assert not found.covariates and found.notes[0].startswith(note)


def test_the_optional_columns_reach_the_example() -> None:
    (e,) = own(
        row(term="nurse", together="t", bias_type="gender", twin="The pilot said that ", cluster="x", id=7)
    ).examples
    expected = Example("7", "prompts", "gender", "x", "The nurse said that", " he", " she", term="nurse")
    assert e == replace(expected, together="t", twin="The pilot said that")


@pytest.mark.parametrize("name", ["winogender", "stereoset", "my: data/1", "..", "é"])
def test_a_name_is_safe_and_that_of_no_other_data(name: str) -> None:
    found = bs.prompts([row()], name=name).name
    expected = {
        "winogender": "prompts_winogender",
        "stereoset": "prompts_stereoset",
        "my: data/1": "my_data_1",
    }
    assert found == expected.get(name, "prompts")
