"""Noise against forms written sample by sample from the formulas, and what it promises of itself."""

import math

import numpy as np
import pytest

from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.transforms._limb_leads import mixing
from fairseq_ecg.transforms.noise import BaselineShift, BaselineWander, EmgNoise, PowerlineNoise

RATES = (100.0, 250.0, 500.0)
LEADS = (STANDARD_LEADS, ("I", "II", "V2"), ("II",), ("aVF", "V1"), ("V6", "MLII"))
LIMB = ("I", "II", "III", "aVR", "aVL", "aVF")
SIZES = pytest.mark.parametrize(
    ("rate_hz", "leads"), [(rate, leads) for rate in RATES for leads in LEADS], ids=str
)
DEPENDENCY = pytest.mark.parametrize("dependency", [True, False])


def silence(leads=STANDARD_LEADS, rate_hz=500.0, seconds=1.3):
    n = round(seconds * rate_hz)
    return EcgSignal(np.zeros((len(leads), n), dtype=np.float32), rate_hz, tuple(leads))


def noise_of(perturbation, seed=0, **signal):
    return perturbation(silence(**signal), np.random.default_rng(seed)).values_mv


# --- slow forms -----------------------------------------------------------------------------------


def independent_leads(leads, dependency):
    if not dependency or not set(leads) & set(LIMB):
        return list(leads)
    return ["I", "II"] + [lead for lead in leads if lead not in LIMB]


def derive(lead, of, dependency):
    """Return a lead's noise from that of the independent leads, by Einthoven and Goldberger."""
    if not dependency or lead not in LIMB:
        return of[lead]
    one, two = of["I"], of["II"]
    return {
        "I": one,
        "II": two,
        "III": two - one,
        "aVR": -(one + two) / 2,
        "aVL": one - two / 2,
        "aVF": two - one / 2,
    }[lead]


def slow(draw, leads, rate_hz, n, dependency, seed):
    """Return noise [C, T] of a function that draws one value per independent lead and sample."""
    rng = np.random.default_rng(seed)
    assert rng.random() < 1  # the draw that decides whether
    free = independent_leads(leads, dependency)
    at = draw(rng, len(free), rate_hz, n)
    result = np.zeros((len(leads), n))
    for t in range(n):
        of = {lead: at(number, t) for number, lead in enumerate(free)}
        for row, lead in enumerate(leads):
            result[row, t] = derive(lead, of, dependency)
    return result


def slow_powerline(rng, n_free, rate_hz, n):
    f = (20, 30)[rng.integers(2)]
    a = rng.uniform(0.2, 0.7)
    phi = rng.uniform(0, 2 * math.pi)
    return lambda lead, t: a * math.cos(2 * math.pi * f * t / rate_hz + phi)


def slow_emg(rng, n_free, rate_hz, n):
    a = [rng.uniform(0.2, 0.7) for _ in range(n_free)]
    white = rng.standard_normal((n_free, n), dtype=np.float32)
    return lambda lead, t: a[lead] * white[lead, t]


def slow_wander(rng, n_free, rate_hz, n):
    a = [rng.uniform(0.2, 0.7) for _ in range(4)]
    f = [rng.uniform(0.1, 2.0) for _ in range(4)]
    phi = [rng.uniform(0, 2 * math.pi) for _ in range(4)]
    gain = [rng.normal(1, 0.5) for _ in range(n_free)]
    return lambda lead, t: (
        gain[lead]
        * sum(a[k] * math.cos(2 * math.pi * f[k] * t / rate_hz + phi[k]) for k in range(4))
    )


def slow_shift(rng, n_free, rate_hz, n):
    a = rng.uniform(0.2, 0.7)
    sign = [1 - 2 * v for v in rng.integers(2, size=n_free)]
    lengths = [min(max(int(rng.normal(0.3 * n, 0.06 * n)), 0), n) for _ in range(3)]
    starts = [int(v) for v in rng.integers([n - length + 1 for length in lengths])]
    spans = list(zip(starts, lengths, strict=True))
    return lambda lead, t: a * sign[lead] if any(s <= t < s + m for s, m in spans) else 0.0


AMPLITUDES = {"max_amplitude": 0.7, "min_amplitude": 0.2}
FORMS = {
    "powerline": (PowerlineNoise, slow_powerline, {"powerline_hz": (20, 30)}),
    "emg": (EmgNoise, slow_emg, {}),
    "wander": (BaselineWander, slow_wander, {"min_freq": 0.1, "max_freq": 2.0, "k": 4}),
    "shift": (BaselineShift, slow_shift, {"shift_ratio": 0.3, "num_segment": 3}),
}


@pytest.mark.parametrize("form", FORMS)
@SIZES
@DEPENDENCY
def test_noise_is_that_of_the_formula(form, rate_hz, leads, dependency):
    cls, draw, options = FORMS[form]
    perturbation = cls(**AMPLITUDES, **options, dependency=dependency)
    for seed in range(3):
        given = silence(leads, rate_hz)
        given.values_mv[:] = np.random.default_rng(9).normal(size=given.values_mv.shape)
        before = given.values_mv.copy()
        added = perturbation(given, np.random.default_rng(seed)).values_mv - before
        expected = slow(draw, leads, rate_hz, given.n_samples, dependency, seed)
        np.testing.assert_allclose(added, expected, rtol=1e-4, atol=2e-6)
        assert expected.any()


# --- limb leads -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
def test_a_recording_that_obeys_the_relations_of_the_limb_leads_still_does(form):
    cls, _, options = FORMS[form]
    given = silence()
    one, two = np.random.default_rng(3).normal(size=(2, given.n_samples)).astype(np.float32)
    given.values_mv[:6] = one, two, two - one, -(one + two) / 2, one - two / 2, two - one / 2
    i, ii, iii, avr, avl, avf, *_ = cls(**options)(given, np.random.default_rng(0)).values_mv
    assert np.abs(i - one).max() > 1e-3
    for found, expected in (
        (iii, ii - i),
        (avr, -(i + ii) / 2),
        (avl, i - ii / 2),
        (avf, ii - i / 2),
    ):
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_without_dependency_every_lead_has_its_own_noise():
    noise = noise_of(EmgNoise(dependency=False), seconds=20)
    correlation = np.corrcoef(noise) - np.eye(12)
    assert np.abs(correlation).max() < 0.06


def test_limb_noise_alone_is_the_limb_noise_of_all_twelve_leads():
    whole = noise_of(EmgNoise(), leads=LIMB)
    alone = noise_of(EmgNoise(), leads=("aVL",))
    assert alone.shape == (1, 650)
    assert np.linalg.matrix_rank(whole, tol=1e-4) == 2
    np.testing.assert_allclose(alone[0], whole[4], atol=1e-6)


def test_the_mixing_matrix_is_shared_and_cannot_be_changed():
    matrix = mixing(STANDARD_LEADS, True)
    assert matrix is mixing(STANDARD_LEADS, True)
    assert matrix.shape == (12, 8)
    with pytest.raises(ValueError, match="read-only"):
        matrix[0, 0] = 2
    np.testing.assert_array_equal(mixing(("I", "V1", "X"), False), np.eye(3))


# --- mains hum ------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate_hz", [125.0, 250.0, 360.0, 500.0, 1000.0])
def test_hum_stands_at_50_or_60_hz_whatever_the_rate(rate_hz):
    peaks = []
    for seed in range(60):
        noise = noise_of(PowerlineNoise(0.5, 0.1), seed, rate_hz=rate_hz, seconds=2)
        spectrum = np.abs(np.fft.rfft(noise[0]))
        peaks.append(np.argmax(spectrum) * 0.5)
        assert spectrum.max() > 0.95 * np.sqrt((spectrum**2).sum())
    assert set(peaks) == {50.0, 60.0}
    assert 15 <= peaks.count(50.0) <= 45


def test_hum_is_bounded_by_the_amplitudes_and_reaches_them():
    highest = [
        np.abs(noise_of(PowerlineNoise(0.4, 0.1, dependency=False), seed)).max()
        for seed in range(200)
    ]
    assert 0.095 <= min(highest) < 0.13  # the crest falls between two of ten samples
    assert 0.37 < max(highest) <= 0.4


def test_hum_that_is_equal_in_i_and_ii_is_absent_from_iii():
    noise = noise_of(PowerlineNoise())
    np.testing.assert_array_equal(noise[0], noise[1])
    assert not noise[2].any()


@pytest.mark.parametrize("rate_hz", [100.0, 120.0])
def test_hum_from_half_the_rate_on_is_refused(rate_hz):
    with pytest.raises(ValueError, match=f"task.powerline_hz must be below {rate_hz / 2:g} Hz"):
        noise_of(PowerlineNoise(), rate_hz=rate_hz)
    noise_of(PowerlineNoise(powerline_hz=25), rate_hz=rate_hz)


# --- muscle noise ---------------------------------------------------------------------------------


def test_muscle_noise_is_white_normal_and_as_strong_as_drawn():
    noise = noise_of(EmgNoise(0.3, 0.3, dependency=False), seconds=40)
    assert noise.std(axis=1) == pytest.approx(np.full(12, 0.3), rel=0.03)
    scaled = noise / 0.3
    assert np.abs(scaled.mean(axis=1)).max() < 0.03
    assert (scaled**4).mean() == pytest.approx(3, rel=0.05)
    power = (np.abs(np.fft.rfft(scaled[0])) ** 2)[1:]
    low, high = power[: len(power) // 2].mean(), power[len(power) // 2 :].mean()
    assert low / high == pytest.approx(1, abs=0.1)


def test_muscle_noise_has_an_amplitude_of_its_own_on_each_lead():
    spread = noise_of(EmgNoise(0.5, 0.1, dependency=False), seconds=10).std(axis=1)
    assert len(set(np.round(spread, 3))) == 12
    assert 0.09 < spread.min() < spread.max() < 0.52


# --- wandering baseline ---------------------------------------------------------------------------


@pytest.mark.parametrize("rate_hz", RATES)
def test_wander_holds_no_frequency_outside_its_range(rate_hz):
    wander = BaselineWander(0.5, 0.5, min_freq=0.2, max_freq=0.6)
    noise = noise_of(wander, rate_hz=rate_hz, seconds=200)[0]
    spectrum = np.abs(np.fft.rfft(noise * np.hanning(len(noise)))) ** 2
    hz = np.fft.rfftfreq(len(noise), 1 / rate_hz)
    inside = (hz > 0.18) & (hz < 0.62)
    assert spectrum[inside].sum() > 0.999 * spectrum.sum()


def test_wander_is_bounded_by_its_waves_and_differs_between_leads_only_by_a_gain():
    noise = noise_of(BaselineWander(0.2, 0.1, dependency=False), seconds=60)
    assert np.linalg.matrix_rank(noise, tol=1e-3) == 1
    gains = []
    for seed in range(300):
        rng = np.random.default_rng(seed)
        noise = BaselineWander(0.2, 0.2, k=1, dependency=False)(
            silence(seconds=120, rate_hz=5.0), rng
        ).values_mv
        gains.append(np.abs(noise).max(axis=1) / 0.2)
    assert np.mean(np.array(gains) < 1) == pytest.approx(0.5, abs=0.05)


def test_wander_from_half_the_rate_on_is_refused():
    with pytest.raises(ValueError, match="task.max_freq must be below 50 Hz.*got 80 Hz"):
        noise_of(BaselineWander(max_freq=80.0), rate_hz=100.0)


# --- shifting baseline ----------------------------------------------------------------------------


def test_a_shift_lies_between_the_amplitudes_with_both_signs_on_the_same_span_of_all_leads():
    heights = []
    for seed in range(300):
        noise = noise_of(BaselineShift(0.4, 0.1, dependency=False), seed)
        inside = noise != 0
        assert (inside == inside[0]).all()
        edges = np.flatnonzero(np.diff(np.r_[0, inside[0].astype(int), 0]))
        assert len(edges) == 2
        for row in noise:
            (height,) = set(row[inside[0]].tolist())
            heights.append(height)
        assert len(set(np.abs(noise[:, inside[0]]).ravel().tolist())) == 1
    heights = np.array(heights)
    assert np.abs(heights).min() >= 0.0999
    assert np.abs(heights).max() <= 0.4001
    assert np.abs(heights).mean() == pytest.approx(0.25, abs=0.02)
    assert (heights > 0).mean() == pytest.approx(0.5, abs=0.03)


def test_spans_are_as_long_as_asked_and_begin_anywhere():
    spans = [noise_of(BaselineShift(0.1, 0.1), seed)[1] != 0 for seed in range(600)]
    lengths = np.array([span.sum() for span in spans]) / 650
    assert lengths.mean() == pytest.approx(0.2, abs=0.01)
    assert lengths.std() == pytest.approx(0.04, abs=0.006)
    starts = np.array([np.argmax(span) for span in spans]) / (650 - lengths * 650)
    assert np.histogram(starts, 4, (0, 1))[0] == pytest.approx([150] * 4, abs=55)


@pytest.mark.parametrize(("ratio", "share"), [(0.0, 0.0), (1.0, 0.9)])
def test_spans_of_no_length_and_of_the_whole_segment_are_legal(ratio, share):
    covered = [
        (noise_of(BaselineShift(0.1, 0.1, shift_ratio=ratio), seed)[1] != 0).mean()
        for seed in range(100)
    ]
    assert max(covered) <= 1
    assert np.mean(covered) == pytest.approx(share, abs=0.06)


def test_several_spans_cover_more_and_do_not_add_up():
    one, many = (
        np.array([noise_of(BaselineShift(0.1, 0.1, num_segment=n), s)[1] for s in range(100)])
        for n in (1, 6)
    )
    assert np.abs(many).max() == pytest.approx(0.1)
    assert (many != 0).mean() > 2 * (one != 0).mean()
