"""Mix models: the mean of the weights of several, as of legs of training that start from one another.

    python -m stage2.mix models=[FOLDER,FOLDER] shares=[0.6,0.4] output=FOLDER

models: model folders, checkpoints or names such as built-in, trained on one base and with one encoder. shares: of each;
together they are 1, and a negative one leads away from its model. The first says how the mean samples. Where a decoder
or LoRA was trained, their mean becomes part of a base in `output`; else that points to the first one's.
"""

from deedsr.training.command import main

if __name__ == "__main__":
    main("stage2.mixing:mixed", "mix")
