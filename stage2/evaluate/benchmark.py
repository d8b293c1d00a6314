"""Seconds and memory of one restoration, as ratios to something else in the same run.

    python -m stage2.evaluate.benchmark model=built-in size=2048 steps=8 dtype=bfloat16
    python -m stage2.evaluate.benchmark model=sd21-random size=512 steps=50 dtype=bfloat16 against=pipeline compile=true
    python -m stage2.evaluate.benchmark model=sd21-random steps=1 options.noise_guidance=[0,0] against=null
    python -m stage2.evaluate.benchmark model=dit4sr-random steps=40 dtype=bfloat16 against=sd3_controlnet-random
    python -m stage2.evaluate.benchmark suite=gpu output=FILE.md
    python -m stage2.evaluate.benchmark memory=true experiment=deedsr_sd21 words={batch:48}

``SIZE-random`` is a model size with random weights. ``against=naive``: a float32 restorer that computes everything anew
at every step, one tile at a time; the outputs must agree. ``against=pipeline``: diffusers' ControlNet pipeline on the
same stock base. ``against=MODEL``: another model with the same options. ``suite=gpu``: everything that a GPU must show,
within ``minutes``: that it computes what the CPU does, speeds, memory. ``memory=true`` measures nothing: it says what
the training step of an experiment, or a restoration, will need of a GPU.
"""

from deedsr.training.command import main

if __name__ == "__main__":
    main("stage2.evaluate.timing:report", "evaluate/benchmark")
