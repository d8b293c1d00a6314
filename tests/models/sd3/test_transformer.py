"""The LR stream beside the stock transformer: the properties that the paper's design has."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from diffusers import SD3Transformer2DModel
from diffusers.models.attention_processor import JointAttnProcessor2_0
from torch import Tensor, nn

from deedsr.models.sd3.dit4sr import DiT4SRConfig
from deedsr.models.sd3.lr_stream import LRStream
from deedsr.models.sd3.transformer import DiT4SRTransformer

VARIANTS = [
    LRStream(),
    LRStream(legacy_noise_keys=True),
    LRStream(lr_attention="self", qk_init="clone"),
    LRStream(lr_residual=False),
    LRStream(injection="none"),
    LRStream(injection="linear"),
    LRStream(qk_init="clone"),
    LRStream(lora_rank=3),
    LRStream(projection="stack", out_init="random"),
    LRStream(projection="stack", lr_attention="self", qk_init="clone"),
]


def transformer(config: DiT4SRConfig, stream: LRStream | None = None, random: bool = False) -> DiT4SRTransformer:
    torch.manual_seed(0)
    model = DiT4SRTransformer.from_transformer(SD3Transformer2DModel.from_config(config.transformer), stream)
    if random:
        for _, parameter in model.lr_stream():
            nn.init.normal_(parameter, std=0.2)
    return model


def inputs(height: int = 8, width: int = 12, batch: int = 2) -> dict:
    generator = torch.Generator().manual_seed(3)
    shapes = {
        "hidden_states": (batch, 16, height, width),
        "encoder_hidden_states": (batch, 5, 48),
        "pooled_projections": (batch, 40),
        "lr": (batch, 16, height, width),
    }
    drawn = {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    lr = drawn.pop("lr")
    return {**drawn, "timestep": torch.tensor([700.0, 150.0]), "joint_attention_kwargs": {"lr_latents": lr}}


def with_lr(given: dict, lr: Tensor) -> dict:
    return {**given, "joint_attention_kwargs": {"lr_latents": lr}}


def other_lr(given: dict) -> dict:
    return with_lr(given, given["joint_attention_kwargs"]["lr_latents"].flip(-1) * 2 + 1)


@pytest.mark.parametrize("stream", VARIANTS, ids=str)
def test_every_trained_tensor_learns_by_the_third_backward(tiny_sd3: DiT4SRConfig, stream: LRStream) -> None:
    model, given = transformer(tiny_sd3, stream), inputs()
    trained = dict(model.lr_stream())
    optimizer = torch.optim.SGD(trained.values(), lr=0.1)
    for step in range(3):
        optimizer.zero_grad()
        model(**given).sample.square().mean().backward()
        if step < 2:
            optimizer.step()
    assert [name for name, parameter in trained.items() if parameter.grad is None or not parameter.grad.any()] == []
    assert all(parameter.isfinite().all() for parameter in trained.values())


@pytest.mark.parametrize(
    "stream", [*VARIANTS[:6], LRStream(lr_attention="self", injection="linear", qk_init="clone")], ids=str
)  # cloned keys look at the content at once
def test_the_content_counts_after_one_step_and_not_before(tiny_sd3: DiT4SRConfig, stream: LRStream) -> None:
    model, given = transformer(tiny_sd3, stream), inputs()
    with torch.no_grad():
        before = model(**given).sample
        assert torch.equal(before, model(**other_lr(given)).sample)
    optimizer = torch.optim.AdamW([parameter for _, parameter in model.lr_stream()], lr=1e-3)
    model(**given).sample.square().mean().backward()
    optimizer.step()
    with torch.no_grad():
        after = model(**given).sample
        assert not torch.allclose(after, before, atol=1e-5)
        assert not torch.allclose(after, model(**other_lr(given)).sample, atol=1e-5)


@torch.no_grad()
def test_without_values_and_convolution_the_lr_has_no_influence(tiny_sd3: DiT4SRConfig) -> None:
    """The noise stream's keys, so that the soft-max mass of the LR tokens does not tell of them either."""
    given = inputs()
    silent = transformer(tiny_sd3, LRStream(conv_scale=0.0, legacy_noise_keys=True), random=True)
    for name, parameter in silent.lr_stream():
        if ".to_v." in name:
            parameter.zero_()
    assert torch.equal(silent(**given).sample, silent(**other_lr(given)).sample)
    for block in silent.transformer_blocks:
        block.ff.net[1].scale = 1.0
    assert not torch.allclose(silent(**given).sample, silent(**other_lr(given)).sample, atol=1e-3)
    valued = transformer(tiny_sd3, LRStream(conv_scale=0.0, legacy_noise_keys=True), random=True)
    assert not torch.allclose(valued(**given).sample, valued(**other_lr(given)).sample, atol=1e-3)


@torch.no_grad()
def test_an_lr_that_only_sees_itself_leaves_a_fresh_model_as_the_base(tiny_sd3: DiT4SRConfig) -> None:
    given = inputs()
    model = transformer(tiny_sd3, LRStream(lr_attention="self", qk_init="clone"))
    base = SD3Transformer2DModel.from_config(tiny_sd3.transformer)
    base.load_state_dict({name: value for name, value in model.state_dict().items() if name in base.state_dict()})
    plain = {name: value for name, value in given.items() if name != "joint_attention_kwargs"}
    assert torch.allclose(model(**given).sample, base(**plain).sample, atol=1e-6)
    joint = transformer(tiny_sd3)  # zero keys take soft-max mass
    assert not torch.allclose(joint(**given).sample, base(**plain).sample, atol=1e-3)


def test_the_lr_stream_starts_at_zero_with_the_projections_out_of_the_loaded_base(tiny_sd3: DiT4SRConfig) -> None:
    base = SD3Transformer2DModel.from_config(tiny_sd3.transformer)
    for stream in (LRStream(), LRStream(qk_init="clone")):
        model = DiT4SRTransformer.from_transformer(base, stream)
        assert model.proj_out.weight.data_ptr() == base.proj_out.weight.data_ptr()
        for name, parameter in model.lr_stream():
            cloned = ".to_out." in name or (stream.qk_init == "clone" and (".to_q." in name or ".to_k." in name))
            stock = name.replace(".processor.to_out.", ".to_out.0.").replace(".processor.", ".")
            assert torch.equal(parameter, base.get_parameter(stock)) if cloned else not parameter.any(), name
            assert not cloned or parameter.data_ptr() != base.get_parameter(stock).data_ptr()


def test_gradient_checkpointing_changes_no_gradient(tiny_sd3: DiT4SRConfig) -> None:
    model, given = transformer(tiny_sd3, random=True), inputs()
    gradients = []
    for _ in range(2):
        model.zero_grad()
        model(**given).sample.square().mean().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in model.lr_stream()})
        model.enable_gradient_checkpointing()
    assert model.is_gradient_checkpointing
    for name, gradient in gradients[0].items():
        assert torch.allclose(gradient, gradients[1][name], rtol=1e-4, atol=1e-7), name


@torch.no_grad()
def test_the_stock_pipeline_samples_with_guidance(tiny_sd3: DiT4SRConfig) -> None:
    pytest.importorskip("transformers")
    from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    vae = AutoencoderKL.from_config(tiny_sd3.vae)
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(tiny_sd3.scheduler)
    parts = dict.fromkeys(
        ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "text_encoder_3", "tokenizer_3")
    )
    pipeline = StableDiffusion3Pipeline(transformer(tiny_sd3, random=True), scheduler, vae, **parts)
    pipeline.set_progress_bar_config(disable=True)
    given = inputs(batch=1)
    text = {"prompt_embeds": given["encoder_hidden_states"], "pooled_prompt_embeds": given["pooled_projections"]}

    def run(lr: Tensor, scale: float) -> Tensor:
        negative = {f"negative_{name}": torch.zeros_like(value) for name, value in text.items()}
        sized = {"height": 2 * lr.shape[-2], "width": 2 * lr.shape[-1], "num_inference_steps": 3}
        return pipeline(
            **text,
            **negative,
            **sized,
            guidance_scale=scale,
            generator=torch.Generator().manual_seed(4),
            joint_attention_kwargs={"lr_latents": lr},
            output_type="pt",
        ).images

    lr = given["joint_attention_kwargs"]["lr_latents"]
    image = run(lr, 7.0)
    assert image.shape == (1, 3, 16, 24)
    assert image.isfinite().all()
    assert not torch.allclose(image, run(lr, 1.0), atol=1e-3)
    assert not torch.allclose(image, run(1 - lr, 7.0), atol=1e-3)


@torch.no_grad()
def test_it_is_saved_and_loaded_as_diffusers_does(tiny_sd3: DiT4SRConfig, tmp_path: Path) -> None:
    stream = LRStream(conv_scale=1.2, injection="linear", lr_residual=False)
    model, given = transformer(tiny_sd3, stream, random=True), inputs()
    model.save_pretrained(tmp_path)
    loaded = DiT4SRTransformer.from_pretrained(tmp_path)
    assert asdict(loaded.stream) == asdict(stream)
    assert torch.equal(loaded(**given).sample, model(**given).sample)


def test_what_would_lose_the_lr_stream_is_refused(tiny_sd3: DiT4SRConfig) -> None:
    model, given = transformer(tiny_sd3), inputs()
    with pytest.raises(ValueError, match="hold weights"):
        model.set_attn_processor(JointAttnProcessor2_0())
    with pytest.raises(ValueError, match="hold weights"):
        model.fuse_qkv_projections()
    with pytest.raises(ValueError, match="lr_latents"):
        model(**{**given, "joint_attention_kwargs": None})
    for shape in ((2, 16, 12, 8), (3, 16, 8, 12)):
        with pytest.raises(ValueError, match=r"\(2, 16, 8, 12\)"):
            model(**with_lr(given, torch.zeros(shape)))


def test_unknown_choices_are_refused_by_name() -> None:
    for wrong in ({"lr_attention": "none"}, {"injection": "Conv"}, {"qk_init": "random"}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            LRStream(**wrong)
    with pytest.raises(ValueError, match="reach the output"):
        LRStream(lr_attention="self", injection="none", qk_init="clone")
    with pytest.raises(ValueError, match="never learn"):
        LRStream(lr_attention="self")


@pytest.mark.parametrize("qk_init", ["zero", "clone"])
def test_stacked_projections_start_as_folded_ones_and_learn_otherwise(tiny_sd3: DiT4SRConfig, qk_init: str) -> None:
    """y = W_c (W x + b) + b_c: dL/dW_c = (dL/dy xᵀ) Wᵀ + (dL/dy) bᵀ, the first bracket the folded layer's."""
    given = inputs()
    folded, stacked = (transformer(tiny_sd3, LRStream(projection=how, qk_init=qk_init)) for how in ("folded", "stack"))
    torch.testing.assert_close(stacked(**given).sample, folded(**given).sample, atol=1e-5, rtol=0)
    for model in (folded, stacked):
        model(**given).sample.square().mean().backward()
    cosines = []
    for name, theirs in stacked.lr_stream():
        ours = folded.get_parameter(name)
        if not name.endswith(("to_q.weight", "to_k.weight", "to_v.weight")):
            torch.testing.assert_close(theirs.grad, ours.grad, atol=1e-6, rtol=1e-3)
            continue
        stock = folded.get_submodule(name.replace(".processor", "").removesuffix(".weight"))
        bias = folded.get_parameter(name.replace("weight", "bias")).grad
        expected = ours.grad @ stock.weight.T + torch.outer(bias, stock.bias)
        torch.testing.assert_close(theirs.grad, expected, atol=1e-6, rtol=1e-3)
        if theirs.grad.any():  # AdamW's first step goes by the signs alone
            steps = (theirs.grad.sign() @ stock.weight.detach()).flatten(), ours.grad.sign().flatten()
            cosines.append(float(torch.cosine_similarity(*steps, dim=0)))
    assert cosines and max(cosines) < 0.8


def test_projections_out_can_start_at_random(tiny_sd3: DiT4SRConfig) -> None:
    first, second = (dict(transformer(tiny_sd3, LRStream(out_init="random")).lr_stream()) for _ in range(2))
    cloned = dict(transformer(tiny_sd3).lr_stream())
    limit = 64**-0.5  # of torch's Linear with 64 inputs
    for name, value in first.items():
        assert torch.equal(value, second[name])  # of one seed
        if ".to_out." in name:
            assert not torch.equal(value, cloned[name])
            assert 0.9 * limit < value.abs().max() <= limit
        else:
            assert torch.equal(value, cloned[name])
