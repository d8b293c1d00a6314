"""The rules of the house that can be checked."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import ROOT, finished

TRAINING = {"pytorch_lightning", "lightning", "hydra", "omegaconf"}
EXTRAS = (
    *sorted(TRAINING),
    "basicsr",
    "torchvision",
    "pyiqa",
    "open_clip",
    "transformers",
    "matplotlib",
    "webdataset",
    "pillow_heif",
    "pillow_jxl",
    "rawpy",
    "peft",  # an extra of diffusers, which imports it where it is: and it imports transformers
    "gradio",
    "onnxruntime",
    "onnxscript",
)


FLOORS = (
    {"deedsr.training", "deedsr.cli", "deedsr.app", "stage1", "stage2"},
    {
        "deedsr.restorer",
        "deedsr.layout",
        "deedsr.pipeline",
        "deedsr.jobs",
        "deedsr.batch",
        "deedsr.ledger",
        "deedsr.metrics",
        "deedsr.convert",
        "deedsr.diagnosis",
        "deedsr.dials",
    },
    {"deedsr.models", "deedsr.data"},
    {"deedsr.diffusion", "deedsr.degradation", "deedsr.pictures", "deedsr.geometry", "deedsr.tiling"}
    | {"deedsr.weights", "deedsr.files", "deedsr.randomness", "deedsr.options", "deedsr.ema", "deedsr.colour"}
    | {"deedsr.devices", "deedsr.nested", "deedsr.coherence"},
)
"""Rooms from the top floor down: none imports from a floor above its own."""
NEVER = {("stage1", "stage2"), ("stage2", "stage1"), ("deedsr.cli", "deedsr.training")}
"""Neighbours on one floor that don't import each other; and nobody below or beside imports the stages."""


def sources(*folders: str) -> list[Path]:
    return sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))


ALL = sources("deedsr", "stage1", "stage2")


def imported(path: Path) -> Iterator[str]:
    """Dotted names of what a file imports, anywhere in it: modules, and ``MODULE.NAME`` of what it takes of them."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(name: str) -> str:
    """The room of a dotted name: ``stage1``, ``deedsr.models``; the package itself is ``deedsr``."""
    parts = name.split(".")
    return ".".join(parts[: 2 if parts[0] == "deedsr" else 1])


def of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def test_no_import_runs_up() -> None:
    height = {name: -floor for floor, names in enumerate(FLOORS) for name in names}
    for path in ALL:
        here = room(of(path))
        if here == "deedsr":  # the package: it offers `Restorer` without importing it
            continue
        assert here in height, f"{path}: {here} is on no floor"
        for name in imported(path):
            there = room(name)
            if there != here and there in height:
                assert height[there] <= height[here], f"{path} imports {name}, which lies above"
                assert (here, there) not in NEVER, f"{path} imports {name}"
                assert there not in ("stage1", "stage2"), f"{path} imports {name}"


def test_the_library_knows_lightning_and_hydra_in_one_room_that_it_never_imports() -> None:
    for path in sources("deedsr"):
        names = set(imported(path))
        if room(of(path)) != "deedsr.training":
            assert not {name for name in names if name.split(".")[0] in TRAINING or room(name) == "deedsr.training"}, (
                path
            )


def test_a_command_is_imported_by_nobody() -> None:
    commands = {of(path) for path in ALL if "\nif __name__ ==" in path.read_text(encoding="utf-8")}
    assert {"stage1.train", "stage2.train", "stage2.evaluate.__main__"} <= commands
    for path in ALL:
        for name in imported(path):
            assert name not in commands and name.rpartition(".")[0] not in commands, f"{path} imports {name}"


def test_no_circle_of_imports() -> None:
    files = {of(path): path for path in ALL}

    def module(name: str) -> str:
        return name if name in files else name.rpartition(".")[0]

    uses = {name: {module(other) for other in imported(path)} & files.keys() for name, path in files.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail, name))
        if name not in done:
            for other in uses[name] - {name}:
                visit(other, (*trail, name))
            done.add(name)

    for name in files:
        visit(name, ())


def test_restoring_needs_the_core_dependencies_alone() -> None:
    modules = "deedsr.cli.main, deedsr.restorer, deedsr.diagnosis, deedsr.models, deedsr.convert.deedsr"
    blocked = f"import sys; sys.modules.update(dict.fromkeys({EXTRAS!r})); import {modules}"
    done = finished([sys.executable, "-c", blocked])
    assert done.returncode == 0, done.stderr


def test_no_test_waits_for_a_process_without_end() -> None:
    for path in sources("tests"):
        calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
        names = {ast.unparse(call.func) for call in calls}
        assert path.name == "processes.py" or not {"subprocess.run", "subprocess.Popen"} & names, path


@pytest.mark.parametrize("path", ALL, ids=lambda path: str(path.relative_to(ROOT)))
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


@pytest.mark.parametrize("arguments", [("check",), ("format", "--check")], ids=" ".join)
def test_ruff_finds_nothing(arguments: tuple[str, ...]) -> None:
    pytest.importorskip("ruff")
    command = [sys.executable, "-m", "ruff", *arguments, "deedsr", "stage1", "stage2", "tests", "notebooks"]
    done = finished(command)
    assert done.returncode == 0, done.stdout


def test_mypy_finds_nothing() -> None:
    pytest.importorskip("mypy")
    done = finished([sys.executable, "-m", "mypy"])
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_top_level_is_as_agreed() -> None:
    listed = finished(["git", "ls-files"])
    if listed.returncode:
        pytest.skip("not a git checkout")
    top = {Path(name).parts[0] for name in listed.stdout.splitlines()}
    allowed = {"deedsr", "conf", "stage1", "stage2", "tests", "notebooks", "pyproject.toml", "README.md", "LICENSE"}
    allowed |= {"CITATION.cff", "CHANGELOG.md", "CONTRIBUTING.md", ".ci", ".github", ".gitignore"}
    assert top <= allowed
