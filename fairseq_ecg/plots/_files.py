"""How a picture reaches the disk: whole or not at all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from fairseq_ecg.data.atomic import replacing

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORMATS = ("png", "pdf", "svg")


def save(figure: Figure, path: str | Path) -> Path:
    """Write a figure under its final name once it is complete.

    Args:
        figure: what to write.
        path: where; the suffix, .png, .pdf or .svg, chooses the format. Folders are made.

    Returns:
        The path.

    Raises:
        ValueError: another suffix.
    """
    path = Path(path)
    kind = path.suffix.lstrip(".").lower()
    if kind not in _FORMATS:
        raise ValueError(
            f"a picture must be named .{', .'.join(_FORMATS)}, but {path.name!r} is not"
        )
    with replacing(path) as file:
        figure.savefig(file, format=kind)
    return path
