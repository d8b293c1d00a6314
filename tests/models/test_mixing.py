"""Models that are the mean of several, and what becomes part of their base."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import Tensor

from deedsr import weights
from deedsr.models import export, load_model, mix
from deedsr.models.card import CARD
from deedsr.models.deedsr.head import ENCODER
from deedsr.models.deedsr.sizes import DeeDSRConfig
from deedsr.models.frozen import lora
from deedsr.models.frozen.base import PART
from deedsr.models.resolver import ADAPTER
from deedsr.models.sd3.dit4sr import DiT4SR, DiT4SRConfig
from tests.conftest import write_base
from tests.models.conftest import Made
from tests.processes import forked, type_in


def trained(folder: Path) -> dict[str, Tensor]:
    return weights.load(folder / ADAPTER).tensors


def mean(shares: tuple[float, float], one: Tensor, other: Tensor) -> Tensor:
    return shares[0] * one.float() + shares[1] * other.float()


@pytest.mark.parametrize("shares", [(0.25, 0.75), (1.5, -0.5)])
def test_each_weight_is_the_mean(made: Made, shares: tuple[float, float]) -> None:
    one, other = made("one", 1, defaults={"steps": 3}), made("other", 2)
    mix([one, other], shares, made.folder / "mean")
    mixed, ones, others = map(trained, (made.folder / "mean", one, other))
    assert mixed.keys() == ones.keys()
    for name, tensor in mixed.items():
        assert torch.allclose(tensor, mean(shares, ones[name], others[name]), atol=1e-7), name
    assert not (made.folder / "mean" / "base").exists(), "it points to the base of the first"
    assert load_model(made.folder / "mean").defaults.steps == 3
    said = (made.folder / "mean" / CARD).read_text()
    assert f"the mean of models, by weight: {shares[0]:g} of `{made.folder.name}/one`, {shares[1]:g} of `" in said


def test_a_decoder_that_was_trained_becomes_part_of_the_base(made: Made, tiny_base: Path) -> None:
    plain, own = made("plain", 1), made("own", 2, decoder=True)
    shares = (0.25, 0.75)
    mix([plain, own], shares, made.folder / "mean")
    before = weights.load(tiny_base / "vae" / PART).tensors
    after = weights.load(made.folder / "mean" / "base" / "vae" / PART).tensors
    owns = trained(own)
    for name, tensor in after.items():
        expected = mean(shares, before[name], owns[f"vae.{name}"]) if f"vae.{name}" in owns else before[name]
        assert torch.allclose(tensor, expected, atol=1e-7), name
    assert not any(name.startswith("vae.") for name in trained(made.folder / "mean"))
    assert not load_model(made.folder / "mean").adapter.config.decoder
    (made.folder / "mean" / CARD).write_text("---\nlicense: cc0-1.0\n---\n\nMine.\n")
    mix([made.folder / "mean", own], (0.5, 0.5), made.folder / "again")  # their bases differ in the decoder alone
    assert "\nlicense: cc0-1.0\n" in (said := (made.folder / "again" / CARD).read_text()) and "Mine." not in said
    twice = weights.load(made.folder / "again" / "base" / "vae" / PART).tensors
    name = next(name for name in after if f"vae.{name}" in owns)
    assert torch.allclose(twice[name], mean((0.5, 0.5), after[name], owns[f"vae.{name}"]), atol=1e-7)


def test_an_exported_decoder_is_merged(made: Made) -> None:
    own, z = made("own", 2, decoder=True), torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    export(own, made.folder / "merged", with_base=True, merge=True)
    with torch.no_grad():
        expected, answer = load_model(own).decode(z), load_model(made.folder / "merged").decode(z)
    assert torch.equal(answer, expected)
    assert not any(name.startswith("vae.") for name in trained(made.folder / "merged"))


def test_of_lora_the_mean_is_of_what_it_does(made: Made, tiny_base: Path) -> None:
    one, other = made("one", 1, lora_rank=2), made("other", 2, lora_rank=3)
    shares = (0.25, 0.75)
    mix([one, other], shares, made.folder / "mean")
    before = weights.load(tiny_base / "unet" / PART).tensors
    after = weights.load(made.folder / "mean" / "base" / "unet" / PART).tensors
    changes = [lora.changes(trained(folder)) for folder in (one, other)]
    assert changes[0]
    for name, tensor in after.items():
        change = mean(shares, changes[0][name], changes[1][name]) if (name := f"unet.{name}") in changes[0] else 0
        assert torch.allclose(tensor, before[name.removeprefix("unet.")] + change, atol=1e-6), name


def test_of_a_dit4sr_too(
    tiny_dit4sr: DiT4SR, tiny_sd3: DiT4SRConfig, write_model: Callable[..., Path], tmp_path: Path
) -> None:
    one = write_model(tmp_path / "one", tiny_sd3, tiny_dit4sr)
    with torch.no_grad():
        for _, parameter in tiny_dit4sr.trainable():
            parameter *= 3
    other = write_model(tmp_path / "other", tiny_sd3, tiny_dit4sr)
    mix([one, other], [0.5, 0.5], tmp_path / "mean")
    ones = trained(one)
    for name, tensor in trained(tmp_path / "mean").items():
        assert torch.allclose(tensor, 2 * ones[name].float(), atol=1e-6), name


def test_the_command_mixes(made: Made) -> None:
    one, other = made("one", 1), made("other", 2)
    words = [f"models=[{one},{other}]", "shares=[0.5,0.5]", f"output={made.folder / 'mean'}"]
    assert forked(partial(type_in, "stage2.mix", words)) == [0]
    mix([one, other], (0.5, 0.5), made.folder / "again")
    assert (made.folder / "mean" / ADAPTER).read_bytes() == (made.folder / "again" / ADAPTER).read_bytes()


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ([1.0], r"shares=\[1.0\] has 1 for 2 models: give one for each"),
        ([0.5, 0.6], r"shares=\[0.5, 0.6\] are 1.1 together, not 1"),
        ([True, False], r"shares=\[True, False\] must be numbers"),
        ([0.5, "a"], r"shares=\[0.5, 'a'\] must be numbers, as \[0.6,0.4\]"),
        ([float("nan"), 1], r"shares=\[nan, 1\] are nan together, not 1"),
    ],
)
def test_shares_that_make_no_mean_are_refused(made: Made, shares: list, message: str) -> None:
    with pytest.raises(ValueError, match=rf"^{message}"):
        mix(["one", "other"], shares, made.folder / "mean")
    with pytest.raises(ValueError, match=r"^models=\['one'\] has nothing to mix: name two or more$"):
        mix(["one"], [1], made.folder / "mean")


def test_models_that_have_no_mean_are_refused(made: Made, tmp_path: Path, tiny_config: DeeDSRConfig) -> None:
    one, target = made("one", 1), tmp_path / "mean"

    def refused(other: Path, message: str) -> None:
        with pytest.raises(ValueError, match=message):
            mix([one, other], [0.5, 0.5], target)
        assert not target.exists()

    refused(made("prompts", 2, prompts=2), rf"{ADAPTER}: is built otherwise than {one / ADAPTER}; mix models of one")
    narrow = replace(tiny_config, vae={**tiny_config.vae, "scaling_factor": 0.5})
    refused(
        made("based", 2, base=write_base(tmp_path / "vae", narrow)),
        rf"/vae/vae/{PART}: is not that of .*base; mix models",
    )
    config = {**tiny_config.scheduler, "prediction_type": "epsilon"}
    other = made("noisy", 2, base=write_base(tmp_path / "noise", replace(tiny_config, scheduler=config)))
    refused(other, rf"{tmp_path / 'noise'}: has another diffusion than .*base; mix models of one base")
    deaf = made("deaf", 2)
    stored = weights.load(deaf / ENCODER)
    weights.save(deaf / ENCODER, {name: 2 * part for name, part in stored.tensors.items()}, stored.config)
    refused(deaf, rf"^{deaf / ENCODER}: has not the {ENCODER} of {one / ENCODER}; mix models that were trained with")
    few = made("few", 2)
    stored = weights.load(few / ADAPTER)
    name, *_ = sorted(stored.tensors)
    weights.save(few / ADAPTER, {key: part for key, part in stored.tensors.items() if key != name}, stored.config)
    refused(few, rf"^{few / ADAPTER}: 1 missing \({name}\); is it whole\?$")
    stored.tensors[name] = stored.tensors[name].repeat(2, *[1] * (stored.tensors[name].dim() - 1))
    weights.save(few / ADAPTER, stored.tensors, stored.config)
    refused(few, rf"^{few / ADAPTER}: 1 of another size \({name} is ")
    refused(Path("built-in-dit"), r"'built-in-dit'\] are not of one system: mix models of one configuration")
    target.mkdir()
    (target / "file").touch()
    with pytest.raises(ValueError, match="exists already; remove it or name another folder"):
        mix([one, made("other", 3)], [0.5, 0.5], target)
    assert [path.name for path in target.iterdir()] == ["file"]


def test_thirds_are_one_together(made: Made) -> None:
    models = [made(name, seed) for seed, name in enumerate("abc")]
    mix(models, [0.333] * 3, made.folder / "mean")
    mixed, *parts = map(trained, (made.folder / "mean", *models))
    name = max(mixed)
    assert torch.allclose(mixed[name], sum(part[name] for part in parts) / 3, atol=1e-7)
