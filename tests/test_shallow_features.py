"""Features of recordings whose numbers are known, and beats at known times."""

import numpy as np
import pytest

from fairseq_ecg.data.wfdb_reader import read_signal
from fairseq_ecg.shallow_features import BANDS_HZ, RR, feature_names, r_peaks, shallow_features


def beats(times_s, rate_hz, seconds, n_leads=3, noise=0.02):
    """Draw narrow peaks of 1 mV at known times, on a slow wander, with noise."""
    time = np.arange(round(seconds * rate_hz)) / rate_hz
    values = np.zeros_like(time)
    for beat in times_s:
        values += np.exp(-(((time - beat) / 0.02) ** 2)) + 0.2 * np.exp(
            -(((time - beat - 0.3) / 0.05) ** 2)
        )
    rng = np.random.default_rng(0)
    drawn = values + noise * rng.standard_normal((n_leads, time.size))
    return drawn * np.linspace(1, -0.5, n_leads)[:, None] + 0.5 * np.sin(2 * np.pi * 0.2 * time)


@pytest.mark.parametrize("rate_hz", [100, 250, 500])
@pytest.mark.parametrize("rr_s", [0.4, 0.8, 1.4])
def test_beats_are_found_where_they_are(rate_hz, rr_s):
    times = np.arange(0.5, 9.6, rr_s)
    found = r_peaks(beats(times, rate_hz, 10), rate_hz) / rate_hz
    assert len(found) == len(times)
    assert np.abs(found - times).max() < 0.05


def test_intervals_are_those_of_the_beats():
    times = 0.5 + np.cumsum([0, 0.8, 0.8, 0.6, 1.0, 0.8, 0.8, 0.6, 1.0, 0.8])
    values = shallow_features(beats(times, 500, 10), 500)
    found = dict(zip(RR, values[-len(RR) :], strict=True))
    rr = np.diff(times)
    assert found["rr_beats_per_s"] == pytest.approx(1.0)
    expected = {
        "rr_mean": rr.mean(),
        "rr_median": np.median(rr),
        "rr_sd": rr.std(),
        "rr_rmssd": np.sqrt((np.diff(rr) ** 2).mean()),
        "rr_min": rr.min(),
        "rr_max": rr.max(),
    }
    for name, value in expected.items():
        assert found[name] == pytest.approx(value, abs=0.03), name


@pytest.mark.parametrize("rate_hz", [100, 250, 500])
def test_amplitudes_slopes_and_powers_are_those_of_a_sine(rate_hz):
    time = np.arange(10 * rate_hz) / rate_hz
    hz = (2.0, 10.0, 20.0)
    values = np.stack(
        [a * np.sin(2 * np.pi * f * time) for a, f in zip((1, 2, 3), hz, strict=True)]
    )
    names = feature_names(("I", "II", "V1"))
    found = dict(zip(names, shallow_features(values, rate_hz), strict=True))
    for lead, row, (amplitude, f) in zip(
        ("I", "II", "V1"), values, zip((1, 2, 3), hz, strict=True), strict=True
    ):
        assert found[f"{lead}_q50"] == pytest.approx(0, abs=0.1)
        assert found[f"{lead}_q99"] == np.quantile(row, 0.99)
        assert found[f"{lead}_sd"] == pytest.approx(amplitude / np.sqrt(2), rel=1e-3)
        assert found[f"{lead}_slope"] == pytest.approx(4 * amplitude * f, rel=0.15)
        powers = {(low, high): found[f"{lead}_power_{low:g}_{high:g}_hz"] for low, high in BANDS_HZ}
        own = next(band for band in BANDS_HZ if band[0] <= f < band[1])
        assert powers[own] == pytest.approx(np.log10(amplitude**2 / 2), abs=0.05)
        assert all(power < powers[own] - 1.5 for band, power in powers.items() if band != own)


def test_silent_leads_and_short_recordings_have_numbers_too():
    silent = shallow_features(np.zeros((2, 1000)), 100)
    assert np.isnan(silent).sum() == len(RR) - 1
    assert silent[-len(RR)] == 0
    for n_samples in (1, 2, 30, 49, 60, 99, 150):
        found = shallow_features(np.random.default_rng(0).normal(size=(2, n_samples)), 100)
        assert np.isfinite(found[: -len(RR)]).all(), n_samples
        assert len(found) == len(feature_names(("I", "II")))


def test_what_is_no_recording_is_refused():
    with pytest.raises(ValueError, match=r"\[2, 0\]"):
        shallow_features(np.zeros((2, 0)), 100)
    with pytest.raises(ValueError, match="with NaN or infinity"):
        shallow_features(np.array([[1.0, np.nan]]), 100)


def test_heart_rates_of_real_recordings_are_those_of_people(shared):
    files = sorted((shared / "data" / "ptb-xl").rglob("*_hr.hea"))[:20]
    rates = []
    for path in files:
        signal = read_signal(path.with_suffix(""))
        rates.append(
            60 / (np.diff(r_peaks(signal.values_mv, signal.rate_hz)).mean() / signal.rate_hz)
        )
    assert all(30 < rate < 200 for rate in rates)
    assert 50 < np.median(rates) < 100
