"""A teacher: its pictures take the place of the ground truth in a share of the samples."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from spandrel import ModelLoader
from spandrel.architectures.ESRGAN import ESRGAN
from torch.nn import functional

from deedsr import weights
from deedsr.models import load_model
from deedsr.training.run import in_bytes
from stage2.distill import student as distill
from stage2.distill.module import StudentRun
from stage2.distill.teacher import Teacher
from stage2.from_config import train

Options = Callable[..., list[str]]
Composed = Callable[[str, list[str]], DictConfig]


@pytest.fixture
def config(
    composed: Composed, stage2_options: Options, tiny_model_folder: Path
) -> Callable[[Path, list[str]], DictConfig]:
    words = [f"init={tiny_model_folder}", "objective.fidelity.structure=0", "adversary=null", "pictures=null"]
    return lambda output, more: composed("distill", stage2_options(output, *words, *more))


def network_file(folder: Path, **numbers: int) -> Path:
    torch.manual_seed(0)
    file = folder / "network.pth"
    torch.save(ESRGAN(num_filters=8, num_blocks=1, **numbers).state_dict(), file)
    return file


@pytest.fixture
def network(tmp_path: Path) -> Path:
    return network_file(tmp_path, scale=4)


def test_its_pictures_replace_the_ground_truth_in_its_share(config: Callable, tmp_path: Path, network: Path) -> None:
    hr = torch.randint(256, (64, 3, 32, 32), dtype=torch.uint8)
    lr = torch.rand(64, 3, 8, 8)
    with torch.no_grad():
        theirs = in_bytes(ModelLoader("cpu").load_from_file(network).model(lr).clamp(0, 1))
    shares = {}
    for share in (0, 0.5, 1):
        cfg = config(tmp_path, [f"teacher={{weights:{network},share:{share}}}"])
        run = distill.student_run(cfg, load_model("built-in"))
        aim = run.aim(hr, lr, torch.Generator().manual_seed(3))
        taught = (aim == theirs).flatten(1).all(1)
        assert torch.equal(aim[~taught], hr[~taught])
        shares[share] = int(taught.sum())
    assert shares[0] == 0 and 20 < shares[0.5] < 44 and shares[1] == 64


def test_it_draws_the_ground_truth_shrunk_with_its_colours(network: Path) -> None:
    """Whatever the LR image is. Colours are compared inside, where no border has a part in their coarse means."""
    hr = torch.arange(256, dtype=torch.uint8).repeat(2, 3, 256, 1)
    photo, teacher = hr / 255, Teacher(str(network), 1, of="hr")
    drawn = teacher(torch.rand(2, 3, 64, 64), hr)
    assert torch.equal(drawn, teacher(torch.zeros(2, 3, 64, 64), hr))
    with torch.no_grad():
        plain = teacher.network(functional.interpolate(photo, scale_factor=0.25, mode="bicubic", antialias=True))
    shift = (plain - photo)[..., 64:-64, 64:-64].mean((2, 3))
    assert shift.abs().min() > 0.02, "these weights, drawn at random, change colours"
    assert (drawn - photo)[..., 64:-64, 64:-64].mean((2, 3)).abs().max() < 0.1 * shift.abs().min()


def test_it_is_learned_from(config: Callable, tmp_path: Path, network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []
    aim = StudentRun.aim

    def seen(run: StudentRun, hr: torch.Tensor, lr: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        compared.append(aim(run, hr, lr, generator))
        return compared[-1]

    picture = distill.Objective(fidelity=distill.Fidelity(0, 1, 0)).fidelity.picture

    def judged(self: object, restored: torch.Tensor, hr: torch.Tensor, step: int) -> dict[str, torch.Tensor]:
        assert torch.equal(in_bytes(hr), compared[-1])
        return picture(restored, hr, step)

    monkeypatch.setattr(StudentRun, "aim", seen)
    monkeypatch.setattr("stage2.objective.FidelityLoss.picture", judged)
    folder = train(config(tmp_path / "run", ["steps=2", f"teacher={{weights:{network},share:1}}"]), distill.student_run)
    assert len(compared) == 2 and (folder / "adapter.safetensors").is_file()
    kept = weights.load_checkpoint(tmp_path / "run" / "last.ckpt")["state_dict"]
    assert {name.split(".")[0] for name in kept} == {"model"}, "the teacher is no part of a checkpoint"


def test_what_can_teach_nothing_is_named(config: Callable, tmp_path: Path, network: Path) -> None:
    with pytest.raises(ValueError, match=r"teacher\.share is 1\.5; it must be at least 0 and at most 1"):
        Teacher(str(network), 1.5)
    with pytest.raises(ValueError, match=r"unknown teacher\.of 'sky'; choose one of lr, hr"):
        Teacher(str(network), 1, of="sky")
    with pytest.raises(ValueError, match=r"teacher\.weights: .*none\.pth is missing; teacher=null trains without"):
        Teacher(str(tmp_path / "none.pth"), 0.5)
    (tmp_path / "text.pth").write_text("no weights")
    with pytest.raises(ValueError, match=r"teacher\.weights: .*text\.pth holds no network that spandrel knows \("):
        Teacher(str(tmp_path / "text.pth"), 0.5)
    with pytest.raises(ValueError, match=r"network\.pth holds ESRGAN, enlarging 1 times; a teacher takes RGB pictures"):
        Teacher(str(network_file(tmp_path, scale=1)), 0.5)
    with pytest.raises(ValueError, match=r"a teacher can't teach what was made before: leave cache=… or teacher=… out"):
        distill.student_run(
            config(tmp_path, [f"cache={tmp_path}", f"teacher={{weights:{network},share:1}}"]), load_model("built-in")
        )
