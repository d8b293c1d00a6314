"""The rules of the house that can be checked."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TRAINING = {"pytorch_lightning", "lightning", "hydra", "omegaconf"}
EXTRAS = (
    *sorted(TRAINING),
    "kornia",
    "basicsr",
    "torchvision",
    "pyiqa",
    "open_clip",
    "transformers",
    "matplotlib",
    "webdataset",
)


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """First names of all modules that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield str(node.module).split(".")[0]


@pytest.mark.parametrize(
    ("folder", "forbidden"),
    [("deedsr", TRAINING | {"stage1", "stage2"}), ("stage1", {"stage2"}), ("stage2", {"stage1"})],
)
def test_nobody_imports_what_lies_above(folder: str, forbidden: set[str]) -> None:
    found = {f"{path.relative_to(ROOT)}: {name}" for path in sources(folder) for name in imported(path)}
    assert not {entry for entry in found if entry.rsplit(": ")[1] in forbidden}


def test_restoring_needs_the_core_dependencies_alone() -> None:
    modules = "deedsr.cli, deedsr.restorer, deedsr.diagnosis, deedsr.models, deedsr.convert.deedsr"
    blocked = f"import sys; sys.modules.update(dict.fromkeys({EXTRAS!r})); import {modules}"
    done = subprocess.run([sys.executable, "-c", blocked], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", sources("deedsr", "stage1", "stage2"), ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_stay_short(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count("\n") <= 300
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1}"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef) and node.body[-1].end_lineno - _first(node) + 1 > 40
    ]
    assert long == []


def _first(node: ast.FunctionDef) -> int:
    """The first line of a function's code: neither its signature, which may list many options, nor its docstring."""
    body = node.body[1:] if ast.get_docstring(node) and len(node.body) > 1 else node.body
    return body[0].lineno


def test_the_library_does_not_print() -> None:
    for path in sources("deedsr"):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        assert not [call for call in calls if isinstance(call.func, ast.Name) and call.func.id == "print"], path


def test_ruff_finds_nothing() -> None:
    pytest.importorskip("ruff")
    folders = ["deedsr", "stage1", "stage2", "tests"]
    done = subprocess.run([sys.executable, "-m", "ruff", "check", *folders], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_top_level_is_as_agreed() -> None:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {Path(name).parts[0] for name in listed.stdout.splitlines()}
    allowed = {"deedsr", "conf", "stage1", "stage2", "tests", "notebooks", "pyproject.toml", "README.md", "LICENSE"}
    assert {name for name in top if not name.startswith(".")} <= allowed
