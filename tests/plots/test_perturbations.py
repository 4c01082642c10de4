import numpy as np
import pytest

from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.plots.perturbations import LEADS, draw_perturbation, plot_perturbation


def signal(leads=STANDARD_LEADS, n=500, rate_hz=100.0):
    values = 0.01 * np.random.default_rng(0).normal(size=(len(leads), n)).astype(np.float32)
    values[:, 300:303] += 1.0  # a beat
    return EcgSignal(values, rate_hz, tuple(leads))


def shifted(before, by=0.3):
    return EcgSignal(before.values_mv + np.float32(by), before.rate_hz, before.leads)


def drawn(axes):
    return {line.get_gid(): line.get_xydata() for line in axes.lines}


def test_each_lead_has_a_row_with_both_courses_in_seconds_and_mv():
    before = signal()
    after = shifted(before)
    figure = draw_perturbation(before, after)
    assert len(figure.axes) == 2 * len(LEADS)
    for row, lead in enumerate(LEADS):
        axes = figure.axes[2 * row]
        index = STANDARD_LEADS.index(lead)
        assert lead in [text.get_text() for text in axes.texts]
        for gid, of in (("before", before), ("after", after)):
            np.testing.assert_allclose(drawn(axes)[gid][:, 0], np.arange(500) / 100)
            np.testing.assert_allclose(drawn(axes)[gid][:, 1], of.values_mv[index])
    assert figure.axes[-2].get_xlabel() == "s"
    assert "mV" in [text.get_text() for text in figure.axes[0].texts]


def test_the_close_up_shows_a_beat_where_the_perturbation_is():
    before = signal()
    before.values_mv[:, 100:103] += 1.0
    after = EcgSignal(before.values_mv.copy(), 100.0, STANDARD_LEADS)
    after.values_mv[:, 280:320] += 0.2
    figure = draw_perturbation(before, after)
    seconds = drawn(figure.axes[1])["before"][:, 0]
    assert seconds[0] < 3.0 < seconds[-1]
    assert seconds[-1] - seconds[0] == pytest.approx(0.59, abs=0.02)


def test_all_leads_have_the_same_scale_and_everything_fits():
    before = signal()
    before.values_mv[0] *= 0.1
    figure = draw_perturbation(before, shifted(before, 2.0))
    heights = [np.diff(axes.get_ylim())[0] for axes in figure.axes]
    assert heights == pytest.approx([heights[0]] * len(heights))
    for axes in figure.axes:
        low, high = axes.get_ylim()
        for points in drawn(axes).values():
            assert low <= points[:, 1].min() <= points[:, 1].max() <= high


def test_leads_can_be_chosen_and_others_than_the_standard_ones_be_drawn():
    assert len(draw_perturbation(signal(), signal(), leads=["V6"]).axes) == 2
    odd = signal(("MLII", "V9"))
    assert len(draw_perturbation(odd, shifted(odd)).axes) == 4


def test_long_names_stand_beside_the_axes():
    long = signal(("permutation", "noise"))
    figure = draw_perturbation(long, shifted(long))
    figure.draw_without_rendering()
    for axes in figure.axes[::2]:
        name = next(text for text in axes.texts if text.get_text() in long.leads)
        assert name.get_window_extent().x0 >= 0
        left = min(label.get_window_extent().x0 for label in axes.get_yticklabels())
        assert name.get_window_extent().x1 < left


def test_a_recording_of_one_sample_can_be_drawn():
    assert draw_perturbation(signal(n=304), signal(n=304)).axes
    tiny = EcgSignal(np.ones((1, 1), dtype=np.float32), 100.0, ("I",))
    assert draw_perturbation(tiny, shifted(tiny)).axes


def test_title_values_and_legend_stand_apart():
    values = "max_amplitude 0.1 mV,  " * 5
    figure = draw_perturbation(signal(), signal(), "baseline_wander $x", values)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.texts]
    boxes.append(figure.legends[0].get_window_extent())
    assert len(boxes) == 3
    for i, box in enumerate(boxes):
        assert box.y0 > figure.axes[0].get_window_extent().y1
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])


@pytest.mark.parametrize(
    "after", [signal(n=499), signal(rate_hz=200.0), signal(STANDARD_LEADS[::-1])]
)
def test_two_recordings_that_are_not_one_are_refused(after):
    with pytest.raises(ValueError, match="before and after must be one recording"):
        draw_perturbation(signal(), after)


@pytest.mark.parametrize("leads", [["V9"], []])
def test_leads_that_are_not_there_are_refused(leads):
    with pytest.raises(ValueError, match="leads must be some of I, II, III"):
        draw_perturbation(signal(), signal(), leads=leads)


def test_the_picture_is_written_whole(tmp_path):
    path = plot_perturbation(signal(), shifted(signal()), tmp_path / "new/x.png", "x", dpi=50)
    assert path.stat().st_size > 3000
    assert [p.name for p in path.parent.iterdir()] == ["x.png"]
