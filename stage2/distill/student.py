"""A run that distils, from its configuration."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig

from deedsr.diffusion.sampler import Settings, make_scheduler
from deedsr.models import RestorationModel
from deedsr.training.fit import sharded
from stage2 import from_config
from stage2.distill.module import StudentRun
from stage2.distill.teacher import Teacher
from stage2.objective import Fidelity, Objective

MOST_STEPS = 4


def train(cfg: DictConfig) -> Path:
    """`stage2.from_config.train` with a student."""
    return from_config.train(cfg, student_run)


def student_run(cfg: DictConfig, model: RestorationModel) -> StudentRun:
    """The run of a configuration with `model`. Raises ValueError for defaults of the model that can't be learned."""
    if sharded(cfg):
        raise ValueError("distilling can't split a model among GPUs: take trainer=gpu, each GPU has it whole")
    make_scheduler(model.process, model.defaults)
    check(model.defaults)
    if cfg.objective.fidelity is None:
        raise ValueError(
            "distilling needs objective.fidelity; objective.fidelity.perceptual=0 objective.fidelity.structure=0 do "
            "without weights"
        )
    if cfg.teacher and cfg.cache:
        raise ValueError("a teacher can't teach what was made before: leave cache=… or teacher=… out")
    teacher = Teacher(**cfg.teacher) if cfg.teacher else None
    objective = Objective(fidelity=Fidelity(**cfg.objective.fidelity))
    return StudentRun(cfg.adversary, teacher, objective=objective, **from_config.run_words(cfg, model))


def check(settings: Settings) -> None:
    """Raises ValueError where a student would sample in too many steps, or never ask its network."""
    where = "the model's defaults (+model.overrides.defaults.NAME=… of DeeDSR, +model.defaults.NAME=… of the others)"
    if settings.steps > MOST_STEPS:
        raise ValueError(
            f"{settings.steps} steps, all of them with gradients, are too many: set steps to at most {MOST_STEPS} in "
            f"{where}"
        )
    if not settings.asked:
        raise ValueError(
            f"noise guidance of weight 1 for {settings.guidance.steps} of {settings.steps} steps never asks the "
            f"network: set guidance, as [0.2,1], in {where}"
        )
