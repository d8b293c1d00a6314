"""LR photograph → HR photograph: the only place that puts the parts in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from deedsr import colour, dials
from deedsr.coherence import coherent
from deedsr.devices import borrowed, check_compiler, pick_device, upload
from deedsr.diagnosis import Diagnoser
from deedsr.diffusion.sampler import OnStep, sample
from deedsr.files import say_once
from deedsr.geometry import SCALE, check_size, enlarged, pad_to, resize, resize_8bit, turned, turned_back
from deedsr.layout import UNTILED, Layout
from deedsr.models import load_model, pick_dtype
from deedsr.models.contract import Condition, RestorationModel, Text
from deedsr.models.frozen.latents import unsigned
from deedsr.nested import join
from deedsr.options import Options
from deedsr.pictures.found import pictures
from deedsr.pictures.picture import Picture, from_pil, luma, read
from deedsr.randomness import content_seed
from deedsr.tiling import SIGMAS, Groups, Window, merge


class Restorer:
    """Restores photographs with a model and options.

    >>> Restorer.from_pretrained("built-in")("photo.jpg").save("restored.png")
    """

    def __init__(
        self,
        model: RestorationModel,
        options: Options | None = None,
        compile: bool = False,
        device: torch.device | None = None,
        low_memory: bool = False,
    ) -> None:
        """compile: `model`, in place and for pictures of any size, which takes minutes at the first one.

        device: to move the model to, once the encoders of texts are gone from there; its own where None.
        low_memory: each part lies there only while it works, and on the CPU otherwise, where texts are embedded as
        well. `notes` says what of all this changes nothing. Raises ValueError for options that are not of this model.
        """
        self.model = model.eval()
        self.options = options or Options()
        self.device, self.dtype = device or model.device, model.dtype
        self.settings = model.settings(self.options)
        self.phases, home = (model.phases(), torch.device("cpu")) if low_memory else ({}, self.device)
        self.texts = model.texts(self.options, self.settings, home)
        self.notes = model.notes(self.options, self.settings)
        if low_memory and self.device.type == "cpu":
            self.notes.append("`low_memory` changes nothing: the model runs on the CPU")
        say_once(self.notes)
        model.to(home)
        if self.dtype != torch.float32 and not any(parameter.requires_grad for parameter in model.parameters()):
            model.to(memory_format=torch.channels_last)  # faster, but not in float32; in training it stays as it is
        gpu = self.device if self.device.type == "cuda" else None
        self.groups = Groups(self.options.batch, 0 if gpu is None else UNTILED // model.factor**2, gpu)
        self.compiled = compile
        if compile:
            model.compile(dynamic=True)
        self.reference = self._mean_vector(self.options.references) if self.options.references else None
        self.diagnoser = None if self.options.dials.neutral else Diagnoser.from_pretrained(device="cpu")

    @classmethod
    def from_pretrained(
        cls,
        name: str = "built-in",
        options: Options | None = None,
        device: str = "auto",
        dtype: str = "auto",
        compile: bool = False,
        runtime: str = "torch",
        low_memory: bool = False,
    ) -> Restorer:
        """A restorer with weights: ``built-in``, ``built-in-dit``, a model folder, a checkpoint or a hub id.

        device, dtype, runtime: of those in `deedsr.options`, also ``cuda:1``; see `deedsr.models.pick_dtype`. compile,
        low_memory: as above. Raises ValueError for what can't be had.
        """
        place = pick_device(device, runtime)
        if compile:
            check_compiler(place)
        model = load_model(name, dtype=pick_dtype(dtype, name, place), runtime=runtime)
        return cls(model, options, compile, place, low_memory)

    def __call__(
        self,
        image: Picture | Image.Image | str | Path,
        progress: Callable[[float], None] | None = None,
        name: str | Path | None = None,
    ) -> Picture:
        """Restore a picture, a Pillow image or a file; the result keeps all else that the file says of it.

        What lies under wholly transparent pixels has no say, and a picture without colour gets none. The output's sides
        are the input's times ``outscale``, rounded to the nearest, or as `Options` say. progress: called with the
        fraction done. name: by which the picture's text is found; a file's own where None. Raises ValueError for an
        input smaller than 8 pixels a side, for one that has no text where others have, and where a network gives NaN.
        """
        if isinstance(image, (str, Path)):
            name, image = name or image, read(image)
        elif isinstance(image, Image.Image):
            image = from_pil(image)
        size = self.options.output_size(*image.size)
        rgb = self.restore(image.visible, progress, name=name)
        if image.colourless:
            rgb = luma(rgb).expand_as(rgb).contiguous()
        alpha = None if image.alpha is None else resize(image.alpha, size)
        density = image.density and image.density.times(size[1] / image.size[1], size[0] / image.size[0])
        return replace(image, rgb=rgb, alpha=alpha, density=density)

    @torch.inference_mode()
    def restore(
        self,
        lr: Tensor,
        progress: Callable[[float], None] | None = None,
        on_step: OnStep | None = None,
        name: str | Path | None = None,
    ) -> Tensor:
        """Restore one image (1, 3, H, W) in [0, 1] to (1, 3, round(H·outscale), round(W·outscale)), on the CPU.

        on_step: called at every step with t and x̂0, the clean latent (1, C, h, w) as it is estimated there; of an
        ensemble, for the picture as it is. name: of the picture, by which its text is found.
        """
        check_size(lr)
        seed = content_seed(lr, self.options.seed)
        generator = torch.Generator().manual_seed(seed)
        lr = upload(lr, self.device).float()
        finite = torch.ones((), dtype=torch.bool, device=self.device)
        run = _Run(finite, generator, progress, *((None, None) if self.texts is None else self.texts(name)))
        restored = self._restore_view(lr, run, on_step)
        for view in range(1, self.settings.ensemble):
            restored += turned_back(self._restore_view(turned(lr, view), run), view)
        restored /= self.settings.ensemble
        restored = coherent(self._finished(restored, lr), self.settings.coherence)
        if self.diagnoser is not None:
            restored = dials.turned(restored, self.options.dials, self.diagnoser(Picture(lr.cpu())), seed)
        return resize(restored, self.options.output_size(*lr.shape[-2:])).cpu()

    def _finished(self, restored: Tensor, lr: Tensor) -> Tensor:
        """What the network made of LR (1, 3, H, W), with its colours, rounded, (1, 3, 4H, 4W)."""
        settings, reference = self.settings, enlarged(lr, self.settings.lr).clamp_(0, 1)
        if settings.lr == "dit4sr":
            restored = resize_8bit(restored, restored.shape[-2:])
        matched = colour.match(restored, reference, settings.colour)
        if settings.rounding == "down":
            matched = (255 * matched).floor() / 255
        if settings.lr == "dit4sr":
            matched = resize_8bit(matched, [SCALE * side for side in lr.shape[-2:]])
        return matched

    @property
    def layout(self) -> Layout:
        """How pictures are cut into tiles."""
        return Layout(self.model, self.options, self.settings)

    @torch.inference_mode()
    def vector(self, lr: Tensor) -> Tensor | None:
        """The degradation vector (1, D) for `lr` (1, 3, H, W), as the options want it; None of a model without one."""
        return self._own_vector(lr) if self.reference is None else self.reference

    def _own_vector(self, lr: Tensor) -> Tensor | None:
        with self._at_work("vector"):
            return self.model.vector(lr.to(self.device, self.dtype))

    def _known(self, vector: Tensor | None) -> Tensor:
        if vector is None or not self.model.knows_degradation:
            raise ValueError("this model knows no degradation vector: leave degradation-of out")
        return vector

    @torch.inference_mode()
    def _mean_vector(self, places: list[Path]) -> Tensor:
        """The mean of the vectors (1, D) of pictures, files and folders of them; errors as `read`."""
        vectors = []
        for file in pictures(places):
            rgb = read(file).visible
            try:
                check_size(rgb)
            except ValueError as error:
                raise ValueError(f"{file}: {error}") from None
            vectors.append(self._known(self._own_vector(rgb)))
        return torch.stack(vectors).float().mean(0).to(self.dtype)

    def _restore_view(self, lr: Tensor, run: _Run, on_step: OnStep | None = None) -> Tensor:
        """LR (1, 3, H, W) → as large as `enlarged` makes it, through the network, tile by tile where it is large."""
        factor, settings, layout = self.model.factor, self.settings, self.layout
        large = enlarged(lr, settings.lr)
        image = pad_to(large, self.model.size, layout.margin, more=settings.lr == "deedsr")
        height, width = image.shape[-2] // factor, image.shape[-1] // factor
        tiles = layout.tiles(height, width)
        coded = 1 if settings.tiles == "dit4sr" else len(tiles)
        run.total = settings.ensemble * (len(tiles) * settings.asked + 2 * coded)
        if settings.tiles == "deedsr":
            pieces = ((tile, self._alone(image, lr, tile, run)) for tile in tiles)
            decoded = merge(pieces, height, width, factor, SIGMAS["deedsr"]).clamp_(0, 1)
        else:
            decoded = self._sampled(image, lr, tiles, run, on_step)
        return decoded[Window(layout.margin, layout.margin, large.shape[-2], large.shape[-1]).slices]

    def _alone(self, image: Tensor, lr: Tensor, tile: Window, run: _Run) -> Tensor:
        """One tile of an enlarged image, sampled by itself, and coloured by itself if it is not the whole."""
        part = image[tile.scaled(self.model.factor).slices]
        restored = self._sampled(part, lr, [Window(0, 0, tile.height, tile.width)], run)
        return restored if part.shape == image.shape else colour.adain(restored, part)

    def _sampled(
        self, image: Tensor, lr: Tensor, tiles: list[Window], run: _Run, on_step: OnStep | None = None
    ) -> Tensor:
        """An enlarged image (1, 3, H, W) through encoder, sampler and decoder, in `tiles` of its latent."""
        factor, settings, process = self.model.factor, self.settings, self.model.process
        height, width = image.shape[-2] // factor, image.shape[-1] // factor
        coded = [Window(0, 0, height, width)] if settings.tiles == "dit4sr" else tiles

        def blended(
            phase: str, function: Callable[[list[Window]], Tensor], tiles: list[Window], scale: int = 1
        ) -> Tensor:
            return merge(self._pieces(phase, function, tiles, run), height, width, scale, SIGMAS[settings.tiles])

        seen = unsigned(image) if settings.lr == "deedsr" else image
        drawn = run.generator if settings.posterior == "sample" else None
        with self._at_work("encode"):
            z_lr = blended(
                "encode",
                lambda group: self.model.encode(self._cut(seen, [w.scaled(factor) for w in group]), drawn),
                coded,
            )
            self._check(run)
        known, vector = (lr.to(self.dtype), z_lr.to(self.dtype), run.text), self.vector(lr)

        def denoise(x_t: Tensor, t: Tensor) -> Tensor:
            return blended("denoise", lambda group: self._denoise(x_t, t, condition, group), tiles)

        noise = upload(torch.randn(z_lr.shape, generator=run.generator), self.device)
        with self._at_work("denoise"):
            condition = self.model.condition(*known, self.model.guidance(settings), vector, run.negative)
            latent = sample(denoise, process, z_lr, settings, noise, run.generator, on_step, checked=False)
            self._check(run)
        with self._at_work("decode"):
            decoded = blended("decode", lambda group: self.model.decode(self._cut(latent, group)), coded, factor)
            self._check(run)
            return decoded

    def _at_work(self, phase: str) -> AbstractContextManager[None]:
        """Within the context the modules of a phase are where the work is done."""
        return borrowed(self.phases.get(phase, ()), self.device)

    def _denoise(self, x_t: Tensor, t: Tensor, condition: Condition, group: list[Window]) -> Tensor:
        """The network's prediction (N, C, h, w) for windows of x_t (1, C, H, W) at time t (1,)."""
        part, cut = join([condition.crop(window) for window in group]), self._cut(x_t, group)
        for latent in (cut, part.z_lr) if self.compiled else ():
            torch._dynamo.maybe_mark_dynamic(latent, (2, 3))  # or pictures would have to stay square where the first is
        return self.model.denoise(cut, t.expand(len(group)), part)

    def _cut(self, image: Tensor, group: list[Window]) -> Tensor:
        """Windows of one image (1, C, H, W) as a batch (N, C, h, w) in the network's dtype."""
        return torch.cat([image[window.slices] for window in group]).to(self.dtype)

    def _pieces(
        self, phase: str, function: Callable[[list[Window]], Tensor], tiles: list[Window], run: _Run
    ) -> Iterator[tuple[Window, Tensor]]:
        """Each tile with what the function gives for it, computed a group at a time."""
        for group, output in self.groups(function, tiles, phase):
            run.finite &= torch.isfinite(output).all()
            yield from zip(group, output.split(1), strict=True)
            run.add(len(group))

    def _check(self, run: _Run) -> None:
        """Raise ValueError where a network has given NaN. Waits for a GPU."""
        if not run.finite:
            out = "its weights may be broken" if self.dtype == torch.float32 else "choose `dtype='float32'`"
            raise ValueError(f"the network gave NaN or inf in {str(self.dtype).removeprefix('torch.')}; {out}")


@dataclass
class _Run:
    """Of one picture: whether networks gave finite values, its noise and texts, and who is told how much is done."""

    finite: Tensor
    generator: torch.Generator
    progress: Callable[[float], None] | None
    text: Text | None
    negative: Text | None
    done: int = 0
    total: int = 1

    def add(self, tiles: int) -> None:
        self.done += tiles
        if self.progress is not None:
            self.progress(min(self.done / self.total, 1.0))
