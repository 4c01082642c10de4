"""Label-efficiency curves: means, ranges and what has no value."""

import numpy as np
import pytest

from fairseq_ecg.plots.label_efficiency import draw_label_efficiency, plot_label_efficiency

CURVES = {
    "encoder_$1": {0.01: np.array([0.5, 0.7]), 0.1: np.array([0.8, 0.9]), 1.0: np.array([0.95])},
    "random": {0.01: np.array([np.nan, 0.6]), 0.1: np.array([np.nan]), 1.0: np.array([0.9])},
}


def test_each_head_has_a_panel_and_each_features_a_curve_of_means():
    figure = draw_label_efficiency({"linear": CURVES, "knn": {"random": CURVES["random"]}})
    left, right = figure.axes
    assert (left.get_title(), right.get_title()) == ("linear", "knn")
    first, second = left.containers
    assert np.allclose(first.lines[0].get_ydata(), [0.6, 0.85, 0.95])
    assert np.allclose(second.lines[0].get_ydata(), [0.6, 0.9])  # without a value: left out
    low, high = (np.array(line.get_ydata()) for line in first.lines[1])
    assert np.allclose(low, [0.5, 0.8, 0.95])
    assert np.allclose(high, [0.7, 0.9, 0.95])
    shares = np.array([0.01, 0.1, 1.0])
    assert np.allclose(first.lines[0].get_xdata(), shares, rtol=0.05)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        r"encoder_\$1",
        "random",
    ]
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["1", "10", "100"]
    assert len(right.containers) == 1


def test_a_picture_is_written_and_nothing_is_refused(tmp_path):
    path = plot_label_efficiency({"linear": CURVES}, tmp_path / "p.png", y="AUROC")
    assert path.read_bytes().startswith(b"\x89PNG")
    for nothing in ({}, {"linear": {"a": {1.0: np.array([np.nan])}}}):
        with pytest.raises(ValueError, match="there is none"):
            draw_label_efficiency(nothing)
