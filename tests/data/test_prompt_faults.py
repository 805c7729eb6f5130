"""Prompts of one's own that cannot be read: every fault has its place, and what to do."""

from pathlib import Path

import pytest

import biasscope as bs
from biasscope.engine.data import sheets
from biasscope.engine.errors import DataError, UsageError
from tests.support.own_prompts import ROWS, form, load, own, row, write


@pytest.mark.real
def test_a_faulty_file_is_told_all_its_faults_with_their_lines(
    shared_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(shared_data / "prompts")
    with pytest.raises(DataError) as error:
        load("faulty.csv")
    assert f"error: {error.value}" == (
        "error: faulty.csv: 5 of 7 records cannot be used; mend them, or leave them out with --skip-invalid\n"
        "  faulty.csv:3: prompt is empty\n"
        '  faulty.csv:4: both continuations are " he"\n'
        "  faulty.csv:5: covariate must be a number, found '39;4'\n"
        "  faulty.csv:7: covariate 12, but 10.42 at faulty.csv:2 for the same group 'nurse'\n"
        "  faulty.csv:8: group is empty"
    )
    skipped = load("faulty.csv", skip_invalid=True)
    assert [e.id for e in skipped.examples] == ["1", "5"] and skipped.found == 7
    assert skipped.dropped == {
        "prompt is empty": 1,
        "both continuations are the same": 1,
        "covariate is no number": 1,
        "covariate differs within its group": 1,
        "group is empty": 1,
    }


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "words.csv",
            "text,he,she\n",
            "words.csv:1: no column `prompt`; found text, he, she; rename the one that holds the prompts",
        ),
        (
            "words.csv",
            "prompt,a,b,covarite\nx,y,z,1\n",
            "words.csv:1: unknown column `covarite` (did you mean `covariate`?)",
        ),
        (
            "words.csv",
            "prompt,stereo,anti,prompt_b,continuation\n1,2,3,4,5\n",
            "words.csv:1: both forms are given (stereo, anti and prompt_b, continuation); a file has one of "
            "them",
        ),
        (
            "words.jsonl",
            '{"prompt": "x", "a": "y", "b": "z"}\n' * 13 + '{"prompt": "The nurse said", "a" "he"}\n',
            "words.jsonl:14: malformed JSON: Expecting ':' delimiter (column 34)",
        ),
        (
            "words.csv",
            "Prompt,A,b\nx,y,z\n",
            "words.csv:1: unknown column `Prompt` (did you mean `prompt`?)\n"
            "words.csv:1: unknown column `A` (did you mean `a`?)",
        ),
        (
            "words.csv",
            "prompt,a,stereo,b\nx,y,z,w\n",
            "words.csv:1: `a` and `stereo` are one column; give one of them",
        ),
        ("words.csv", "prompt,a,a,b\nx,y,z,w\n", "words.csv:1: two columns are called `a`"),
        (
            "words.csv",
            "prompt,stereo\nx,y\n",
            "words.csv:1: no column `anti`; found prompt, stereo; rename the one that holds it",
        ),
        (
            "words.csv",
            "prompt,prompt_b,shared,twin\nx,y,z,w\n",
            "words.csv:1: with prompt_b there is no column `twin`: each prompt is the other's",
        ),
        (
            "words.csv",
            ",prompt,a,b\n0,x,y,z\n",
            "words.csv:1: column 1 has no name; give it one, or leave it out",
        ),
        (
            "words.csv",
            "prompt,a,b\nx,y,z\n\nx,y\n",
            "words.csv:4: 3 columns are expected, found 2; a text that holds what divides them stands in "
            "double quotes (.csv)",
        ),
        (
            "words.csv",
            'prompt,a,b\nx, "y","z"\n',
            "words.csv:2: malformed CSV: a quote within a text is written twice, and the text in quotes "
            "directly after the ','",
        ),
        (
            "words.csv",
            'prompt,a,b\nx,y,z\nx,y,"z\n',
            "words.csv:3: malformed CSV: unexpected end of data; is a quote never closed?",
        ),
        (
            "words.tsv",
            'prompt\ta\tb\n"x, y"\the\tshe\n',
            "words.tsv:2: a cell in quotes, which .tsv has not; save as .csv, or take them away",
        ),
        (
            "words.jsonl",
            '{"prompt": "x", "a": NaN}\n',
            "words.jsonl:1: NaN is no number in JSON; leave the key out, or give null",
        ),
        (
            "words.jsonl",
            '\n{"prompt": "x", "a": "y", "a": "z"}',
            "words.jsonl:2: key 'a' stands twice in one object",
        ),
        ("words.jsonl", '["x"]', "words.jsonl:1: an object is expected, found a list"),
        (
            "words.jsonl",
            '{"prompt": "\\ud800"}',
            "words.jsonl:1: holds half of a surrogate pair (\\ud8xx), which is no text",
        ),
        ("words.json", '[{"prompt": "x"}, 3]', "words.json: record 2: an object is expected, found a number"),
        ("words.csv", "", "words.csv holds no record; one row of column names and one of texts is the least"),
        (
            "words.csv",
            b"prompt,a,b\nx,\xe4,z\n",
            "words.csv:2: not UTF-8 (byte 0xe4); save the file as UTF-8",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_with_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str | bytes, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError) as error:
        load(write(Path(name), text))
    assert str(error.value) == message


FAULTS = {
    "prompt is empty": {"prompt": " "},
    "prompt ends with more than one space": {"prompt": "x  "},
    "a must be a text, found list": {"a": ["he"]},
    'both continuations are " she"': {"a": "she "[:3]},
    "covariate must be a number, found '1_0'": {"covariate": "1_0"},
    "covariate must be a number, found True": {"covariate": True},
    "covariate must be finite, found inf": {"covariate": float("inf")},
    "covariate 3, but 2.5 at prompts: row 1 for the same group 'x'": {"covariate": 3},
    "per_token must be true or false, found 'yes'": {"per_token": "yes"},
    "its twin is the prompt itself": {"twin": "The nurse said that "},
    "id 'first' stands at prompts: row 1 too": {"id": "first"},
    "prompt holds the control character U+001B": {"prompt": "\x1b[2J"},
    "note holds the control character U+0000": {"note": "a\x00"},
    "prompt has 20,001 characters, at most 20,000 are read": {"prompt": "x" * 20_001},
    "group is empty": {"group": None},
}


@pytest.mark.parametrize("message", FAULTS)
def test_the_first_fault_of_a_record_is_told_and_counted(message: str) -> None:
    rows = [row(id="first", group="x", covariate=2.5), row(group="x") | FAULTS[message]]
    with pytest.raises(DataError) as error:
        own(*rows)
    assert str(error.value).split("\n")[1:] == [f"  prompts: row 2: {message}"]
    kept = own(*rows, skip_invalid=True)
    assert [e.id for e in kept.examples] == ["first"] and kept.found == 2 and kept.dropped.total() == 1


def test_two_equal_prompts_are_no_example() -> None:
    with pytest.raises(DataError, match='both prompts are "X"'):
        own({"prompt": "X", "prompt_b": "X ", "shared": "he"})


def test_a_refused_record_leaves_no_trace_in_the_others() -> None:
    """Its id, its group's value and its prompt are free."""
    bad = row(id="a", group="x", covariate=9, prompt="\x07")
    kept = own(
        bad, row(id="a", group="x", covariate=1), row(id="c", group="y", covariate=2), skip_invalid=True
    )
    assert len(kept.examples) == 2 and kept.covariates[0].values == {"x": 1.0, "y": 2.0}


@pytest.mark.parametrize("name", ["source", "notes", "case", "prompt_id", "item", "share_of_women", "sex"])
def test_a_column_of_another_meaning_is_kept(name: str) -> None:
    assert own(row(**{name: "x"})).examples[0].meta == {name: "x"}


@pytest.mark.parametrize(
    "name", ["prompts", "gruop", "Twin", "bias type", "tem", "ID", "covariate (%)", "covariate:"]
)
def test_a_column_close_to_a_known_one_is_refused(name: str) -> None:
    with pytest.raises(DataError, match="did you mean"):
        own(row(**{name: "x"}))


def test_limits_are_refused_before_anything_is_built(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheets, "MIB", 0)
    with pytest.raises(DataError, match=r"x\.csv has 0 MiB, more than the 0 that are read"):
        load(write(tmp_path / "x.csv", "prompt,a,b\nx,y,z\n"))
    monkeypatch.undo()
    monkeypatch.setattr(sheets, "ROWS", 3)
    for kind in ("csv", "tsv", "jsonl", "json", "parquet", "list"):
        with pytest.raises(DataError, match="more than 3 records"):
            bs.prompts(form(kind, tmp_path, ROWS))
    with pytest.raises(DataError, match="has 65 columns, more than the 64"):
        own({f"c{n}": "x" for n in range(65)})


def test_a_spreadsheet_and_a_table_that_is_none_are_told_what_to_be(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"is no FILE.csv.*save a spreadsheet as CSV"):
        load(write(tmp_path / "x.xlsx", b"PK"))
    with pytest.raises(DataError, match="cannot read nowhere.csv: No such file"):
        load("nowhere.csv")
    with pytest.raises(UsageError, match="frame or a list of dictionaries, found int"):
        bs.prompts(3)
    with pytest.raises(DataError, match="is no Parquet file that can be read"):
        load(write(tmp_path / "x.parquet", b"PAR1nothing"))
