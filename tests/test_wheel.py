"""What the wheel holds: with the extra `train`, all that training needs."""

from __future__ import annotations

import importlib.util
import os
import sys
import zipfile
from pathlib import Path

import pytest

from tests.processes import finished

ROOT = Path(__file__).parents[1]


def test_a_wheel_holds_the_stages_and_their_configuration(tmp_path: Path) -> None:
    if importlib.util.find_spec("setuptools") is None:
        pytest.skip("a wheel is built with setuptools, which is not installed")
    for name in ("deedsr", "stage1", "stage2", "conf", "pyproject.toml", "README.md", "LICENSE"):
        (tmp_path / name).symlink_to(ROOT / name)  # so that what building leaves is not in the checkout
    build = "from setuptools import build_meta; print(build_meta.build_wheel('.'))"
    done = finished([sys.executable, "-c", build], cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        held = set(wheel.namelist())
        wheel.extractall(tmp_path / "site")
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
