"""The page as a visitor has it: `deedsr app` in a process, Chromium without a window before it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import pytest
from PIL import Image

from deedsr.cli import main as cli
from deedsr.options import Options
from tests.processes import ROOT, free_port, started

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

gradio = pytest.importorskip("gradio", reason="the page is made with Gradio, of the extra app")
playwright = pytest.importorskip("playwright.sync_api", reason="Playwright drives the browser")

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
PATIENCE = 120_000  # milliseconds: for a machine that does other things as well


@dataclass(frozen=True)
class Served:
    """The process, where it is, and where it keeps its files."""

    process: subprocess.Popen[str]
    url: str
    files: Path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    files, port = tmp_path_factory.mktemp("served"), free_port()
    command = [sys.executable, "-m", "deedsr.cli.main", "app", "--port", port, "--device", "cpu", "--upload-limit", 1]
    command += ["--model", "built-in", "--model", "built-in-dit"]
    where = {**os.environ, "TMPDIR": str(files)}
    with started(command, env=where, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == f"restoring at http://127.0.0.1:{port}/; Ctrl-C ends it\n"
        yield Served(process, f"http://127.0.0.1:{port}/", files)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip(f"no browser here: none of {', '.join(BROWSERS)}; apt-get install chromium")
    with playwright.sync_playwright() as play:
        started = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def page(browser: Browser, served: Served) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(PATIENCE)
    page.goto(served.url)
    page.wait_for_selector("#restore")
    yield page
    page.close()


@pytest.fixture
def uploads(tmp_path: Path) -> list[Path]:
    """A JPEG and a PNG with metadata, and a broken file between them."""
    photo = Image.open(ROOT / "tests/data/rooftops.png").convert("RGB")
    exif = Image.Exif()
    exif[0x010E] = "a chimney"
    files = [tmp_path / name for name in ("one.jpg", "broken.png", "two.png")]
    photo.crop((40, 30, 80, 62)).save(files[0], quality=60, exif=exif, dpi=(300, 300))
    files[1].write_bytes(b"no picture")
    photo.crop((100, 50, 140, 80)).save(files[2])
    return files


@pytest.fixture
def knobs() -> dict[str, Any]:
    """What is chosen on the page, by name, as it is at first."""
    from deedsr.app import page

    with gradio.Blocks():
        return {name: knob.value for name, knob in (page._dials() | page._more()).items()}


ELSEWHERE = {
    "of one picture or one set of them": {"width", "height", "megapixels", "degradation_of"},
    "of models told what pictures show": {"caption", "captions", "negative", "embeddings", "text_length"},
    "of guidance by that": {"text_guidance"},
    "follows from what is there": {"preset", "spacing", "overlap", "batch"},
}
"""The options that only the command line has."""


def test_each_option_is_on_the_page_or_left_to_the_command_line(knobs: dict[str, Any]) -> None:
    options = {field.name for field in fields(Options)}
    assert set(knobs) - {"extension"} == options - set().union(*ELSEWHERE.values())


def test_options_that_change_nothing_are_told_with_the_results(
    knobs: dict[str, Any], uploads: list[Path], tmp_path: Path, tiny_model_folder: Path
) -> None:
    from deedsr.app.desk import Desk
    from deedsr.app.page import _restore

    desk = Desk(tmp_path, device="cpu", low_memory=True)
    told = []
    for steps in (1, 2000):
        values = {**knobs, "steps": steps}.values()
        try:
            *_, last = _restore(
                desk,
                tuple(knobs),
                [str(uploads[0])],
                str(tiny_model_folder),
                *values,
                progress=lambda *_, **__: None,
            )
            told.append(last[-1])
        except gradio.Error as error:
            told.append(error.message)
    assert "--low-memory changes nothing: the model runs on the CPU" in told[0]
    assert told[1] == "steps is 2000; choose a number from 1 to 1000"


def upload(page: Page, files: list[Path]) -> None:
    page.set_input_files("#uploads input[type=file]", files)


def test_pictures_are_diagnosed_restored_compared_and_downloaded(
    page: Page, served: Served, uploads: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    upload(page, uploads)
    page.wait_for_function("document.querySelectorAll('#diagnosis [role=meter]').length == 6")
    message = "broken.png: not a picture that can be read; convert it to PNG or JPEG"
    assert page.locator("#diagnosis [role=alert]").inner_text() == message
    page.click("#restore")
    page.wait_for_function("document.querySelectorAll('#files a[download]').length == 2")
    page.wait_for_selector("#faults [role=alert]")
    assert page.locator("#faults [role=alert]").inner_text() == message

    for number, name in enumerate(("one.jpg", "two.png")):
        with page.expect_download() as waiting:
            page.locator("#files a[download]").nth(number).click()
        assert waiting.value.suggested_filename == name
        waiting.value.save_as(tmp_path / "page" / name)
    command = ["restore", *map(str, uploads), "-o", str(tmp_path / "command"), "--device", "cpu"]
    assert cli._call(command) == 1, capsys.readouterr().err  # the broken one
    for name in ("one.jpg", "two.png"):
        assert (tmp_path / "page" / name).read_bytes() == (tmp_path / "command" / name).read_bytes()
    with Image.open(tmp_path / "page/one.jpg") as image:
        assert image.size == (160, 128)
        assert image.getexif()[0x010E] == "a chimney"

    assert {urlsplit(url).netloc for url in asked if url.startswith("http")} == {urlsplit(served.url).netloc}


def test_knobs_count_the_slider_moves_and_another_picture_can_be_shown(page: Page, uploads: list[Path]) -> None:
    upload(page, [uploads[0], uploads[2]])
    page.locator("#outscale input[type=number]").fill("2")
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Format").click()
    page.get_by_role("option", name="webp").click()
    page.click("#restore")
    page.wait_for_function("document.querySelectorAll('#files a[download]').length == 2")
    images, handle = page.locator("#slider img"), page.locator("#slider [data-testid=slider]")
    page.wait_for_function("[...document.querySelectorAll('#slider img')].every(one => one.naturalWidth == 80)")
    assert page.locator("#files a[download]").first.get_attribute("download") == "one.webp"
    assert images.count() == 2
    handle.scroll_into_view_if_needed()
    box, before = handle.bounding_box(), images.nth(1).get_attribute("style")
    assert box is not None
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x - 150, y, steps=5)
    page.mouse.up()
    moved = handle.bounding_box()
    assert moved is not None and -155 < moved["x"] - box["x"] < -145
    assert images.nth(1).get_attribute("style") != before  # what is seen of the restored one

    shown = [images.nth(number).get_attribute("src") for number in range(2)]
    page.locator("#shown input").click()
    page.get_by_role("option", name="1: one.jpg").click()
    page.wait_for_function("old => document.querySelector('#slider img').src != old", arg=shown[0])


def test_it_can_be_read_on_a_phone(page: Page, uploads: list[Path]) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    upload(page, uploads)
    page.wait_for_selector("#diagnosis [role=alert]")
    assert page.evaluate("document.scrollingElement.scrollWidth") <= 390
    for place in ("#restore", "#diagnosis [role=meter]", "#denoise input[type=range]"):
        box = page.locator(place).first.bounding_box()
        assert box is not None and box["x"] >= 0 and box["x"] + box["width"] <= 390 and box["width"] > 40


def test_a_file_over_the_limit_is_refused(page: Page, tmp_path: Path, uploads: list[Path]) -> None:
    large = tmp_path / "large.png"
    large.write_bytes(bytes(2**20 + 1))
    upload(page, [large])
    page.get_by_text("large.png exceeds", exact=False).or_(
        page.get_by_text("maximum allowed", exact=False)
    ).first.wait_for()
    page.reload()
    page.wait_for_selector("#restore")
    upload(page, [uploads[0]])
    page.wait_for_selector("#diagnosis [role=meter]")


def test_nothing_dropped_and_knobs_out_of_range_are_told(page: Page, uploads: list[Path]) -> None:
    page.click("#restore")
    page.get_by_text("Drop a picture first.").wait_for()
    upload(page, [uploads[0]])
    page.wait_for_selector("#diagnosis [role=meter]")
    page.get_by_text("More", exact=True).click()
    page.get_by_label("Noise guidance").fill("much")
    page.click("#restore")
    page.get_by_text("noise guidance 'much' is not W:K").wait_for()


def test_a_port_that_is_taken(served: Served, capsys: pytest.CaptureFixture[str]) -> None:
    port = urlsplit(served.url).port
    assert cli._call(["app", "--port", str(port)]) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"deedsr: 127.0.0.1:{port}: ")
    assert told.endswith("; choose another --port or --host\n")


def test_pictures_are_removed_at_the_end(served: Served) -> None:
    """The last in this file: it ends the process."""
    assert list(served.files.glob("deedsr-app-*"))
    served.process.send_signal(signal.SIGTERM)
    assert served.process.wait(60) == 0
    assert not list(served.files.glob("deedsr-app-*"))
