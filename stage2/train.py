"""Train stage 2: what a model has beside its frozen base.

    python -m stage2.train data.roots=[PHOTOS]                           # the small model
    python -m stage2.train data.roots=[PHOTOS] experiment=deedsr_sd21    # Stable Diffusion 2.1
    python -m stage2.train data.roots=[PHOTOS] init=FOLDER               # from the trained part of a model folder

``output/model`` is a model folder for `deedsr restore --model`. Run the same command again to go on where a broken-off
run stopped.
"""

from deedsr.training.command import main

if __name__ == "__main__":
    main("stage2.from_config:train", "stage2", trains=True)
