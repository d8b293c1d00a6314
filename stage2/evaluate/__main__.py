"""Scores restored pictures under a named protocol.

python -m stage2.evaluate restored=DIR hr=DIR [lr=DIR] protocol=osediff output=FILE.json
python -m stage2.evaluate model=built-in data=DIR output=FILE.json 'others={Real-ESRGAN: DIR}'
"""

from deedsr.training.command import main

if __name__ == "__main__":
    main("stage2.evaluate.scores:scores_table", "evaluate/evaluate")
