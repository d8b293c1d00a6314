"""Which photographs a folder and a list name."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from deedsr.data.photos import list_photos


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder whose name has a dot, with photographs, a folder of them, and other things."""
    root = tmp_path / "some.photos"
    for name in ("b.png", "a.JPG", "deep/er/c.tiff", "notes.txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")
    (root / "folder.png").mkdir()
    return root


def test_lists_photographs_in_order(tree: Path) -> None:
    expected = [tree / "a.JPG", tree / "b.png", tree / "deep" / "er" / "c.tiff"]
    assert list_photos([tree]) == list_photos(tree) == list_photos(str(tree)) == list_photos([str(tree)]) == expected
    assert list_photos([tree], "train") == expected, "without a table there are no splits"
    assert list_photos([tree, tree / "deep"]) == [*expected, expected[-1]]


def test_a_table_beside_the_folder_chooses(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [
        "split\tsource\tfile",
        "train\tme\ta.JPG",
        "val\tme\tb.png",
        "train\tme\tdeep/er/c.tiff",
        "val\tme\tgone.png",
    ]
    Path(f"{tree}.tsv").write_text("\n".join(rows), encoding="utf-8")
    assert list_photos(tree, "train") == [tree / "a.JPG", tree / "deep/er/c.tiff"]
    assert list_photos(f"{tree}{os.sep}", "val") == [tree / "b.png"]
    assert len(list_photos(tree)) == 3
    monkeypatch.chdir(tree)
    assert list_photos(".", "val") == [Path("b.png")]
    with pytest.raises(ValueError, match=r"some\.photos: holds no photographs of the split 'test'"):
        list_photos(tree, "test")


def test_a_table_without_the_columns_is_named(tree: Path) -> None:
    for content in ("", "file,split\na.JPG,train\n", "name\tsplit\na.JPG\ttrain\n"):
        Path(f"{tree}.tsv").write_text(content, encoding="utf-8")
        with pytest.raises(ValueError, match=r"some\.photos\.tsv: its first line must name the columns `file`"):
            list_photos(tree, "train")


def test_folders_without_photographs_are_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="none: no such folder of photographs"):
        list_photos([tmp_path / "none"])
    with pytest.raises(ValueError, match=r"holds no photographs$"):
        list_photos([tmp_path])


@pytest.fixture
def listed(tree: Path, tmp_path: Path) -> Path:
    table = tmp_path / "meta_info.txt"
    table.write_text("deep/er/c.tiff (480,480,3)\n\na.JPG\nwith space (1).png (9, 9)\n", encoding="utf-8")
    (tree / "with space (1).png").write_bytes(b"")
    return table


def test_a_list_chooses_and_orders(tree: Path, listed: Path) -> None:
    expected = [tree / "deep/er/c.tiff", tree / "a.JPG", tree / "with space (1).png"]
    root = {"root": str(tree), "list": str(listed)}
    assert list_photos(root) == list_photos([root], "train") == expected
    (tree / "own.txt").write_text(listed.read_text(encoding="utf-8"), encoding="utf-8")
    assert list_photos(tree / "own.txt") == expected
    assert list_photos(OmegaConf.create([root, str(tree / "deep")])) == [*expected, tree / "deep/er/c.tiff"]


def test_wrong_lists_are_named(tree: Path, listed: Path) -> None:
    with pytest.raises(ValueError, match=r"root with a list is \{root: FOLDER, list: LIST\.txt\}"):
        list_photos({"root": tree, "lists": listed})
    with pytest.raises(ValueError, match=r"meta\.txt: no such list"):
        list_photos({"root": tree, "list": tree / "meta.txt"})
    with pytest.raises(ValueError, match=r"meta_info\.txt: names deep/er/c\.tiff, which isn't .*, and 2 more"):
        list_photos(listed)
    listed.write_text("\n \n", encoding="utf-8")
    with pytest.raises(ValueError, match=r"meta_info\.txt: names no photographs"):
        list_photos(listed)


def test_hidden_files_are_passed_over(tree: Path) -> None:
    (tree / "._a.JPG").write_bytes(b"")
    (tree / ".thumbnails" / "deep").mkdir(parents=True)
    (tree / ".thumbnails" / "deep" / "a.jpg").write_bytes(b"")
    assert len(list_photos(tree)) == 3
