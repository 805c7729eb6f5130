"""Every command of the README runs as it stands there, with a model that has a stereotype in the place of
gpt2 and few examples.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import biasscope as bs
from biasscope.engine.data import prompt_columns
from tests.support import warm

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
COMMANDS = [
    line for kind, block in BLOCKS if not kind for line in block.splitlines() if line.startswith("biasscope ")
]
MODEL = "planted:single"
SNIPPETS = [block for kind, block in BLOCKS if kind == "python"]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict[str, str]]]:
    """A folder to work in and an environment whose `biasscope` has its libraries loaded."""
    folder = tmp_path_factory.mktemp("home")
    (folder / "bin").mkdir()
    small = {"BIASSCOPE_LIMIT": "24", "BIASSCOPE_CACHE_DIR": str(folder / "cache"), "HF_HUB_OFFLINE": "1"}
    environment = os.environ | small | {"PATH": f"{folder / 'bin'}:{os.environ['PATH']}"}
    with warm.serving(folder / "bin", environment):
        yield folder, environment


@pytest.mark.slow
def test_the_commands_of_the_readme_run_in_order_and_its_report_stands(home):
    folder, environment = home
    if shutil.which("jq") is None:
        pytest.skip("jq not found; two of the README's examples pipe into it")
    assert len(COMMANDS) >= 5
    for command in COMMANDS:
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", re.sub(r"\bgpt2\b", MODEL, command)],
            cwd=folder,
            env=environment,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stderr.decode()}"
    page = (folder / "results" / "report.html").read_text()
    assert "occupations" in page and "<svg" in page


def test_the_python_of_the_readme_runs(home):
    folder, environment = home
    if not list(folder.glob("results/*/occupations/ablate/*/effects.parquet")):
        pytest.skip("the commands before it did not run")
    for snippet in SNIPPETS:
        code = snippet.replace('"smollm2-135m"', repr(MODEL)).replace("limit=120", "limit=12")
        code = code.replace('layers="26"', 'layers="1"').replace("L26H2", "L1H2")
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, check=False
        )
        assert done.returncode == 0 and done.stdout, done.stderr.decode()


TABLES = [block for kind, block in BLOCKS if kind == "csv"]


def test_every_file_of_prompts_in_the_readme_is_read_without_a_note(tmp_path):
    assert len(TABLES) == 3
    for table in TABLES:
        (tmp_path / "prompts.csv").write_text(table, encoding="utf-8")
        found = bs.prompts(tmp_path / "prompts.csv")
        assert len(found.examples) == 2 and not found.notes


def test_every_column_of_prompts_stands_in_the_readme():
    section = README.split("## Your own prompts")[1].split("\n## ")[0]
    assert set(prompt_columns.KNOWN) <= set(re.findall(r"`(\w+)`", section))


def test_every_subcommand_stands_in_the_readme_and_every_file_it_links_to_exists():
    files = {path.stem for path in (ROOT / "biasscope" / "commands").glob("*.py")} - {"__init__"}
    table = README.split("## Commands")[1].split("\n## ")[0]
    names = {name.replace("_", "-") for name in files}
    assert names == set(re.findall(r"^\| `(\w[\w-]*)", table, re.MULTILINE))
    assert all((ROOT / link).is_file() for link in re.findall(r"\]\((?!http)([^)#]+)\)", README))
