"""Pairs of degraded pictures made once, for machines on which degrading takes longer than learning.

    python -m stage1.pool data.roots=[PHOTOS] pool=FOLDER pairs=7680
    python -m stage1.train data.roots=[PHOTOS] pool=FOLDER

Training cuts other quadrants out of the pictures and turns and mirrors them anew each time.
"""

from deedsr.training.command import main

if __name__ == "__main__":
    main("stage1.pool.writing:make_pool", "pool")
