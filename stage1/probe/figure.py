"""The picture of the probes: degradation vectors in two dimensions."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from matplotlib.figure import Figure

from deedsr.degradation import LEVELS
from stage1.probe.exam import Exam, Reader, principal, read, targets

NAMES = {"blur": "blur σ (HR pixels)", "noise": "noise σ", "jpeg": "JPEG quality", "resize": "resize factor"}
COLOURS = ("tab:green", "tab:orange", "tab:red")


def figure(readers: Mapping[str, Reader], exam: Exam, device: torch.device | str = "cpu") -> Figure:
    """The test pictures' vectors by their two principal components, coloured by level and by each parameter.

    A row of panels for each reader: the first under the whole random degradation by level, the others where that
    parameter alone varies.
    """
    page = Figure(figsize=(3.2 * (1 + len(NAMES)), 3 * len(readers)), layout="constrained")
    axes = page.subplots(len(readers), 1 + len(NAMES), squeeze=False)
    for row, (name, reader) in zip(axes, readers.items(), strict=True):
        row[0].set_ylabel(name)
        x, y = principal(read(reader, exam.pictures["mixed"][exam.fit :], device)).T
        level = exam.drawn["mixed"].level[exam.fit :]
        for number, label in enumerate(LEVELS):
            row[0].scatter(x[level == number], y[level == number], 5, COLOURS[number], label=label)
        row[0].set_title("level")
        row[0].legend(fontsize="small")
        for axis, (single, label) in zip(row[1:], NAMES.items(), strict=True):
            x, y = principal(read(reader, exam.pictures[single][exam.fit :], device)).T
            dots = axis.scatter(x, y, 5, targets(exam.drawn[single])[single][exam.fit :])
            axis.set_title(label)
            page.colorbar(dots, ax=axis)
        for axis in row:
            axis.set(xticks=[], yticks=[])
    return page
