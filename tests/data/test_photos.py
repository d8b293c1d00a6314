"""Crops of photographs: a pure function of (seed, step, rank, sample), whatever reads them."""

from __future__ import annotations

import multiprocessing
import signal
import sys
import time
from collections.abc import Iterator
from itertools import islice
from multiprocessing.synchronize import Event
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from deedsr.data.flaws import CORRUPT, SMALL
from deedsr.data.photos import PhotoCrops, edges, list_photos
from deedsr.data.stream import deaf
from deedsr.randomness import seeded
from tests.processes import finished

WIDTH, HEIGHT, SIZE = 60, 44, 24


def places(width: int, height: int, blue: int) -> Image.Image:
    """A picture whose red tells the column, whose green tells the row, and whose blue tells which picture it is."""
    column, row = np.meshgrid(np.arange(width), np.arange(height))
    return Image.fromarray(np.stack([column, row, np.full_like(row, blue)], -1).astype(np.uint8))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(3):
        places(WIDTH, HEIGHT, number).save(folder / f"{number}.png")
    return list_photos(folder)


def stream(files: list[Path], seed: int = 1, batch: int = 4, **options: int) -> PhotoCrops:
    return PhotoCrops(files, SIZE, seed, batch, **options)


def batches(crops: PhotoCrops, count: int, workers: int = 0) -> list[torch.Tensor]:
    return [batch.hr for batch in islice(crops.loader(workers), count)]


def test_edges_are_the_mean_sobel_gradient() -> None:
    """Pixel by pixel, as OpenCV's Sobel of three by three has it, the pixels beyond the edge mirrored in it."""
    pixels = np.random.default_rng(0).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    lengths = []
    for row, column, channel in np.ndindex(pixels.shape):

        def at(down: int, right: int, here: tuple = (row, column, channel)) -> float:
            place = (4 - abs(4 - abs(here[0] + down)), 5 - abs(5 - abs(here[1] + right)), here[2])
            return float(pixels[place]) / 255

        across = sum(weight * (at(down, 1) - at(down, -1)) for down, weight in ((-1, 1), (0, 2), (1, 1)))
        down = sum(weight * (at(1, right) - at(-1, right)) for right, weight in ((-1, 1), (0, 2), (1, 1)))
        lengths.append((across**2 + down**2) ** 0.5)
    assert edges(pixels) == pytest.approx(np.mean(lengths), rel=1e-5)
    assert edges(np.full((8, 8, 3), 200, dtype=np.uint8)) == 0


def test_flat_crops_are_drawn_again(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    picture = np.full((HEIGHT, WIDTH, 3), 128, dtype=np.uint8)
    picture[:, WIDTH // 2 :] = random.integers(0, 256, (HEIGHT, WIDTH // 2, 3))  # flat on the left
    Image.fromarray(picture).save(tmp_path / "half.png")
    files = list_photos(tmp_path)
    plain, choosy = stream(files), stream(files, min_edges=0.5)
    redrawn = 0
    for step in range(30):
        crop, chosen = plain.crop(step, 0), choosy.crop(step, 0)
        assert edges(chosen.permute(1, 2, 0).numpy()) >= 0.5
        enough = edges(crop.permute(1, 2, 0).numpy()) >= 0.5
        redrawn += not enough
        assert torch.equal(crop, chosen) == enough
    assert 5 < redrawn < 25
    with pytest.raises(ValueError, match=r"data\.min_edges=9: 1000 crops of 24² pixels were flatter; give less"):
        stream(files, min_edges=9).crop(0, 0)


def test_crops_are_windows_mirrored_half_of_the_time(files: list[Path]) -> None:
    crops = stream(files)
    mirrored, lefts, tops, pictures = 0, set(), set(), set()
    for step in range(150):
        for sample in range(4):
            crop = crops.crop(step, sample)
            assert crop.shape == (3, SIZE, SIZE)
            assert crop.dtype == torch.uint8
            columns, rows = crop[0, 0].long(), crop[1, :, 0].long()
            mirrored += bool(columns[0] > columns[1])
            lefts.add(int(columns.min()))
            tops.add(int(rows[0]))
            pictures.add(int(crop[2, 0, 0]))
            assert columns.sort().values.tolist() == list(range(columns.min(), columns.min() + SIZE))
            assert rows.tolist() == list(range(rows[0], rows[0] + SIZE))
    assert 240 < mirrored < 360
    assert lefts == set(range(WIDTH - SIZE + 1)), "some columns are never reached"
    assert tops == set(range(HEIGHT - SIZE + 1)), "some rows are never reached"
    assert pictures == {0, 1, 2}


def test_a_crop_depends_on_its_numbers_and_on_nothing_else(files: list[Path]) -> None:
    torch.manual_seed(0)
    first = {(step, sample): stream(files).crop(step, sample) for step in range(5) for sample in range(4)}
    torch.manual_seed(99)
    crops = stream(files, batch=2, start=3)
    for (step, sample), crop in reversed(first.items()):
        assert torch.equal(crop, crops.crop(step, sample))


def test_seeds_steps_ranks_and_samples_differ(files: list[Path]) -> None:
    crops = [stream(files, seed, rank=rank).crop(step, sample).flatten().tolist()
             for seed in (0, 1) for rank in (0, 1) for step in (0, 1) for sample in (0, 1)]  # fmt: skip
    assert len({tuple(crop) for crop in crops}) == len(crops)


def test_generators_are_a_function_of_their_numbers() -> None:
    several = [(0, 1), (1, 0), (1, 2, 3), (3, 2, 1), (1, 2, 3, 4), (1, 2, 3, 4, 0), (1, 2, 3, 0, 4)]
    draws = {numbers: seeded(*numbers).initial_seed() for numbers in several}
    assert len(set(draws.values())) == len(draws)
    assert all(seeded(*numbers).initial_seed() == seed for numbers, seed in draws.items())


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(files: list[Path], workers: int) -> None:
    expected = batches(stream(files), 6)
    for got, wanted in zip(batches(stream(files), 6, workers), expected, strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_resumed_stream_goes_on_as_if_unbroken(files: list[Path], workers: int) -> None:
    whole = batches(stream(files), 7)
    rest = batches(stream(files, start=4), 3, workers)
    assert all(torch.equal(got, wanted) for got, wanted in zip(rest, whole[4:], strict=True))


def test_a_cache_changes_nothing_and_reads_each_file_once(tmp_path: Path) -> None:
    places(WIDTH, HEIGHT, 0).save(tmp_path / "a.png")
    crops, expected = stream([tmp_path / "a.png"], cache=True), stream([tmp_path / "a.png"]).crop(1, 1)
    assert torch.equal(crops.crop(1, 1), expected)
    (tmp_path / "a.png").unlink()
    assert torch.equal(crops.crop(1, 1), expected)


@pytest.mark.parametrize(("width", "height"), [(10, 40), (40, 10), (7, 7), (1, 1), (23, 24), (24, 24)])
def test_small_pictures_are_enlarged(tmp_path: Path, width: int, height: int) -> None:
    places(width, height, 0).save(tmp_path / "a.png")
    crops = stream([tmp_path / "a.png"])
    tall, wide, _ = crops.photo(0).shape
    assert min(tall, wide) == SIZE
    assert wide / tall == pytest.approx(width / height, rel=0.05), "the picture is squeezed"
    assert crops.crop(0, 0).shape == (3, SIZE, SIZE)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_kind_of_picture_becomes_rgb(tmp_path: Path, mode: str) -> None:
    grey = Image.fromarray((np.arange(900).reshape(30, 30) * 70).astype(np.uint16))
    (grey if mode == "I;16" else places(30, 30, 9).convert(mode)).save(tmp_path / "a.tif")
    pixels = stream([tmp_path / "a.tif"]).photo(0)
    assert pixels.shape == (30, 30, 3)
    assert pixels.dtype == np.uint8
    if mode == "I;16":
        assert np.array_equal(pixels[..., 0], np.asarray(grey) // 257)


def test_pictures_are_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90° clockwise
    places(40, 30, 0).save(tmp_path / "a.png", exif=exif)
    pixels = stream([tmp_path / "a.png"]).photo(0)
    assert pixels.shape == (40, 30, 3)
    assert pixels[0, -1].tolist() == [0, 0, 0], "the first pixel is not at the upper right"


def broken_files(folder: Path) -> Iterator[Path]:
    for suffix in ("jpg", "png", "webp"):
        whole = folder / f"whole.{suffix}"
        Image.effect_noise((200, 200), 90).convert("RGB").save(whole)
        cut = folder / f"cut.{suffix}"
        cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
        yield cut
    for name, content in (("text.jpg", b"no picture"), ("empty.png", b"")):
        (folder / name).write_bytes(content)
        yield folder / name
    header = bytearray((folder / "whole.png").read_bytes())
    header[40] ^= 255
    (folder / "damaged.png").write_bytes(header)
    yield folder / "damaged.png"


def test_corrupt_photographs_are_named_if_there_is_no_other(tmp_path: Path) -> None:
    for file in broken_files(tmp_path):
        with pytest.raises(ValueError, match=rf"{file.name}: corrupt \(.+\); there is nothing to train on"):
            stream([file]).crop(0, 0)
    files = list(broken_files(tmp_path))
    with pytest.raises(ValueError, match=rf"corrupt \(.+\), and so are the other {len(files) - 1} photographs"):
        stream(files).crop(0, 0)


def test_another_photograph_takes_the_place_of_a_corrupt_one(files: list[Path], tmp_path: Path) -> None:
    mixed = [*files, *broken_files(tmp_path)]
    crops = stream(mixed)
    drawn = {(step, sample): crops.crop(step, sample) for step in range(40) for sample in range(4)}
    assert {int(crop[2, 0, 0]) for crop in drawn.values()} == {0, 1, 2}
    assert crops.flaws.marked(CORRUPT) == mixed[3:]
    sound = [place for place, crop in drawn.items() if torch.equal(crop, stream(files * 3).crop(*place))]
    assert 30 < len(sound) < 160, "the same photograph for every corrupt one"
    for place in reversed(drawn):
        assert torch.equal(stream(mixed).crop(*place), drawn[place]), "what was met before has a say"


@pytest.mark.parametrize("workers", [0, 2])
def test_flaws_met_in_workers_are_known_to_the_loader(files: list[Path], tmp_path: Path, workers: int) -> None:
    places(10, 40, 9).save(tmp_path / "small.png")
    mixed = [*files, *broken_files(tmp_path), tmp_path / "small.png"]
    crops = stream(mixed)
    resumed = batches(stream(mixed, start=20), 20)
    whole = batches(crops, 40, workers)
    assert all(torch.equal(got, wanted) for got, wanted in zip(whole[20:], resumed, strict=True))
    assert crops.flaws.marked(CORRUPT) == mixed[3:-1]
    assert crops.flaws.marked(SMALL) == [tmp_path / "small.png"]


def test_a_photograph_that_is_gone_stops_the_run(files: list[Path], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.png: can't be read \(No such file.*goes on when it can"):
        batches(stream([*files, tmp_path / "gone.png"]), 20)


def test_a_bomb_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places(WIDTH, HEIGHT, 0).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=r"bomb\.png: corrupt"):
        stream([tmp_path / "bomb.png"]).crop(0, 0)


def test_a_workers_error_ends_with_the_name(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_bytes(b"no picture")
    with pytest.raises(ValueError) as caught:
        batches(stream([tmp_path / "text.png"]), 1, workers=1)
    assert str(caught.value).strip().splitlines()[-1].startswith(f"ValueError: {tmp_path / 'text.png'}: corrupt")


WORKER = """
import os, signal, sys, time
from pathlib import Path
from deedsr.data.photos import PhotoCrops, list_photos

held = iter(PhotoCrops(list_photos(Path(sys.argv[1])), 24, 1, 4).loader(1))
next(held)
(worker,) = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
for number in (signal.SIGINT, signal.SIGUSR1, signal.SIGTERM):
    os.system(f"kill -{int(number)} {worker}")
time.sleep(0.5)
for _ in range(9):
    next(held)
"""


def test_a_worker_heeds_no_signal_but_its_runs_and_never_keeps_it_from_ending(files: list[Path]) -> None:
    """Its iterator is in use to the end, as where an error's traceback holds it."""
    done = finished([sys.executable, "-c", WORKER, files[0].parent], limit=100)
    assert done.returncode == 0, done.stderr


def test_no_photographs_are_an_error() -> None:
    with pytest.raises(ValueError, match="no photographs to train on"):
        stream([])


def test_half_of_the_crops_may_be_enlarged(files: list[Path]) -> None:
    plain, soft = stream(files, seed=1, batch=1), stream(files, seed=1, batch=1, enlarge=2.0)
    same = [torch.equal(plain.crop(step, 0), soft.crop(step, 0)) for step in range(200)]
    assert 70 < sum(same) < 130
    assert all(soft.crop(step, 0).shape == plain.crop(step, 0).shape for step in range(20))
    step = same.index(False)
    assert torch.equal(soft.crop(step, 0), stream(files, seed=1, batch=1, enlarge=2.0).crop(step, 0))
    detail = [
        sum(float(one.crop(at, 0).float().diff(dim=-1).abs().mean()) for at in range(200)) for one in (plain, soft)
    ]
    assert detail[1] < 0.9 * detail[0]
    with pytest.raises(ValueError, match=r"enlarge is 0\.5; it must be at least 1"):
        stream(files, seed=1, batch=1, enlarge=0.5)


def working(ready: Event) -> None:
    """What a worker does: it hears what it is to heed, and works on."""
    deaf(0)
    ready.set()
    time.sleep(600)


@pytest.mark.skipif(not hasattr(signal, "sigwaitinfo"), reason="here the sender of a signal can't be told")
@pytest.mark.parametrize("start", ["fork", "forkserver"])
def test_a_worker_ends_when_its_run_says_so_however_it_was_started(start: str) -> None:
    context = multiprocessing.get_context(start)
    ready = context.Event()
    worker = context.Process(target=working, args=(ready,))
    worker.start()
    try:
        assert ready.wait(120)
        worker.terminate()
        worker.join(60)
        assert not worker.is_alive()
    finally:
        worker.kill()
        worker.join()
