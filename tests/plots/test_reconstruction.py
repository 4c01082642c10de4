import numpy as np
import pytest

from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import STANDARD_DEVIATIONS, EcgSignal
from fairseq_ecg.plots.reconstruction import draw_reconstruction, plot_reconstruction


def signal(n=1000, rate_hz=100.0, leads=STANDARD_LEADS):
    values = 0.01 * np.random.default_rng(0).normal(size=(len(leads), n)).astype(np.float32)
    values[:, 300:303] += 1.0  # a beat
    return EcgSignal(values, rate_hz, tuple(leads))


def hidden_of(original, *spans):
    hidden = np.zeros(original.values_mv.shape, dtype=bool)
    for start, stop in spans:
        hidden[:, start:stop] = True
    return hidden


def lines(axes):
    return {line.get_gid(): line.get_xydata() for line in axes.lines}


def spans(axes, lead):
    """Return the shaded spans of a lead, in mm."""
    found = [p for p in axes.patches if p.get_gid() == f"hidden {lead}"]
    return [(p.get_x(), p.get_x() + p.get_width()) for p in found]


def test_what_was_hidden_is_shaded_lead_by_lead_in_millimetres_of_25_per_second():
    original = signal()
    hidden = hidden_of(original, (100, 200), (200, 250), (900, 1000))
    hidden[3] = False
    (axes,) = draw_reconstruction(original, original.values_mv, hidden).axes
    for lead in STANDARD_LEADS:
        expected = [] if lead == "aVR" else [(24.875, 62.375), (224.875, 249.875)]
        assert spans(axes, lead) == [pytest.approx(span) for span in expected]


def test_the_reconstruction_is_drawn_only_where_it_was_hidden_and_on_the_line_of_its_lead():
    original = signal()
    hidden = hidden_of(original, (100, 200))
    made = original.values_mv + np.float32(0.25)
    (axes,) = draw_reconstruction(original, made, hidden).axes
    for lead in STANDARD_LEADS:
        there, seen, found = (lines(axes)[f"{n} {lead}"] for n in ("original", "seen", "made"))
        assert np.isfinite(found[:, 1]).nonzero()[0].tolist() == list(range(100, 200))
        np.testing.assert_allclose(found[100:200, 1] - there[100:200, 1], 2.5, atol=1e-4)
        assert np.isnan(there[:100, 1]).all()
        # One sample more on each side of an edge, so that the courses touch.
        assert np.isfinite(seen[100, 1])
        assert np.isnan(seen[101:200, 1]).all()
        assert np.isfinite(there[200, 1])
        assert np.isnan(there[201:, 1]).all()


def test_no_lead_runs_into_another_and_all_are_on_the_paper():
    original = signal()
    original.values_mv[5, 500] = 2.0
    original.values_mv[6, 510] = -2.0
    hidden = hidden_of(original, (0, 50))
    (axes,) = draw_reconstruction(original, original.values_mv, hidden).axes
    lows, highs = [], []
    for lead in STANDARD_LEADS:
        values = np.concatenate([lines(axes)[f"{n} {lead}"][:, 1] for n in ("seen", "original")])
        lows.append(np.nanmin(values))
        highs.append(np.nanmax(values))
    assert (np.array(lows[:-1]) > np.array(highs[1:])).all()  # from the top down
    assert min(lows) >= 0
    assert max(highs) <= axes.get_ylim()[1]


def test_a_reconstruction_without_measure_does_not_blow_up_the_paper():
    original = signal()
    hidden = hidden_of(original, (100, 200))
    (usual,) = draw_reconstruction(original, original.values_mv, hidden).axes
    wild = draw_reconstruction(original, 1000 * original.values_mv, hidden)
    assert wild.axes[0].get_ylim()[1] < usual.get_ylim()[1] + 12 * 2 * 8 + 5
    assert lines(wild.axes[0])["made I"].shape == (1000, 2)
    courses = [line for line in wild.axes[0].lines if line.get_gid()]
    assert max(line.get_clip_box().height for line in courses) < wild.bbox.height / 4


def test_a_lead_that_is_larger_than_its_room_says_so():
    original = signal()
    original.values_mv[1, 100] = 9.0
    (axes,) = draw_reconstruction(original, original.values_mv, hidden_of(original, (0, 9))).axes
    assert [t.get_text() for t in axes.texts].count("off scale") == 1


@pytest.mark.parametrize("seconds", [3.04, 5, 10, 10.24, 30])
def test_texts_stand_apart_and_inside_the_picture(seconds):
    original = signal(n=round(100 * seconds))
    hidden = hidden_of(original, (100, 200))
    note = "ecg_uresnet, 25 % hidden " * 4
    figure = draw_reconstruction(original, original.values_mv, hidden, "record $x " * 9, note)
    figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in figure.axes[0].texts]
    boxes.append(figure.legends[0].get_window_extent())
    for i, box in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= figure.bbox.width
        assert 0 <= box.y0 < box.y1 <= figure.bbox.height
        assert not any(box.overlaps(other) for other in boxes[i + 1 :])


@pytest.mark.parametrize(
    ("start_s", "samples", "expected"),
    [
        (0.0, 250, {"0 s": 0.0, "1": 25.0, "2": 50.0}),
        (2.5, 200, {"3 s": 12.5, "4": 37.5}),
        (7.0, 100, {"7 s": 0.0, "8": 25.0}),
        (2.2, 50, {"2.2 s": 0.0}),
    ],
)
def test_seconds_are_those_of_the_recording(start_s, samples, expected):
    original = signal(n=300)
    part = EcgSignal(original.values_mv[:, :samples], 100.0, original.leads)
    hidden = hidden_of(part, (0, 20))
    (axes,) = draw_reconstruction(part, part.values_mv, hidden, start_s=start_s).axes
    texts = {t.get_text(): t.get_position()[0] for t in axes.texts if t.get_position()[1] == -1.8}
    assert texts == pytest.approx(expected)


def test_a_unit_that_is_no_millivolt_is_said():
    original = signal()
    hidden = hidden_of(original, (100, 200))
    texts = [
        [t.get_text() for t in draw_reconstruction(original, original.values_mv, hidden, unit=u)
         .axes[0].texts][-1]
        for u in ("mV", STANDARD_DEVIATIONS)
    ]  # fmt: skip
    assert "10 mm/mV" in texts[0]
    assert "10 mm/unit" in texts[1]
    assert "standard deviations" in texts[1]


def test_shapes_must_be_one(tmp_path):
    original = signal()
    with pytest.raises(ValueError, match=r"one shape, but have \(12, 1000\), \(12, 999\)"):
        draw_reconstruction(original, original.values_mv[:, 1:], hidden_of(original, (100, 200)))


@pytest.mark.parametrize("shape", [(1, 30), (2, 2), (1, 1)])
def test_small_recordings_are_written_whole(shape, tmp_path):
    original = EcgSignal(np.ones(shape, dtype=np.float32), 10.0, ("I", "II")[: shape[0]])
    hidden = np.ones(shape, dtype=bool)
    path = plot_reconstruction(original, original.values_mv, hidden, tmp_path / "new/x.png", "x")
    assert path.stat().st_size > 3000
    assert [p.name for p in path.parent.iterdir()] == ["x.png"]
