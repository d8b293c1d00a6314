"""Restore many pictures over any number of devices and nodes.

    python -m stage2.restore ckpt=built-in input=PHOTOS output=RESTORED
    python -m stage2.restore ckpt=FOLDER input=PHOTOS output=RESTORED trainer=gpu trainer.num_nodes=4

Every output is written by one rank, whole or not at all. The same command again does only what is not done, judged by
content: an output that is missing, damaged, or of another input, model or settings is made again.
"""

from deedsr.training.command import main

if __name__ == "__main__":
    main("stage2.restore.job:restore_or_exit", "restore")
