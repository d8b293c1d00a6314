"""Where numbers and pictures of a run are kept: ``logger=tensorboard``, ``csv``, ``mlflow``, ``wandb``, ``trackio``.

``logger=none`` keeps none. Any logger of Lightning can be had by its ``_target_``.
"""

from __future__ import annotations

import os
from argparse import Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image
from pytorch_lightning.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from pytorch_lightning.utilities import rank_zero_only
from torch import Tensor


def make_logger(words: DictConfig | None, folder: Path) -> Logger | None:
    """The logger that `words` describe, which works in `folder`; None for none.

    Raises ValueError where its package is not installed.
    """
    if not words:
        return None
    try:
        return instantiate(words, save_dir=str(folder))
    except InstantiationException as error:
        if not isinstance(error.__cause__, ImportError):
            raise
        raise ValueError(
            f"{words._target_} can't be had ({str(error.__cause__).splitlines()[0]}): run `pip install "
            "'deedsr[loggers]'`, or take logger=tensorboard, csv or none"
        ) from None


def log_words(logger: Logger, words: Mapping[str, Any]) -> None:
    """Keep the configuration of a run, nested plain values."""
    logger.log_hyperparams(dict(words))
    if isinstance(logger, TensorBoardLogger):  # it shows hyperparameters only with a score of the whole run beside them
        text = OmegaConf.to_yaml(OmegaConf.create(dict(words)))
        logger.experiment.add_text("configuration", f"```yaml\n{text}```")


def log_picture(logger: Logger, name: str, picture: Tensor, step: int) -> None:
    """Keep a picture (3, H, W) in [0, 1] of a step; with a logger that takes none, as a PNG file in its folder."""
    values = picture.float().clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).cpu().numpy()
    image = Image.fromarray(values)
    if isinstance(logger, TensorBoardLogger):
        logger.experiment.add_image(name, values, step, dataformats="HWC")
    elif isinstance(logger, WandbLogger):
        logger.log_image(name, [image], step=step)
    elif isinstance(logger, MLFlowLogger):
        logger.experiment.log_image(logger.run_id, image, artifact_file=_file(name, step))
    elif isinstance(logger, Trackio):
        logger.log_picture(name, image, step)
    elif folder := getattr(logger, "log_dir", None) or logger.save_dir:
        file = Path(folder) / _file(name, step)
        file.parent.mkdir(parents=True, exist_ok=True)
        image.save(file)


def _file(name: str, step: int) -> str:
    return f"{name}-{step:07d}.png"


class Trackio(Logger):
    """Hugging Face's Trackio, which keeps all on this machine: ``trackio show`` opens it in a browser.

    save_dir: of its files. project, run: what they are called there.
    """

    def __init__(self, save_dir: str, project: str, run: str | None = None) -> None:
        super().__init__()
        os.environ.setdefault("TRACKIO_DIR", str(Path(save_dir).resolve() / "trackio"))
        import trackio

        self.trackio, self.project, self.run, self.open = trackio, project, run, False

    @property
    def name(self) -> str:
        return self.project

    @property
    def version(self) -> str | None:
        return self.run

    @rank_zero_only
    def log_hyperparams(self, params: dict[str, Any] | Namespace, *_: Any, **__: Any) -> None:
        self.begin(dict(params) if isinstance(params, dict) else vars(params))

    @rank_zero_only
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.begin()
        self.trackio.log(metrics, step=step)

    @rank_zero_only
    def log_picture(self, name: str, image: Image.Image, step: int) -> None:
        self.begin()
        self.trackio.log({name: self.trackio.Image(np.asarray(image))}, step=step)

    def begin(self, config: dict[str, Any] | None = None) -> None:
        """Open the run there, if it isn't."""
        if not self.open:
            self.trackio.init(project=self.project, name=self.run, config=config, embed=False)
            self.open = True

    @rank_zero_only
    def finalize(self, status: str) -> None:
        if self.open:
            self.trackio.finish()
            self.open = False
