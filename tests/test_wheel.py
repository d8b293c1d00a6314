"""What the wheel holds: with the extra `train`, all that training needs; installed alone, it restores."""

from __future__ import annotations

import importlib.util
import os
import sys
import venv
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from tests.processes import finished

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("a wheel is built with setuptools, which is not installed")
    place = tmp_path_factory.mktemp("build")
    for name in ("deedsr", "stage1", "stage2", "conf", "pyproject.toml", "README.md", "LICENSE"):
        (place / name).symlink_to(ROOT / name)  # so that what building leaves is not in the checkout
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = finished([sys.executable, "-c", build], cwd=place)
    assert done.returncode == 0, done.stderr[-2000:]
    return next(place.glob("*.whl"))


def test_a_wheel_holds_the_stages_and_their_configuration(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
        archive.extractall(tmp_path / "site")
    for folder, pattern in (("stage1", "*.py"), ("stage2", "*.py"), ("deedsr", "*.py"), ("conf", "*.yaml")):
        assert {str(path.relative_to(ROOT)) for path in (ROOT / folder).rglob(pattern)} <= held
    assert "deedsr/assets/built-in/adapter.safetensors" in held
    assert not {name for name in held if name.startswith(("tests", "notebooks"))}
    alone = {**os.environ, "PYTHONPATH": str(tmp_path / "site")}
    code = "import deedsr, stage2, runpy, sys; assert deedsr.__file__.startswith(sys.argv.pop(1)), deedsr.__file__\n"
    code += "runpy.run_module('stage2.train', run_name='__main__', alter_sys=True)"
    words = [str(tmp_path / "site"), "--cfg", "job", "experiment=deedsr_sd21"]
    done = finished([sys.executable, "-c", code, *words], cwd=tmp_path / "site", env=alone)
    assert done.returncode == 0, done.stderr
    assert "name: deedsr_sd21" in done.stdout


def test_installed_without_the_checkout_it_restores(wheel: Path, tmp_path: Path) -> None:
    """What it depends on is this environment's, on a path that finds no editable install of the checkout."""
    place, work = tmp_path / "bare", tmp_path / "work"
    venv.create(place, symlinks=os.name != "nt")
    work.mkdir()
    scripts = place / ("Scripts" if os.name == "nt" else "bin")
    python = scripts / Path(sys.executable).name
    alone = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}

    def run(*command: str | Path) -> str:
        done = finished(command, cwd=work, env=alone)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(sys.executable, "-m", "pip", "--python", python, "install", "-q", "--no-deps", "--no-index", wheel)
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip())
    outer = [entry for entry in sys.path if entry.endswith("-packages")]
    (site / "outer.pth").write_text("\n".join(outer), encoding="utf-8")
    Image.open(ROOT / "tests/data/rooftops.png").crop((40, 30, 72, 54)).save(work / "photo.png")
    assert run(python, "-c", "import deedsr; print(deedsr.__file__)").startswith(str(site))
    assert run(scripts / "deedsr", "restore", "photo.png", "--device", "cpu").endswith("1 restored\n")
    with Image.open(work / "restored/photo.png") as image:
        assert image.size == (128, 96)
