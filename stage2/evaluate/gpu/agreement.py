"""Whether a GPU computes what the CPU does."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from deedsr.degradation import Recipe, apply
from deedsr.degradation.pipeline import NOISE
from deedsr.devices import tf32
from deedsr.geometry import SCALE
from deedsr.metrics.perceptual import PerceptualLoss
from deedsr.models import RestorationModel, load_model
from deedsr.restorer import Restorer
from stage2.evaluate.gpu.bench import Bench, Row, apart, close
from stage2.evaluate.timing import picture

MOST = {"float32": 1e-4, "TF32": 1e-2, "bfloat16": 1e-1}
"""Relative error that is allowed, of networks of random weights."""


def deedsr(bench: Bench) -> Iterator[Row]:
    """The networks of DeeDSR at full size."""
    yield from networks(bench, "sd21", bench.side(512))


def dit4sr(bench: Bench) -> Iterator[Row]:
    """The networks of DiT4SR at full size, on a small picture: the CPU takes long."""
    yield from networks(bench, "dit4sr", bench.side(256))


@torch.inference_mode()
def networks(bench: Bench, size: str, side: int) -> Iterator[Row]:
    """Each network by itself, in each precision, against float32 on the CPU, with the same inputs."""
    model = bench.model(size)
    found: dict[str, dict[str, Tensor]] = {}
    for name, allowed in (("float32", False), ("TF32", True)):
        with tf32(allowed):
            found[name] = outputs(model, side)
    host = copy.deepcopy(model).cpu()
    found["bfloat16"] = outputs(model.to(torch.bfloat16, memory_format=torch.channels_last), side)
    for network, right in outputs(host, side).items():
        for name, most in MOST.items():
            yield close(f"{network}, {name}", apart(found[name][network], right), most)


def outputs(model: RestorationModel, side: int) -> dict[str, Tensor]:
    """What each network of `model` gives for made-up inputs, on the CPU in float32."""
    generator, like = torch.Generator().manual_seed(1), {"device": model.device, "dtype": model.dtype}
    image, lr = picture(SCALE * side), picture(side)  # its sides are a quarter
    latent = side // model.factor
    z_lr, x_t = torch.randn(2, 1, model.channels, latent, latent, generator=generator).to(**like)
    t = torch.tensor([400.0 if model.process.flows else 400], device=model.device)
    works: dict[str, Callable[[], Tensor | None]] = {
        "encoder of degradations": lambda: model.vector(lr.to(**like)),
        "encode": lambda: model.encode(image.to(**like)),
        "decode": lambda: model.decode(z_lr),
        "denoise": lambda: model.denoise(x_t, t, model.condition(lr.to(**like), z_lr)),
    }
    found = {name: work() for name, work in works.items()}
    return {name: output.float().cpu() for name, output in found.items() if output is not None}


def degrading(bench: Bench) -> Iterator[Row]:
    """Without noise, whose bits are each device's own, to the level; with noise by how much of it there is."""
    hr = picture(SCALE * bench.side(256)).repeat(8, 1, 1, 1)
    for name in ("light", "varied", "broad"):
        drawn = Recipe.named(name).sample(torch.Generator().manual_seed(3), len(hr))
        still, there = drawn.without(*NOISE), hr.to(bench.device)
        (right, clean), (found, alike) = ((apply(one, drawn), apply(one, still)) for one in (hr, there))
        other = (255 * (alike.cpu() - clean)).abs() > 1.5
        yield Row(f"{name}, without noise", f"{100 * other.float().mean():.2g} % of values 2 levels off or more", "1 %",
                  bool(other.float().mean() < 0.01))  # fmt: skip
        noise, expected = (255 * (found - alike).std().item(), 255 * (right - clean).std().item())
        yield Row(f"{name}, noise", f"{noise:.2f} levels, on the CPU {expected:.2f}", "a fifth",
                  abs(noise - expected) <= 0.2 * expected)  # fmt: skip


def pictures(bench: Bench) -> Iterator[Row]:
    """The whole restoring of a picture by the models that are built in, in levels of 8 bit."""
    lr = picture(bench.side(1024))
    for name in ("built-in", "built-in-dit"):
        right = Restorer(load_model(name)).restore(lr)
        for kind, dtype, allowed in (
            ("float32", torch.float32, False),
            ("TF32", torch.float32, True),
            ("bfloat16", torch.bfloat16, False),
        ):
            with tf32(allowed):
                found = Restorer(load_model(name, bench.device, dtype)).restore(lr)
            levels = 255 * (found - right).abs()
            yield Row(f"{name}, {kind}", f"{levels.mean():.3f} levels on average, {levels.max():.1f} at most", "1",
                      bool(levels.mean() <= 1))  # fmt: skip


def lpips(bench: Bench) -> Iterator[Row]:
    """LPIPS as a loss, its network of random weights: the value and the gradient."""
    if importlib.util.find_spec("pyiqa") is None:
        yield Row("left out", "pyiqa is not installed")
        return
    architecture = importlib.import_module("pyiqa.archs.lpips_arch").LPIPS
    side = bench.side(512) // 4
    image, reference = picture(SCALE * side), picture(SCALE * side).flip(3)
    for network in ("alex", "vgg"):
        torch.manual_seed(0)
        loss = PerceptualLoss(architecture(pretrained=False, pnet_rand=True, net=network))
        right, slope = slope_of(loss, image, reference)
        with tf32(False):
            found, there = slope_of(loss.to(bench.device), image.to(bench.device), reference.to(bench.device))
        yield close(f"{network}, value", apart(found, right), MOST["float32"])
        yield close(f"{network}, gradient", apart(there, slope), 10 * MOST["float32"])


def slope_of(loss: PerceptualLoss, image: Tensor, reference: Tensor) -> tuple[Tensor, Tensor]:
    """The loss and its gradient by the image."""
    image = image.detach().requires_grad_(True)
    value = loss(image, reference)
    return value.detach(), torch.autograd.grad(value, image)[0]
