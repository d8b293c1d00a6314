"""DiT4SR and its baseline behind the contract of restoration models: sizes, ranges, texts, guidance, folders."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor

from deedsr import weights
from deedsr.diffusion.free_guidance import FreeGuidance
from deedsr.diffusion.process import Process
from deedsr.diffusion.sampler import Settings, sample
from deedsr.models import describe, random_model
from deedsr.models.frozen.base import stock
from deedsr.models.sd3.controlnet import SD3ControlNet, controlnet_of
from deedsr.models.sd3.dit4sr import SD35, DiT4SR, DiT4SRConfig
from deedsr.models.sd3.folder import DIT4SR, save_texts
from deedsr.models.sd3.lr_stream import LRStream
from deedsr.models.sd3.model import Text
from deedsr.models.sd3.prompts import TEXTS
from deedsr.models.system import ADAPTER, Header
from deedsr.nested import join
from deedsr.tiling import Window


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def texts(seed: int = 5, tokens: int = 6) -> Text:
    return Text(drawn(1, tokens, 48, seed=seed), drawn(1, 40, seed=seed + 1))


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """lr, z_lr, x_t, t."""
    return torch.rand(2, 3, 4, 6), drawn(2, 16, 8, 12), drawn(2, 16, 8, 12, seed=1), torch.tensor([700, 700])


def times(model: DiT4SR, t: Tensor) -> Tensor:
    return 1000 * model.process.levels(t)[1].float()


def test_the_exact_counts() -> None:
    assert describe("dit4sr") == {
        "base": 2_243_171_520,
        "trained": 350_877_696,
        "total": 2_594_049_216,
        "vae": 83_819_683,
    }
    with torch.device("meta"):
        assert len(list(random_model("dit4sr").trainable())) == 344


def test_the_baseline_has_the_papers_size() -> None:
    """3504 M in its table."""
    with torch.device("meta"):
        transformer = SD3Transformer2DModel.from_config(SD35.transformer)
        parts = (controlnet_of(transformer), stock(SD35.vae))
    model = SD3ControlNet(transformer, *parts, Process.from_config(SD35.scheduler), Settings())
    assert round(model.counts()["total"] / 1e6) == 3504


def test_the_lr_stream_alone_is_trained(tiny_dit4sr: DiT4SR) -> None:
    trained = {name for name, _ in tiny_dit4sr.trainable()}
    for name, parameter in tiny_dit4sr.named_parameters():
        expected = ".processor." in name or ".ff.net.1." in name
        assert (name in trained) == expected == parameter.requires_grad, name
    assert len(trained) == 8 * (4 + 2) + 2 * 4
    assert len(list(tiny_dit4sr.blocks())) == 4


@torch.no_grad()
def test_the_latent_is_the_mode_shifted_and_scaled(tiny_dit4sr: DiT4SR) -> None:
    image = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(1))
    mode = tiny_dit4sr.vae.encode(2 * image - 1).latent_dist.mode()
    latent = tiny_dit4sr.encode(image)
    assert torch.allclose(latent, (mode - 0.0609) * 1.5305)
    assert torch.equal(latent, tiny_dit4sr.encode(image))
    assert not torch.equal(latent, tiny_dit4sr.encode(image, torch.Generator().manual_seed(3)))
    decoded = tiny_dit4sr.decode(latent)
    assert torch.allclose(decoded, ((tiny_dit4sr.vae.decode(mode).sample + 1) / 2).clamp(0, 1), atol=1e-5)
    assert decoded.shape == image.shape
    assert (tiny_dit4sr.factor, tiny_dit4sr.size.multiple, tiny_dit4sr.process.prediction) == (2, 4, "flow_prediction")


@torch.no_grad()
def test_guidance_is_one_call_on_both_texts(tiny_dit4sr: DiT4SR) -> None:
    lr, z_lr, x_t, t = inputs()
    positive, negative = texts(), texts(9)
    tiny_dit4sr.set_texts(positive, negative)
    time = times(tiny_dit4sr, t)
    told, untold = (tiny_dit4sr.predict(x_t, time, text.like(z_lr), z_lr) for text in (positive, negative))
    assert not torch.allclose(told, untold, atol=1e-3)
    plain = tiny_dit4sr.denoise(x_t, t, tiny_dit4sr.condition(lr, z_lr))
    assert torch.allclose(plain, told, atol=1e-6)
    calls = []
    handle = tiny_dit4sr.transformer.proj_out.register_forward_hook(lambda _, given, __: calls.append(len(given[0])))
    guided = tiny_dit4sr.denoise(x_t, t, tiny_dit4sr.condition(lr, z_lr, guidance=FreeGuidance(3.0)))
    assert torch.allclose(guided, untold + 3 * (told - untold), atol=1e-5)
    late = tiny_dit4sr.condition(lr, z_lr, guidance=FreeGuidance(3.0, 0.0, 0.5))
    assert torch.allclose(tiny_dit4sr.denoise(x_t, t, late), told, atol=1e-6)
    handle.remove()
    assert calls == [4, 2]


@torch.no_grad()
def test_a_text_of_the_callers_counts(tiny_dit4sr: DiT4SR) -> None:
    lr, z_lr, x_t, t = inputs()
    own = Text(torch.cat([texts(1).tokens, texts(2).tokens]), torch.cat([texts(1).pooled, texts(2).pooled]))
    both = tiny_dit4sr.denoise(x_t, t, tiny_dit4sr.condition(lr, z_lr, own))
    for index in (0, 1):
        part = slice(index, index + 1)
        single = tiny_dit4sr.condition(lr[part], z_lr[part], texts(index + 1))
        assert torch.allclose(both[part], tiny_dit4sr.denoise(x_t[part], t[part], single), atol=1e-5)
    silent = tiny_dit4sr.denoise(x_t, t, tiny_dit4sr.condition(lr, z_lr))
    assert not torch.allclose(both, silent, atol=1e-3)
    with pytest.raises(ValueError, match="6 tokens, the negative one 1"):
        tiny_dit4sr.condition(lr, z_lr, own, FreeGuidance(2.0))


@torch.no_grad()
def test_a_batch_of_guided_tiles_equals_its_tiles(tiny_dit4sr: DiT4SR) -> None:
    lr, z_lr, x_t, t = (tensor[:1] for tensor in inputs())
    tiny_dit4sr.set_texts(texts(), texts(9))
    whole = tiny_dit4sr.condition(lr, z_lr, guidance=FreeGuidance(4.0))
    tiles = [Window(0, 0, 8, 8), Window(0, 4, 8, 8)]
    cut = [x_t[tile.slices] for tile in tiles]
    batch = tiny_dit4sr.denoise(torch.cat(cut), t.expand(2), join([whole.crop(tile) for tile in tiles]))
    for index, tile in enumerate(tiles):
        single = tiny_dit4sr.denoise(cut[index], t, whole.crop(tile))
        assert torch.allclose(batch[index : index + 1], single, atol=1e-4)


@torch.no_grad()
def test_our_loop_is_the_stock_pipeline(tiny_dit4sr: DiT4SR) -> None:
    positive, negative = texts(), texts(9)
    tiny_dit4sr.set_texts(positive, negative)
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(SD35.scheduler)
    absent = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
    pipe = StableDiffusion3Pipeline(tiny_dit4sr.transformer, scheduler, tiny_dit4sr.vae, **dict.fromkeys(absent))
    pipe.set_progress_bar_config(disable=True)
    z_lr, noise = drawn(1, 16, 8, 12), drawn(1, 16, 8, 12, seed=1)
    theirs = pipe(
        prompt_embeds=positive.tokens,
        pooled_prompt_embeds=positive.pooled,
        negative_prompt_embeds=negative.tokens,
        negative_pooled_prompt_embeds=negative.pooled,
        height=16,
        width=24,
        num_inference_steps=8,
        guidance_scale=5.0,
        latents=noise,
        joint_attention_kwargs={"lr_latents": z_lr},
        output_type="latent",
    ).images
    condition = tiny_dit4sr.condition(torch.zeros(1), z_lr, guidance=FreeGuidance(5.0))
    ours = sample(
        lambda x, t: tiny_dit4sr.denoise(x, t, condition), tiny_dit4sr.process, z_lr, Settings("euler", 8), noise
    )
    assert torch.allclose(ours, theirs, atol=1e-5)


def test_guidance_out_of_range_is_refused() -> None:
    for wrong in ((0.5, 0.0, 1.0), (2.0, 0.5, 0.5), (2.0, 0.0, 1.5)):
        with pytest.raises(ValueError, match="guidance"):
            FreeGuidance(*wrong)


def test_another_process_is_refused(tiny_dit4sr: DiT4SR) -> None:
    process = Process.from_config({"_class_name": "DDIMScheduler", "prediction_type": "epsilon"})
    with pytest.raises(ValueError, match="epsilon"):
        DiT4SR(tiny_dit4sr.transformer, tiny_dit4sr.vae, process, Settings())


@torch.no_grad()
def test_the_trained_part_and_the_texts_come_back_from_a_folder(
    tiny_sd3: DiT4SRConfig, tiny_dit4sr: DiT4SR, write_model: Callable[..., Path], tmp_path: Path
) -> None:
    lr, z_lr, x_t, t = inputs()
    write_model(tmp_path, tiny_sd3, tiny_dit4sr)
    assert weights.load(tmp_path / ADAPTER).tensors.keys() == dict(tiny_dit4sr.trainable()).keys()
    silent = tiny_dit4sr.denoise(x_t, t, tiny_dit4sr.condition(lr, z_lr))
    loaded = DIT4SR.load(tmp_path)
    assert torch.equal(loaded.denoise(x_t, t, loaded.condition(lr, z_lr)), silent)
    tiny_dit4sr.set_texts(texts(), texts(9))
    save_texts(tmp_path / TEXTS, texts(), texts(9))
    loaded = DIT4SR.load(tmp_path)
    guided, expected = (
        model.denoise(x_t, t, model.condition(lr, z_lr, guidance=FreeGuidance(2.0))) for model in (loaded, tiny_dit4sr)
    )
    assert torch.equal(guided, expected)
    assert DIT4SR.skeleton(tmp_path).counts() == tiny_dit4sr.counts()


def test_a_folder_that_does_not_fit_is_named(
    tiny_sd3: DiT4SRConfig, tiny_dit4sr: DiT4SR, write_model: Callable[..., Path], tmp_path: Path
) -> None:
    write_model(tmp_path, tiny_sd3, tiny_dit4sr)
    save_texts(tmp_path / TEXTS, texts(), Text(torch.zeros(1, 6, 8), torch.zeros(1, 40)))
    with pytest.raises(ValueError, match=r"texts\.safetensors: negative\.tokens"):
        DIT4SR.load(tmp_path)
    (tmp_path / TEXTS).unlink()
    tensors = dict(tiny_dit4sr.trainable())
    first, header = next(iter(tensors)), Header("base", LRStream(), tiny_sd3.defaults)
    for wrong, pattern in (
        ({name: value for name, value in tensors.items() if name != first}, f"missing.*{first}"),
        ({**tensors, "transformer.proj_out.bias": torch.zeros(64)}, "proj_out.bias, which is not trained"),
        ({**tensors, "transformer.other": torch.zeros(1)}, "unexpected"),
    ):
        DIT4SR.save(tmp_path, wrong, header)
        with pytest.raises(ValueError, match=pattern):
            DIT4SR.load(tmp_path)
    weights.save(tmp_path / ADAPTER, tensors, {**DIT4SR.config(header), "beside": {"injection": "bad"}})
    with pytest.raises(ValueError, match=r"damaged.*injection"):
        DIT4SR.skeleton(tmp_path)
    weights.save(tmp_path / ADAPTER, tensors, {"system": "other"})
    with pytest.raises(ValueError, match="nothing of a dit4sr adapter"):
        DIT4SR.load(tmp_path)


def test_the_baseline_starts_as_the_base_and_learns(tiny_sd3: DiT4SRConfig) -> None:
    torch.manual_seed(0)
    transformer = SD3Transformer2DModel.from_config(tiny_sd3.transformer)
    controlnet = controlnet_of(transformer, 2)
    process = Process.from_config(tiny_sd3.scheduler)
    model = SD3ControlNet(transformer, controlnet, stock(tiny_sd3.vae), process, Settings())
    lr, z_lr, x_t, t = inputs()
    text = texts().like(z_lr)
    condition = model.condition(lr, z_lr, text)
    with torch.no_grad():
        plain = transformer(x_t, text.tokens, text.pooled, times(model, t), return_dict=False)[0]
        assert torch.equal(model.denoise(x_t, t, condition), plain)
    trained = dict(model.trainable())
    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        model.denoise(x_t, t, condition).square().mean().backward()
        optimizer.step()
    dead = [name for name, parameter in trained.items() if parameter.grad is None or not parameter.grad.any()]
    assert dead == []
    frozen = [parameter for name, parameter in model.named_parameters() if name not in trained]
    assert all(parameter.grad is None for parameter in frozen)
    assert not any(parameter.requires_grad for parameter in frozen)
    with pytest.raises(ValueError, match="not 4"):
        controlnet_of(transformer, 4)
