import numpy as np
import pytest
from matplotlib.container import ErrorbarContainer

from fairseq_ecg.plots.spread import draw_spread, plot_spread

RUNS = [
    {"epoch": "1", "valid_f1": "0.25"},
    {"epoch": 2, "valid_f1": 0.5},
    {"epoch": 1, "valid_f1": 0.75},
    {"epoch": 2, "valid_f1": "nan"},
    {"epoch": 3, "train_f1": 0.9},
]


def means(axes):
    return [line.get_xydata().tolist() for line in axes.lines]


def test_a_line_is_the_mean_of_the_runs_and_the_area_their_range():
    (axes,) = draw_spread({"a": RUNS}, "valid_f1", "epoch").axes
    assert means(axes) == [[[1, 0.5], [2, 0.5]]]
    (area,) = axes.collections
    corners = {tuple(point) for point in area.get_paths()[0].vertices}
    assert corners >= {(1, 0.25), (1, 0.75), (2, 0.5)}
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "valid f1")


def test_bars_are_the_sample_deviation_and_a_single_run_has_none():
    (axes,) = draw_spread({"a": RUNS}, "valid_f1", "epoch", "deviation").axes
    (bars,) = (c for c in axes.containers if isinstance(c, ErrorbarContainer))
    ends = [segment[:, 1] for segment in bars[2][0].get_segments()]
    deviation = np.std([0.25, 0.75], ddof=1)
    np.testing.assert_allclose(ends[0], [0.5 - deviation, 0.5 + deviation])
    np.testing.assert_allclose(ends[1], [0.5, 0.5])


def test_a_level_is_a_dashed_line_with_a_band_across_the_panel():
    figure = draw_spread({"a": RUNS}, "valid_f1", "epoch", levels={"random": [0.2, 0.4]})
    (axes,) = figure.axes
    level = axes.lines[0]
    assert level.get_linestyle() == "--"
    np.testing.assert_allclose(level.get_ydata(), 0.3)
    band = axes.patches[0].get_extents().transformed(axes.transData.inverted())
    deviation = np.std([0.2, 0.4], ddof=1)
    assert (band.y0, band.y1) == (pytest.approx(0.3 - deviation), pytest.approx(0.3 + deviation))
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["random", "a"]
    assert level.get_color() != axes.lines[1].get_color()


def test_one_line_needs_no_legend():
    assert not draw_spread({"a": RUNS}, "valid_f1", "epoch").legends


def test_a_logarithmic_axis_has_a_tick_at_each_point():
    rows = [{"patients": n, "f1": 0.5} for n in (105, 1045, 10450)]
    (axes,) = draw_spread({"a": rows}, "f1", "patients", log_x=True).axes
    assert axes.get_xscale() == "log"
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["105", "1,045", "10,450"]
    many = [{"patients": n, "f1": 0.5} for n in range(1, 100)]
    (axes,) = draw_spread({"a": many}, "f1", "patients", log_x=True).axes
    assert len(axes.get_xticks()) < 20


def test_levels_alone_can_be_drawn():
    (axes,) = draw_spread({}, "f1", "patients", levels={"random": [0.5]}).axes
    assert len(axes.lines) == 1


@pytest.mark.parametrize(
    ("series", "levels", "message"),
    [
        ({}, None, "at least one line"),
        ({"a": RUNS}, {"random": []}, "random has no values"),
        ({"a": [{"epoch": 1, "valid_f2": 1}]}, None, "key 'valid_f1'; near: valid_f2"),
    ],
)
def test_what_cannot_be_drawn_is_refused(series, levels, message):
    with pytest.raises(ValueError, match=message):
        draw_spread(series, "valid_f1", "epoch", levels=levels)


def test_the_picture_is_written(tmp_path):
    path = plot_spread({"costs $5": RUNS}, tmp_path / "new" / "a.svg", "valid_f1", "epoch")
    assert path.read_text().startswith("<?xml")
