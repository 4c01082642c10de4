"""Embeddings as points of a plane, coloured by what the recordings are labelled."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from fairseq_ecg.plots._files import save
from fairseq_ecg.plots._paper import shortened
from fairseq_ecg.plots.curves import COLOURS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SEVERAL, OTHER, NONE = "several labels", "other labels", "no label"
LEAST_OF_UMAP = 4
_GREYS = {SEVERAL: "#8a8a8a", OTHER: "#b4b4b4", NONE: "#d8d8d8"}


def groups_of(
    labels: Sequence[Sequence[str]], most: int = len(COLOURS)
) -> tuple[list[str], list[str]]:
    """Name a colour group for each point: its label, if it has one only and that is a common one.

    Args:
        labels: Labels of each point.
        most: How many labels get a group of their own, the most frequent ones.

    Returns:
        The group of each point, and the names of the groups in the order of the legend.
    """
    alone = [one[0] for one in labels if len(one) == 1]
    names, counts = np.unique(np.array(alone, dtype=object), return_counts=True)
    kept = names[np.argsort(-counts, kind="stable")][:most].tolist()
    groups = []
    for one in labels:
        if len(one) == 1:
            groups.append(one[0] if one[0] in kept else OTHER)
        else:
            groups.append(SEVERAL if one else NONE)
    return groups, [*kept, *(name for name in _GREYS if name in groups)]


def principal_components(
    values: NDArray[np.floating], n: int = 2
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Project vectors onto the directions in which they differ most.

    Args:
        values: float [N, D].
        n: How many directions.

    Returns:
        The projections, float64 [N, n], 0 beyond the directions there are; and the share of the
        variance that each holds, float64 [n].
    """
    centred = np.asarray(values, dtype=np.float64)
    centred = centred - centred.mean(axis=0)
    left, sizes, right = np.linalg.svd(centred, full_matrices=False)
    # A direction and its opposite are the same; the larger part shall point up.
    signs = np.sign(right[np.arange(len(right)), np.abs(right).argmax(axis=1)])
    known = min(n, len(sizes))
    projected, shares = np.zeros((len(centred), n)), np.zeros(n)
    projected[:, :known] = left[:, :known] * (sizes * signs)[:known]
    total = (sizes**2).sum()
    shares[:known] = sizes[:known] ** 2 / total if total else 0
    return projected, shares


def umap_projection(values: NDArray[np.floating], seed: int = 0) -> NDArray[np.floating]:
    """Project vectors onto a plane with UMAP (McInnes et al. 2018, arXiv 1802.03426).

    Args:
        values: float [N, D], four vectors or more.
        seed: Of the projection.

    Returns:
        float [N, 2].

    Raises:
        ValueError: If the package umap-learn is not installed, or there are fewer vectors.
    """
    check_umap()
    if len(values) < LEAST_OF_UMAP:
        raise ValueError(
            f"UMAP needs {LEAST_OF_UMAP} vectors or more, but there are {len(values)}; take "
            "principal components (--projection pca)"
        )
    import umap

    neighbours = min(15, len(values) - 1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a seed leaves it one thread
        return np.asarray(umap.UMAP(neighbours, random_state=seed).fit_transform(values))


def check_umap() -> None:
    """Refuse to go on without the package umap-learn.

    Raises:
        ValueError: With the way out.
    """
    if not has_umap():
        raise ValueError(
            "a UMAP picture needs the package umap-learn: pip install 'fairseq-ecg[umap]'; or take "
            "principal components (--projection pca)"
        )


def has_umap() -> bool:
    """Tell whether the package umap-learn is installed."""
    from importlib.util import find_spec

    return find_spec("umap") is not None


def plot_embeddings(
    points: NDArray[np.floating],
    labels: Sequence[Sequence[str]],
    path: str | Path,
    axes: tuple[str, str] = ("", ""),
    title: str | None = None,
    dpi: int = 120,
) -> Path:
    """Draw points coloured by label.

    Args:
        points: finite, [N, 2].
        labels: labels of each point, [N]; none at all: one colour, no legend.
        path: the picture, .png, .pdf or .svg.
        axes: what lies to the right and upwards.
        title: one line above.
        dpi: pixels per inch of a .png.

    Returns:
        The path.

    Raises:
        ValueError: there is no point, or the suffix of `path` is unknown.
    """
    return save(draw_embeddings(points, labels, axes, title, dpi), path)


def draw_embeddings(
    points: NDArray[np.floating],
    labels: Sequence[Sequence[str]],
    axes: tuple[str, str] = ("", ""),
    title: str | None = None,
    dpi: int = 120,
) -> Figure:
    """Return the figure that `plot_embeddings` saves; points of rare labels lie on top."""
    from matplotlib.figure import Figure

    if not len(points):
        raise ValueError("there must be a point to draw, but there is none")
    groups, names = groups_of(labels)
    figure = Figure(figsize=(7.2, 6.0), dpi=dpi, facecolor="white", layout="constrained")
    plane = figure.subplots()
    size = float(np.clip(4000 / len(points), 3, 30))
    places = np.array(groups, dtype=object)
    alone = [name for name in names if name not in _GREYS]
    for name in [*(name for name in names[::-1] if name in _GREYS), *alone]:
        of = places == name
        grey = _GREYS.get(name)
        plane.scatter(
            *points[of].T,
            s=size,
            c=COLOURS[names.index(name)] if grey is None else grey,
            alpha=0.75,
            linewidths=0,
            label=f"{shortened(name, 28)} ({int(of.sum())})",
            gid=name,
        )
    plane.set(xlabel=axes[0], ylabel=axes[1], xticks=[], yticks=[])
    plane.spines[["top", "right"]].set_visible(False)
    if title:
        plane.set_title(title.replace("$", r"\$"), fontsize=11)
    if names != [NONE]:
        drawn = {handle.get_gid(): handle for handle in plane.collections}
        figure.legend(
            handles=[drawn[name] for name in names],
            loc="outside right upper",
            frameon=False,
            fontsize=9,
            markerscale=max(1.0, (24 / size) ** 0.5),
        )
    return figure
