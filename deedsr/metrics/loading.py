"""Third parties' networks: no download unless allowed, no noise, and every failure turned into a reason."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import os
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import torch

from deedsr.files import hushed

Built = TypeVar("Built")

_WEIGHTS_ONLY = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
_TIMEOUT = 20.0  # seconds without an answer after which a download is given up


class Unavailable(ValueError):
    """A metric that can't be computed here; the message says why and what helps."""


def missing_weights(files: tuple[str, ...]) -> list[str]:
    """Those of `files` (as in `Metric.files`) that are not on this machine. Touches no network."""
    missing = []
    for file in files:
        if file.startswith("hub:"):
            owner, name, leaf = file.removeprefix("hub:").split("/")
            if not _in_hub_cache(f"{owner}/{name}", leaf):
                missing.append(f"{owner}/{name} (Hugging Face cache)")
        elif not (path := Path(torch.hub.get_dir()) / file).is_file():
            missing.append(str(path))
    return missing


def load(label: str, package: str, files: tuple[str, ...], build: Callable[[], Built], download: bool) -> Built:
    """`build()`, a network that `package` makes from the weights `files`.

    Weights are fetched from the network only with `download`, and files are read without running code from them.
    Raises Unavailable, beginning with `label`, where the package or weights are missing or anything fails.
    """
    if importlib.util.find_spec(package) is None:
        raise Unavailable(f"{label} needs the package {package}: pip install 'deedsr[metrics]'")
    try:
        if not download:
            require(missing_weights(files))
        with quiet(), _tensors_only(), _network(download), _pkg_resources():
            return build()
    except Unavailable as error:
        raise Unavailable(f"{label} {error}") from error
    except Exception as error:  # a third party's constructor, downloads and files: whatever it raises is the reason
        raise Unavailable(f"{label} could not be loaded: {one_line(error)}") from error


def require(missing: list[str]) -> None:
    """Raises Unavailable if anything is missing."""
    if missing:
        raise Unavailable(
            f"needs weights that are not on this machine: {', '.join(missing)}; "
            "allow the download once with `download`, which `deedsr compare` has too, or put the files there"
        )


def one_line(error: Exception) -> str:
    """An error's type and message on one line of at most 200 characters."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 200 else text[:199] + "…"


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Drop what is printed to standard output, warned of or logged."""
    with hushed(logging.CRITICAL), contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def _tensors_only() -> Iterator[None]:
    """Let torch.load read tensors and plain containers only, whatever its caller asks for."""
    before = os.environ.get(_WEIGHTS_ONLY)
    os.environ[_WEIGHTS_ONLY] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[_WEIGHTS_ONLY]
        else:
            os.environ[_WEIGHTS_ONLY] = before


@contextlib.contextmanager
def _network(allowed: bool) -> Iterator[None]:
    """Keep the Hugging Face client from the network unless `allowed`; if so, let no connection hang for ever."""
    from huggingface_hub import constants

    offline, timeout = constants.HF_HUB_OFFLINE, socket.getdefaulttimeout()
    constants.HF_HUB_OFFLINE = offline or not allowed
    socket.setdefaulttimeout(_TIMEOUT)
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = offline
        socket.setdefaulttimeout(timeout)


@contextlib.contextmanager
def _pkg_resources() -> Iterator[None]:
    """A stand-in for the module that setuptools 82 dropped: OpenAI's clip imports ``packaging`` from it."""
    name = "pkg_resources"
    if name in sys.modules or importlib.util.find_spec(name) is not None:
        yield
        return
    stand_in = ModuleType(name)
    importlib.import_module("packaging.version")
    vars(stand_in).update(packaging=sys.modules["packaging"])
    sys.modules[name] = stand_in
    try:
        yield
    finally:
        del sys.modules[name]


def _in_hub_cache(repository: str, file: str) -> bool:
    """Whether the Hugging Face cache holds a file of a repository."""
    from huggingface_hub import try_to_load_from_cache

    return isinstance(try_to_load_from_cache(repository, file), str)
