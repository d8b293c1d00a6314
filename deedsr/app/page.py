"""The page: what is on it, and what happens where something on it is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from starlette.middleware import Middleware

from deedsr.app.bars import CSS, bars, fault
from deedsr.app.desk import FIELDS, Desk, Result, on_page
from deedsr.options import COLOURS, SAMPLERS, Options, parse_guidance
from deedsr.pictures.formats import FORMATS

WAITING = 32  # pictures' visitors that may wait in the queue
CLEANING = (3600, 24 * 3600)  # every hour, what is a day old
PROGRESS = gr.Progress()  # as a default, it has Gradio pass that of the call under way
OWN = "the model's"
SAME = "the picture's"
POLICY = "default-src 'self' 'unsafe-inline' 'unsafe-eval' data: blob:; frame-ancestors 'self'"
"""Nothing is fetched from elsewhere: neither fonts nor scripts."""


class _Closed:
    """Tells browsers the policy."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def marked(message: Any) -> None:
            if message["type"] == "http.response.start":
                policy = (b"content-security-policy", POLICY.encode())
                message = {**message, "headers": [*message["headers"], policy]}
            await send(message)

        await self.app(scope, receive, marked if scope["type"] == "http" else send)


def make_page(desk: Desk, models: Sequence[str]) -> gr.Blocks:
    """The page, on which one of `models` is chosen."""
    with gr.Blocks(title="deedsr", analytics_enabled=False, delete_cache=CLEANING) as page:
        gr.Markdown("# deedsr\nMakes small, blurred, noisy or JPEG-damaged pictures larger and sharp, on this machine.")
        with gr.Row():
            with gr.Column(min_width=320):
                uploads = gr.File(label="Drop pictures here", file_count="multiple", elem_id="uploads")
                wrong = gr.HTML(label="What is wrong with them", elem_id="diagnosis")
                model = gr.Dropdown(list(models), value=models[0], label="Model", visible=len(models) > 1)
                knobs = {**_dials(), **_more()}
                with gr.Row():
                    go = gr.Button("Restore", variant="primary", elem_id="restore")
                    stop = gr.Button("Stop", elem_id="stop")
                faults = gr.HTML(elem_id="faults", min_height=80)  # and the progress
            with gr.Column(min_width=320, scale=2):
                state = gr.State([])
                slider = gr.ImageSlider(
                    label="Before and after",
                    interactive=False,
                    elem_id="slider",
                    max_height=700,
                    buttons=["fullscreen"],
                )
                shown = gr.Dropdown([], label="Picture", visible=False, elem_id="shown", interactive=True)
                files = gr.File(label="Download", file_count="multiple", interactive=False, elem_id="files")
        one_at_a_time: dict[str, Any] = {"concurrency_id": "desk", "concurrency_limit": 1, "api_visibility": "private"}
        gr.on([uploads.change, model.change], partial(_diagnose, desk), [uploads, model], wrong, **one_at_a_time)
        outputs = [state, slider, shown, files, faults]
        running = go.click(
            partial(_restore, desk, tuple(knobs)),
            [uploads, model, *knobs.values()],
            outputs,
            show_progress_on=faults,
            **one_at_a_time,
        )
        stop.click(None, cancels=[running], api_visibility="private")
        shown.input(_show, [state, shown], slider, api_visibility="private", queue=False)
    return page.queue(max_size=WAITING)


def _dials() -> dict[str, Any]:
    """The size and the dials, which are always in sight."""
    dials = {"outscale": gr.Slider(1, 8, 4, step=0.5, label="Times larger", elem_id="outscale")}
    said = {"denoise": "Noise", "deblur": "Blur", "dejpeg": "JPEG damage"}
    for name, label in said.items():
        info = "0 leaves it in, 1 takes it out, 2 takes more" if name == "denoise" else None
        dials[name] = gr.Slider(0, 2, 1, step=0.05, label=f"{label} to take out", info=info, elem_id=name)
    return dials


def _more() -> dict[str, Any]:
    """The knobs that are seldom turned."""

    def one_of(label: str, choices: Sequence[Any], own: str = OWN, info: str | None = None) -> gr.Dropdown:
        return gr.Dropdown([own, *choices], value=own, label=label, info=info)

    with gr.Accordion("More", open=False):
        return {
            "extension": one_of(FIELDS["ext"], [key[1:] for key, kind in FORMATS.items() if kind.here], SAME),
            "noise_guidance": gr.Textbox(label="Noise guidance", placeholder="W:K, as 0.5:1"),
            "degradation_guidance": one_of("Guidance by the degradation", [1, 1.25, 1.5, 2, 3]),
            "steps": one_of("Steps", [1, 2, 4, 8, 16, 50]),
            "sampler": one_of("Sampler", SAMPLERS),
            "ensemble": one_of("Views", range(1, 9), info="the mean of so many flips and turns"),
            "colour": one_of("Colours of the input", COLOURS),
            "coherence": one_of("Coherence of edges", [0, 0.5, 1], info="smooth along themselves, steep across"),
            "tile": one_of(FIELDS["tile"], [0, 128, 256, 512, 1024], info="0: never in tiles"),
            "seed": gr.Number(value=0, label=FIELDS["seed"], precision=0, minimum=0),
        }


def _options(values: dict[str, Any]) -> Options:
    """Raises ValueError for what can't be chosen."""
    chosen: dict[str, Any] = {name: None if value == OWN else value for name, value in values.items()}
    guidance = (chosen["noise_guidance"] or "").strip()
    chosen |= {"seed": chosen["seed"] or 0, "noise_guidance": parse_guidance(guidance) if guidance else None}
    return Options(**chosen)


def _diagnose(desk: Desk, uploads: list[str] | None, model: str) -> Iterator[str]:
    """The bars, more with each picture."""
    found = []
    for one in desk.diagnose([Path(upload) for upload in uploads or []], model):
        found.append(one)
        yield bars(found)
    if not found:
        yield ""


def _restore(
    desk: Desk,
    names: tuple[str, ...],
    uploads: list[str] | None,
    model: str,
    *values: Any,
    progress: Any = PROGRESS,
) -> Iterator[tuple[Any, ...]]:
    """What the page shows after each picture: all results, the newest in the slider, the files, and what failed."""
    if not uploads:
        raise gr.Error("Drop a picture first.", print_exception=False)
    knobs = dict(zip(names, values, strict=True))
    extension = knobs.pop("extension")
    try:
        restorer = desk.restorer(model, _options(knobs))
    except ValueError as error:
        raise gr.Error(on_page(str(error)), print_exception=False) from None
    progress(0, desc="beginning")
    notes = "".join(fault("", on_page(note)) for note in restorer.notes)
    done: list[Result] = []
    places = [Path(upload) for upload in uploads]
    for result in desk.restore(places, restorer, None if extension == SAME else extension, progress):
        done.append(result)
        good = [one for one in done if one.result is not None]
        choices = [(f"{number + 1}: {one.name}", number) for number, one in enumerate(good)]
        yield (
            good,
            _show(good, len(good) - 1),
            gr.Dropdown(choices, value=len(good) - 1 if good else None, visible=len(good) > 1),
            [str(one.result) for one in good] or None,
            notes + "".join(fault(one.name, line) for one in done for line in one.told),
        )


def _show(results: list[Result], number: int | None) -> tuple[str, str] | None:
    """Before and after of a result, for the slider."""
    if number is None or not 0 <= number < len(results):
        return None
    return str(results[number].before), str(results[number].after)


def serve(
    desk: Desk, models: Sequence[str], host: str, port: int, share: bool, megabytes: int
) -> tuple[str, Callable[[], None]]:
    """Begin to serve the page; where it is, and what ends it. megabytes: the largest file that is taken."""
    page = make_page(desk, models)
    _, local, public = page.launch(
        server_name=host,
        server_port=port,
        share=share,
        inbrowser=False,
        prevent_thread_lock=True,
        quiet=True,
        footer_links=[],
        run_history=False,
        ssr_mode=False,
        pwa=False,
        mcp_server=False,
        enable_monitoring=False,
        max_file_size=megabytes * 2**20,
        allowed_paths=[str(desk.folder)],
        app_kwargs={"middleware": [Middleware(_Closed)]},
        css=CSS,
    )
    return public or local, page.close
