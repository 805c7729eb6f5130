"""`biasscope check`: what can be measured with a file, before anything is loaded."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.cli import biasscope
from tests.support.own_prompts import as_csv, row, write

GROUPS = ("nurse", "clerk", "baker", "plumber", "teacher", "engineer")
ROWS = [row(group=group, prompt=f"The {group} said that", share=n) for n, group in enumerate(GROUPS)]


def checked(path: Path, rows: list[dict[str, Any]], *options: object) -> dict[str, Any]:
    (document,) = json.loads(biasscope("check", write(path, as_csv(rows)), *options, "--json")[1])
    return document


def test_a_file_is_told_what_can_be_measured_with_it(tmp_path: Path) -> None:
    found = checked(tmp_path / "mine.csv", ROWS)
    assert (found["found"], found["usable"], found["groups"], found["tokens"]) == (6, 6, 6, None)
    assert (found["ranks"], found["intervals"], found["rule"], found["twins"]) == ("slope", True, "none", 0)
    assert found["covariate"] == {
        "name": "share",
        "unit": "",
        "groups": 6,
        "low": 0.0,
        "median": 2.5,
        "high": 5.0,
    }


def test_five_groups_with_a_number_have_no_interval(tmp_path: Path) -> None:
    found = checked(tmp_path / "mine.csv", [*ROWS[:5], ROWS[5] | {"share": ""}])
    assert found["groups"] == 6 and found["covariate"]["groups"] == 5 and not found["intervals"]


def test_a_faulty_file_shows_what_is_left_and_ends_with_its_faults(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.csv", as_csv([*ROWS, row(group="nurse", b="he")]))
    code, out, err = biasscope("check", file, "--format", "table", ok=False)
    assert code == 4 and "mine.csv:8: both continuations are" in err
    assert "6 of 7 records" in out and "1: both continuations are the same" in out
    assert biasscope("check", file, "--skip-invalid")[0] == 0


def test_a_file_of_which_nothing_can_be_used_is_an_error(tmp_path: Path) -> None:
    code, out, err = biasscope("check", write(tmp_path / "x.csv", as_csv([row(b="he")])), ok=False)
    assert code == 4 and not out and "1 of 1 records" in err


def test_with_a_tokenizer_its_tokens_and_the_twins_that_fit_are_told(tmp_path: Path, tiny_gpt2: Path) -> None:
    rows = [
        row(group="x", twin="The teacher said that"),
        row(group="x", b="strong kind", twin="The nurse said that he said that"),
        row(group="y"),
    ]
    found = checked(tmp_path / "mine.csv", rows, "--model", tiny_gpt2, "--cache-dir", tmp_path)
    tokens = found["tokens"]
    assert found["twins"] == 2 and tokens["twins"] == 1 and tokens["usable"] == 3
    assert tokens["lengths"]["stereo"] == {"low": 1, "median": 1, "high": 1}
    assert tokens["lengths"]["anti"]["high"] > 1
    assert tokens["without_twin"] == {
        "its twin has 7 tokens, the prompt 4": 1,
        "no twin is given for it": 1,
    }


@pytest.mark.parametrize("kind", ["planted:single"])
def test_every_kind_of_model_has_a_tokenizer(tmp_path: Path, kind: str) -> None:
    found = checked(tmp_path / "mine.csv", ROWS, "--model", kind, "--cache-dir", tmp_path)
    assert found["tokens"]["model"] == kind and found["tokens"]["nodes"] > 6


def test_weights_are_not_read_and_without_a_model_nothing_heavy_is_loaded(
    tmp_path: Path, tiny_gpt2: Path
) -> None:
    folder = tmp_path / "tokenizer"
    folder.mkdir()
    for file in tiny_gpt2.iterdir():
        if file.suffix == ".json":
            (folder / file.name).write_bytes(file.read_bytes())
    assert checked(tmp_path / "a.csv", ROWS, "--model", folder)["tokens"]["usable"] == 6
    code = "import sys; from biasscope import cli\n"
    code += f"sys.argv = ['biasscope', 'check', {str(tmp_path / 'a.csv')!r}]\n"
    code += "try: cli.main()\nexcept SystemExit: print({'torch', 'transformers'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False, text=True)
    assert done.stdout.endswith("set()\n"), done.stderr
