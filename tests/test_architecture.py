"""The shape of the code: what may import what, and what must stay cheap."""

import ast
import re
from pathlib import Path

import pytest

import biasscope

ROOT = Path(biasscope.__file__).parent
ORDER = (
    *("errors", "types", "schemas", "sources", "reading", "digests", "triples", "containers", "datasets", "counterfactuals"),
    *("fetching", "download", "predictions", "planted", "weights", "kernels", "models", "packing", "tokens", "twins", "forward", "metrics"),
    *("budget", "effects", "soundness", "means", "donors", "interventions", "attribution", "scores"),
    *("activations", "directions", "circuits"),
    *("probes", "tasks", "probing"),
    *("resampling", "slopes", "cells", "families", "estimates", "subsets", "measured", "baselines", "stats", "audit", "reliability"),
    *("controls", "guarantees", "probestats", "comparison", "faithfulness", "bounds"),
    *("store", "journal", "runs", "sealing", "upkeep", "exports", "canvas", "figures"),
)
"""Every engine module, each importing only what stands before it."""
SOURCES = sorted(ROOT.rglob("*.py"))
ENGINE = sorted((ROOT / "engine").rglob("*.py"))


def imports(path: Path, *, top_only: bool = False) -> set[str]:
    """The full names of all that a file imports, the names inside `from` included."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in tree.body if top_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module or ""}
    return found


def module(path: Path) -> str:
    """The engine module that a file belongs to; `datasets` is one."""
    return path.relative_to(ROOT / "engine").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", ENGINE, ids=lambda p: str(p.relative_to(ROOT)))
def test_engine_modules_import_only_earlier_ones(path: Path):
    name = module(path)
    if name == "__init__":
        return
    earlier = {*ORDER[: ORDER.index(name)], name}
    inside = {match[1] for i in imports(path) if (match := re.match(r"biasscope\.engine\.(\w+)", i))}
    assert inside <= earlier, f"{name} may not import {sorted(inside - earlier)}"


def test_every_engine_module_has_its_place_in_the_order():
    assert {module(path) for path in ENGINE} - {"__init__"} <= set(ORDER)


@pytest.mark.parametrize("path", ENGINE, ids=lambda p: str(p.relative_to(ROOT)))
def test_the_engine_is_silent(path: Path):
    above = {"typer", "rich", "click", "argparse", "biasscope.console", "biasscope.cli", "biasscope.options", "biasscope.session"}
    assert not {i for i in imports(path) if i in above or i.split(".")[0] in above}
    calls = [node.func for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    assert not [f for f in calls if isinstance(f, ast.Name) and f.id in ("print", "input")]


@pytest.mark.parametrize("path", sorted((ROOT / "commands").glob("*.py")), ids=lambda p: p.name)
def test_a_command_imports_only_options_until_it_runs(path: Path):
    allowed = {"enum", "pathlib", "typing", "typer", "biasscope"}
    assert {i.split(".")[0] for i in imports(path, top_only=True)} <= allowed
    assert {i for i in imports(path, top_only=True) if i.startswith("biasscope")} <= {"biasscope", "biasscope.options"}


def test_only_models_boots_and_only_forward_sets_hooks():
    def users(pattern: str) -> set[str]:
        return {path.name for path in SOURCES if re.search(pattern, path.read_text(encoding="utf-8"))}

    assert users(r"boot_transformers\(") == {"models.py"}
    assert users(r"\.run_with_hooks\(|\.add_hook\(") == {"forward.py"}


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_file_unpickles_and_none_is_longer_than_300_lines(path: Path):
    assert not {i.split(".")[0] for i in imports(path)} & {"pickle", "dill", "cloudpickle", "joblib", "shelve"}
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_file_and_public_function_says_what_it_is(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    public = [n for n in tree.body if isinstance(n, ast.FunctionDef | ast.ClassDef) and not n.name.startswith("_")]
    assert path.name == "__init__.py" or ast.get_docstring(tree)
    assert not [node.name for node in public if not ast.get_docstring(node)]


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_function_is_over_60_lines(path: Path):
    functions = [n for n in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(n, ast.FunctionDef)]
    assert not [f.name for f in functions if (f.end_lineno or 0) - f.lineno >= 60]


def test_there_is_no_file_for_odds_and_ends():
    assert not {path.stem for path in SOURCES} & {"utils", "helpers", "misc", "common"}
