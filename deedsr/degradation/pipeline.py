"""What was drawn for a batch (`Degradation`) and what it does to photographs (`apply`)."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from deedsr.degradation import operations
from deedsr.degradation.jpeg import compress, nearest_tables, quantization_tables
from deedsr.degradation.kernels import make_kernels
from deedsr.degradation.operations import MODES
from deedsr.devices import tf32, upload
from deedsr.geometry import SCALE

TOGETHER, GPU = {"cpu": 2**15}, 2**24
"""HR pixels that are degraded at once, of each kind of device and of those that are not named."""

NOISE = ("noise_sigma", "poisson_scale")
"""Parameters of the noise, for `Degradation.without`."""

KERNEL = ("kernel_kind", "kernel_size", "sigma_x", "sigma_y", "rotation", "beta", "omega")
"""Those of a kernel, in the order that `make_kernel` takes."""


@dataclass(frozen=True, eq=False)
class Degradation:
    """All drawn parameters of B degradations: plain tensors with leading dimension B, no image content.

    Columns of (B,2) are the first and the second order; of (B,3) these and the step that ends in the LR image. A zero
    `kernel_size`, `noise_sigma`, `poisson_scale` or `quality` means that the operation is left out, and parameters that
    its kind doesn't use are 0. In rows with `clean` set everything but `seed`, `level` and `nearest` is 0.
    """

    seed: Tensor
    """(B,) int64: seed of the noise fields."""
    level: Tensor
    """(B,) int64: position in `LEVELS`, or -1 for any other recipe."""
    nearest: Tensor
    """(B,) bool: JPEG is `jpeg.nearest_jpeg`, and nothing is rounded to 8 bits, the LR image neither."""
    clean: Tensor
    """(B,) bool: bicubic down-sampling and nothing else."""
    kernel_kind: Tensor
    """(B,3) int64: position in `KINDS`; the third is sinc or sharpen."""
    kernel_size: Tensor
    """(B,3) int64: odd, pixels."""
    sigma_x: Tensor
    """(B,3) float32, pixels of the image at that step."""
    sigma_y: Tensor
    """(B,3) float32; equal to `sigma_x` for isotropic kernels."""
    rotation: Tensor
    """(B,3) float32, radians."""
    beta: Tensor
    """(B,3) float32: shape of generalised Gaussian and plateau kernels, strength of sharpen."""
    omega: Tensor
    """(B,3) float32: cut-off of sinc kernels, radians per pixel."""
    resize_mode: Tensor
    """(B,3) int64: position in `MODES`."""
    resize_scale: Tensor
    """(B,2) float32: the first relative to HR, the second to LR size."""
    noise_sigma: Tensor
    """(B,2) float32: Gaussian noise, in steps of 1/255."""
    poisson_scale: Tensor
    """(B,2) float32: Poisson noise."""
    grey: Tensor
    """(B,2) bool: the same noise in the three channels."""
    quality: Tensor
    """(B,2) float32: JPEG quality, 1 to 100; 0: stored without loss."""
    jpeg_last: Tensor
    """(B,) bool: end by resize, sinc, JPEG; else by JPEG, resize, sinc."""

    def __len__(self) -> int:
        return len(self.seed)

    def __getitem__(self, index: int | slice | Tensor) -> "Degradation":
        """Rows as a batch: an int gives a batch of one; an index tensor may repeat rows, so that images share one."""
        if isinstance(index, int):
            if not -len(self) <= index < len(self):
                raise IndexError(f"row {index} of a batch of {len(self)} degradations")
            index = slice(index, index + 1 or None)
        return Degradation(**{name: tensor[index] for name, tensor in self.state().items()})

    def to(self, device: torch.device | str) -> "Degradation":
        """The same on another device. `apply` reads the parameters on the CPU, so there is no need to move them."""
        return Degradation(**{name: tensor.to(device) for name, tensor in self.state().items()})

    def state(self) -> dict[str, Tensor]:
        """Fields by name, as safetensors takes them."""
        return {field.name: getattr(self, field.name) for field in fields(self)}

    @classmethod
    def from_state(cls, state: dict[str, Tensor]) -> "Degradation":
        """Inverse of `state`; a missing or an unknown name, or rows that don't agree, are a ValueError."""
        names = {field.name for field in fields(cls)}
        if names != set(state):
            raise ValueError(
                f"not a stored degradation: missing {sorted(names - set(state))}, unknown {sorted(set(state) - names)}"
            )
        lengths = {name: len(tensor) for name, tensor in state.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"not a stored degradation: numbers of rows differ, {lengths}")
        return cls(**state)

    def without(self, *names: str) -> "Degradation":
        """The same with the operations left out whose parameters are named."""
        state = self.state()
        return Degradation(**{**state, **{name: torch.zeros_like(state[name]) for name in names}})

    def reseeded(self, generator: torch.Generator) -> "Degradation":
        """The same parameters with fresh noise fields: for other images, which shouldn't share the noise itself."""
        seed = torch.randint(2**63 - 1, (len(self),), generator=generator, device=generator.device)
        return Degradation(**{**self.state(), "seed": seed.to(self.seed.device)})


@torch.no_grad()
def apply(hr: Tensor, degradation: Degradation, together: int | None = None) -> Tensor:
    """Degrade a batch: (B,3,H,W) → (B,3,H/4,W/4) in [0,1], multiples of 1/255 but for `nearest` rows. No gradient.

    hr: float32 RGB in [0,1], sides multiples of 4. degradation: of length B. Row i equals a batch of one, on a CPU to
    the bit. Noise fields are drawn on the device of `hr` from `degradation.seed`, so their bits are those of that
    device; filters are of float32 there, where PyTorch by itself would round to 10 bits. together: how many rows are
    worked on at once; None: as `TOGETHER` says. Nothing waits for a GPU. Raises
    ValueError if sizes don't fit.
    """
    if hr.ndim != 4 or hr.shape[1] != 3:
        raise ValueError(f"HR images must be RGB (B,3,H,W), not {tuple(hr.shape)}")
    if hr.shape[2] % SCALE or hr.shape[3] % SCALE:
        raise ValueError(f"HR size {hr.shape[2]}x{hr.shape[3]} isn't a multiple of {SCALE}: crop it first")
    if len(degradation) != len(hr):
        raise ValueError(f"{len(hr)} images but {len(degradation)} degradations: index the degradation to share rows")
    most = together or max(1, TOGETHER.get(hr.device.type, GPU) // (hr.shape[2] * hr.shape[3]))
    host = degradation.to("cpu")
    with torch.autocast(hr.device.type, enabled=False), tf32(False):
        parts = enumerate(hr.float().split(most))
        return torch.cat([_degrade(part, host[most * at : most * (at + 1)]) for at, part in parts])


def _degrade(hr: Tensor, degradation: Degradation) -> Tensor:
    """(B,3,H,W) → (B,3,H/4,W/4) by B degradations on the CPU, all together."""
    target = (hr.shape[2] // SCALE, hr.shape[3] // SCALE)
    rows = _Rows(hr, degradation)
    value = rows.value
    every = [row for row, clean in enumerate(value["clean"]) if not clean]
    modes = [[MODES[index] for index in row] for row in value["resize_mode"]]
    last = [row for row in every if value["jpeg_last"][row]]

    rows.filter(every, 0)
    rows.each(every, lambda image, row: operations.resize_by(image, value["resize_scale"][row][0], modes[row][0]))
    rows.noise(every, 0)
    rows.compress(every, 0)

    rows.filter(every, 1)
    sizes = [(max(1, int(target[0] * scale)), max(1, int(target[1] * scale))) for _, scale in value["resize_scale"]]
    rows.each(every, lambda image, row: operations.resize_to(image, sizes[row], modes[row][1]))
    rows.noise(every, 1)
    rows.compress([row for row in every if row not in last], 1)
    rows.each(every, lambda image, row: operations.resize_to(image, target, modes[row][2]))
    rows.filter(every, 2)
    rows.compress(last, 1)
    for row in set(range(len(hr))) - set(every):
        rows.images[row] = operations.resize_to(rows.images[row], target, "bicubic")
    rows.store([row for row in range(len(hr)) if row not in last])
    return torch.cat(rows.images)


class _Rows:
    """Images (1,3,h,w) of any sizes that are being degraded, and their parameters as numbers by name."""

    def __init__(self, hr: Tensor, degradation: Degradation) -> None:
        self.images = list(hr.split(1))
        self.value: dict[str, list[Any]] = {name: tensor.tolist() for name, tensor in degradation.state().items()}
        shapes = zip(*(getattr(degradation, name).flatten().tolist() for name in KERNEL), strict=True)
        self.kernels = upload(make_kernels(list(shapes)).unflatten(0, (len(hr), -1)), hr.device)  # (B,3,S,S)
        quality, nearest = degradation.quality.clamp(min=1), degradation.nearest[:, None, None, None, None]
        tables = torch.where(nearest, nearest_tables(quality), quantization_tables(quality))
        self.tables = upload(tables, hr.device)  # (B,2,2,8,8)
        self.generators = [torch.Generator(hr.device).manual_seed(seed) for seed in self.value["seed"]]

    def each(self, rows: Sequence[int], function: Callable[[Tensor, int], Tensor]) -> None:
        for row in rows:
            self.images[row] = function(self.images[row], row)

    def replace(self, rows: Sequence[int], images: Sequence[Tensor]) -> None:
        for row, image in zip(rows, images, strict=True):
            self.images[row] = image

    def filter(self, rows: Sequence[int], step: int) -> None:
        """The blur or sharpening of a step, where there is one."""
        rows = [row for row in rows if self.value["kernel_size"][row][step]]
        if rows:
            stack = torch.stack([self.kernels[row, step] for row in rows])
            sizes = [self.value["kernel_size"][row][step] for row in rows]
            self.replace(rows, operations.filter_each([self.images[row] for row in rows], stack, sizes))

    def noise(self, rows: Sequence[int], step: int) -> None:
        """Gaussian or Poisson noise, or none."""
        sigma, scale, grey = ([row[step] for row in self.value[name]] for name in (*NOISE, "grey"))
        for row in rows:
            if sigma[row]:
                one = self.images[row], sigma[row], grey[row], self.generators[row]
                self.images[row] = operations.gaussian_noise(*one)
        rows = [row for row in rows if scale[row]]
        if rows:
            several = ([values[row] for row in rows] for values in (self.images, scale, grey, self.generators))
            self.replace(rows, operations.poisson_noise(*several))

    def compress(self, rows: Sequence[int], step: int) -> None:
        """JPEG, or what `store` does."""
        self.store([row for row in rows if not self.value["quality"][row][step]])
        for nearest in (False, True):
            alike = [row for row in rows if self.value["quality"][row][step] and self.value["nearest"][row] == nearest]
            if alike:
                tables = torch.stack([self.tables[row, step] for row in alike])
                self.replace(alike, compress([self.images[row] for row in alike], tables, nearest))

    def store(self, rows: Sequence[int]) -> None:
        """8 bits without loss, or all bits within [0,1]."""
        for row in rows:
            image = self.images[row]
            self.images[row] = image.clamp(0, 1) if self.value["nearest"][row] else operations.quantize(image)
