"""A model folder as a pipeline of diffusers: ``pipeline.py`` in it imports this one."""

from __future__ import annotations

from typing import Any

from diffusers import DiffusionPipeline
from diffusers.utils import BaseOutput
from PIL import Image

from deedsr.models import load_model
from deedsr.models.contract import RestorationModel
from deedsr.options import Options
from deedsr.pictures.picture import Picture
from deedsr.restorer import Restorer


class Restored(BaseOutput):
    """images: the restored pictures, in the order of the inputs."""

    images: list[Image.Image]


class RestorationPipeline(DiffusionPipeline):
    """Restores Pillow images as `Restorer` does.

    >>> pipeline = DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER, trust_remote_code=True)
    >>> pipeline(Image.open("photo.jpg")).images[0].save("restored.png")

    The folder may be a hub id, whose newest version is taken. ``.to("cuda")`` and ``.to(torch.bfloat16)`` move it.
    """

    _optional_components = ["model"]

    def __init__(self, model: RestorationModel | None = None) -> None:
        super().__init__()
        self.register_modules(model=model)

    def register_to_config(self, **words: Any) -> None:
        """As diffusers' own; where it tells the folder, at the end of `from_pretrained`, the model is read from there.

        Raises ValueError as `load_model`.
        """
        super().register_to_config(**words)
        place = words.get("_name_or_path")
        if place is not None and self.model is None:
            self.register_modules(model=load_model(place))

    def __call__(self, image: Image.Image | list[Image.Image], **options: Any) -> Restored:
        """Restore a picture or a list of them. options: arguments of `deedsr.options.Options`, as ``outscale=2``.

        Raises ValueError for options that are not of this model, and for pictures that can't be restored.
        """
        try:
            restorer = Restorer(self.model, Options(**options))
        except TypeError as error:
            raise ValueError(f"{', '.join(options)}: {error}; see deedsr.options.Options") from None
        pictures: list[Picture] = [restorer(one) for one in (image if isinstance(image, list) else [image])]
        return Restored(images=[picture.to_pil() for picture in pictures])
