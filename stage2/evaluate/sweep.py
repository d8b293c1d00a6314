"""One table over many choices of options: what bounds a model, and what noise guidance and steps do.

python -m stage2.evaluate.sweep data=DIR output=FILE.md ['~rows' '+rows={few: {steps: 4}, many: {steps: 40}}']
"""

from __future__ import annotations

from deedsr.training.command import main
from stage2.evaluate.rows import sweep, to_markdown

if __name__ == "__main__":
    main(lambda cfg: to_markdown(sweep(cfg)), "evaluate/sweep")
