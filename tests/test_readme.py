"""The README names only what there is."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines() if line]


def test_the_first_two_commands_set_up_all_by_themselves() -> None:
    assert len(BLOCKS[0].splitlines()) == len(BLOCKS[1].splitlines()) == 1
    for block in BLOCKS[:2]:
        assert block.startswith("python3 -m venv ")
        assert " pip install " in block.replace("/bin/pip", "/bin/ pip")
    sample = re.search(r"deedsr restore (\S+)", BLOCKS[0])
    assert sample is not None
    assert (ROOT / sample[1]).is_file()


def test_ci_runs_the_second_command() -> None:
    assert re.match(r"^python3 .*-m pytest.*$", BLOCKS[1].rstrip("\n"))
    assert [line for line in TEXT.splitlines() if re.match(r"^python3 .*-m pytest", line)] == [BLOCKS[1].rstrip("\n")]


@pytest.mark.parametrize("module", sorted(set(re.findall(r"python -m ((?:stage|deedsr)[\w.]+)", TEXT))))
def test_commands_are_modules(module: str) -> None:
    assert importlib.util.find_spec(module) is not None


@pytest.mark.parametrize("target", re.findall(r"\]\((?!http)([^)#]+)\)", TEXT))
def test_links_lead_to_files(target: str) -> None:
    assert (ROOT / target).exists()


@pytest.mark.parametrize("line", [line for line in LINES if line.startswith("deedsr ")])
def test_verbs_and_options_exist(line: str) -> None:
    typer = pytest.importorskip("typer")
    from deedsr.cli.main import app

    verb, *words = line.split("#")[0].split()[1:]
    command = typer.main.get_command(app).commands[verb]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= known


def test_no_placeholder_is_left() -> None:
    assert "@@" not in TEXT
    for card in (ROOT / "deedsr" / "assets").glob("*/README.md"):
        assert "@@" not in card.read_text(encoding="utf-8")
