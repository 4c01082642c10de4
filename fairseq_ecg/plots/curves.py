"""Curves of one or more runs: any logged value over any other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from fairseq_ecg.plots._files import save
from fairseq_ecg.plots._rows import Rows, check_keys, points

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colour-blind safe (Okabe and Ito 2008); further runs repeat them.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
_DASHES: tuple[Literal["-", "--", ":", "-."], ...] = ("-", "--", ":", "-.")
_MARKED_UP_TO = 40


def plot_curves(
    runs: Mapping[str, Rows],
    path: str | Path,
    y: str | Sequence[str | Sequence[str]] = "train_loss",
    x: str = "num_updates",
    title: str | None = None,
    log_y: bool = False,
    dpi: int = 120,
) -> Path:
    """Draw logged values of one or more runs.

    Args:
        runs: name of the run to its rows, each what was logged at one time. Values may be numbers
            or their text, as fairseq's JSON log has them. Rows that lack a value, or have one that
            is not finite, are left out of that curve.
        path: the picture, .png, .pdf or .svg.
        y: the key to draw; several give a panel each, and an item that is itself a sequence
            (`("train_loss", "valid_loss")`) puts its keys into one panel, told apart by dashes.
        x: the key of the horizontal axis.
        title: one line above the panels.
        log_y: logarithmic vertical axes.
        dpi: pixels per inch of a .png.

    Returns:
        The path.

    Raises:
        ValueError: there is no run, a key occurs in no row of any run, or the suffix of `path` is
            unknown.
    """
    return save(draw_curves(runs, y, x, title, log_y, dpi), path)


def draw_curves(
    runs: Mapping[str, Rows],
    y: str | Sequence[str | Sequence[str]] = "train_loss",
    x: str = "num_updates",
    title: str | None = None,
    log_y: bool = False,
    dpi: int = 120,
) -> Figure:
    """Return the figure that `plot_curves` saves."""
    from matplotlib.figure import Figure

    if not runs:
        raise ValueError("there must be at least one run to draw, but there is none")
    panels = _panels(y)
    check_keys(runs, [x, *(key for keys in panels for key in keys)])
    columns = 1 if len(panels) == 1 else 2
    rows = -(-len(panels) // columns)
    size = (7.2 if columns == 1 else 11.5, 0.9 + 3.4 * rows)
    figure = Figure(figsize=size, dpi=dpi, facecolor="white", layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes, keys in zip(grid.flat, panels, strict=False):
        _draw_panel(axes, runs, keys, x, log_y)
    if title:
        figure.suptitle(title.replace("$", r"\$"), fontsize=12)
    _add_legend(figure, list(runs), panels)
    return figure


def _panels(y: str | Sequence[str | Sequence[str]]) -> list[tuple[str, ...]]:
    items = [y] if isinstance(y, str) else list(y)
    panels = [(item,) if isinstance(item, str) else tuple(item) for item in items]
    if not panels or not all(panels):
        raise ValueError(f"y must name at least one key for each panel, but is {y!r}")
    return panels


def _draw_panel(
    axes: Axes, runs: Mapping[str, Rows], keys: tuple[str, ...], x: str, log_y: bool
) -> None:
    for run, rows in enumerate(runs.values()):
        for number, key in enumerate(keys):
            curve = points(rows, x, key)
            axes.plot(
                curve[:, 0],
                curve[:, 1],
                color=COLOURS[run % len(COLOURS)],
                linestyle=_DASHES[number % len(_DASHES)],
                linewidth=1.5,
                marker="o" if len(curve) <= _MARKED_UP_TO else "",
                markersize=3,
                gid=key,
            )
    if log_y:
        axes.set_yscale("log")
    axes.set_xlabel(x.replace("_", " "))
    axes.set_ylabel(", ".join(keys).replace("_", " "))
    axes.grid(color="#e4e4e4", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _add_legend(figure: Figure, names: Sequence[str], panels: Sequence[tuple[str, ...]]) -> None:
    """Name the runs by colour and, where a panel has several keys, the keys by dashes."""
    from matplotlib.lines import Line2D

    handles = []
    if len(names) > 1:
        for number, name in enumerate(names):
            colour = COLOURS[number % len(COLOURS)]
            handles.append(Line2D([], [], color=colour, label=name.replace("$", r"\$")))
    most = max(panels, key=len)
    if len(most) > 1:
        for number, keys in enumerate(
            zip(*(p for p in panels if len(p) == len(most)), strict=True)
        ):
            label = ", ".join(dict.fromkeys(keys)).replace("_", " ")
            dash = _DASHES[number % len(_DASHES)]
            handles.append(Line2D([], [], color="#555555", linestyle=dash, label=label))
    if handles:
        figure.legend(
            handles=handles, loc="outside lower center", ncols=min(len(handles), 4), frameon=False
        )
