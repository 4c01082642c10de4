import numpy as np
import pytest
from matplotlib.colors import to_rgb

from fairseq_ecg.corpora.synthetic import simulate
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.plots.ecg_paper import Underlay, draw_ecg, plot_ecg


def ramp(duration_s, rate_hz=500, leads=STANDARD_LEADS):
    """Every lead rises by 1 mV per second, so that a trace tells its own time."""
    time = np.arange(round(duration_s * rate_hz)) / rate_hz
    return EcgSignal(np.tile(time.astype(np.float32), (len(leads), 1)), rate_hz, leads)


def traces(figure):
    """Lead name to the drawn lines, in millimetres, [N, 2] each."""
    found = {}
    for line in figure.axes[0].lines:
        if (line.get_gid() or "").startswith("lead "):
            found.setdefault(line.get_gid().removeprefix("lead "), []).append(line.get_xydata())
    return found


def words(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts]


@pytest.mark.parametrize("rate_hz", [100, 257, 500, 1000])
def test_a_second_is_25_mm_and_a_millivolt_10_mm_on_the_printed_sheet(rate_hz):
    figure = draw_ecg(ramp(10, rate_hz))
    (x, y), *_ = (np.ptp(line, axis=0) for line in traces(figure)["V4"])
    assert x == pytest.approx(2.5 * 25, abs=2 * 25 / rate_hz)
    assert y == pytest.approx(x / 25 * 10, rel=1e-6)
    axes = figure.axes[0]
    inch = figure.dpi
    one_mm = np.diff(axes.transData.transform([[0, 0], [1, 1]]), axis=0)[0]
    np.testing.assert_allclose(one_mm, inch / 25.4, rtol=1e-6)


def test_the_twelve_leads_stand_in_the_classic_order_and_are_continuous_in_time():
    found = traces(draw_ecg(ramp(10)))
    assert set(found) == set(STANDARD_LEADS)
    assert len(found["II"]) == 2
    columns = [("I", "II", "III"), ("aVR", "aVL", "aVF"), ("V1", "V2", "V3"), ("V4", "V5", "V6")]
    for column, leads in enumerate(columns):
        for lead in leads:
            assert found[lead][0][0, 0] == pytest.approx(12 + column * 62.5)
        heights = [found[lead][0][:, 1].mean() for lead in leads]
        np.testing.assert_allclose(np.diff(heights), -30, atol=0.2)
    assert np.ptp(found["II"][1][:, 0]) == pytest.approx(250, abs=0.1)


def test_an_event_at_6_s_is_seen_in_the_third_column_one_second_from_its_start():
    values = np.zeros((12, 5000), dtype=np.float32)
    values[:, 3000:3010] = 1.0
    found = traces(draw_ecg(EcgSignal(values, 500, STANDARD_LEADS)))
    seen = {lead for lead, lines in found.items() if np.ptp(lines[0][:, 1]) > 5}
    assert seen == {"V1", "V2", "V3"}
    trace = found["V1"][0]
    assert trace[trace[:, 1].argmax(), 0] == pytest.approx(12 + 2 * 62.5 + 25)


def test_the_calibration_pulse_is_one_millivolt_for_a_fifth_of_a_second():
    pulses = [line for line in draw_ecg(ramp(10)).axes[0].lines if line.get_gid() == "pulse"]
    assert len(pulses) == 4
    x, y = pulses[0].get_xydata().T
    assert np.ptp(y) == 10
    assert np.ptp(x[y == y.max()]) == 5


def test_a_short_record_is_shown_from_its_beginning_in_every_column():
    figure = draw_ecg(ramp(4))
    found = traces(figure)
    for lead in ("I", "V6"):
        assert np.ptp(found[lead][0][:, 0]) == pytest.approx(62.5, abs=0.1)
    assert np.ptp(found["II"][1][:, 0]) == pytest.approx(100, abs=0.1)
    assert any("columns: first 2.5 s each" in word for word in words(figure))


def test_a_record_of_almost_ten_seconds_only_ends_early():
    found = traces(draw_ecg(ramp(9.5)))
    widths = [np.ptp(found[lead][0][:, 0]) for lead in ("V1", "V4")]
    assert widths == pytest.approx([62.5, 50], abs=0.1)


def test_of_a_long_record_the_chosen_ten_seconds_are_shown():
    values = np.zeros((12, 30 * 100), dtype=np.float32)
    values[:, 1500:] = 1.0
    figure = draw_ecg(EcgSignal(values, 100, STANDARD_LEADS), start_s=12)
    strip = traces(figure)["II"][1]
    step = strip[np.diff(strip[:, 1]).argmax(), 0]
    assert step == pytest.approx(12 + 3 * 25, abs=0.3)
    assert any("12 to 22 s of 30 s" in word for word in words(figure))


def test_leads_that_are_missing_flat_or_invalid_are_marked():
    values = simulate(0, 0, 0).signal.values_mv.copy()
    values[6], values[7] = 0, np.nan
    values[9] *= 20
    kept = [row for row, lead in enumerate(STANDARD_LEADS) if lead not in ("III", "V6")]
    leads = tuple(STANDARD_LEADS[row].lower() for row in kept)
    figure = draw_ecg(EcgSignal(values[kept], 500, leads))
    remarks = words(figure)
    assert remarks.count("not recorded") == 2
    for remark in ("flat", "no valid sample", "off scale"):
        assert remarks.count(remark) == 1
    assert not {"III", "V2", "V6"} & set(traces(figure))
    assert set(STANDARD_LEADS) <= set(remarks)


def test_the_rhythm_strip_is_another_lead_where_ii_is_missing():
    figure = draw_ecg(ramp(10, leads=("V1", "V2", "V3")))
    assert [len(lines) for _, lines in sorted(traces(figure).items())] == [2, 1, 1]


@pytest.mark.parametrize(("leads", "strips"), [(("MLII",), 3), (("ECG I", "ECG I filtered"), 4)])
def test_few_leads_get_consecutive_strips_of_ten_seconds(leads, strips):
    figure = draw_ecg(ramp(25, 128, leads))
    lines = [line for lines in traces(figure).values() for line in lines]
    assert len(lines) == strips
    assert sum(f"{leads[0]} 10 s" in word for word in words(figure)) == 1
    assert np.ptp(lines[0][:, 0]) == pytest.approx(250, abs=0.5)


def test_a_bundle_of_unknown_leads_is_drawn_up_to_twelve():
    leads = tuple(f"channel {n}" for n in range(15))
    figure = draw_ecg(ramp(3, 100, leads))
    assert len(traces(figure)) == 12
    assert any("3 more leads not shown" in word for word in words(figure))


def test_gaps_stay_gaps_and_the_median_lies_on_the_line():
    values = np.full((12, 5000), 3.0, dtype=np.float32)
    values[:, ::2] += 0.1
    values[:, 100:200] = np.nan
    line = traces(draw_ecg(EcgSignal(values, 500, STANDARD_LEADS)))["I"][0]
    assert np.isnan(line[:, 1]).sum() == 100
    assert abs(np.nanmedian(line[:, 1]) - 110) <= 0.51


def test_predictions_are_listed_and_wrong_ones_are_red():
    labels = [("NSR", 0.93, True), ("AF", 0.61, False), ("RBBB", 0.2, None), ("SB", np.nan, True)]
    figure = draw_ecg(ramp(10), labels=labels)
    table = {text.get_text(): text for text in figure.axes[1].texts}
    assert {"NSR", "0.93", "AF", "0.61", "RBBB", "0.20", "?", "true"} <= set(table)
    red = {name: to_rgb(table[name].get_color())[0] for name in ("0.93", "0.61", "0.20", "?")}
    assert min(red["0.61"], red["?"]) > 0.7 > 0.4 > max(red["0.93"], red["0.20"])
    assert table["NSR"].get_fontweight() == "bold"
    assert table["RBBB"].get_fontweight() == "normal"


def test_a_list_that_is_too_long_says_how_much_is_left_out():
    figure = draw_ecg(ramp(10), labels=[(f"class {n}", 0.1, None) for n in range(71)])
    names = [word for word in words(figure) if word.startswith("class ")]
    assert f"and {71 - len(names)} more" in words(figure)
    assert len(names) > 15
    lowest = min(text.get_position()[1] for text in figure.axes[1].texts)
    assert lowest > 0


def test_no_text_overlaps_another_or_leaves_the_sheet():
    labels = [("a very long name of a finding", 0.5, True)] * 40
    figure = draw_ecg(simulate(0, 0, 0).signal, "title " * 60, labels)
    figure.draw_without_rendering()
    texts = [text for axes in figure.axes for text in axes.texts if text.get_text()]
    boxes = [text.get_window_extent() for text in texts]
    width, height = figure.bbox.size
    for index, box in enumerate(boxes):
        assert 0 <= box.x0 < box.x1 <= width
        assert 0 <= box.y0 < box.y1 <= height
        for other, text in zip(boxes[:index], texts[:index], strict=True):
            assert not box.overlaps(other), (texts[index].get_text(), text.get_text())


@pytest.mark.parametrize("suffix", ["png", "pdf", "svg"])
def test_files_are_written_in_every_format_and_nothing_else_is_left(tmp_path, suffix):
    path = plot_ecg(ramp(10, 100), tmp_path / "new" / f"ecg.{suffix}", "a $title$", dpi=50)
    assert path.stat().st_size > 5000
    assert [p.name for p in path.parent.iterdir()] == [f"ecg.{suffix}"]


def test_a_png_has_the_size_of_the_sheet(tmp_path):
    from matplotlib.image import imread

    path = plot_ecg(ramp(10), tmp_path / "ecg.png", dpi=127)
    height, width = imread(path).shape[:2]
    assert (width, height) == pytest.approx(((265 + 12) * 5, (135 + 22) * 5), abs=1)


@pytest.mark.parametrize(
    "odd",
    [
        ramp(1 / 500),
        ramp(0.2, 50),
        ramp(10, 30),
        EcgSignal(np.full((12, 5000), np.nan, np.float32), 500, STANDARD_LEADS),
        EcgSignal(np.full((1, 7), np.inf, np.float32), 500, ("I",)),
        EcgSignal(np.full((3, 5000), 1e30, np.float32), 500, ("I", "II", "V5")),
    ],
)
def test_odd_records_are_drawn_without_a_warning(tmp_path, odd, recwarn):
    assert plot_ecg(odd, tmp_path / "ecg.png", dpi=50).stat().st_size > 1000
    assert not recwarn.list


@pytest.mark.parametrize("start_s", [-0.1, 10, 11, float("nan")])
def test_a_start_outside_the_record_is_refused(start_s):
    with pytest.raises(ValueError, match="record of 10 s"):
        draw_ecg(ramp(10), start_s=start_s)


def test_an_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"ecg\.bmp"):
        plot_ecg(ramp(1), tmp_path / "ecg.bmp")
    assert list(tmp_path.iterdir()) == []


def test_drawing_leaves_pyplot_alone():
    import subprocess
    import sys

    code = (
        "import sys, numpy as np\n"
        "from fairseq_ecg.plots import curves, ecg_paper\n"
        "assert 'matplotlib' not in sys.modules\n"
        "from fairseq_ecg.data.signal import EcgSignal\n"
        "ecg_paper.draw_ecg(EcgSignal(np.zeros((1, 9), np.float32), 9.0, ('I',)))\n"
        "curves.draw_curves({'a': [{'x': 1, 'y': 2}]}, 'y', 'x')\n"
        "assert 'matplotlib.pyplot' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def strips(figure):
    """Lead to the colours under its traces, and the millimetres they span."""
    found = {}
    for image in figure.axes[0].images:
        lead = image.get_gid().removeprefix("underlay ")
        found.setdefault(lead, []).append((np.asarray(image.get_array())[0], image.get_extent()))
    return found


@pytest.mark.parametrize("rate_hz", [20, 250])
def test_what_is_coloured_stands_under_its_lead_at_its_time(rate_hz):
    values = np.zeros((2, 10 * rate_hz))
    values[0, 6 * rate_hz : round(6.2 * rate_hz)] = 2.0
    values[1, rate_hz : round(1.2 * rate_hz)] = -1.0
    underlay = Underlay(values, rate_hz, ("V2", "II"), "what it means")
    figure = draw_ecg(ramp(10), underlay=underlay)
    found = strips(figure)
    assert set(found) == {"V2", "II"}
    ((colours, (left, right, *_)),) = found["V2"]
    place = left + (np.flatnonzero(colours[:, 3] > 0.1).mean() + 0.5) * (right - left) / len(
        colours
    )
    assert place == pytest.approx(12 + 125 + (6.1 - 5) * 25, abs=0.6)
    assert colours[:, 3].max() == pytest.approx(0.75, abs=0.01)
    for colours, (left, right, *_) in found["II"]:
        inked = np.flatnonzero(colours[:, 3] > 0.1)
        place = left + (inked.mean() + 0.5) * (right - left) / len(colours)
        assert place == pytest.approx(12 + 1.1 * 25, abs=0.6)
        assert colours[inked, 3].max() == pytest.approx(0.375, abs=0.01)
        assert colours[inked[0], 2] > colours[inked[0], 0]  # blue: against
    assert "what it means" in words(figure)
    assert figure.axes[0].get_xlim() == draw_ecg(ramp(10)).axes[0].get_xlim()


def test_nothing_to_colour_is_said():
    underlay = Underlay(np.zeros((12, 100)), 10, STANDARD_LEADS, "saliency")
    figure = draw_ecg(ramp(10), underlay=underlay)
    assert strips(figure) == {}
    assert "saliency (none anywhere)" in words(figure)


def test_strips_of_one_lead_are_coloured_each_at_its_time():
    values = np.zeros((1, 3000))
    values[0, 2500:2600] = 1
    underlay = Underlay(values, 100, ("ECG",))
    found = strips(draw_ecg(ramp(30, 100, ("ECG",)), underlay=underlay))
    inked = {lead for lead, parts in found.items() if any(c[:, 3].max() > 0.1 for c, _ in parts)}
    assert len(found) == 3
    assert inked == {"ECG   20 s"}


def test_what_was_decided_is_bold_whatever_its_probability():
    labels = [("NSR", 0.9, None), ("AF", 0.2, None)]
    figure = draw_ecg(ramp(10), labels=labels, decided=["AF"])
    weights = {text.get_text(): text.get_fontweight() for text in figure.axes[1].texts}
    assert (weights["NSR"], weights["AF"]) == ("normal", "bold")
