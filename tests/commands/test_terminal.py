"""What a person at a terminal sees, and when; what does nothing is refused, what can be completed is."""

import json
import os
import subprocess
import sys

import pytest

from biasscope import cli, usage
from biasscope.engine import settings
from biasscope.engine.data import datasets
from biasscope.engine.experiments import check
from biasscope.engine.model import weights
from biasscope.engine.store import reproduce
from tests.support import edits, terminal
from tests.support.cli import biasscope

pytestmark = pytest.mark.usefixtures("few_draws")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder with one finished run, named and limited, and its call."""
    folder = tmp_path_factory.mktemp("terminal")
    call = ["-m", "planted:single", "-d", "occupations", "--limit", 24]
    call += ["-o", folder / "r", "--cache-dir", folder / "c"]
    biasscope("ablate", *call, "--layers", 1, "--name", "before", "-q")
    return folder, call


def process(*arguments, **more):
    return subprocess.run(
        [sys.executable, "-m", "biasscope", *map(str, arguments)], capture_output=True, check=False, **more
    )


# In a terminal of its own


@pytest.mark.parametrize("command", ["ablate", "report", "verify"])
def test_the_first_line_comes_before_a_second_of_work(tmp_path, command):
    own = terminal.start(command, *(["-o", tmp_path] if command != "verify" else []))
    shown = own.until(lambda seen: b"\n" in seen)
    used = own.cpu()
    own.process.kill()
    own.end()
    assert shown.startswith(f"biasscope {command}: starting ...") and used < 1.0


def test_while_a_model_is_converted_its_first_line_stands(tmp_path):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    own = terminal.start(
        "baseline", "-m", tmp_path / "model.gguf", "-d", "occupations", "--cache-dir", tmp_path
    )
    shown = own.until(lambda seen: b"once (model.gguf)" in seen)
    assert shown.splitlines()[0] == "biasscope baseline: starting ..." and own.end() == 4


def test_ctrl_c_is_acknowledged_and_kept_work_is_named(tmp_path):
    own = terminal.start(
        "ablate", "-m", "planted:single", "-d", "occupations", "-o", tmp_path, "--cache-dir", tmp_path
    )
    own.until(lambda seen: b"loading planted" in seen)
    own.type("\x03")
    assert own.end() == 130
    shown = own.seen.decode()
    assert "stopping after the present pass" in shown and "the same command goes on from there" in shown


@pytest.mark.parametrize(("answer", "left"), [("n\n", True), ("y\n", False)])
def test_nothing_is_deleted_at_a_terminal_before_the_person_says_yes(home, tmp_path, answer, left):
    cache = tmp_path / "c"
    biasscope("baseline", *home[1][:-4], "-o", tmp_path / "r", "--cache-dir", cache, "-q")
    own = terminal.start("cache", "rm", "--all", "--cache-dir", cache)
    own.until(lambda seen: b"[y/N]" in seen)
    own.type(answer)
    assert own.end() == 0 and bool(list((cache / "runs").iterdir())) == left


def test_colours_are_off_where_they_are_not_wanted(home):
    _, call = home
    for more, coloured in ((["--no-color"], False), ([], True)):
        own = terminal.start("ablate", *call, "--layers", 1, "--plot", *more)
        assert own.end() == 0 and (b"\x1b[3" in own.seen or b"\x1b[4" in own.seen) == coloured


# Around a run


def test_the_next_command_stands_at_the_end_and_runs(home):
    folder, call = home
    err = biasscope("baseline", *call)[2]
    assert err.splitlines()[-1].startswith(
        "next: biasscope ablate --model planted:single --dataset occupations"
    )
    err = biasscope("ablate", *call, "--layers", 1)[2]
    following = err.splitlines()[-1].removeprefix("next: biasscope ")
    assert following.startswith("circuit --from ") and f"--output-dir {folder / 'r'}" in following
    assert "next" not in biasscope("baseline", *call, "-q")[2]


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.01, None), (2.0, "about 3:14 min left"), (20.0, "quicker")]
)
def test_a_forecast_is_made_once_from_the_first_parts(seconds, words):
    clock, said = iter([seconds * i for i in range(200)]), []
    forecast = settings.Forecast(
        100, lambda text, long: said.append(f"{text}{' quicker' * long}"), lambda: next(clock)
    )
    for _ in range(100):
        forecast.step()
    assert len(said) == (words is not None) and all(words in text for text in said)


def test_of_a_long_scan_the_quicker_command_is_named():
    params = {"model": "gpt2", "dataset": ["winogender"], "source": "mean"}
    assert reproduce.quicker("ablate", params).endswith("--source mean --top 20")
    assert "--method" not in reproduce.quicker("patch", {**params, "method": "exact"})
    assert reproduce.quicker("baseline", {**params, "limit": 60}) is None


def test_json_lines_end_with_a_record_that_says_so(home):
    lines = [
        json.loads(line)
        for line in biasscope("ablate", *home[1], "--layers", 1, "--format", "jsonl")[1].splitlines()
    ]
    assert (
        lines[-1]["done"] is True and lines[-1]["rows"] == len(lines) - 1 and lines[-1]["command"] == "ablate"
    )


# Lists and completion


def test_runs_ls_says_what_was_scanned_and_what_the_model_is_called(home):
    (row,) = [
        r
        for r in json.loads(biasscope("runs", "ls", "-o", home[0] / "r", "--json")[1])
        if r["command"] == "ablate"
    ]
    assert (row["name"], row["limit"], row["layers"]) == ("before", 24, "1")
    table = biasscope("runs", "ls", "-o", home[0] / "r", "--format", "table")[1]
    assert "before" in table and "mean --layers 1 --limit 24" in table


def test_a_finished_run_is_renamed_by_its_command_and_its_key_stays(home):
    folder, call = home
    again = json.loads(biasscope("ablate", *call, "--layers", 1, "--name", "after", "--json")[1])["run"]
    rows = json.loads(biasscope("runs", "ls", "-o", folder / "r", "--json", "--cache-dir", folder / "c")[1])
    (row,) = [r for r in rows if r["command"] == "ablate"]
    assert (
        row["name"] == "after"
        and row["run"] == again["datasets"][0]["run_key"][:8]
        and row["seal"] == "sealed"
    )
    assert "--name after" in again["reproduce"]
    biasscope("ablate", *call, "--layers", 1, "--name", "before", "-q")


def test_the_name_of_an_edited_model_is_not_that_of_the_model_without_the_edit(tmp_path, few_draws):
    where = ["-o", tmp_path / "r", "--cache-dir", tmp_path / "c"]
    call = ["baseline", "-m", "planted:single", "-d", "occupations", "--limit", 12, *where, "-q"]
    biasscope(*call, "--edit", edits.without_a_decoy(tmp_path / "c"), "--name", "edited")
    biasscope(*call)
    rows = json.loads(biasscope("runs", "ls", *where, "--json")[1])
    assert {(row["name"], "--edit" in row["how"]) for row in rows} == {("edited", True), (None, False)}
    assert {row["model"] for row in rows} == {"edited (planted-single)", "planted-single"}


def test_every_data_set_and_short_name_is_listed():
    listed = json.loads(biasscope("datasets", "ls", "--json")[1])
    assert [row["name"] for row in listed] == datasets.names() and all(row["licence"] for row in listed)
    assert {row["name"]: row["here"] for row in listed}["occupations"]
    names = {row["name"] for row in json.loads(biasscope("models", "ls", "--json")[1])}
    assert {*usage.MODELS, *(f"planted:{kind}" for kind in usage.PLANTED)} == names
    assert {row["name"] for row in check.models()} == names and set(weights.EMBEDDED) <= names


def completed(words):
    env = os.environ | {
        "_BIASSCOPE_COMPLETE": "complete_bash",
        "COMP_WORDS": words,
        "COMP_CWORD": str(len(words.split(" ")) - 1),
    }
    return process(env=env).stdout.decode().split()


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("biasscope baseline --dataset wi", "winogender"),
        ("biasscope ablate -m plan", "planted:single"),
        ("biasscope ablate --source re", "resample"),
        ("biasscope download stereo", "stereoset"),
    ],
)
def test_names_are_completed(words, name):
    assert name in completed(words)


def test_keys_of_runs_are_completed_from_the_results_folder(home):
    (key,) = [path.name for path in (home[0] / "r").glob("*/*/ablate/*")]
    assert key in completed(f"biasscope compare --output-dir {home[0] / 'r'} {key[:2]}")
    assert key in completed(f"biasscope circuit --output-dir {home[0] / 'r'} --from {key[:3]}")


def test_env_tells_versions_and_no_secret(monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    out = biasscope("env", "--json")[1]
    facts = json.loads(out)
    assert (
        facts["versions"]["biasscope"]
        and facts["variables"]["HF_TOKEN"] == "(set)"
        and "hf_secret" not in out
    )


@pytest.mark.parametrize("name", sorted(cli.Folder().commands))
def test_every_command_takes_a_cache_folder_and_shows_examples_before_options(name):
    out = biasscope(name, "--help")[1]
    assert out.index("Examples:") < out.index("─ Options ─")
    assert "--cache-dir" in out


# What does nothing, and what cannot be


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ablate --miss 0.1", "--miss is about --adaptive"),
        ("ablate --by attribution", "--by is about --top N"),
        ("circuit --from aaaa --target 0.5", "--target is about --minimal"),
        ("baseline --predictions pyproject.toml -m gpt2", "without a --model"),
        ("baseline --rows --format csv", "--rows goes with"),
        ("baseline --json --format csv", "contradicts --format"),
        ("baseline -q -v", "-q and -v contradict"),
        ("baseline -m planted:single --revision main", "--revision is of models on the hub"),
        ("baseline --fail-if-untestable", "is about --fail-if"),
        ("cache ls --repair", "is about `cache verify`"),
        ("cache ls --all", "is about `cache rm`"),
        ("patch --positions all,term -d occupations -m planted:single", "all is every position at once"),
        ("ablate --heads 1.1 --given 1.1 -d occupations -m planted:single", "--heads 1.1 is in --given too"),
    ],
)
def test_an_option_that_would_do_nothing_is_refused(words, message):
    code, out, err = biasscope(*words.split(), ok=False)
    assert code == 2 and message in err and out == ""


def test_a_variable_that_no_option_reads_is_warned_of():
    done = process("--version", env=os.environ | {"BIASSCOPE_LIMITS": "3", "BIASSCOPE_LIMIT": "3"})
    assert (
        done.stderr.decode() == "warning: BIASSCOPE_LIMITS is read by no option; is BIASSCOPE_LIMIT meant?\n"
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("ablate --heads 9.9", "L9H9 is not in"),
        ("ablate --layers 3-9", "it has layers 0-3, heads 0-3"),
        ("patch --layers 4", "L4.mlp is not in"),
        ("baseline --given 0.4", "L0H4 is not in"),
        ("probe --given 0.4", "L0H4 is not in"),
        ("baseline --device potato", "is no device; take auto, cpu, cuda"),
        ("probe --task stereotype", "--task stereotype is not defined for occupations"),
    ],
)
def test_what_the_configuration_tells_is_refused_before_weights_are_loaded(
    tiny_gpt2, tmp_path, words, message
):
    code, _, err = biasscope(
        *words.split(),
        "-m",
        tiny_gpt2,
        "-d",
        "occupations",
        "-o",
        tmp_path,
        "--cache-dir",
        tmp_path / "c",
        ok=False,
    )
    assert code == 2 and message in err and "loading" not in err
