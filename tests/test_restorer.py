"""The restorer on a tiny random model: order of the parts, sizes, tiles, noise and what can go wrong."""

from __future__ import annotations

import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deedsr import colour, files
from deedsr.devices import pick_device
from deedsr.geometry import pad_to, upsample
from deedsr.layout import MARGIN
from deedsr.models.resolver import ASSETS, BUILT_IN
from deedsr.models.system import ADAPTER
from deedsr.options import SAMPLERS, Options
from deedsr.pictures.metadata import Density
from deedsr.pictures.picture import Picture, read, write
from deedsr.randomness import content_seed
from deedsr.restorer import Restorer


def smooth(height: int, width: int) -> torch.Tensor:
    """A smooth coloured image (1, 3, H, W)."""
    rows, columns = torch.meshgrid(torch.linspace(0, 3, height), torch.linspace(0, 5, width), indexing="ij")
    return torch.stack([(rows + k).sin() * (columns - k).cos() * 0.3 + 0.5 for k in range(3)])[None]


@pytest.mark.parametrize("size", [(8, 8), (9, 31), (13, 17), (40, 8)])
@pytest.mark.parametrize("outscale", [4, 1, 2.3, 5])
def test_output_size_is_exact(tiny_model, size, outscale):
    options = Options(outscale=outscale, steps=1)
    result = Restorer(tiny_model, options).restore(torch.rand(1, 3, *size))
    assert tuple(result.shape) == (1, 3, *options.output_size(*size))
    assert 0 <= result.min() <= result.max() <= 1


def test_with_full_guidance_the_result_is_the_autoencoded_input(tiny_model):
    """x̂0 = z_lr at every step leaves encoder, decoder, crop and colour: all of the path but the network.

    DDIM may end at the first of the noise levels (σ = 0.03), so the tolerance is a little noise.
    """
    lr = smooth(13, 18)
    padded = pad_to(upsample(lr), tiny_model.size, MARGIN)
    with torch.no_grad():
        decoded = tiny_model.decode(tiny_model.encode(padded))[..., MARGIN : MARGIN + 52, MARGIN : MARGIN + 72]
    expected = colour.match(decoded, upsample(lr), "wavelet")
    result = Restorer(tiny_model, Options(steps=2, noise_guidance=(1.0, 2))).restore(lr)
    assert (result - expected).abs().mean() < 0.01
    assert (result - upsample(lr)).abs().mean() > 3 * (result - expected).abs().mean()
    assert tuple(padded.shape[-2:]) == (128, 144)


def test_an_ensemble_restores_a_turned_picture_as_it_restores_the_picture(tiny_model):
    """Without noise (σ = 0.03 at the end of DDIM at most) the mean of all eight views follows every flip and turn."""
    lr = smooth(13, 18)
    turned = lr.rot90(1, (-2, -1)).flip(-1)

    def gap(ensemble: int | None) -> float:
        options = Options(steps=2, noise_guidance=(1.0, 2), colour="none", ensemble=ensemble)
        one, other = (Restorer(tiny_model, options).restore(image) for image in (lr, turned))
        return float((one - other.flip(-1).rot90(-1, (-2, -1))).abs().mean())

    assert gap(8) < 0.2 * gap(None)
    single = Restorer(tiny_model).restore(lr)
    assert torch.equal(Restorer(tiny_model, Options(ensemble=1)).restore(lr), single)
    assert not torch.equal(Restorer(tiny_model, Options(ensemble=2)).restore(lr), single)


def test_noise_depends_on_seed_and_content_alone(tiny_model):
    first, second = torch.rand(1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    restorer = Restorer(tiny_model)
    alone = restorer.restore(first)
    restorer.restore(second)
    torch.manual_seed(7)
    assert torch.equal(restorer.restore(first), alone)
    assert not torch.equal(Restorer(tiny_model, Options(seed=1)).restore(first), alone)
    assert content_seed(first, 0) != content_seed(second, 0)
    assert content_seed(first, 0) != content_seed(first, 1)
    assert content_seed(first, 0) == content_seed(first.clone(), 0)
    assert content_seed(first.view(1, 3, 8, 32), 0) != content_seed(first, 0)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "euler"])
def test_every_sampler_restores(tiny_model, sampler):
    restorer = Restorer(tiny_model, Options(sampler=sampler, steps=3))
    assert restorer.settings.sampler == sampler
    assert restorer.restore(smooth(16, 16)).isfinite().all()


def test_a_tile_no_smaller_than_the_image_changes_nothing(tiny_model):
    lr = smooth(20, 24)
    whole = Restorer(tiny_model, Options(tile=0)).restore(lr)
    assert torch.equal(Restorer(tiny_model, Options(tile=96)).restore(lr), whole)
    assert torch.equal(Restorer(tiny_model).restore(lr), whole)


def test_batches_of_tiles_give_what_single_tiles_give(tiny_model):
    lr = smooth(24, 33)
    single = Restorer(tiny_model, Options(tile=48, batch=1)).restore(lr)
    batched = Restorer(tiny_model, Options(tile=48, batch=4)).restore(lr)
    assert torch.allclose(single, batched, atol=1e-5)


def test_tiles_overlap_as_much_as_is_asked_for(tiny_model):
    """Of all in reach; a tile has 48 pixels, which are 12 of the latent, and the multiple is 16 pixels."""
    for overlap in (0, 16, 32):
        restorer = Restorer(tiny_model, Options(tile=48, overlap=overlap))
        starts = sorted({tile.left for tile in restorer.layout.tiles(12, 40)})
        assert {tile.width for tile in restorer.layout.tiles(12, 40)} == {12}
        assert max(after - before for before, after in pairwise(starts)) <= 12 - overlap // 4
        assert len(starts) == math.ceil((40 - overlap // 4) / (12 - overlap // 4))
    assert restorer.restore(smooth(12, 40)).isfinite().all()
    with pytest.raises(ValueError, match="overlap is 48; it must be less than a tile, 48 pixels"):
        Restorer(tiny_model, Options(tile=48, overlap=48)).restore(smooth(12, 40))
    with pytest.raises(ValueError, match="overlap is -1"):
        Options(overlap=-1)


def test_tiled_and_untiled_agree_where_tiles_are_large(tiny_model):
    lr = smooth(40, 70)
    options = {"steps": 2, "noise_guidance": (0.5, 1)}
    whole = Restorer(tiny_model, Options(tile=0, **options)).restore(lr)
    tiled = Restorer(tiny_model, Options(tile=128, **options)).restore(lr)
    assert (whole - tiled).abs().mean() < 0.05


def test_one_degradation_vector_for_the_whole_image(tiny_model):
    calls = []
    tiny_model.encoder.register_forward_hook(lambda module, inputs, output: calls.append(inputs[0].shape))
    Restorer(tiny_model, Options(tile=48, steps=2)).restore(smooth(30, 30))
    assert calls == [(1, 3, 30, 30)]


def test_a_model_may_say_how_large_its_tiles_are(tiny_model):
    restorer = Restorer(tiny_model, Options(steps=1))
    assert len(restorer.layout.tiles(16, 48)) == 1
    restorer.settings = restorer.settings.with_(tile=64)
    assert {(tile.height, tile.width) for tile in restorer.layout.tiles(16, 48)} == {(16, 16)}
    whole = Restorer(tiny_model, Options(steps=1, tile=0))
    whole.settings = restorer.settings
    assert len(whole.layout.tiles(16, 48)) == 1, "what the user says counts"


def test_large_images_are_tiled_by_themselves(tiny_model, monkeypatch):
    monkeypatch.setattr("deedsr.layout.UNTILED", (64 + 2 * MARGIN) ** 2)
    monkeypatch.setattr("deedsr.layout.TILE", 64)
    seen = []
    original = tiny_model.denoise
    monkeypatch.setattr(tiny_model, "denoise", lambda x, t, c: (seen.append(tuple(x.shape[-2:])), original(x, t, c))[1])
    restorer = Restorer(tiny_model, Options(steps=1))
    restorer.restore(smooth(16, 16))
    assert seen == [(32, 32)]
    restorer.restore(smooth(16, 40))
    assert seen[1:] == 3 * 5 * [(16, 16)]
    Restorer(tiny_model, Options(steps=1, tile=0)).restore(smooth(16, 40))
    assert seen[-1] == (32, 56)


def test_other_steps_than_the_presets_are_spread_over_all_noise_levels(tiny_model):
    tiny_model.defaults = replace(tiny_model.defaults, spacing="leading", steps=50)
    assert Restorer(tiny_model).settings.spacing == "leading"
    assert Restorer(tiny_model, Options(steps=50)).settings.spacing == "leading"
    assert Restorer(tiny_model, Options(steps=8)).settings.spacing == "leading"
    assert Restorer(tiny_model, Options(sampler="unipc")).settings.spacing == "leading"
    assert Restorer(tiny_model, Options(steps=8, spacing="trailing")).settings.spacing == "trailing"


def test_options_that_change_nothing_are_noted_and_logged_once(tiny_model, caplog):
    assert Restorer(tiny_model, Options(seed=1, spacing="leading")).notes == []
    tiny_model.defaults = tiny_model.defaults.with_(noise=0.0, start=0.5)
    files._warn.cache_clear()
    with caplog.at_level("WARNING"):
        for _ in range(2):
            restorers = [Restorer(tiny_model, Options(seed=seed), low_memory=True) for seed in (0, 1)]
    memory = "`low_memory` changes nothing: the model runs on the CPU"
    noise = "`seed` changes nothing: this model restores without noise"
    assert [restorer.notes for restorer in restorers] == [[memory], [noise, memory]]
    assert caplog.messages == [memory, noise]
    assert torch.equal(*(restorer.restore(smooth(16, 16)) for restorer in restorers))


def test_a_picture_keeps_what_its_file_says(tiny_model):
    picture = Picture(
        smooth(12, 10)[:, :1].repeat(1, 3, 1, 1), torch.rand(1, 1, 12, 10), 16, True, b"icc", b"exif", "TIFF"
    )
    result = Restorer(tiny_model, Options(steps=1, outscale=2.5))(picture)
    assert result.size == (30, 25)
    assert tuple(result.alpha.shape) == (1, 1, 30, 25)
    assert (result.bits, result.grey, result.icc, result.exif) == (16, True, b"icc", b"exif")


def test_a_flat_picture_has_no_frame():
    """The border is as true as the inside: every picture has mirrored context on all sides."""
    if not (ASSETS / BUILT_IN / ADAPTER).is_file():
        pytest.skip("the built-in weights are not in this checkout")
    restorer = Restorer.from_pretrained("built-in", Options(ensemble=1), device="cpu")
    for colours in ((255, 0, 0), (13, 200, 77)):
        picture = restorer(Image.new("RGB", (16, 24), colours))
        off = np.abs(np.asarray(picture.to_pil()).astype(int) - np.array(colours)).max(-1)
        assert off.max() <= 4


def test_what_lies_under_transparent_pixels_does_not_show(tiny_model):
    """Wholly transparent pixels of any colour give the same picture, to the bit."""
    rgb, alpha = smooth(12, 14), torch.ones(1, 1, 12, 14)
    alpha[..., 3:6] = 0.5
    alpha[..., :3] = 0
    outputs = []
    for hidden in (0.0, 1.0):
        rgb[..., :3] = hidden
        outputs.append(Restorer(tiny_model, Options(steps=1))(Picture(rgb.clone(), alpha)))
    assert torch.equal(outputs[0].rgb, outputs[1].rgb)


def test_a_picture_without_colour_gets_none(tiny_model):
    """Stored as RGB or as grey, and a level off grey, as some JPEG decoders leave it."""
    grey = smooth(12, 14)[:, :1].repeat(1, 3, 1, 1)
    grey[:, 0] += 0.9 / 255
    result = Restorer(tiny_model, Options(steps=1))(Picture(grey)).rgb
    assert torch.equal(result[:, 0], result[:, 1])
    assert torch.equal(result[:, 0], result[:, 2])
    coloured = Restorer(tiny_model, Options(steps=1))(Picture(smooth(12, 14))).rgb
    assert (coloured[:, 0] - coloured[:, 1]).abs().max() > 0.05


def test_the_print_stays_as_large(tiny_model):
    picture = Picture(smooth(12, 10), density=Density(300, 150))
    assert Restorer(tiny_model, Options(steps=1, outscale=2))(picture).density == Density(600, 300)


def test_an_opaque_alpha_stays_opaque(tiny_model):
    picture = Picture(smooth(9, 9), torch.ones(1, 1, 9, 9))
    assert np.asarray(Restorer(tiny_model, Options(steps=1))(picture).to_pil())[..., 3].min() == 255


def test_files_and_pillow_images_are_taken(tiny_model_folder, tmp_path):
    restorer = Restorer.from_pretrained(str(tiny_model_folder), Options(steps=1), device="cpu")
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (10, 12, 3), dtype=np.uint8))
    image.save(tmp_path / "a.png")
    from_file, from_image = restorer(tmp_path / "a.png"), restorer(image)
    assert torch.equal(from_file.rgb, from_image.rgb)
    write(tmp_path / "b.png", from_file)
    with Image.open(tmp_path / "b.png") as again:
        assert again.size == (48, 40)


@pytest.mark.parametrize("options", [Options(), Options(ensemble=3, tile=48), Options(tile=48, noise_guidance=(1, 1))])
def test_progress_rises_to_one(tiny_model, options):
    seen = []
    Restorer(tiny_model, options).restore(smooth(20, 20), seen.append)
    assert seen == sorted(seen)
    assert seen[0] < 0.5
    assert seen[-1] == 1


def test_every_step_hands_out_its_clean_latent(tiny_model):
    seen = []
    restorer = Restorer(tiny_model, Options(steps=3))
    result = restorer.restore(smooth(16, 20), on_step=lambda time, clean: seen.append((time, clean)))
    assert [time for time, _ in seen] == [999, 666, 332]
    with torch.no_grad():
        first, last = (
            tiny_model.decode(seen[number][1])[..., MARGIN : MARGIN + 64, MARGIN : MARGIN + 80] for number in (0, -1)
        )
        last = colour.match(last, upsample(smooth(16, 20)))
    assert (last - result).abs().mean() < 0.01
    assert (last - first).abs().mean() > 0.02


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision(tiny_model, dtype):
    lr = smooth(16, 20)
    full = Restorer(tiny_model, Options(steps=2)).restore(lr)
    half = Restorer(tiny_model.to(dtype), Options(steps=2)).restore(lr)
    assert half.dtype == torch.float32
    assert (half - full).abs().mean() < 0.05


@pytest.mark.parametrize(
    ("dtype", "message"),
    [(torch.float32, "NaN or inf in float32; its weights may be broken"), (torch.bfloat16, "in bfloat16; choose")],
)
@pytest.mark.parametrize("part", ["unet.conv_out.weight", "vae.decoder.conv_out.conv.weight"])
def test_nan_is_an_error_that_names_the_dtype(tiny_model, dtype, message, part):
    dict(tiny_model.named_parameters())[part].data.fill_(float("nan"))
    with pytest.raises(ValueError, match=message):
        Restorer(tiny_model.to(dtype), Options(steps=1)).restore(smooth(16, 16))


@pytest.mark.parametrize("size", [(1, 1), (7, 100), (100, 7)])
def test_inputs_that_are_too_small(tiny_model, size):
    with pytest.raises(ValueError, match=f"{size[1]}x{size[0]} pixels; each side must be at least 8"):
        Restorer(tiny_model).restore(torch.rand(1, 3, *size))


def test_devices(monkeypatch):
    assert pick_device("cpu") == torch.device("cpu")
    assert pick_device("auto").type in ("cpu", "cuda", "mps")
    for name in ("tpu", "cpu:1", "cuda:99", "cuda:x"):
        with pytest.raises(ValueError, match=f"device '{name}' is not available here"):
            pick_device(name)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert (pick_device("auto").type, pick_device("auto", "onnx").type) == ("cuda", "cpu")


def test_an_unknown_dtype():
    with pytest.raises(ValueError, match="unknown dtype 'int8'; choose one of auto, float32, bfloat16, float16"):
        Restorer.from_pretrained("built-in", dtype="int8")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_cuda_agrees_with_the_cpu(tiny_model, dtype):
    lr = smooth(24, 40)
    cpu = Restorer(tiny_model, Options(tile=64)).restore(lr)
    cuda = Restorer(tiny_model.to("cuda", dtype), Options(tile=64)).restore(lr)
    assert cuda.device.type == "cpu"
    assert (cpu - cuda).abs().max() < (1e-3 if dtype == torch.float32 else 0.2)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_memory_changes_no_bit(tiny_model, dtype):
    """Of weights that come and go; and these can be trained afterwards."""
    lr, device = smooth(24, 40), torch.device("cuda")
    model = tiny_model.to(dtype).requires_grad_(False)
    plain = Restorer(model, Options(tile=64), device=device).restore(lr)
    low = Restorer(model, Options(tile=64), device=device, low_memory=True).restore(lr)
    assert torch.equal(low, plain)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert not any(parameter.is_inference() for parameter in model.parameters())


def test_a_photograph_tiled_and_untiled_agree_and_no_seam_shows():
    """On average within 2/255, and across a tile's edge the difference changes no faster than elsewhere."""
    if not (ASSETS / BUILT_IN / ADAPTER).is_file():
        pytest.skip("the built-in weights are not in this checkout")
    lr = read(Path(__file__).parent / "data/rooftops.png").rgb[..., :64, :112]
    whole = Restorer.from_pretrained("built-in", Options(tile=0), device="cpu").restore(lr)
    restorer = Restorer.from_pretrained("built-in", Options(tile=256), device="cpu")
    difference = whole - restorer.restore(lr)
    assert difference.abs().mean() < 2 / 255
    steps = difference.diff(dim=-1).abs().mean((0, 1, 2))  # (W - 1,)
    tiles = [tile.scaled(restorer.model.factor) for tile in restorer.layout.tiles(64, 112)]
    assert len(tiles) == 2
    edges = {tile.left for tile in tiles} | {tile.left + tile.width for tile in tiles}
    for edge in sorted(edges - {0, 448}):
        assert steps[edge - 2 : edge + 1].max() < 2 * steps.mean()


def test_a_preset_is_a_start_for_the_other_options(tiny_model):
    settings = Restorer(tiny_model, Options(preset="authors")).settings
    assert settings == tiny_model.presets["authors"]
    assert (settings.steps, settings.eta, settings.spacing) == (50, 1.0, "leading")
    changed = Restorer(tiny_model, Options(preset="authors", steps=7)).settings
    assert (changed.steps, changed.eta, changed.spacing) == (7, 1.0, "leading")
    with pytest.raises(ValueError, match="preset 'fast'; choose one of authors"):
        Restorer(tiny_model, Options(preset="fast"))


def test_what_is_not_of_the_model_is_refused(tiny_model):
    with pytest.raises(ValueError, match="'euler' is not of this model"):
        Restorer(tiny_model, Options(sampler="euler"))
    with pytest.raises(ValueError, match="takes no text"):
        Restorer(tiny_model, Options(text_guidance=3.0))
    Restorer(tiny_model, Options(text_guidance=1.0)).restore(smooth(16, 16))
    with pytest.raises(ValueError, match=r"text guidance is 0\.5"):
        Options(text_guidance=0.5)


def test_the_model_says_how_colours_are_taken_over_unless_the_user_does(tiny_model):
    lr = smooth(16, 20)
    matched, own = (Restorer(tiny_model, Options(colour=way)).restore(lr) for way in ("wavelet", "none"))
    assert not torch.equal(matched, own)
    assert torch.equal(Restorer(tiny_model).restore(lr), matched)
    tiny_model.defaults = replace(tiny_model.defaults, colour="none")
    assert torch.equal(Restorer(tiny_model).restore(lr), own)
    with pytest.raises(ValueError, match="unknown colour 'hue'"):
        replace(tiny_model.defaults, colour="hue")
