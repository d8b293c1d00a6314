"""Measure a model as runs measure theirs while they train: metrics, colours and contrast.

python -m stage2.validate model=FOLDER data=PAIRS [held_back=0.1] [side=256]
"""

from deedsr.training.command import main

if __name__ == "__main__":
    main("stage2.measuring:validate", "evaluate/validate")
