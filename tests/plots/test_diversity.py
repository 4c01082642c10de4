import numpy as np
import pytest

from fairseq_ecg.plots.diversity import draw_diversity, plot_diversity

ARMS = {"scratch": [(0.90, 1.2), (0.91, 1.0), (0.92, np.nan)], "pre $trained$": [(0.93, 0.8)]}


def test_every_pair_is_a_point_and_an_arm_has_its_own_mark():
    figure = draw_diversity(ARMS, title="$5")
    (axes,) = figure.axes
    offsets = [marks.get_offsets().data.tolist() for marks in axes.collections]
    assert offsets == [[[0.90, 1.2], [0.91, 1.0]], [[0.905, 1.1]], [[0.93, 0.8]]]
    first, _, other = axes.collections
    assert first.get_facecolor().tolist() != other.get_facecolor().tolist()
    assert len(first.get_paths()[0].vertices) != len(other.get_paths()[0].vertices)
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["scratch", r"pre \$trained\$"]


def test_a_single_arm_needs_no_legend_and_no_mean_of_one_pair():
    figure = draw_diversity({"a": [(0.5, 1.0)]})
    assert not figure.legends
    assert len(figure.axes[0].collections) == 1


def test_the_picture_is_written(tmp_path):
    path = plot_diversity(ARMS, tmp_path / "new" / "plane.png")
    assert path.read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="a picture must be named"):
        plot_diversity(ARMS, tmp_path / "plane.txt")


@pytest.mark.parametrize("arms", [{}, {"a": []}, {"a": [(0.9, np.nan)]}])
def test_nothing_to_draw_is_refused(arms):
    with pytest.raises(ValueError, match="there must be a pair of models"):
        draw_diversity(arms)
