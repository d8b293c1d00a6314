"""Degrade photographs as training does: pairs to measure any method on, in ``DIR/lr`` and ``DIR/hr``.

    python -m stage2.evaluate.pairs data.roots=[PHOTOS] recipe=heavy output=DIR
    python -m stage2.evaluate model=built-in data=DIR output=FILE.json 'others={Real-ESRGAN: DIR}'

recipe: light, medium, heavy, varied, camera and the others of `deedsr.degradation`, or operations at one strength, as
blur-4+noise-12+jpeg-45. They are the pictures of `stage2.evaluate.degradation` with the same seeds and crops.
"""

from deedsr.training.command import main

if __name__ == "__main__":
    main("stage2.evaluate.degraded:pairs", "evaluate/pairs")
