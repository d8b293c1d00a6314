"""Handing a model folder on through the hub."""

from __future__ import annotations

import re
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from deedsr.models.card import CARD, is_ours, own_text
from deedsr.models.resolver import PATIENCE

if TYPE_CHECKING:
    from huggingface_hub import HfApi


def check_name(name: str) -> None:
    """Raise ValueError for what is no name on the hub."""
    if not re.fullmatch(r"[\w.-]{1,96}/[\w.-]{1,96}", name):
        raise ValueError(f"{name}: no name on the hub; give OWNER/NAME, of letters, digits, '-', '_' and '.'")


def push(folder: Path, name: str, replace_card: bool = False) -> str:
    """Send the model folder `folder` to the hub as `name`, OWNER/NAME, made where it is missing; what came of it.

    A card that is there, and has text that `folder`'s has not, stays as it is unless `replace_card`. Raises ValueError
    where it can't be sent, with the way out.
    """
    from huggingface_hub import HfApi

    check_name(name)
    api = HfApi()
    try:
        kept = not replace_card and _has_another_card(api, name, folder)
        api.create_repo(name, exist_ok=True)
        api.upload_folder(
            repo_id=name, folder_path=folder, ignore_patterns=[CARD] if kept else None, commit_message="deedsr export"
        )
    except Exception as error:  # the hub, its client and the network fail in many types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(
            f"{folder} is written, but can't be sent to {name}: {reason}; after `hf auth login`, and where there is a "
            f"network, `hf upload {name} {folder}` sends it"
        ) from None
    note = f"; its {CARD} has text of its own and stays: `replace_card` puts this folder's there" if kept else ""
    return f"{api.endpoint}/{name}{note}"


def _has_another_card(api: HfApi, name: str, folder: Path) -> bool:
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        files = api.model_info(name, timeout=PATIENCE).siblings
    except RepositoryNotFoundError:
        return False
    if CARD not in {file.rfilename for file in files or ()}:
        return False
    with TemporaryDirectory() as folder_of_card:  # in the hub's cache it would pass for the whole repository
        there = Path(api.hf_hub_download(name, CARD, local_dir=folder_of_card)).read_text(encoding="utf-8")
    here = (folder / CARD).read_text(encoding="utf-8")
    return not is_ours(there) or own_text(there) not in ("", own_text(here))
