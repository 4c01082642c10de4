import numpy as np
import pytest

from fairseq_ecg.plots.curves import draw_curves, plot_curves

ROWS = [
    {"num_updates": "20", "train_loss": "1.5", "valid_auc": None},
    {"num_updates": 10, "train_loss": 2.5, "valid_auc": 0.6},
    {"num_updates": 30, "train_loss": float("nan"), "valid_auc": 0.7},
    {"num_updates": 40, "train_loss": "inf"},
    {"epoch": 1, "train_loss": 9},
]


def lines(figure, panel=0):
    return [line.get_xydata().tolist() for line in figure.axes[panel].lines]


def test_text_is_read_rows_are_ordered_and_undefined_values_left_out():
    assert lines(draw_curves({"a": ROWS})) == [[[10, 2.5], [20, 1.5]]]
    assert lines(draw_curves({"a": ROWS}, y="valid_auc")) == [[[10, 0.6], [30, 0.7]]]


def test_each_key_gets_a_panel_and_joined_keys_share_one():
    figure = draw_curves({"a": ROWS, "b": ROWS[:2]}, [("train_loss", "valid_auc"), "valid_auc"])
    assert [len(axes.lines) for axes in figure.axes] == [4, 2]
    first, second = figure.axes[0].lines[0], figure.axes[0].lines[1]
    assert first.get_color() == second.get_color()
    assert first.get_linestyle() != second.get_linestyle()
    assert figure.axes[0].lines[2].get_color() != first.get_color()
    (legend,) = figure.legends
    names = [text.get_text() for text in legend.get_texts()]
    assert names == ["a", "b", "train loss", "valid auc"]
    assert figure.axes[0].get_ylabel() == "train loss, valid auc"
    assert figure.axes[1].get_xlabel() == "num updates"


def test_a_single_curve_needs_no_legend():
    assert not draw_curves({"a": ROWS}).legends


def test_an_odd_number_of_panels_leaves_the_last_place_empty():
    figure = draw_curves({"a": ROWS}, ["train_loss", "valid_auc", "num_updates"])
    assert [axes.axison for axes in figure.axes] == [True, True, True, False]


def test_a_run_without_the_value_is_an_empty_curve_next_to_the_others():
    assert lines(draw_curves({"a": ROWS, "b": []})) == [[[10, 2.5], [20, 1.5]], []]


def test_legend_and_panels_do_not_overlap():
    runs = {f"run number {n} with a long name": ROWS for n in range(7)}
    figure = draw_curves(runs, [("train_loss", "valid_auc"), "valid_auc", "train_loss"], title="t")
    figure.draw_without_rendering()
    legend = figure.legends[0].get_window_extent()
    assert 0 <= legend.x0 < legend.x1 <= figure.bbox.width
    for axes in figure.axes[:3]:
        assert not axes.get_tightbbox().overlaps(legend)


def test_a_logarithmic_axis_can_be_asked_for():
    assert draw_curves({"a": ROWS}, log_y=True).axes[0].get_yscale() == "log"


def test_unknown_keys_are_refused_with_near_ones():
    with pytest.raises(ValueError, match="'train_los'.*train_loss"):
        draw_curves({"a": ROWS}, y="train_los")
    with pytest.raises(ValueError, match="'updates'"):
        draw_curves({"a": ROWS}, x="updates")
    with pytest.raises(ValueError, match="at least one run"):
        draw_curves({})
    for y in ([], [()]):
        with pytest.raises(ValueError, match="at least one key"):
            draw_curves({"a": ROWS}, y=y)


def test_the_picture_is_written_whole(tmp_path):
    many = [{"num_updates": n, "train_loss": np.exp(-n / 50)} for n in range(200)]
    path = plot_curves({"a $x$ b": many, "b": ROWS}, tmp_path / "new/curves.png", title="a $t")
    assert path.stat().st_size > 5000
    assert [p.name for p in path.parent.iterdir()] == ["curves.png"]
