"""Make the samples of a run once: crops, their degradations, and the latents of both, in safetensors shards.

    python -m stage2.cache data.roots=[PHOTOS] cache=FOLDER batches=1000      # more words as for stage2.train
    python -m stage2.train data.roots=[] cache=FOLDER

The samples are those that the run with the same words would make by itself on one device, in the same order; after the
last one they come again, with other noise at other times. Several devices (trainer.devices=8) share the work, and the
same command goes on where one was broken off.
"""

from deedsr.training.command import main

if __name__ == "__main__":
    main("stage2.cache.writing:make_cache", "cache")
