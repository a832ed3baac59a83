"""The four storeys of the project: imports go only downwards, and the training script has at most 28 constants."""

import ast
from dataclasses import fields
from itertools import chain

import pytest

import train_deterministic
from tests.conftest import PROJECT

TOOLS = {"training", "verification", "plotting"}
BELOW = {  # by folder: the folders that its files may import besides itself
    **{name: set() for name in ("models", "losses", "data")},
    **{name: {"models", "losses", "data"} for name in TOOLS},
}
TOP = ("export", "benchmarks", "notebooks", "tests")
SCRIPTS = {p.stem for p in PROJECT.glob("*.py")}
FOLDERS = {*BELOW, *TOP}


def imports_of(path) -> set[str]:
    """The folders and scripts of this project that a file imports, anywhere in it."""
    nodes = list(ast.walk(ast.parse(path.read_text())))
    names = chain([n.module or "" for n in nodes if isinstance(n, ast.ImportFrom)],
                  [a.name for n in nodes if isinstance(n, ast.Import) for a in n.names])  # fmt: skip
    return {name.split(".")[0] for name in names} & (FOLDERS | SCRIPTS)


@pytest.mark.parametrize("folder", BELOW)
def test_a_folder_imports_only_from_the_storeys_below(folder):
    files = list((PROJECT / folder).rglob("*.py"))
    wrong = {str(p.relative_to(PROJECT)): imports_of(p) - BELOW[folder] - {folder} for p in files}
    assert files and not {path: names for path, names in wrong.items() if names}


def test_no_script_imports_another_except_the_report_the_forecast():
    wrong = {p.name: imports_of(p) - set(BELOW) for p in PROJECT.glob("*.py")}
    wrong["make_report.py"] -= {"infer_iterative"}
    assert len(wrong) >= 4 and not {path: names for path, names in wrong.items() if names}


def test_the_training_script_has_at_most_28_constants():
    assert len(fields(train_deterministic.Config)) <= 28
