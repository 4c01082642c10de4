"""The seven forms against a slow program of the formulas, sample by sample."""

import math

import numpy as np
import pytest

from fairseq_ecg.transforms.recognition import (
    FORMS,
    FormsAndPair,
    TransformedForms,
    add_noise,
    draw_warp,
    kept_samples,
    permute_pieces,
    warp,
)
from fairseq_ecg.transforms.scale_shift_noise_warp import ScaleShiftNoiseWarp

SIZES = [(1, 20), (1, 200), (2, 999), (3, 2560), (12, 2563)]


def window(n_leads=1, n_samples=2560, seed=0):
    """Return values none of which is 0, float32 [C, T]."""
    return np.random.default_rng(seed).normal(size=(n_leads, n_samples)).astype(np.float32)


def generators(index=0):
    return lambda view: np.random.default_rng((1, 1, index, view))


def slow_noise(values, white, snr_db):
    noisy = np.zeros_like(values)
    for lead, samples in enumerate(values.astype(np.float64)):
        power = sum(x * x for x in samples) / len(samples) / 10 ** (snr_db / 10)
        noisy[lead] = [x + math.sqrt(power) * w for x, w in zip(samples, white, strict=True)]
    return noisy


def slow_permutation(values, order):
    piece = values.shape[1] // len(order)
    parts = [values[:, k * piece : (k + 1) * piece] for k in order]
    return np.concatenate([*parts, values[:, len(order) * piece :]], axis=1)


def slow_warp(values, n_pieces, factor, rng):
    """Warp one lead after the other, one piece after the other, one sample after the other."""
    n_samples = values.shape[1]
    piece = n_samples // n_pieces
    stretched = set(rng.permutation(n_pieces)[: math.ceil(n_pieces / 2)].tolist())
    joined = []
    for k in range(n_pieces):
        part = values[:, k * piece : (k + 1) * piece].astype(np.float64)
        wanted = piece * factor if k in stretched else piece / factor
        new = math.ceil(round(wanted, 9))
        for i in range(new):
            at = min(max((i + 0.5) * piece / new - 0.5, 0), piece - 1)
            low = math.floor(at)
            high = min(low + 1, piece - 1)
            joined.append((1 - (at - low)) * part[:, low] + (at - low) * part[:, high])
    surplus = len(joined) - n_samples
    joined += list(values[:, n_pieces * piece :].T)
    start = int(rng.integers(surplus)) if surplus > 0 else 0
    return np.stack(joined[start : start + n_samples], axis=1)


@pytest.mark.parametrize(("n_leads", "n_samples"), SIZES)
@pytest.mark.parametrize("snr_db", [-3.0, 15.0])
def test_noise_equals_the_slow_form(n_leads, n_samples, snr_db):
    values, white = window(n_leads, n_samples), window(1, n_samples, 1)[0]
    expected = slow_noise(values, white, snr_db)
    np.testing.assert_allclose(add_noise(values, white, snr_db), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("n_leads", "n_samples"), SIZES)
@pytest.mark.parametrize("n_pieces", [2, 7, 20])
def test_permutation_equals_the_slow_form(n_leads, n_samples, n_pieces):
    values = window(n_leads, n_samples)
    order = np.random.default_rng(n_pieces).permutation(n_pieces)
    np.testing.assert_array_equal(permute_pieces(values, order), slow_permutation(values, order))


@pytest.mark.parametrize(("n_leads", "n_samples"), SIZES)
@pytest.mark.parametrize(("n_pieces", "factor"), [(9, 1.05), (2, 1.5), (4, 1.0), (20, 1.02)])
def test_warp_equals_the_slow_form(n_leads, n_samples, n_pieces, factor):
    values = window(n_leads, n_samples)
    positions = draw_warp(n_samples, n_pieces, factor, np.random.default_rng(3))
    expected = slow_warp(values, n_pieces, factor, np.random.default_rng(3))
    assert positions.shape == (n_samples,)
    np.testing.assert_allclose(warp(values, positions), expected, rtol=1e-4, atol=1e-5)


def test_the_arithmetic_of_2560_samples_is_that_of_the_authors_program():
    starts = set()
    for seed in range(300):
        positions = draw_warp(2560, 9, 1.05, np.random.default_rng(seed))
        pieces = np.bincount((positions // 284).astype(int), minlength=9)
        assert len(pieces) == 9 and set(pieces[1:-1].tolist()) <= {299, 271}  # noqa: PT018
        first_long = np.isclose(np.diff(positions)[20], 284 / 299)
        starts.add((299 if first_long else 271) - int(pieces[0]))
    assert starts == set(range(19))  # of 5 x 299 + 4 x 271 = 2579 samples


def test_noise_has_15_db_and_leads_share_their_draw():
    values = window(3) * np.array([[1.0], [10.0], [0.1]], dtype=np.float32)
    forms = TransformedForms()
    ratios = []
    for index in range(20):
        noise = forms(values, generators(index))[1] - values
        ratios.append(10 * np.log10((values**2).mean(1) / (noise**2).mean(1)))
        np.testing.assert_allclose(noise[1] / noise[1].std(), noise[0] / noise[0].std(), atol=1e-3)
    assert np.abs(np.mean(ratios, axis=0) - 15).max() < 0.3


def test_forms_are_what_they_are_called():
    values = window(2)
    forms = dict(zip(FORMS, TransformedForms()(values, generators()), strict=True))
    np.testing.assert_array_equal(forms["original"], values)
    np.testing.assert_array_equal(forms["scaling"], values * np.float32(1.1))
    np.testing.assert_array_equal(-forms["negation"], values)
    np.testing.assert_array_equal(forms["inversion"][:, ::-1], values)
    pieces = values.reshape(2, 20, 128).swapaxes(0, 1)
    moved = forms["permutation"].reshape(2, 20, 128).swapaxes(0, 1)
    places = [[np.array_equal(a, b) for b in moved].index(True) for a in pieces]
    assert sorted(places) == list(range(20)) != places
    assert forms["time_warp"].shape == values.shape
    assert not np.allclose(forms["time_warp"], values, atol=0.1)


def test_a_silent_lead_stays_silent_among_others():
    values = window(2)
    values[1] = 0
    forms = TransformedForms()(values, generators())
    assert np.isfinite(forms).all()
    assert not forms[:, 1].any()


@pytest.mark.parametrize("n_leads", [1, 12])
def test_a_window_of_a_batch_is_what_it_is_alone(n_leads):
    windows = np.stack([window(n_leads, 500, seed) for seed in range(4)])
    windows[2, :, 430:] = 0
    forms = TransformedForms(permutation_pieces=7)
    batch = forms.batch(windows, [generators(i) for i in range(4)], list("abcd"))
    for index, values in enumerate(windows):
        np.testing.assert_array_equal(batch[index], forms(values, generators(index)))


def test_zeros_at_the_end_are_trimmed_and_padded_back():
    values = window(2, 1000)
    padded = np.pad(values, [(0, 0), (0, 250)])
    forms = TransformedForms()(padded, generators())
    np.testing.assert_array_equal(forms[..., :1000], TransformedForms()(values, generators()))
    assert not forms[..., 1000:].any()
    values[0, -3:] = 0
    assert kept_samples(values) == 1000  # the other lead goes on


def test_the_draws_of_a_window_depend_on_its_view_only():
    asked = []

    def recorded(view):
        asked.append(view)
        return generators()(view)

    forms = TransformedForms()
    first = forms(window(), recorded)
    assert asked == [FORMS.index(name) for name in ("noise", "permutation", "time_warp")]
    others = TransformedForms(snr_db=3.0, permutation_pieces=5)(window(), generators())
    np.testing.assert_array_equal(others[6], first[6])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.full((2, 100), 3, np.float32), "r7 is constant, .*leave such a recording out"),
        (np.zeros((1, 100), np.float32), "r7 is constant"),
        (window(1, 19), "r7 has 19 samples, .*too few for 20 pieces.*give fewer pieces"),
        (np.pad(window(1, 12), [(0, 0), (0, 88)]), "r7 has 12 samples, zeros at its end not"),
    ],
)
def test_a_window_that_has_no_forms_is_named(values, message):
    with pytest.raises(ValueError, match=message):
        TransformedForms().batch(values[None], [generators()], ["r7"])


def test_a_warp_of_more_pieces_than_samples_changes_nothing():
    positions = draw_warp(8, 9, 1.05, np.random.default_rng(0))
    np.testing.assert_array_equal(positions, np.arange(8))


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"snr_db": math.inf}, "snr_db must be finite"),
        ({"scaling": 1.0}, "scaling must be a number other than 0, 1 and -1, got 1"),
        ({"scaling": math.nan}, "scaling must be a number other"),
        ({"permutation_pieces": 1}, "permutation_pieces must be at least 2, got 1"),
        ({"warp_pieces": 0}, "warp_pieces must be at least 2, got 0"),
        ({"warp_factor": 1.0}, "warp_factor must be above 1, got 1"),
    ],
)
def test_values_that_leave_forms_alike_are_refused(keys, message):
    with pytest.raises(ValueError, match=message):
        TransformedForms(**keys)


def test_the_pair_follows_the_forms_and_its_copies_differ():
    values = np.pad(window(2, 900), [(0, 0), (0, 100)])
    pair = ScaleShiftNoiseWarp()
    forms = FormsAndPair(scaling=1.2, pair=pair, rate_hz=100.0, leads=("I", "II"))
    views = forms(values, generators())
    np.testing.assert_array_equal(views[:7], TransformedForms(scaling=1.2)(values, generators()))
    assert len(views) == forms.n_views == 9
    assert not np.array_equal(views[7], views[8])
    for copy in views[7:]:
        assert not np.array_equal(copy, values)
        assert not copy[:, 900:].any()
