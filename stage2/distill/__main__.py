"""Distil a trained model into one that needs few steps: train the result of sampling itself.

    python -m stage2.distill data.roots=[PHOTOS] init=FOLDER +model.overrides.defaults.guidance=[0.35,1]
    python -m stage2.distill data.roots=[PHOTOS] init=FOLDER model=sd21 crop=512 batch=16 optimizer.lr=1e-5 \\
        '+model.overrides.defaults={steps: 2, eta: 0, spacing: trailing, guidance: [0.2, 1]}'

The trained part starts as that of FOLDER; base, encoder and how to sample (the model's defaults: steps, start,
guidance) are the configuration's. The student samples in training as later in use, and what comes out is compared with
the ground truth: L1, LPIPS, DISTS, and a critic that learns to tell it from real pictures. The base stays frozen.
``output/model`` is a model folder; the same command goes on after a break.
"""

from __future__ import annotations

from functools import partial

from omegaconf import DictConfig

from deedsr.diffusion.sampler import Settings, make_scheduler
from deedsr.models import RestorationModel
from deedsr.training.command import main
from stage2.distill.module import StudentRun
from stage2.from_config import run_words, train
from stage2.objective import Fidelity, Objective

MOST_STEPS = 4


def student_run(cfg: DictConfig, model: RestorationModel) -> StudentRun:
    """The run of a configuration with `model`. Raises ValueError for defaults of the model that can't be learned."""
    if "ModelParallelStrategy" in str(cfg.trainer.get("strategy")):
        raise ValueError("distilling can't split a model among GPUs: take trainer=gpu, each GPU has it whole")
    make_scheduler(model.process, model.defaults)
    check(model.defaults)
    if cfg.objective.fidelity is None:
        raise ValueError(
            "distilling needs objective.fidelity; objective.fidelity.perceptual=0 objective.fidelity.structure=0 do "
            "without weights"
        )
    objective = Objective(fidelity=Fidelity(**cfg.objective.fidelity))
    return StudentRun(cfg.adversary, objective=objective, **run_words(cfg, model))


def check(settings: Settings) -> None:
    """Raises ValueError where a student would sample in too many steps, or never ask its network."""
    where = "the model's defaults (+model.overrides.defaults.NAME=… of DeeDSR, +model.defaults.NAME=… of the others)"
    if settings.steps > MOST_STEPS:
        raise ValueError(
            f"{settings.steps} steps, all of them with gradients, are too many: set steps to at most {MOST_STEPS} in "
            f"{where}"
        )
    if settings.guidance.weight == 1 and settings.guidance.steps >= settings.steps:
        raise ValueError(
            f"noise guidance of weight 1 for {settings.guidance.steps} of {settings.steps} steps never asks the "
            f"network: set guidance, as [0.2,1], in {where}"
        )


if __name__ == "__main__":
    main(partial(train, make_run=student_run), "distill", trains=True)
