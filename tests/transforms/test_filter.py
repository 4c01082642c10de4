import numpy as np
import pytest

from fairseq_ecg.transforms.filter import bandpass, clean


def tone(rate_hz, frequency_hz, seconds=20):
    t = np.arange(round(rate_hz * seconds)) / rate_hz
    return np.sin(2 * np.pi * frequency_hz * t)[None].astype(np.float32)


def amplitude(values):
    middle = values[0, values.shape[1] // 4 : -values.shape[1] // 4]
    return float(np.sqrt(2) * middle.std())


@pytest.mark.parametrize("rate", [500, 400, 257, 1000])
def test_clean_removes_wander_and_hum_and_keeps_the_ecg_band(rate):
    hum_hz = rate / int(rate / 50)  # the zero of the moving average
    assert amplitude(clean(tone(rate, 0.1) + 3, rate)) < 0.01
    assert amplitude(clean(tone(rate, hum_hz), rate)) < 0.01
    assert amplitude(clean(tone(rate, 5), rate)) > 0.9


def test_clean_agrees_with_the_formula_of_the_reference():
    """The oracle is written as neurokit2 computes it, lead by lead in double precision."""
    import scipy.signal

    values = np.random.default_rng(1).normal(size=(2, 2000)).astype(np.float32)
    for rate, width in ((500, 10), (257, 5), (100, 2), (80, 2)):
        sos = scipy.signal.butter(5, 0.5, "highpass", output="sos", fs=rate)
        expected = [
            scipy.signal.filtfilt(
                np.ones(width), [width], scipy.signal.sosfiltfilt(sos, lead.astype(float))
            )
            for lead in values
        ]
        np.testing.assert_allclose(clean(values, rate), expected, atol=2e-6)


def test_bandpass_keeps_the_band_and_removes_what_lies_outside():
    for frequency, low, high in ((0.1, 0, 0.01), (10, 0.98, 1.02), (150, 0, 0.01)):
        result = amplitude(bandpass(tone(500, frequency), 500, 0.67, 40.0))
        assert low <= result <= high


def test_one_sided_filters_keep_the_open_side():
    assert amplitude(bandpass(tone(500, 150), 500, low_hz=0.5)) > 0.99
    assert amplitude(bandpass(tone(500, 1), 500, high_hz=40.0)) > 0.99


def test_filtering_does_not_shift_the_signal():
    values = np.zeros((1, 2001), np.float32)
    values[0, 1000] = 1
    assert bandpass(values, 500, 0.5, 40.0).argmax() == 1000
    assert clean(values, 500)[0].argmax() in (999, 1000, 1001)


@pytest.mark.parametrize(
    ("low", "high"), [(None, None), (40, 0.5), (0, 40), (-1, None), (None, 250), (None, 300)]
)
def test_frequencies_that_make_no_filter_are_refused(low, high):
    with pytest.raises(ValueError, match="Nyquist"):
        bandpass(np.zeros((1, 1000), np.float32), 500, low, high)


@pytest.mark.parametrize("filtered", [clean, lambda v, r: bandpass(v, r, 0.5, 40.0)])
def test_short_and_unfit_signals_are_refused(filtered):
    with pytest.raises(ValueError, match="more than"):
        filtered(np.zeros((1, 20), np.float32), 500)
    with pytest.raises(ValueError, match="NaN"):
        filtered(np.full((1, 2000), np.nan, np.float32), 500)
    with pytest.raises(ValueError, match="float32"):
        filtered(np.zeros((1, 2000)), 500)
