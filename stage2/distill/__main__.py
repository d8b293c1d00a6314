"""Distil a trained model into one that needs few steps: train the result of sampling itself.

    python -m stage2.distill data.roots=[PHOTOS] init=FOLDER +model.overrides.defaults.guidance=[0.35,1]
    python -m stage2.distill experiment=distill_sd21 data.roots=[PHOTOS] init=FOLDER

The trained part starts as that of FOLDER; base, encoder and how to sample (the model's defaults: steps, start,
guidance) are the configuration's. The student samples in training as later in use, and what comes out is compared with
the ground truth: L1, LPIPS, DISTS, and a critic that learns to tell it from real pictures. The base stays frozen.
``output/model`` is a model folder; the same command goes on after a break.
"""

from deedsr.training.command import main

if __name__ == "__main__":
    main("stage2.distill.student:train", "distill", trains=True)
