"""`docs/first_hour.ipynb` runs from its first cell to its last, and holds no results of its own."""

import json
import subprocess
import sys
from pathlib import Path

FILE = Path(__file__).parents[1] / "docs" / "first_hour.ipynb"
CELLS = json.loads(FILE.read_text(encoding="utf-8"))["cells"]
CODE = ["".join(cell["source"]) for cell in CELLS if cell["cell_type"] == "code"]


def test_every_cell_of_the_first_hour_runs_and_its_last_line_shows_something(tmp_path):
    shown = f"""
import ast, os
import biasscope as bs
from biasscope.engine.statistics.inference import audit, resampling
resampling.DRAWS, audit.STUDIES = 399, 20  # the notebook is not about them
names = {{}}
for source in {[c for c in CODE if not c.lstrip().startswith(("#", "!"))]!r}:
    source = source.replace('"smollm2-135m"', '"planted:single"').replace("limit=240", "limit=24")
    *before, last = ast.parse(source).body
    exec(compile(ast.Module(before, []), "cell", "exec"), names)
    if isinstance(last, ast.Expr):
        value = eval(compile(ast.Expression(last.value), "cell", "eval"), names)
        print(value if not hasattr(value, "_repr_html_") else len(value._repr_html_()))
    else:
        exec(compile(ast.Module([last], []), "cell", "exec"), names)
"""
    home = {
        "HOME": str(tmp_path),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PATH": "",
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", shown],
        cwd=tmp_path,
        env=home | path(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "first_hour.html").stat().st_size > 10_000
    assert "--top 20" in done.stdout and "L1H2" in (tmp_path / "first_hour.html").read_text(encoding="utf-8")


def path() -> dict[str, str]:
    """What a new process needs to find this package, wherever it is run from."""
    return {"PYTHONPATH": str(FILE.parents[1])}


def test_the_notebook_is_kept_without_outputs():
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in CELLS)
