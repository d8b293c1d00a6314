"""The library's messages in the command line's words."""

from __future__ import annotations

import re

_SHORT = {"output": "-o", "tile": "-t"}
_FLAGS = (
    "output|suffix|ext|dtype|device|runtime|tile|frames|overwrite|download|with_base|merge|onnx|replace_card|captions?|"
    "negative|embeddings|compile|seed|spacing|low_memory"
)
_QUOTED = re.compile(rf"`({_FLAGS})(?:='?(\w+)'?)?`|`\.(\w+)`")


def in_flags(message: str) -> str:
    """`message` with the flags of arguments that it quotes, ``ext='png'`` and the extension ``.png`` as ``--ext png``.

    In what the library advises, an argument that a flag sets stands between backquotes, with or without a value.
    """

    def flag(found: re.Match[str]) -> str:
        name, value, extension = found.groups()
        if extension:
            return f"--ext {extension}"
        return f"{_SHORT.get(name) or '--' + name.replace('_', '-')} {value or ''}".rstrip()

    return _QUOTED.sub(flag, message)
