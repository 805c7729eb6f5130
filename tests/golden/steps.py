"""The golden commands as data, and how they are run in a folder: only the command line and files on disk, so
that modules may move.
"""

import contextlib
import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from . import models

ROOT = Path(__file__).parents[2]

Call = Callable[[list[str]], tuple[int, str, str]]
"""Runs `biasscope` with these arguments: exit code, stdout, stderr."""
FORMS = {
    "json": "--json",
    "table": "--format table",
    "plot": "--format table --plot",
    "csv": "--format csv",
    "markdown": "--format markdown",
    "rows": "--format jsonl --rows",
}
CACHE, RESULTS = "--device cpu --cache-dir cache", "-o results"
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "NO_COLOR": "1",
    "COLUMNS": "80",
    "OMP_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
QUIET |= {"BIASSCOPE_CACHE_DIR": "cache"}  # also for commands that only look into it

SOLVED = 0.02
"""`close` of what a solver finds: it stops when the next step is small, and an input at the margin falls to
either side.
"""


@dataclass(frozen=True)
class Step:
    """One command, run once in each form; the first form measures, the others answer from what is there."""

    name: str
    words: str
    """As typed; {name} is the folder of the runs that an earlier step saved."""
    forms: tuple[str, ...] = ("json", "table")
    data: bool = False
    """Whether it needs the real data."""
    resumes: str | None = None
    """The step whose run is cut to half of its units before, and finished by this one."""
    close: float = 1e-5
    """How far a number may be from the stored one, of its size or of 1."""


ALL, SMALL = "-d occupations --limit 60", "-d occupations --limit 24"
PLANTED = f"ablate -m planted:single {ALL} --layers 1,3 --source all --control definitional {CACHE}"
REAL = f"--data-dir data {CACHE} {RESULTS}"
# No site here has an effect that is zero but for rounding, and no two sites have the same: on another
# processor the last bits would decide their p and their order. So planted models are scanned in part, `z` and
# `attn_out`, which are equal, in different steps, and the whole residual stream, which is the total, only by
# estimates or positions.
STEPS = (
    Step(
        "baseline",
        f"baseline -m tiny-gpt2 {SMALL} -d definitional {CACHE} {RESULTS}",
        ("json", "table", "csv", "rows"),
    ),
    Step("attribution", f"patch -m tiny-llama {ALL} --components z,mlp_out --calibrate 2 {CACHE} {RESULTS}"),
    Step(
        "positions",
        f"patch -m tiny-gpt2 {ALL} --method exact --layers 1 --components attn_out,resid_pre "
        f"--positions term,between,readout {CACHE} {RESULTS}",
    ),
    Step(
        "denoised",
        f"patch -m tiny-gpt2 {SMALL} --direction denoising --steps 2 --components z,resid_post {CACHE} "
        f"{RESULTS}",
    ),
    Step("planted", f"{PLANTED} {RESULTS}"),
    Step(
        "given",
        f"ablate -m tiny-llama {SMALL} --given 0.1,0.mlp --source mean {CACHE} {RESULTS}",
        ("json", "table", "plot", "markdown"),
    ),
    Step("top", f"ablate -m tiny-gpt2 {SMALL} --top 4 --source resample --seed 3 {CACHE} {RESULTS}"),
    Step(
        "adaptive",
        f"ablate -m planted:graded {SMALL} --layers 0,1,3 --adaptive --top 1 --miss 0.3 --source zero "
        f"{CACHE} {RESULTS}",
    ),
    Step(
        "probe",
        f"probe -m tiny-gpt2 {ALL} --causal --split holdout {CACHE} {RESULTS}",
        ("json", "table", "plot"),
        close=SOLVED,
    ),
    Step("encode", f"encode -m tiny-llama -d definitional --site z --position term {CACHE} {RESULTS}"),
    Step("pairs", f"pairs -m tiny-llama {SMALL} {CACHE} {RESULTS}"),
    Step("circuit", f"circuit --from {{planted}} --sizes 1,2 --minimal {CACHE} {RESULTS}"),
    Step("resumed", f"{PLANTED} -o resumed", ("json",), resumes="planted"),
    Step("download", "download stereoset winogender --from {data} --data-dir data", ("",), data=True),
    Step(
        "stereoset", f"baseline -m tiny-llama -d stereoset_gender -d winogender --limit 24 {REAL}", data=True
    ),
    Step("race", f"patch -m tiny-gpt2 -d stereoset_race --limit 30 --components z,mlp_out {REAL}", data=True),
    Step(
        "fillers",
        f"probe -m tiny-gpt2 -d stereoset_gender --limit 40 --negatives unrelated --site z {REAL}",
        data=True,
        close=SOLVED,
    ),
    Step("compare", f"compare {{planted}} {{top}} {{attribution}} {RESULTS}"),
    # no two of these have as many rows in their summary and as many examples: the clock would decide which
    # stands first
    Step(
        "report",
        f"report {{baseline}} {{attribution}} {{planted}} {{probe}} {{circuit}} {RESULTS}",
        close=SOLVED,
    ),
)


def prepare(folder: Path) -> Path:
    """The folder, made, with the tiny models in it."""
    folder.mkdir(parents=True)
    models.save(folder)
    return folder


def perform(folder: Path, call: Call, data: Path | None) -> None:
    """Run all steps in `folder`; what they print is kept in stdout/, the study's files of each step in
    study/.
    """
    (folder / "stdout").mkdir()
    known: dict[str, str] = {"data": shlex.quote(str(data))}
    for step in STEPS:
        if data is not None or not step.data:
            if step.resumes:
                cut(folder, known[step.resumes])
            _run(step, folder, call, known)


def real_data() -> Path | None:
    """The folder of the real data, None where there is none."""
    folder = Path(os.environ.get("BIASSCOPE_TEST_DATA", ROOT / "../shared/data")).resolve()
    return folder if (folder / "stereoset_intrasentence.json").is_file() else None


def _run(step: Step, folder: Path, call: Call, known: dict[str, str]) -> None:
    before = _study(folder)
    for form in step.forms:
        code, out, err = call(shlex.split(f"{step.words.format_map(known)} {FORMS.get(form, '')}"))
        if code:
            raise RuntimeError(f"golden run '{step.name}' ended with {code}: {err or out}")
        (folder / "stdout" / f"{step.name}.{form or 'json'}").write_text(out, encoding="utf-8")
        if form == "json" and "run" in (document := json.loads(out)):
            known[step.name] = " ".join(part["path"] for part in document["run"]["datasets"])
    for name, content in _study(folder).items():
        if before.get(name) != content:
            kept = folder / "study" / step.name / name
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_bytes(content)


def _study(folder: Path) -> dict[str, bytes]:
    """The original study's files as they stand."""
    return {
        f"{file.parent.name}/{file.name}": file.read_bytes()
        for file in sorted(folder.glob("results/*/*.json"))
    }


def cut(folder: Path, run: str) -> int:
    """How many units the journal of a run still has: half of them, as if the process had been killed then."""
    part = json.loads((folder / run / "run.json").read_text(encoding="utf-8"))["datasets"][0]
    journal = folder / "cache/runs" / part["run_key"] / "journal.jsonl"
    kept, lines = 0, []
    for line in journal.read_bytes().splitlines(keepends=True):
        kept += b'"unit"' in line
        if kept > part["units"] // 2:
            break
        lines.append(line)
    journal.write_bytes(b"".join(lines))
    return int(part["units"] // 2)


def inside(folder: Path) -> Call:
    """Calls in this process, on one thread as those outside."""
    import torch
    from typer.testing import CliRunner

    from biasscope import cli

    own: dict[str, str | None] = {name: None for name in os.environ if name.startswith("BIASSCOPE_")}

    def call(arguments: list[str]) -> tuple[int, str, str]:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            with contextlib.chdir(folder):
                result = CliRunner().invoke(cli.app, arguments, env=own | QUIET)
        finally:
            torch.set_num_threads(threads)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result.exit_code, result.stdout, result.stderr

    return call


def outside(folder: Path, tree: Path) -> Call:
    """Calls in processes of their own, of the code in `tree`."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("BIASSCOPE_")}
    own |= QUIET | {"PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}

    def python(*words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, *words], env=own, cwd=folder, capture_output=True, encoding="utf-8", check=False
        )

    def call(arguments: list[str]) -> tuple[int, str, str]:
        done = python("-m", "biasscope", *arguments)
        return done.returncode, done.stdout, done.stderr

    where = python("-c", "import biasscope; print(biasscope.__file__)")
    if not Path(where.stdout.strip()).resolve().is_relative_to(tree.resolve()):
        raise RuntimeError(f"{tree} is not what runs, but {where.stdout or where.stderr}")
    return call
