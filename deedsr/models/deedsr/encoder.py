"""The degradation learner's network: a ResNet that turns a low-resolution picture into a degradation vector."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from deedsr.degradation.statistics import COUNT, statistics

GRID = 16
"""LR pixels: tiles begin where the blocks of JPEG's colours do."""


class BasicBlock(nn.Module):
    """Two 3x3 convolutions with a residual connection (ResNet, He et al. 2016, fig. 5 left).

    inputs, outputs: channels. stride: of the first convolution and of the short-cut.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample: nn.Module | None = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """(B, inputs, H, W) -> (B, outputs, H/stride, W/stride)."""
        skip = x if self.downsample is None else self.downsample(x)
        x = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(x)) + skip)


class DegradationEncoder(nn.Module):
    """LR picture -> degradation vector d, pooled, neither projected nor normalised.

    The defaults are the full size: ResNet-34 of double width without `fc`, 85,011,008 parameters. Parameter names are
    those of torchvision's ResNet. Initialised after Kaiming (normal, fan-out).

    layers: blocks in each of the four stages. widths: channels of the four stages; the last is the length of the
    vector. stem: channels of the first convolution. tile: LR pixels; the vector of a larger picture is the mean of
    those of tiles of this side, spread so that they cover it (but for fewer than 16 pixels: they begin where blocks of
    JPEG do). The padding at the border is seen in every vector: in a whole picture its share is other than in the
    patches of training. None: the whole picture at once, as the authors do. vector: the length of a vector that reads
    the finest pixels, where noise and JPEG are: the stem keeps the resolution (3x3, stride 1, no pooling), and a linear
    layer makes the vector of mean and standard deviation of each stage's features and of
    `deedsr.degradation.statistics`; None: the mean of the last stage, as the authors do. Raises ValueError where
    `layers` or `widths` does not hold four positive numbers, or `tile` or `vector` is below 1.
    """

    def __init__(
        self,
        layers: Sequence[int] = (3, 4, 6, 3),
        widths: Sequence[int] = (128, 256, 512, 1024),
        stem: int = 64,
        tile: int | None = None,
        vector: int | None = None,
    ) -> None:
        super().__init__()
        for name, number in (("tile", tile), ("vector", vector)):
            if number is not None and number < 1:
                raise ValueError(f"{name} must be at least 1, or null, got {number}")
        for name, values in (("layers", layers), ("widths", widths)):
            if len(values) != 4 or min(values) < 1:
                raise ValueError(f"{name} must be four positive numbers, got {list(values)}")
        self.layers, self.widths, self.stem, self.tile = tuple(layers), tuple(widths), stem, tile
        kernel, stride = (7, 2) if vector is None else (3, 1)
        self.conv1 = nn.Conv2d(3, stem, kernel, stride, kernel // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1) if vector is None else nn.Identity()
        inputs = (stem, *self.widths[:3])
        for i, (blocks, narrow, wide) in enumerate(zip(self.layers, inputs, self.widths, strict=True)):
            first = BasicBlock(narrow, wide, 1 if i == 0 else 2)
            rest = [BasicBlock(wide, wide) for _ in range(blocks - 1)]
            self.add_module(f"layer{i + 1}", nn.Sequential(first, *rest))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.summary = None if vector is None else Summary(2 * sum(self.widths) + COUNT, vector)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    @property
    def dimension(self) -> int:
        """Length of the degradation vector."""
        return self.widths[-1] if self.summary is None else self.summary.linear.out_features

    def config(self) -> dict[str, list[int] | int | None]:
        """The constructor's arguments, as JSON holds them."""
        sizes = {"layers": list(self.layers), "widths": list(self.widths)}
        vector = None if self.summary is None else self.dimension
        return {**sizes, "stem": self.stem, "tile": self.tile, "vector": vector}

    def middle(self) -> Tensor:
        """A vector (dimension,) that says nothing: about the mean of those of training, as far as that is known."""
        if self.summary is None:
            return next(self.parameters()).new_zeros(self.dimension)
        return self.summary.linear.bias.detach().clone()

    def forward(self, lr: Tensor) -> Tensor:
        """The degradation vector (B, dimension) of each LR picture (B, 3, h, w) in [0, 1]."""
        return torch.stack([self._pooled(tile) for tile in self.tiles(lr)]).mean(0)

    def tiles(self, lr: Tensor) -> list[Tensor]:
        """The parts of pictures (B, 3, h, w) whose vectors have the pictures' as their mean."""
        if self.tile is None:
            return [lr]
        return [
            lr[..., top : top + self.tile, left : left + self.tile]
            for top in spread(lr.shape[-2], self.tile)
            for left in spread(lr.shape[-1], self.tile)
        ]

    def _pooled(self, lr: Tensor) -> Tensor:
        return self.read(*self.readable(lr))

    def readable(self, lr: Tensor) -> list[Tensor]:
        """What `read` takes for tiles (B, 3, h, w): these, and with a summary their statistics (B, COUNT), float32."""
        if self.summary is None:
            return [lr]
        with torch.autocast(lr.device.type, enabled=False):
            return [lr, statistics(lr.float())]

    def read(self, lr: Tensor, numbers: Tensor | None = None) -> Tensor:
        """The vector (B, dimension) of tiles (B, 3, h, w), a picture's where it is no larger than one."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(lr))))  # (B, stem, h/4, w/4), or h, w where there is a summary
        features = []
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
            features.append(x)
        if self.summary is None:
            return self.avgpool(x).flatten(1)  # x: (B, dimension, h/32, w/32)
        return self.summary(features, numbers)


class Summary(nn.Module):
    """Features of several sizes and what was measured of the picture -> the vector.

    inputs: how many numbers they are, each brought to mean 0 and variance 1 by a BatchNorm. outputs: of the vector.
    """

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(inputs, affine=False)
        self.linear = nn.Linear(inputs, outputs)

    def forward(self, features: Sequence[Tensor], numbers: Tensor) -> Tensor:
        """features: (B, C_i, h_i, w_i); numbers: (B, COUNT), float32 -> (B, outputs)."""
        with torch.autocast(numbers.device.type, enabled=False):
            parts = [numbers]
            for feature in features:
                flat = feature.flatten(2).float()
                parts += [flat.mean(2), (flat.var(2, correction=0) + 1e-6).sqrt()]
            joined = torch.cat(parts, 1).to(self.linear.weight.dtype)
        return self.linear(self.norm(joined))


def spread(length: int, tile: int) -> list[int]:
    """Where the fewest tiles that cover `length` begin, evenly spread; a single 0 where one is enough.

    Tiles that are no smaller than the grid begin on it, which may leave up to 15 pixels at the end.
    """
    count, step = math.ceil(length / tile), GRID if tile >= GRID else 1
    return [round(number * (length - tile) / max(count - 1, 1)) // step * step for number in range(count)]
