"""What makes a large model fit: none of it may change a result or a name."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from omegaconf import DictConfig
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from deedsr import weights
from deedsr.degradation import Recipe
from deedsr.models.deedsr.model import DeeDSR, random_model
from deedsr.models.deedsr.sizes import DeeDSRConfig, model_size
from deedsr.models.system import ADAPTER
from stage2.from_config import train
from stage2.module import RestorationRun
from stage2.objective import Objective
from stage2.scaling import prepare, shard, store_frozen
from stage2.vector import Vector

PLAIN = {"frozen_dtype": "float32", "recompute": False, "channels_last": False, "compiled": None}


@contextmanager
def keeping() -> Iterator[dict[int, int]]:
    """The bytes kept for the backward pass, by the place of what they are of."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


def gradients(model: DeeDSR, autocast: bool = False) -> tuple[Tensor, dict[str, Tensor], int]:
    """The output, the gradients of the trained part, and the bytes kept for the backward pass."""
    generator = torch.Generator().manual_seed(5)
    lr = torch.rand(2, 3, 16, 16, generator=generator)
    z_lr, x_t = (torch.randn(2, 4, 16, 16, generator=generator) for _ in range(2))
    with keeping() as kept:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            output = model.denoise(x_t, torch.tensor([981, 121]), model.condition(lr, z_lr)).float()
        output.square().mean().backward()
    return output.detach(), {name: parameter.grad for name, parameter in model.trainable()}, sum(kept.values())


def with_lora(config: DeeDSRConfig, rank: int) -> DeeDSR:
    """A model in which every part has a say, LoRA of `rank` too."""
    torch.manual_seed(0)
    model = random_model(replace(config, adapter=replace(config.adapter, lora_rank=rank)))
    for _, parameter in model.trainable():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)
    return model


def assert_close(first: dict[str, Tensor], second: dict[str, Tensor], atol: float) -> None:
    for name, tensor in first.items():
        assert torch.allclose(tensor, second[name], rtol=0, atol=atol), name


def test_recomputation_keeps_less_and_changes_no_bit(tiny_model: DeeDSR) -> None:
    other = copy.deepcopy(tiny_model)
    names = list(other.state_dict())
    prepare(other, **{**PLAIN, "recompute": True})
    (output, plain, kept), (same, recomputed, less) = gradients(tiny_model), gradients(other)
    assert torch.equal(output, same)
    assert_close(plain, recomputed, 0)
    assert less < 0.6 * kept
    assert list(other.state_dict()) == names


def test_recomputation_includes_the_decoder_that_losses_on_pictures_go_through(tiny_model: DeeDSR) -> None:
    latent = torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(5))
    seen = []
    for recompute in (False, True):
        model, z = copy.deepcopy(tiny_model), latent.clone().requires_grad_()
        prepare(model, **{**PLAIN, "recompute": recompute})
        with keeping() as kept:
            picture = model.decode(z)
            picture.square().mean().backward()
        seen.append((picture, z.grad, sum(kept.values())))
    (picture, plain, kept), (same, recomputed, less) = seen
    assert plain.any()
    assert torch.equal(picture, same)
    assert torch.equal(plain, recomputed)
    assert less < 0.7 * kept


def test_frozen_parts_in_bfloat16_change_no_bit_under_autocast(tiny_model: DeeDSR) -> None:
    other = copy.deepcopy(tiny_model)
    prepare(other, **{**PLAIN, "frozen_dtype": "bfloat16"})
    for parameter in other.parameters():
        halved = parameter.ndim > 1 and not parameter.requires_grad
        assert parameter.dtype == (torch.bfloat16 if halved else torch.float32)
    (output, plain, _), (same, stored, _) = gradients(tiny_model, True), gradients(other, True)
    assert torch.equal(output, same)
    assert_close(plain, stored, 0)


def test_channels_last_changes_the_layout_alone(tiny_model: DeeDSR) -> None:
    other = copy.deepcopy(tiny_model)
    prepare(other, **{**PLAIN, "channels_last": True})
    assert other.unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    (output, plain, _), (same, turned, _) = gradients(tiny_model), gradients(other)
    assert torch.allclose(output, same, atol=1e-4)
    assert_close(plain, turned, 1e-5)


@pytest.mark.parametrize("rank", [0, 3])
def test_compilation_keeps_the_names_and_the_results(tiny_config: DeeDSRConfig, rank: int) -> None:
    tiny_model = with_lora(tiny_config, rank)
    other, graphs = copy.deepcopy(tiny_model), []

    def backend(graph: torch.fx.GraphModule, _inputs: list[Tensor]) -> Callable:
        graphs.append(graph)
        return graph.forward

    prepare(other, **{**PLAIN, "compiled": {"backend": backend}})
    (output, plain, _), (same, compiled, _) = gradients(tiny_model), gradients(other)
    assert len(graphs) == 1, "the U-Net and the adapter"
    picture = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(6))
    with torch.no_grad():
        assert torch.allclose(other.encode(picture), tiny_model.encode(picture), atol=1e-5)
    assert len(graphs) == 2, "the autoencoder's encoder"
    assert torch.allclose(output, same, atol=1e-5)
    assert_close(plain, compiled, 1e-6)
    assert list(other.state_dict()) == list(tiny_model.state_dict())
    assert [name for name, _ in other.trainable()] == [name for name, _ in tiny_model.trainable()]


@pytest.fixture
def one_rank(tmp_path: Path) -> Iterator[None]:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.usefixtures("one_rank")
@pytest.mark.parametrize("rank", [0, 3])
def test_blocks_and_all_that_is_trained_are_sharded(tiny_config: DeeDSRConfig, rank: int) -> None:
    tiny_model = with_lora(tiny_config, rank)
    store_frozen(tiny_model, torch.bfloat16)  # a unit of sharding has one dtype
    trained = {name for name, _ in tiny_model.trainable()}
    blocks = {id(parameter) for block in tiny_model.blocks() for parameter in block.parameters()}
    inside = {name for name, parameter in tiny_model.named_parameters() if id(parameter) in blocks}
    mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("nodes", "devices"))
    run = RestorationRun(tiny_model, Recipe.named("light"), Objective(), DictConfig({}), 1, 0.9, 0, 64, Vector())
    shard(run, tiny_model, mesh)
    sharded = {name for name, parameter in run.model.named_parameters() if isinstance(parameter, DTensor)}
    assert sharded == trained | inside


@pytest.mark.usefixtures("one_rank")
def test_sharded_and_whole_parameters_are_averaged_together(tiny_model: DeeDSR) -> None:
    """A null vector that nothing asks for is not trained, and so stays whole."""
    mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("nodes", "devices"))
    tiny_model.adapter.null = torch.nn.Parameter(torch.ones(4))
    run = RestorationRun(tiny_model, Recipe.named("light"), Objective(), DictConfig({}), 1, 0.9, 0, 64, Vector())
    shard(run, tiny_model, mesh)
    run.average.follow(tiny_model.trainable())
    kinds = {isinstance(parameter, DTensor) for _, parameter in tiny_model.trainable()}
    assert kinds == {True, False}
    before = {name: tensor.clone() for name, tensor in run.average.whole().items()}
    with torch.no_grad():
        for _, parameter in tiny_model.trainable():
            parameter.add_(1)
    run.average.update()  # decays by 1/10 at first
    for name, tensor in run.average.whole().items():
        assert torch.allclose(tensor, before[name] + 0.9, atol=1e-5), name


@pytest.mark.usefixtures("one_rank")
def test_another_layout_cannot_be_sharded(tiny_model: DeeDSR) -> None:
    tiny_model.to(memory_format=torch.channels_last)
    mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("nodes", "devices"))
    with pytest.raises(ValueError, match="channels_last=true can't be had with a model_parallel strategy"):
        shard(tiny_model, tiny_model, mesh)


def test_all_options_at_once_train_resume_and_keep_float32(
    composed: Callable, stage2_options: Callable, tmp_path: Path, assert_same_runs: Callable
) -> None:
    words = ["trainer.precision=bf16-mixed", "frozen_dtype=bfloat16", "recompute=true", "channels_last=true"]
    words += ["optimizer.kind=fused", "optimizer.schedule=constant"]
    train(composed("stage2", stage2_options(tmp_path / "whole", *words, "steps=2")))
    for steps in (1, 2):
        train(composed("stage2", stage2_options(tmp_path / "parts", *words, f"steps={steps}")))
    assert_same_runs(tmp_path / "whole", tmp_path / "parts")
    for tensors in (
        weights.load(tmp_path / "whole" / "model" / ADAPTER).tensors,
        weights.load_checkpoint(tmp_path / "whole" / "last.ckpt")["state_dict"],
    ):
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}


def test_a_checkpoint_of_stable_diffusion_holds_the_trained_part_alone() -> None:
    with torch.device("meta"):
        run = RestorationRun(
            random_model(model_size("sd21")),
            Recipe.named("light"),
            Objective(),
            DictConfig({}),
            1,
            0.9,
            0,
            64,
            Vector(),
        )
    state, saved = run.state_dict(), run.saved()
    assert saved == {f"model.{name}" for name, _ in run.model.trainable()} <= state.keys()
    assert sum(state[name].numel() for name in saved) == 166_456_384
    assert sum(tensor.numel() for tensor in run.average.tensors.values()) == 166_456_384
    assert sum(tensor.numel() for tensor in state.values()) > 1_000_000_000
