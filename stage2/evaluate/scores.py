"""Scores of pictures that are restored already, or are restored first."""

from __future__ import annotations

from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from deedsr.data.pairs import match, pictures
from deedsr.devices import pick_device
from deedsr.files import write_text
from deedsr.metrics import sheet, table
from deedsr.metrics.evaluation import BICUBIC, RESTORED, TRUTH, Evaluator, Report, track
from deedsr.metrics.outputs import load
from deedsr.metrics.semantic import ClipModel
from deedsr.pictures.picture import from_pil, write
from deedsr.training.command import plain

Files = dict[str, dict[str, Path]]


def scores_table(cfg: DictConfig) -> str:
    """`evaluate`, as a Markdown table."""
    return table.to_markdown(evaluate(cfg))


def evaluate(cfg: DictConfig) -> Report:
    """Score the pictures that `cfg` names, restoring them first if it names a model.

    Writes ``output`` (JSON) and beside it a CSV file, a Markdown table and a contact sheet. Raises ValueError for
    pictures that don't belong together and for unknown names.
    """
    if OmegaConf.is_missing(cfg, "output"):
        raise ValueError("say where the results go: output=FILE.json")
    output = Path(cfg.output)
    if output.suffix.lower() != ".json":
        raise ValueError(f"output={cfg.output} must be a file name that ends in .json")
    if (cfg.restored is None) == (cfg.model is None):
        raise ValueError("give either restored=DIR and hr=DIR, or model=NAME and data=DIR")
    device = pick_device(cfg.device)
    evaluator = Evaluator(cfg.protocol, cfg.metrics, device, cfg.download, ClipModel(**cfg.clip))
    files = _pairs(cfg) if cfg.model is None else _restore(cfg, output)
    output.parent.mkdir(parents=True, exist_ok=True)  # fails now if at all, not after hours
    samples = (load(stem, roles) for stem, roles in files.items())
    report = evaluator.run(samples, len(files), cfg.rows, cfg.progress)
    for suffix, text in ((".json", table.to_json), (".csv", table.to_csv), (".md", table.to_markdown)):
        write_text(output.with_suffix(suffix), text(report))
    if report.deciding is not None:
        contact = sheet.of_report(report, lambda stem: load(stem, files[stem]))
        write(output.with_suffix(".png"), from_pil(contact))
    return report


def _pairs(cfg: DictConfig) -> Files:
    """The pictures that are there already, by stem and role."""
    return match({"restored": pictures(cfg.restored, cfg.suffix), **_given(cfg)})


def _restore(cfg: DictConfig, output: Path) -> Files:
    """Restore every input to a PNG file in ``FILE_restored``; the pictures by stem and role."""
    from deedsr.options import Options
    from deedsr.restorer import Restorer

    given = _given(cfg)
    if "lr" not in given:
        raise ValueError("model=… restores inputs: give data=DIR with lr/ and hr/ in it, or lr=DIR and hr=DIR")
    files = match(given)
    options = Options(**plain(cfg.options))
    for stem, roles in files.items():  # fails now if at all, not after hours of restoring
        load(stem, {**roles, "restored": roles["hr"]}).check(options)
    restorer = Restorer.from_pretrained(cfg.model, options, cfg.device, cfg.dtype)
    folder = output.with_name(f"{output.stem}_restored")
    folder.mkdir(parents=True, exist_ok=True)
    for stem, roles in track(files.items(), len(files), cfg.progress, "restoring"):
        roles["restored"] = folder / f"{stem}.png"
        write(roles["restored"], restorer(roles["lr"]))
    return files


def _given(cfg: DictConfig) -> dict[str, dict[str, Path]]:
    """Ground truth and, where there are any, inputs and others' outputs: {role: {stem: path}}."""
    data = None if cfg.data is None else Path(cfg.data)
    hr = cfg.hr or (data and data / "hr")
    lr = cfg.lr or (data and (data / "lr").is_dir() and data / "lr")
    if not hr:
        raise ValueError("the ground truth is missing: give hr=DIR, or data=DIR with hr/ in it")
    roles = {"hr": pictures(hr)} | ({"lr": pictures(lr)} if lr else {})
    others = plain(cfg.others)
    if taken := sorted(others.keys() & {"hr", "lr", RESTORED, BICUBIC, TRUTH}):
        raise ValueError(f"others can't be called {taken[0]!r}; choose another name")
    return roles | {str(name): pictures(folder) for name, folder in others.items()}
