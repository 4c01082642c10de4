import numpy as np
import pytest

from fairseq_ecg.plots.confusion import (
    draw_confusion,
    draw_cooccurrence,
    plot_confusion,
    plot_cooccurrence,
)


def cells(axes):
    return [text.get_text() for text in axes.texts]


def shares(axes):
    return axes.images[0].get_array()


def test_counts_are_written_and_colours_are_shares_of_the_row():
    counts = np.array([[8, 2], [0, 0]])
    (axes,) = draw_confusion(counts, ["a$", "b"]).axes
    assert cells(axes) == ["8", "2", "0", "0"]
    np.testing.assert_allclose(shares(axes)[0], [0.8, 0.2])
    assert shares(axes).mask[1].all()  # a class that is never true has no share
    assert [label.get_text() for label in axes.get_yticklabels()] == [r"a\$ (10)", "b (0)"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("answered", "true")


def test_what_is_true_together_stands_beside_what_is_decided_there():
    truth = np.array([[1, 1], [1, 0], [1, 0], [1, 0]], dtype=bool)
    decided = np.array([[0, 1], [1, 1], [1, 0], [1, 0]], dtype=bool)
    left, right = draw_cooccurrence(truth, decided, ["a", "b"]).axes
    np.testing.assert_allclose(shares(left), [[1, 0.25], [1, 1]])
    np.testing.assert_allclose(shares(right), [[0.75, 0.5], [0, 1]])
    assert cells(right) == ["75", "50", "0", "100"]


@pytest.mark.parametrize("n", [1, 20])
def test_any_number_of_classes_is_drawn(tmp_path, n):
    truth = np.eye(n, dtype=bool)
    names = [f"class {k}" for k in range(n)]
    (axes,) = draw_confusion(truth.astype(int), names).axes
    assert len(cells(axes)) == (1 if n == 1 else 0)
    for path in (
        plot_confusion(truth.astype(int), names, tmp_path / "a.png"),
        plot_cooccurrence(truth, truth, names, tmp_path / "b.png"),
    ):
        assert path.read_bytes()[1:4] == b"PNG"
