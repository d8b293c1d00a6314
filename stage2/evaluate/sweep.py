"""One table over many choices of options: what bounds a model, and what noise guidance and steps do.

python -m stage2.evaluate.sweep data=DIR output=FILE.md ['~rows' '+rows={few: {steps: 4}, many: {steps: 40}}']
"""

from deedsr.training.command import main

if __name__ == "__main__":
    main("stage2.evaluate.rows:sweep_table", "evaluate/sweep")
