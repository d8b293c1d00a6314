"""Every primary configuration composes with every choice of each of its groups."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, ListConfig, OmegaConf

from deedsr.training.command import missing
from deedsr.training.record import differences

CONF = Path(__file__).parents[2] / "conf"
PRIMARIES = sorted(path.stem for path in CONF.glob("*.yaml"))
STANDALONE = sorted(path.stem for path in (CONF / "evaluate").glob("*.yaml"))


def groups(primary: str) -> dict[str, list[str]]:
    """The options of each group in the primary's defaults list."""
    defaults = OmegaConf.load(CONF / f"{primary}.yaml").defaults
    named = [str(next(iter(entry))) for entry in defaults if not isinstance(entry, str)]
    return {
        name: sorted(path.stem for path in (CONF / name).glob("*.yaml"))
        for name in named
        if not name.startswith("override")
    }


def rounds(primary: str) -> list[list[str]]:
    """Choices of all groups at once, so often that each option of each is among them."""
    plain = {name: options for name, options in groups(primary).items() if name != "experiment"}
    most = max(map(len, plain.values()), default=0)
    return [[f"{name}={options[number % len(options)]}" for name, options in plain.items()] for number in range(most)]


TRAINING = [primary for primary in PRIMARIES if "experiment" in groups(primary)]
"""Those that take an experiment."""


@pytest.mark.parametrize(
    ("primary", "words"), [(primary, words) for primary in PRIMARIES for words in rounds(primary)], ids=str
)
def test_a_primary_composes_with_each_option(primary: str, words: list[str]) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(primary, [*words, "++data.roots=[photos]", "++model.texts=texts"])
    OmegaConf.to_container(cfg, resolve=True)


@pytest.mark.parametrize("name", STANDALONE)
def test_evaluation_composes(name: str) -> None:
    with initialize_config_dir(str(CONF / "evaluate"), version_base="1.3"):
        compose(name)


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_composes_with_one_primary(path: Path) -> None:
    own, fitting = OmegaConf.load(path), []
    for primary in TRAINING:
        try:
            with initialize_config_dir(str(CONF), version_base="1.3"):
                cfg = compose(primary, [f"experiment={path.stem}", *roots(own)])
        except Exception:  # hydra says in many types that an experiment is of another primary
            continue
        fitting.append(primary)
        for key, value in leaves(own):
            assert OmegaConf.select(cfg, key) == value, f"{primary}: the experiment's {key} is not used"
    assert fitting


@pytest.mark.parametrize("name", ["deedsr_sd21", "deedsr_sd21_24gb", "dit4sr_sd35", "dit4sr_sd35_24gb"])
def test_another_trainer_brings_its_own_devices(name: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        own, cpu, node = (
            compose("stage2", [f"experiment={name}", *words]).trainer
            for words in ([], ["trainer=cpu"], ["trainer=cpu", "trainer.devices=2"])
        )
    assert own.devices == (1 if name.endswith("24gb") else 8)
    assert (cpu.accelerator, cpu.devices, node.devices) == ("cpu", 1, 2)


@pytest.mark.parametrize("path", sorted((CONF / "experiment").glob("*.yaml")), ids=lambda path: path.stem)
def test_an_experiment_repeats_nothing(path: Path) -> None:
    """What it says is other than what its primary says by itself, with the choices of its list of defaults."""
    own = OmegaConf.load(path)
    words = []
    for entry in own.pop("defaults", []):
        word, option = ("experiment", entry) if isinstance(entry, str) else next(iter(entry.items()))
        words.append(f"{word.removeprefix('override /')}={option}")
    for primary in ("stage2", "distill", "base", "stage1"):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose(primary, ["data.roots=[photos]", *(word for word in words if fits(primary, word))])
        if own.keys() <= cfg.keys():
            break
    absent = object()
    repeated = [key for key, value in leaves(own) if OmegaConf.select(cfg, key, default=absent) == value]
    assert not repeated, f"{primary} says so already"


def fits(primary: str, word: str) -> bool:
    group, _, _ = word.partition("=")
    return group == "experiment" or group in groups(primary)


@pytest.mark.parametrize(
    ("line", "homes"),
    [
        ("output_subdir: null", ["evaluate/shared/plain.yaml"]),
        ("colour: null", ["evaluate/shared/options.yaml"]),
    ],
)
def test_blocks_that_many_commands_need_are_written_once(line: str, homes: list[str]) -> None:
    files = (path for path in CONF.rglob("*.yaml") if line in path.read_text(encoding="utf-8"))
    assert sorted(path.relative_to(CONF).as_posix() for path in files) == homes


@pytest.mark.parametrize(
    ("primary", "words", "names"),
    [
        ("stage2", [], ["data.roots"]),
        ("stage2", ["experiment=dit4sr_sd35"], ["data.roots", "model.texts"]),
        ("stage2", ["experiment=[dit4sr_sd35,dit4sr_ablation_linear]", "model.texts=null"], ["data.roots"]),
        ("stage2", ["model=sd3_controlnet"], ["data.roots", "model.texts"]),
        ("distill", [], ["data.roots", "init"]),
        ("distill", ["experiment=built_in_distill"], ["data.roots", "init"]),
        ("cache", [], ["cache", "data.roots"]),
        ("base", [], ["data.roots"]),
        ("embed", [], ["captions", "texts"]),
    ],
)
def test_what_must_be_given_is_missing_until_it_is(primary: str, words: list[str], names: list[str]) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        cfg = compose(primary, words)
    assert sorted(missing(OmegaConf.to_container(cfg))) == names


def roots(own: DictConfig) -> list[str]:
    """What must be given beside an experiment that doesn't say that there are none."""
    return [] if OmegaConf.select(own, "data.roots") == [] else ["data.roots=[photos]"]


def leaves(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, object]]:
    """(dotted key, value) of all plain values of a configuration file, but for its list of defaults."""
    for key, value in node.items_ex(resolve=False):
        if OmegaConf.is_missing(node, key):
            continue
        if isinstance(value, DictConfig):
            yield from leaves(value, f"{prefix}{key}.")
        elif key != "defaults" or not isinstance(value, ListConfig):
            yield f"{prefix}{key}", value


LETTER = {  # of the authors: what is otherwise than in the experiment without `_authors`
    "stage1_deedsr": {
        "recipe": {"name": "light", "chroma": "nearest"},
        "shuffle": True,
        "trainer.sync_batchnorm": False,
        "trainer.precision": "32-true",
    },
    "deedsr_sd21": {
        "recipe": {"name": "light", "chroma": "nearest"},
        "ema": 0,
        "frozen_dtype": "float32",
        "trainer.precision": "32-true",
        "trainer.gradient_clip_val": None,
        "model.encoder": "experiments/stage1_deedsr_authors/encoder.safetensors",
    },
    "dit4sr_sd35": {
        "recipe": {"name": "heavy", "chroma": "nearest"},
        "ema": 0,
        "usm": 0.5,
        "data.min_edges": 0.2,
        "model.beside.projection": "stack",
        "model.beside.out_init": "random",
        "model.beside.conv_scale": 1.2,
    },
}


@pytest.mark.parametrize("name", LETTER)
def test_to_the_letter_is_so_many_switches_and_each_is_on_the_page(name: str) -> None:
    primary = "stage1" if name.startswith("stage1") else "stage2"
    with initialize_config_dir(str(CONF), version_base="1.3"):
        words = [["data.roots=[photos]", f"experiment={name}{end}"] for end in ("", "_authors")]
        ours, theirs = (OmegaConf.to_container(compose(primary, each)) for each in words)
    found = {key: value for key, (_, value) in differences(ours, theirs).items() if key != "name"}
    assert found == LETTER[name]
    page = (CONF.parent / "deedsr" / "assets" / "papers.md").read_text(encoding="utf-8")
    for key, value in found.items():
        recipe = key == "recipe" and f"{{name: {value['name']}, chroma: nearest}}"
        said = recipe or OmegaConf.to_yaml([value])[2:-1]
        assert key == "model.encoder" or f"{key}={said}" in page, f"{key}={said}"


def test_one_word_changes_the_size_and_nothing_else() -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        small, alone, sd21 = (
            compose("stage2", [word, "data.roots=[photos]"])
            for word in ("model=small", "model=sd21", "experiment=deedsr_sd21")
        )
    assert (small.model.size, sd21.model.size) == ("small", "sd21")
    assert sd21.model == alone.model
    assert {**alone, "model": small.model} == small
    assert (sd21.crop, sd21.batch, sd21.optimizer.lr, sd21.optimizer.schedule) == (512, 16, 1e-5, "constant")
    assert sd21.objective == {"min_snr": None, "time_bias": 1.0, "rollout": 0.0, "weight": "plain", "fidelity": None}
    assert small.objective.fidelity.perceptual > 0
