"""Pictures of embeddings: projections, colour groups, what is on the figure."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from fairseq_ecg.plots.embeddings import (
    NONE,
    OTHER,
    SEVERAL,
    check_umap,
    draw_embeddings,
    groups_of,
    has_umap,
    plot_embeddings,
    principal_components,
    umap_projection,
)


@pytest.mark.parametrize(("n", "d"), [(50, 7), (8, 30), (5, 2)])
def test_components_are_those_of_scikit_learn(n, d):
    values = np.random.default_rng(n).normal(size=(n, d)) * np.arange(1, d + 1)
    points, shares = principal_components(values)
    expected = PCA(2).fit(values)
    np.testing.assert_allclose(shares, expected.explained_variance_ratio_, rtol=1e-9)
    np.testing.assert_allclose(np.abs(points), np.abs(expected.transform(values)), atol=1e-9)
    assert np.array_equal(points, principal_components(values)[0])


def test_few_or_equal_vectors_have_components_too():
    for values in (np.ones((4, 3)), np.ones((1, 3)), np.arange(5.0)[:, None]):
        points, shares = principal_components(values)
        assert points.shape == (len(values), 2)
        assert np.isfinite(points).all()
        assert np.isfinite(shares).all()


def test_a_point_has_the_colour_of_its_only_label_if_that_is_common():
    labels = [("a",), ("b",), ("a",), ("c",), (), ("a", "b")]
    groups, names = groups_of(labels, most=2)
    assert groups == ["a", "b", "a", OTHER, NONE, SEVERAL]
    assert names == ["a", "b", SEVERAL, OTHER, NONE]


def test_every_point_is_drawn_once_and_counted_in_the_legend():
    rng = np.random.default_rng(0)
    labels = [[(), ("norm",), ("mi_$1",), ("mi_$1", "norm")][i % 4] for i in range(40)]
    points = rng.normal(size=(40, 2))
    figure = draw_embeddings(points, labels, ("x", "y"), "$title")
    plane = figure.axes[0]
    drawn = np.concatenate([group.get_offsets() for group in plane.collections])
    assert sorted(map(tuple, drawn.tolist())) == sorted(map(tuple, points.tolist()))
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts == [r"mi_\$1 (10)", "norm (10)", f"{SEVERAL} (10)", f"{NONE} (10)"]
    order = [group.get_gid() for group in plane.collections]
    assert order[:2] == [NONE, SEVERAL]  # labels lie on top


def test_without_labels_there_is_no_legend(tmp_path):
    figure = draw_embeddings(np.zeros((3, 2)), [(), (), ()])
    assert not figure.legends
    path = plot_embeddings(np.zeros((3, 2)), [(), (), ()], tmp_path / "p.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="there is none"):
        draw_embeddings(np.zeros((0, 2)), [])


def test_a_missing_umap_is_named_with_the_way_out(monkeypatch):
    monkeypatch.setattr("fairseq_ecg.plots.embeddings.has_umap", lambda: False)
    with pytest.raises(ValueError, match=r"fairseq-ecg\[umap\].*--projection pca"):
        check_umap()


@pytest.mark.skipif(not has_umap(), reason="umap-learn is not installed")
def test_umap_gives_points_of_a_plane():
    rng = np.random.default_rng(0)
    for n in (4, 40):
        assert np.isfinite(umap_projection(rng.normal(size=(n, 5)))).all()
    with pytest.raises(ValueError, match="UMAP needs 4 vectors or more, but there are 3"):
        umap_projection(np.zeros((3, 5)))
