"""Times stage 1: ``python -m stage1.benchmark data.roots=[PHOTOS]``, with all options of ``stage1.train``."""

from deedsr.training.command import main

if __name__ == "__main__":
    main("stage1.benchmark.speeds:speeds_table", "stage1_benchmark")
