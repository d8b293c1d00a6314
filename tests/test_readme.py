"""What people read first names only what there is, and says what the cards say."""

from __future__ import annotations

import importlib.util
import re
import shlex
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path

import pytest
import yaml
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from deedsr import __version__
from deedsr.training.command import CONF, known, missing

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")
TEXTS = {name: (ROOT / name).read_text(encoding="utf-8") for name in PAGES}
TEXT = TEXTS["README.md"]
ALL = "\n".join(TEXTS.values())
TODAY = TEXT + TEXTS["CONTRIBUTING.md"]  # the changelog also names what was
BLOCKS = re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
CARDS = sorted((ROOT / "deedsr" / "assets").glob("*/README.md"))


def commands(text: str) -> list[str]:
    """The lines of shell blocks and all spans in backquotes, without comments."""
    lines = [
        line for block in re.findall(r"^```sh\n(.*?)^```", text, re.MULTILINE | re.DOTALL) for line in block.split("\n")
    ]
    spans = re.findall(r"`([^`]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    return [" ".join(line.split(" #")[0].split()) for line in lines + spans]


LAUNCHED = [re.sub(r"^(torchrun .*?|srun .*?python )(?=-m stage\d)", "python ", line) for line in commands(ALL)]
RUNS = sorted({line for line in LAUNCHED if re.match(r"python -m stage\d", line)})
VERBS = sorted({line for line in commands(ALL) if line.startswith("deedsr ")})


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


def test_the_workflow_runs_ci_on_each_python_that_the_readme_promises() -> None:
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["tests"]
    pythons = job["strategy"]["matrix"]["python"]
    assert all(isinstance(version, str) for version in pythons)  # 3.10 without quotes is the number 3.1
    promised = re.search(r"Python (3\.\d+) to (3\.\d+)", TEXT)
    assert promised is not None
    assert (pythons[0], pythons[-1]) == promised.groups()
    assert f'requires-python = ">={promised[1]}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert "continue-on-error" not in job
    assert [step["run"] for step in job["steps"] if "run" in step] == ["bash .ci/run"]
    assert (ROOT / ".ci" / "run").is_file()
    wheel = workflow["jobs"]["wheel"]  # the systems for which no more is claimed
    assert wheel["strategy"]["matrix"]["system"] == ["ubuntu-latest", "windows-latest", "macos-latest"]
    steps = "\n".join(step.get("run", "") for step in wheel["steps"])
    assert "deedsr restore rooftops.png" in steps
    assert "continue-on-error" not in wheel


@pytest.mark.parametrize("module", sorted(set(re.findall(r"\b((?:stage\d|deedsr)(?:\.\w+)+)", TODAY))))
def test_dotted_names_are_modules_or_names_in_them(module: str) -> None:
    name, rest = module, []
    while _spec(name) is None:
        name, _, last = name.rpartition(".")
        assert name, module
        rest.insert(0, last)
    found = importlib.import_module(name)
    for part in rest:
        found = getattr(found, part)


def _spec(name: str) -> object:
    try:
        return importlib.util.find_spec(name)
    except ModuleNotFoundError:
        return None


@pytest.mark.parametrize("name", sorted(set(re.findall(r"python -m ((?:stage\d|deedsr)[\w.]*)", ALL))))
def test_commands_can_be_run(name: str) -> None:
    assert "__main__" in _file(name).read_text(encoding="utf-8")


def _file(module: str) -> Path:
    """What ``python -m`` runs."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__main__.py" if path.is_dir() else path.with_suffix(".py")


def test_runs_were_found() -> None:
    assert len(RUNS) >= 10
    assert len(VERBS) >= 5


@pytest.mark.parametrize("line", RUNS)
def test_a_run_composes_and_lacks_nothing(line: str) -> None:
    _, _, module, *words = shlex.split(line)
    source = _file(module).read_text(encoding="utf-8")
    config = re.search(r'^    main\(.*, "([\w/]+)"', source, re.MULTILINE)
    assert config is not None
    file = CONF / config[1]
    words = [word for word in words if not word.startswith(("--", "hydra"))]
    with initialize_config_dir(str(file.parent), version_base="1.3"):
        cfg = compose(file.name, words)
        known(file.name, words)
    if words:  # a command that is only mentioned needs no words
        assert list(missing(OmegaConf.to_container(cfg))) == []


@pytest.mark.parametrize("choice", sorted({*re.findall(r"experiment=\[?([\w,]+)", ALL)} - {"all"}))
def test_experiments_exist(choice: str) -> None:
    for name in choice.split(","):
        assert (ROOT / "conf" / "experiment" / f"{name}.yaml").is_file()


@pytest.mark.parametrize("line", VERBS)
def test_verbs_and_options_exist(line: str) -> None:
    typer = pytest.importorskip("typer")
    from deedsr.cli.main import app

    verb, *words = line.split()[1:]
    command = typer.main.get_command(app).commands[verb]
    if hasattr(command, "commands") and words:
        command = command.commands[words.pop(0)]
    known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= known | {"--help"}


@pytest.mark.parametrize(
    ("page", "target"),
    [(page, target) for page in PAGES for target in re.findall(r"\]\((?!http)([^)#]+)\)", TEXTS[page])],
)
def test_links_lead_to_files(page: str, target: str) -> None:
    assert (ROOT / target).exists()


def rows(text: str) -> dict[str, list[str]]:
    """Label → cells of the table of scores, the header's label being empty."""
    table = re.search(r"^\| \| PSNR-Y.*?\n\n", text, re.MULTILINE | re.DOTALL)
    assert table is not None
    lines = [[cell.strip() for cell in line.strip("| ").split("|")] for line in table[0].split("\n") if line]
    header, _, *body = lines
    return {"": header, **{label: cells for label, *cells in body}}


def test_scores_are_the_cards() -> None:
    ours, cards = rows(TEXT), rows((ROOT / "deedsr" / "assets" / "built-in" / "README.md").read_text(encoding="utf-8"))
    assert list(ours) == list(cards)
    assert ours.pop("") == cards.pop("")
    for label, cells in ours.items():
        assert cells == [rounded(cell, full) for cell, full in zip(cells, cards[label], strict=True)], label


def rounded(cell: str, full: str) -> str:
    """The mean of a card's cell, ``mean [low, high]``, to as many decimals as `cell` has."""
    if full == "–":
        return full
    number = Decimal(full.split(" ")[0])
    return str(number.quantize(Decimal(1).scaleb(-len(cell.partition(".")[2])), ROUND_HALF_EVEN))


def test_the_small_dit4sr_has_its_cards_score() -> None:
    said = re.search(r"has\sLPIPS\s(0\.\d+)", TEXT)
    card = rows((ROOT / "deedsr" / "assets" / "built-in-dit" / "README.md").read_text(encoding="utf-8"))
    assert said is not None
    assert said[1] == rounded(said[1], card["restored"][card[""].index("LPIPS ↓")])


def test_the_citation_is_of_this_version_and_names_both_papers() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (cited["cff-version"], cited["title"], cited["version"]) == ("1.2.0", "deedsr", __version__)
    assert f'version = "{__version__}"' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    papers = [reference["url"] for reference in cited["references"]]
    assert len(papers) == 2
    assert papers == re.findall(r"https://arxiv\.org/abs/[\d.]+\d", TEXT)


def test_the_changelog_has_this_version_below_what_is_unreleased() -> None:
    heads = re.findall(r"^## \[?([\w.]+)", TEXTS["CHANGELOG.md"], re.MULTILINE)
    assert heads[0] == "Unreleased"
    released = heads[1:]
    assert not released or released[0] == __version__


@pytest.mark.parametrize("path", [ROOT / page for page in PAGES] + CARDS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_placeholder_is_left(path: Path) -> None:
    assert "@@" not in path.read_text(encoding="utf-8")
