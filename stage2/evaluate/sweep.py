"""One table over many choices of options: what bounds a model, and what noise guidance and steps do.

python -m stage2.evaluate.sweep data=DIR output=FILE.md ['~rows' '+rows={few: {steps: 4}, many: {steps: 40}}']
"""

from __future__ import annotations

import hydra
from omegaconf import DictConfig

from deedsr.training.command import command
from stage2.evaluate.rows import sweep, to_markdown


@hydra.main(version_base="1.3", config_path="../../conf/evaluate", config_name="sweep")
def main(cfg: DictConfig) -> None:
    command(lambda cfg: to_markdown(sweep(cfg)), cfg)


if __name__ == "__main__":
    main()
