"""What was drawn for a batch (`Degradation`) and what it does to photographs (`apply`)."""

from dataclasses import dataclass, fields

import torch
from torch import Tensor

from deedsr.degradation import kernels, operations
from deedsr.degradation.jpeg import jpeg, nearest_jpeg
from deedsr.degradation.operations import MODES
from deedsr.geometry import SCALE

NOISE = ("noise_sigma", "poisson_scale")
"""Parameters of the noise, for `Degradation.without`."""


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
def apply(hr: Tensor, degradation: Degradation) -> Tensor:
    """Degrade a batch: (B,3,H,W) → (B,3,H/4,W/4) in [0,1], multiples of 1/255 but for `nearest` rows. No gradient.

    hr: float32 RGB in [0,1], sides multiples of 4. degradation: of length B. Row i equals a batch of one, to the bit:
    each image is computed by itself. Noise fields are drawn on the device of `hr` from `degradation.seed`, so their
    bits are those of that device. Raises ValueError if sizes don't fit.
    """
    if hr.ndim != 4 or hr.shape[1] != 3:
        raise ValueError(f"HR images must be RGB (B,3,H,W), not {tuple(hr.shape)}")
    if hr.shape[2] % SCALE or hr.shape[3] % SCALE:
        raise ValueError(f"HR size {hr.shape[2]}x{hr.shape[3]} isn't a multiple of {SCALE}: crop it first")
    if len(degradation) != len(hr):
        raise ValueError(f"{len(hr)} images but {len(degradation)} degradations: index the degradation to share rows")
    host = degradation.to("cpu")
    with torch.autocast(hr.device.type, enabled=False):
        rows = [_degrade(image, host[index]) for index, image in enumerate(hr.float().split(1))]
        return torch.cat(rows)


def _degrade(image: Tensor, row: Degradation) -> Tensor:
    """(1,3,H,W) → (1,3,H/4,W/4) by a degradation of length 1 on the CPU."""
    target = (image.shape[2] // SCALE, image.shape[3] // SCALE)
    if row.clean.item():
        return _stored(operations.resize_to(image, target, "bicubic"), row)
    generator = torch.Generator(image.device).manual_seed(row.seed.item())
    modes = [MODES[index] for index in row.resize_mode[0].tolist()]
    scales = row.resize_scale[0].tolist()

    image = _filter(image, row, 0)
    image = operations.resize_by(image, scales[0], modes[0])
    image = _noise(image, row, 0, generator)
    image = _compress(image, row, 0)

    image = _filter(image, row, 1)
    size = (max(1, int(target[0] * scales[1])), max(1, int(target[1] * scales[1])))
    image = operations.resize_to(image, size, modes[1])
    image = _noise(image, row, 1, generator)
    if row.jpeg_last.item():
        image = _filter(operations.resize_to(image, target, modes[2]), row, 2)
        return _compress(image, row, 1)
    image = operations.resize_to(_compress(image, row, 1), target, modes[2])
    return _stored(_filter(image, row, 2), row)


def _filter(image: Tensor, row: Degradation, step: int) -> Tensor:
    """The blur or sharpening of a step, if it has one."""
    size = int(row.kernel_size[0, step])
    if not size:
        return image
    shape = (row.sigma_x, row.sigma_y, row.rotation, row.beta, row.omega)
    kernel = kernels.make_kernel(int(row.kernel_kind[0, step]), size, *(float(value[0, step]) for value in shape))
    return operations.filter2d(image, kernel.to(image.device))


def _noise(image: Tensor, row: Degradation, step: int, generator: torch.Generator) -> Tensor:
    """Gaussian or Poisson noise, or none."""
    sigma, scale, grey = float(row.noise_sigma[0, step]), float(row.poisson_scale[0, step]), bool(row.grey[0, step])
    if sigma:
        image = operations.gaussian_noise(image, sigma, grey, generator)
    if scale:
        image = operations.poisson_noise(image, scale, grey, generator)
    return image


def _compress(image: Tensor, row: Degradation, step: int) -> Tensor:
    """JPEG, or what `_stored` gives."""
    quality = row.quality[:, step]
    if not quality.item():
        return _stored(image, row)
    return nearest_jpeg(image, quality) if row.nearest.item() else jpeg(image, quality)


def _stored(image: Tensor, row: Degradation) -> Tensor:
    """8 bits without loss, or all bits within [0,1]."""
    return image.clamp(0, 1) if row.nearest.item() else operations.quantize(image)
