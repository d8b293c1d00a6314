"""The weights in the package."""

from __future__ import annotations

import csv
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from deedsr import Restorer, colour, weights
from deedsr.coherence import coherent
from deedsr.diffusion.sampler import sample
from deedsr.geometry import pad_to, upsample
from deedsr.models import describe, load_model
from deedsr.models.frozen.base import stock
from deedsr.models.frozen.configs import SMALL
from deedsr.models.resolver import ASSETS, BUILT_IN, BUILT_IN_DIT
from deedsr.options import Options
from deedsr.pictures.picture import read
from deedsr.randomness import content_seed

FOLDER = ASSETS / BUILT_IN
SAMPLE = Path(__file__).parent / "data" / "rooftops.png"


STOCK = "diffusion_pytorch_model"
PARTS = {
    BUILT_IN: ["adapter", f"base/unet/{STOCK}", f"base/vae/{STOCK}", "diagnosis", "encoder"],
    BUILT_IN_DIT: ["adapter", f"base/transformer/{STOCK}", f"base/vae/{STOCK}"],
}


@pytest.fixture(scope="module", params=PARTS)
def restorer(request: pytest.FixtureRequest) -> Restorer:
    return Restorer.from_pretrained(request.param, Options(colour="none"))


@pytest.fixture(scope="module")
def output(restorer: Restorer) -> torch.Tensor:
    """What it makes of the sample."""
    return restorer(read(SAMPLE)).rgb


@pytest.mark.parametrize(("name", "limit"), [(BUILT_IN, 24_000_000), (BUILT_IN_DIT, 14_000_000)])
def test_all_parts_together_are_small_and_half_precision(name: str, limit: int) -> None:
    folder = ASSETS / name
    files = sorted(folder.rglob("*.safetensors"))
    assert [str(file.relative_to(folder)) for file in files] == [f"{part}.safetensors" for part in PARTS[name]]
    assert sum(file.stat().st_size for file in files) <= limit
    for file in files:
        kinds = {tensor.dtype for tensor in weights.load(file).tensors.values() if tensor.is_floating_point()}
        assert kinds == {torch.float16}


@pytest.mark.parametrize(("name", "size"), [(BUILT_IN, "small"), (BUILT_IN_DIT, "dit4sr_small")])
def test_it_is_the_small_size(name: str, size: str) -> None:
    expected = describe(size)
    if name == BUILT_IN:  # besides, a null vector, maps from the vector to γ and β, and a deeper decoder
        numbers = weights.load(FOLDER / "adapter.safetensors").tensors.items()
        maps = sum(part.numel() for name, part in numbers if re.match(r"modulations\.\d+\.vector\.", name))
        null = weights.header(FOLDER / "encoder.safetensors")["vector"]
        more = {"adapter": null, "sft": maps, "unet_total": maps, "trained": null + maps}
        expected |= {part: expected[part] + count for part, count in more.items()}
        with torch.device("meta"):
            vae = stock({**SMALL["vae"], "decoder_layers_per_block": [1, 1, 12]})
        expected["vae"] = sum(number.numel() for number in vae.parameters())
    assert describe(name) == expected


@pytest.mark.parametrize(("name", "count"), [("photographs", 283), ("textures", 131)])
def test_the_record_names_every_picture_with_its_licence(name: str, count: int) -> None:
    with open(FOLDER / f"{name}.tsv", newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream, delimiter="\t"))
    assert len(rows) == count
    assert all(row["file"] and row["source"] and row["licence"] for row in rows)
    assert {path.name for path in (FOLDER / "record").iterdir()} >= {"base.yaml", "stage1.yaml"}


@torch.no_grad()
@pytest.mark.parametrize("name", [BUILT_IN, BUILT_IN_DIT])
def test_its_defaults_are_what_they_were_before_there_were_the_authors(name: str) -> None:
    """To the bit: the parts in our order, with nothing of preset ``authors``, texts, or tiles."""
    model = load_model(name)
    lr = read(SAMPLE).rgb[..., :12, :16]
    settings, large = replace(model.defaults, ensemble=1), upsample(lr)
    generator = torch.Generator().manual_seed(content_seed(lr, 0))
    z_lr = model.encode(pad_to(large, model.size, 32))
    condition = model.condition(lr, z_lr)
    noise = torch.randn(z_lr.shape, generator=generator)
    latent = sample(lambda x, t: model.denoise(x, t, condition), model.process, z_lr, settings, noise, generator)
    decoded = model.decode(latent)[..., 32 : 32 + 48, 32 : 32 + 64]
    expected = coherent(colour.match(decoded, large, "wavelet"), settings.coherence)
    assert torch.equal(Restorer(model, Options(ensemble=1)).restore(lr), expected)


def test_it_restores_a_photograph_the_same_way_every_time(restorer: Restorer, output: torch.Tensor) -> None:
    picture = read(SAMPLE)
    assert output.shape[-2:] == (512, 768)
    assert torch.equal(output, restorer(picture).rgb)
    other = Restorer(restorer.model, Options(colour="none", seed=1))(picture).rgb
    assert torch.equal(output, other) == (restorer.model.defaults.noise == 0)


def test_it_adds_detail_and_keeps_the_picture(output: torch.Tensor) -> None:
    enlarged = upsample(read(SAMPLE).rgb)
    detail = [float(image.diff(dim=-1).abs().mean()) for image in (output, enlarged)]
    assert detail[0] > 1.05 * detail[1]
    assert float((output - enlarged).square().mean()) < 10**-2.2  # 22 dB


def test_full_guidance_gives_the_input_back(restorer: Restorer) -> None:
    """With the network never asked, what comes back is the enlarged input through the autoencoder."""
    picture = read(SAMPLE)
    options = Options(colour="none", steps=4, noise_guidance=(1.0, 4), coherence=0)
    guided = Restorer(restorer.model, options)(picture).rgb
    assert float((guided - upsample(picture.rgb)).square().mean()) < 10**-3.0  # 30 dB
