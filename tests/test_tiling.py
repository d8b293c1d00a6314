"""Windows cover an image, and blending loses nothing and shows no seam."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from fractions import Fraction

import pytest
import torch

from deedsr.nested import join
from deedsr.tiling import Groups, Window, blend, merge, windows

SIZES = [(64, 64, 64, 16), (65, 64, 64, 16), (100, 37, 32, 8), (101, 137, 50, 49), (7, 300, 64, 0), (1, 1, 8, 2)]


@pytest.mark.parametrize(("height", "width", "tile", "overlap"), SIZES)
def test_windows_cover_and_overlap(height, width, tile, overlap):
    cover = torch.zeros(height, width)
    found = windows(height, width, tile, overlap)
    for window in found:
        assert (window.height, window.width) == (min(tile, height), min(tile, width))
        assert window.top + window.height <= height
        assert window.left + window.width <= width
        cover[window.slices] += 1
    assert cover.min() >= 1
    for starts, length in (({w.top for w in found}, height), ({w.left for w in found}, width)):
        ordered = sorted(starts)
        assert all(b - a <= tile - overlap for a, b in itertools.pairwise(ordered))
        assert ordered[-1] + min(tile, length) == length


def test_no_more_overlap_than_asked_for():
    """As many windows as with the full side, of the least side that is a multiple of 4."""
    found = windows(100, 116, 32, 4, multiple=4)
    assert len(found) == len(windows(100, 116, 32, 4)) == 16
    assert {(window.height, window.width) for window in found} == {(28, 32)}
    cover = torch.zeros(100, 116)
    for window in found:
        cover[window.slices] += 1
    assert cover.min() >= 1
    starts = sorted({window.top for window in found})
    assert starts[-1] + 28 == 100
    assert all(b - a <= 28 - 4 for a, b in itertools.pairwise(starts))


@pytest.mark.parametrize(("height", "width", "tile", "overlap"), SIZES)
def test_identity_comes_back_to_the_bit(height, width, tile, overlap):
    image = torch.rand(2, 3, height, width)
    result = blend(lambda window: image[window.slices], windows(height, width, tile, overlap), height, width)
    assert torch.equal(result, image)


@pytest.mark.parametrize(("scale", "side"), [(4, 96), (0.25, 96), (Fraction(1, 4), 96), (1, 50)])
def test_scaled_output(scale, side):
    """A function that enlarges or shrinks: the windows lie on multiples of 4."""
    tiles = (
        [window.scaled(4) for window in windows(side // 4, side // 4, 8, 2)] if scale != 1 else windows(50, 50, 9, 3)
    )
    whole = torch.rand(1, 2, int(side * scale), int(side * scale))
    result = blend(lambda window: whole[window.scaled(scale).slices], tiles, side, side, scale)
    assert torch.equal(result, whole)


def test_one_window_gives_the_function_itself():
    image = torch.rand(1, 3, 20, 30)
    assert torch.equal(blend(lambda window: image.exp(), windows(20, 30, 64, 8), 20, 30), image.exp())


def test_merge_takes_pieces_as_they_come():
    image = torch.rand(1, 3, 40, 40)
    pieces = ((window, image[window.slices]) for window in windows(40, 40, 16, 4))
    assert torch.equal(merge(pieces, 40, 40), image)


def test_half_precision_is_blended_in_float32():
    image = torch.rand(1, 3, 40, 40).half()
    result = blend(lambda window: image[window.slices], windows(40, 40, 16, 4), 40, 40)
    assert result.dtype == torch.float32
    assert torch.equal(result, image.float())


def test_tiles_that_disagree_blend_without_a_seam():
    """Tiles of value 0 and 1: no step between neighbouring pixels is much larger than along a linear ramp."""
    tiles = windows(64, 112, 64, 16)
    assert len(tiles) == 2
    result = blend(lambda window: torch.full((1, 1, 64, 64), float(window.left > 0)), tiles, 64, 112)
    row = result[0, 0, 32]
    assert row[:48].max() == 0
    assert row[64:].min() == 1
    assert (row[1:] - row[:-1]).max() < 3 / 16
    assert (row[1:] >= row[:-1]).all()


def test_scaled_windows_must_be_whole_pixels():
    assert Window(4, 8, 16, 12).scaled(0.25) == Window(1, 2, 4, 3)
    with pytest.raises(AssertionError, match="whole pixels"):
        Window(1, 0, 8, 8).scaled(0.5)


@pytest.mark.parametrize(("tile", "overlap", "message"), [(0, 0, "tile is 0"), (8, 8, "overlap is 8"), (8, -1, "-1")])
def test_bad_numbers(tile, overlap, message):
    with pytest.raises(ValueError, match=message):
        windows(32, 32, tile, overlap)


@dataclass(frozen=True)
class Both:
    tensor: torch.Tensor
    entries: list[tuple[torch.Tensor, torch.Tensor]]
    nothing: None = None


def test_join_batches_field_by_field():
    parts = [Both(torch.full((1, 2), k), [(torch.full((1, 3), k), torch.full((1, 1), k))]) for k in range(3)]
    joined = join(parts)
    assert joined.tensor[:, 0].tolist() == [0, 1, 2]
    assert joined.entries[0][0].shape == (3, 3)
    assert joined.nothing is None
    assert join(parts[:1]) is parts[0]


@pytest.mark.parametrize(("count", "most", "sizes"), [(4, 4, [4]), (5, 4, [3, 2]), (10, 4, [4, 3, 3]), (3, 1, [1] * 3)])
def test_groups_are_alike(count, most, sizes):
    found = windows(8, 8 * count, 8, 0)
    groups = list(Groups(most)(lambda group: torch.tensor([window.left for window in group]), found))
    assert [len(group) for group, _ in groups] == sizes
    assert [window for group, _ in groups for window in group] == found
    assert torch.cat([output for _, output in groups]).tolist() == [window.left for window in found]


def test_groups_are_halved_where_memory_lacks_and_stay_so():
    tried, held = [], 2

    def function(group: list[Window]) -> torch.Tensor:
        tried.append(len(group))
        if len(group) > held:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
        return torch.tensor([window.left for window in group])

    found, groups = windows(8, 80, 8, 0), Groups(8)
    lefts = [8 * number for number in range(10)]
    assert torch.cat([output for _, output in groups(function, found)]).tolist() == lefts
    assert (tried, groups.most) == ([5, 2, 2, 2, 2, 2], 2)
    assert torch.cat([output for _, output in groups(function, found)]).tolist() == lefts
    assert tried[6:] == [2] * 5
    held = 0
    with pytest.raises(torch.OutOfMemoryError):
        list(groups(function, found))
    assert tried[11:] == [2, 1]


def test_other_errors_are_no_lack_of_memory():
    def function(group: list[Window]) -> torch.Tensor:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal"):
        list(Groups(4)(function, windows(8, 80, 8, 0)))
