"""Train the degradation learner: ``python -m stage1.train data.roots=[PHOTOS]``.

``output/encoder.safetensors`` is what stage 2 takes. The same command goes on where a broken-off run stopped.
"""

from deedsr.training.command import main

if __name__ == "__main__":
    main("stage1.from_config:train", "stage1", trains=True)
