"""A command as a user types it: how soon it answers, and where the jobs of a ``--multirun`` leave what they made."""

from __future__ import annotations

import importlib
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image

from deedsr.training.command import CONF, _null_as_none, readable
from tests.processes import ROOT, ended, finished, forked, started, type_in

WORK = r'^    main\("([\w.]+):(\w+)", "([\w/]+)"(, trains=True)?'
SHELLS = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__"): found
    for stage in ("stage1", "stage2")
    for path in sorted((ROOT / stage).rglob("*.py"))
    if (found := re.search(WORK, path.read_text(encoding="utf-8"), re.MULTILINE))
}
"""Of each command's module: the module and the name of its work, its configuration, and whether it trains."""


IMPORT = re.compile(r"^import time:.*\| +(.+)\n", re.MULTILINE)


def answered(*words: str) -> tuple[subprocess.CompletedProcess[str], bool]:
    """What ``python -m WORDS`` says, and whether it does so at once: without torch, which takes seconds to load."""
    done = finished([sys.executable, "-X", "importtime", "-m", *words])
    imported = set(IMPORT.findall(done.stderr))
    assert "hydra" in imported
    done.stderr = IMPORT.sub("", done.stderr)
    return done, "torch" not in imported


def test_a_command_is_nothing_but_a_name_for_its_work() -> None:
    assert len(SHELLS) >= 18
    for module, work in SHELLS.items():
        assert callable(getattr(importlib.import_module(work[1]), work[2])), module
    commands = [path for stage in ("stage1", "stage2") for path in (ROOT / stage).rglob("*.py")]
    commands = [path for path in commands if "__main__" in path.read_text(encoding="utf-8")]
    assert len(commands) == len(SHELLS)
    for path in commands:
        imports = re.findall(r"^ *(?:from|import) .*", path.read_text(encoding="utf-8"), re.MULTILINE)
        assert imports == ["from deedsr.training.command import main"], path


@pytest.mark.parametrize("module", SHELLS)
def test_help_answers_at_once(module: str) -> None:
    done, at_once = answered(module, "--help")
    assert done.returncode == 0, done.stderr
    assert "== Config ==" in done.stdout
    assert at_once


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_typo_and_a_missing_value_answer_at_once(stage: str, tmp_path: Path) -> None:
    done, at_once = answered(f"{stage}.train", "data.roots=[PHOTOS]", "stepss=3")
    assert done.returncode == 1
    assert "stepss" in done.stderr
    assert at_once
    done, at_once = answered(f"{stage}.train", f"output={tmp_path}")
    assert done.returncode == 1
    assert done.stderr == "error: data.roots is missing: add data.roots=… to the command\n"
    assert at_once


@pytest.mark.parametrize("module", SHELLS)
def test_nothing_but_results_is_left_where_a_command_is_called(module: str) -> None:
    """A run has a log, in a folder of its own."""
    file = CONF / SHELLS[module][3]
    with initialize_config_dir(str(file.parent), version_base="1.3"):
        hydra = compose(file.name, return_hydra_config=True).hydra
    logs = "file" in (hydra.job_logging.get("handlers") or {})
    here = OmegaConf.to_container(hydra.run, resolve=False)["dir"] == "."
    assert not (logs and here) and hydra.output_subdir is None
    assert logs or not SHELLS[module][4]


def test_texts_are_all_that_captions_leaves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "photos" / "one.png")
    monkeypatch.chdir(tmp_path)
    words = ["data.roots=[photos]", "captions=texts", "captioner=words"]
    assert forked(partial(type_in, "stage2.texts.captions", words)) == [0]
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*"))
    assert left == ["photos", "photos/one.png", "texts", "texts/one.txt"]
    assert "texts: 1 texts, 1 of them new" in capfd.readouterr().out


@pytest.mark.parametrize(
    "jobs",
    [
        (["data.roots=[/a]"], ["data.roots=[/b]"]),
        (["name=one"], ["name=two"]),
        (["experiment=built_in_stage1"], ["experiment=stage1_deedsr"]),
        (["steps=1", "name=n-${steps}"], ["steps=2", "name=n-${steps}"]),
        (["seed=1", "output=experiments/${name}-${seed}"], ["seed=2", "output=experiments/${name}-${seed}"]),
        ([f"+{'long' * 50}.first=1"], [f"+{'long' * 50}.first=2"]),
    ],
)
def test_two_jobs_never_share_a_folder(jobs: tuple[list[str], list[str]]) -> None:
    folders = []
    for words in (*jobs, [*jobs[0], "resume=changed"]):
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("stage1", ["data.roots=[/p]", *words], return_hydra_config=True)
        folders.append(cfg.hydra.sweep.subdir)
    assert folders[0] != folders[1]
    assert folders[0] == folders[2], "the same job goes on"
    assert all("/" not in folder and len(folder) < 200 for folder in folders)


@pytest.mark.parametrize(
    ("module", "experiment", "word"),
    [
        ("stage2.train", "dit4sr_small_base", "size"),
        ("stage2.train", "stage1_deedsr", "contrast"),
        ("stage2.train", "[deedsr_sd21,built_in_distill]", "adversary"),
        ("stage1.train", "built_in_distill", "vector"),
        ("stage2.train", "finetune_photos", "adversary"),  # of the one that it builds on
    ],
)
def test_an_experiment_of_another_command_is_refused(module: str, experiment: str, word: str, tmp_path: Path) -> None:
    done, _ = answered(module, "data.roots=[PHOTOS]", f"experiment={experiment}", f"output={tmp_path}")
    assert done.returncode == 1
    assert done.stderr.startswith("error: experiment=") and word in done.stderr and done.stderr.count("\n") == 1


def test_the_one_command_of_fine_tuning_starts(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    pairs = tmp_path / "PAIRS"
    words = ["experiment=finetune_pairs", f"data.pairs=[{pairs}]", f"output={tmp_path / 'run'}"]
    assert forked(partial(type_in, "stage2.distill", words)) == [1]
    assert capfd.readouterr().err == f"error: {pairs / 'lr'}: no such folder\n"


@pytest.mark.parametrize("value", ["/photos [old]/a.png", "写真", "a (1).png", "it's"])
def test_a_value_that_hydra_cannot_read_gets_the_way_to_quote_it(value: str) -> None:
    with pytest.raises(SystemExit) as caught:
        readable(["trainer=cpu", f"input={value}"])
    message = str(caught.value)
    assert message.startswith(f"error: input={value} can't be read: put the value between quotes, ")
    readable([message.rpartition(", ")[2].strip("'"), "--multirun", "steps=1,2"])


@pytest.mark.parametrize(
    ("word", "read"),
    [
        ("experiment=null,deedsr_sd21", "experiment=none,deedsr_sd21"),
        ("experiment=choice(deedsr_sd21, null)", "experiment=choice(deedsr_sd21, none)"),
        ("experiment=[null,deedsr_sd21]", "experiment=[none,deedsr_sd21]"),
        ("logger=null", "logger=none"),
        ("logger=nullable", "logger=nullable"),
        ("model.overrides=null", "model.overrides=null"),
        ("init=null", "init=null"),
        ("--multirun", "--multirun"),
    ],
)
def test_null_is_the_choice_called_none(word: str, read: str) -> None:
    assert _null_as_none(word, CONF) == read
    assert _null_as_none(word, CONF / "evaluate") == word, "there they are values, no choices"


def test_null_where_there_must_be_a_choice_is_told_which_there_are() -> None:
    with pytest.raises(SystemExit, match="error: trainer=null,cpu can't be had: choose of cpu, default, fsdp, gpu"):
        _null_as_none("trainer=null,cpu", CONF)


@pytest.mark.parametrize("primary", ["base", "distill", "stage1", "stage2"])
def test_no_experiment_changes_nothing(primary: str) -> None:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        assert compose(primary, ["experiment=none"]) == compose(primary)


def test_a_folder_that_can_not_be_had_is_said_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "run" / "run.log").mkdir(parents=True)
    for words in (
        [f"output={tmp_path / 'file' / 'run'}"],
        [f"output={tmp_path / 'file'}"],
        [f"output={tmp_path / 'run'}"],
    ):
        done, at_once = answered("stage1.train", "data.roots=[PHOTOS]", *words)
        assert done.returncode == 1
        folder = words[0].partition("=")[2]
        assert re.fullmatch(rf"error: {folder} can't be written to \(.+\): take another folder\n", done.stderr)
        assert at_once
    done, _ = answered("stage1.train", "--multirun", "data.roots=[PHOTOS]", "seed=1,2", words[0].replace("run", "file"))
    assert done.returncode == 1 and done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    done, _ = answered("stage1.pool", "data.roots=[PHOTOS]")
    assert done.stderr == "error: pool is missing: add pool=… to the command\n"


def test_an_interrupt_before_the_first_step_ends_in_one_line(tmp_path: Path) -> None:
    words = ["data.roots=[PHOTOS]", f"output={tmp_path / 'run'}"]
    command = [sys.executable, "-m", "stage1.train", *words]
    with started(command, stderr=subprocess.PIPE, text=True) as process:
        while process.poll() is None and not (tmp_path / "run" / "run.log").is_file():
            time.sleep(0.01)
        time.sleep(0.3)  # torch is being imported
        process.send_signal(signal.SIGINT)
        assert ended(process)[1] == "interrupted\n"
    assert process.returncode == 130


def test_an_interrupt_while_hydra_is_imported_ends_in_one_line() -> None:
    code = "import runpy, sys\nclass Now:\n    def find_spec(self, name, *_):\n"
    code += "        if name == 'omegaconf': raise KeyboardInterrupt\n"
    code += "sys.meta_path.insert(0, Now())\nrunpy.run_module('stage1.train', run_name='__main__')"
    done = finished([sys.executable, "-c", code])
    assert (done.returncode, done.stderr) == (130, "interrupted\n")


def test_a_missing_gpu_is_said_in_one_line(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    if torch.accelerator.is_available():
        pytest.skip("there is a GPU")
    Image.fromarray(np.zeros((96, 96, 3), np.uint8)).save(tmp_path / "one.png")
    words = [f"data.roots=[{tmp_path}]", "trainer=gpu", f"output={tmp_path / 'run'}", "data.workers=0"]
    assert forked(partial(type_in, "stage1.train", words)) == [1]
    told = capfd.readouterr().err
    assert told.splitlines()[-1].startswith("error: this machine has no GPU that torch can use: say trainer=cpu")
    assert "Traceback" not in told


def test_each_job_of_a_multirun_has_a_folder_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (96, 96, 3), dtype=np.uint8)
    for number in range(2):
        Image.fromarray(pixels + number).save(tmp_path / "photos" / f"{number}.png")
    words = [f"data.roots=[{tmp_path / 'photos'}]", "name=group/one", f"output={tmp_path / 'out'}", "seed=1,2"]
    words += ["+encoder.overrides={widths:[8,8,8,8],stem:8}", "crop=64", "batch=2", "contrast.queue=4", "steps=1"]
    words += [
        "data.workers=0",
        "trainer=cpu",
        "trainer.enable_progress_bar=false",
        f"hydra.sweep.dir={tmp_path / 'jobs'}",
    ]
    command = [sys.executable, "-m", "stage1.train", "--multirun", *words, "hydra.sweep.subdir=${hydra.job.num}"]
    done = finished(command)
    assert done.returncode == 0, done.stderr[-3000:]
    for noise in ("Tip", "eval mode", "not empty", "Epoch", "many workers", "GPU available"):
        assert noise not in done.stdout + done.stderr
    assert done.stdout.count("begins       fresh, at step 0") == 2
    encoders = [tmp_path / "jobs" / str(job) / "encoder.safetensors" for job in range(2)]
    assert encoders[0].read_bytes() != encoders[1].read_bytes()
    assert not (tmp_path / "out").exists()
    assert all((encoder.parent / "run.log").is_file() for encoder in encoders)
