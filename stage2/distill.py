"""Distil a trained model into one that needs few steps: train the result of sampling itself.

    python -m stage2.distill data.roots=[PHOTOS] init=FOLDER                                   # the small model
    python -m stage2.distill data.roots=[PHOTOS] init=FOLDER model=sd21 +model.overrides.defaults.steps=2

The student starts as the model in FOLDER and samples as its defaults say (steps, start, guidance), in training as later
in use; what comes out is compared with the ground truth: L1, LPIPS, DISTS, and a critic that learns to tell it from
real pictures. The base stays frozen. ``output/model`` is a model folder; the same command goes on after a break.
"""

from __future__ import annotations

from functools import partial

import hydra
from omegaconf import DictConfig

from deedsr.models import RestorationModel
from stage2.fidelity import Fidelity, FidelityLoss
from stage2.objective import Objective
from stage2.run import command
from stage2.student import StudentRun
from stage2.train import recipe, train

MOST_STEPS = 4


def build(cfg: DictConfig, model: RestorationModel) -> StudentRun:
    """The run of a configuration with `model`. Raises ValueError where it samples in more than `MOST_STEPS` steps."""
    steps = model.defaults.steps
    if steps > MOST_STEPS:
        raise ValueError(
            f"the student would sample in {steps} steps, all of them with gradients; give it at most {MOST_STEPS}"
        )
    return StudentRun(
        FidelityLoss(Fidelity(**cfg.objective.fidelity)),
        cfg.adversary,
        model=model,
        recipe=recipe(cfg),
        objective=Objective(),
        optimizer=cfg.optimizer,
        steps=cfg.steps,
        ema=cfg.ema,
        seed=cfg.seed,
    )


@hydra.main(version_base="1.3", config_path="../conf", config_name="distill")
def main(cfg: DictConfig) -> None:
    command(partial(train, build=build), cfg)


if __name__ == "__main__":
    main()
