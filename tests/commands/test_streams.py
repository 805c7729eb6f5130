"""What happens to the command where a stream, the cache or a model's file cannot be used: one line, and the
right exit code.
"""

import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from biasscope import cli
from biasscope.engine import errors
from biasscope.engine.errors import BiasScopeError, DataError
from biasscope.engine.model import weights

RUN = ["baseline", "--dataset", "occupations", "--limit", "24"]


def biasscope(*arguments: object, encoding: str = "utf-8", **more) -> subprocess.CompletedProcess[bytes]:
    """A finished call in a process of its own."""
    env = os.environ | {"PYTHONIOENCODING": encoding, "HF_HUB_OFFLINE": "1", "COLUMNS": "80"}
    command = [sys.executable, "-m", "biasscope", *map(str, arguments)]
    return subprocess.run(
        command, check=False, env=env, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | more
    )


@pytest.fixture(scope="module")
def where(tiny_gpt2: Path, tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """The options of a finished run, which is answered without a model."""
    folder = tmp_path_factory.mktemp("streams")
    options = ["--model", tiny_gpt2, "--cache-dir", folder / "cache", "--output-dir", folder / "results"]
    done = CliRunner().invoke(cli.app, [str(a) for a in (*RUN, *options)])
    assert done.exit_code == 0, done.stderr
    return options


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "ascii"])
def test_a_table_is_written_in_every_encoding_with_its_columns_in_line(where, encoding):
    done = biasscope(*RUN, *where, "--format", "table", encoding=encoding)
    text = done.stdout.decode(encoding)
    assert done.returncode == 0 and b"Traceback" not in done.stderr and "rho BLS" in text and "?" not in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert len({len(row) for row in rows}) == 1 and len(rows) > 5


def test_an_utf_8_table_is_as_it_was(where):
    assert "ρ BLS" in biasscope(*RUN, *where, "--format", "table").stdout.decode()


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
@pytest.mark.parametrize("arguments", ["--help", "ablate --help", "--version", "", "--format table"])
def test_a_full_stdout_is_one_line_and_exit_1(where, arguments):
    command = (
        arguments.split()
        if "-" in arguments and "format" not in arguments
        else [*RUN, *where, *arguments.split()]
    )
    with Path("/dev/full").open("wb") as full:
        done = biasscope(*command, stdout=full)
    assert done.returncode == 1
    assert done.stderr.decode().splitlines()[-1] == "error: cannot write to stdout: no space left on device"
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr


@pytest.mark.parametrize("arguments", ["--help", "ablate --help", "--format table", "--json"])
def test_a_reader_that_has_left_is_no_error(where, arguments):
    command = arguments.split() if "help" in arguments else [*RUN, *where, *arguments.split()]
    read, write = os.pipe()
    os.close(read)
    done = biasscope(*command, stdout=write)
    os.close(write)
    assert (
        done.returncode == 0 and b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr
    )


def no_room() -> None:
    """Let the process write files of 40 kB at most."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, 40_000))


def test_a_cache_that_takes_no_model_is_one_line(tmp_path):
    options = ["--model", "planted:single", "--cache-dir", tmp_path / "cache", "--output-dir", tmp_path]
    done = biasscope(*RUN, *options, preexec_fn=no_room)
    assert done.returncode == 1 and done.stderr.decode().count("\n") == 1
    assert done.stderr.decode().startswith(
        f"error: cannot write {tmp_path / 'cache' / 'models'}: File too large; choose another folder"
    )


@pytest.mark.parametrize("model", ["planted:single", "folder", "smollm2-135m"])
def test_a_cache_folder_that_cannot_be_made_is_one_line(tiny_gpt2, tmp_path, model, monkeypatch):
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setattr(
        weights, "gguf", lambda name: tiny_gpt2 / "config.json" if name == weights.DEFAULT else None
    )
    with pytest.raises(
        BiasScopeError,
        match=r"cannot write .*file.*: Not a directory; choose another folder \(--output-dir, --cache-dir\)",
    ):
        weights.locate(str(tiny_gpt2) if model == "folder" else model, cache_dir=tmp_path / "file")


def test_a_full_disk_of_unknown_need_says_no_number():
    said = str(errors.unwritable(OSError(28, "No space left on device"), Path("/cache/models")))
    assert said == "disk full: no room for models, at /cache; make room, then the same command goes on"


@pytest.mark.parametrize("size", [3, 60, 900])
def test_a_cut_gguf_file_is_bad_input_and_nothing_is_drawn(tmp_path, capfd, size):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(str(tmp_path / "whole.gguf"), "llama")
    for i in range(40):
        writer.add_string(f"general.{i}", "text " * 5)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.close()
    (tmp_path / "cut.gguf").write_bytes((tmp_path / "whole.gguf").read_bytes()[:size])
    with pytest.raises(DataError, match=r"cannot read .*cut\.gguf as a GGUF model: .*is it whole"):
        weights.locate(str(tmp_path / "cut.gguf"), cache_dir=tmp_path / "cache")
    assert capfd.readouterr() == ("", "")


def test_loading_a_model_in_python_says_nothing(tiny_gpt2, tmp_path):
    code = "import sys; from pathlib import Path; from biasscope.engine.model import loading\n"
    code += "for name in sys.argv[2:]: loading.load(name, cache_dir=Path(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(tmp_path), str(tiny_gpt2), "planted:single"]
    done = subprocess.run(command, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_the_conversion_of_a_gguf_file_is_said_before_it_begins(tmp_path, monkeypatch):
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    result = CliRunner().invoke(
        cli.app,
        [
            "baseline",
            "-m",
            str(tmp_path / "model.gguf"),
            "-d",
            "occupations",
            "--cache-dir",
            str(tmp_path),
            "-o",
            str(tmp_path / "r"),
        ],
    )
    first, second = result.stderr.splitlines()[:2]
    assert (
        first == f"converting {tmp_path / 'model.gguf'} once (model.gguf), about 5 s"
        and second.startswith("error: cannot read")
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("--heads 1.1,2.0 --given 1.1,0.mlp", "--heads 1.1 is in --given too"),
        ("--layers 1 --given 1.0,1.1,1.2,1.3,1.mlp", "--given replaces every site that --layers names"),
    ],
)
def test_what_is_replaced_all_the_while_is_not_measured(tiny_gpt2, tmp_path, options, message):
    where = [
        "-m",
        tiny_gpt2,
        "-d",
        "occupations",
        "--limit",
        "6",
        "--cache-dir",
        tmp_path / "cache",
        "-o",
        tmp_path,
    ]
    done = CliRunner().invoke(cli.app, ["ablate", *options.split(), *map(str, where)])
    assert done.exit_code == 2 and message in done.stderr
