"""Images of recordings, against scipy, a slow sum over samples and the formulas of the scales."""

import numpy as np
import pytest
import scipy.signal
import torch

from fairseq_ecg.modules.spectrogram import Spectrogram, SpectrogramSettings

PLAIN = {"scale": "linear", "norm": "none"}


def images(source, **settings):
    return Spectrogram(SpectrogramSettings(**settings))(source)


def chirp(n_samples, rate_hz=250.0):
    time = np.arange(n_samples) / rate_hz
    return scipy.signal.chirp(time, 0.5, time[-1], 60.0).astype(np.float32)


def slow(values, n_fft, win_length, hop, n_freqs):
    """Sum over the samples of each window, one frequency after the other; [F, L]."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(win_length) / win_length)
    first = (n_fft - win_length) // 2
    n_columns = len(values) // hop
    out = np.zeros((n_freqs, n_columns))
    for column in range(n_columns):
        for row in range(n_freqs):
            total = 0j
            for j in range(win_length):
                place = column * hop - n_fft // 2 + first + j
                if 0 <= place < len(values):
                    turn = np.exp(-2j * np.pi * (row + 1) * (first + j) / n_fft)
                    total += values[place] * window[j] * turn
            out[row, column] = abs(total)
    return out


def test_the_magnitude_of_a_chirp_is_scipys():
    values = chirp(4096)
    found = images(torch.from_numpy(values)[None, None], n_freqs=128, **PLAIN)[0, 0].numpy()
    window = scipy.signal.get_window("hann", 256)
    transform = scipy.signal.ShortTimeFFT(window, 32, fs=250.0, mfft=256, scale_to=None)
    theirs = np.abs(transform.stft(np.pad(values, 256), p0=8, p1=8 + 128))
    assert found.shape == (128, 128)
    np.testing.assert_allclose(found, theirs[1:], atol=1e-4 * theirs.max())


@pytest.mark.parametrize(
    ("n_samples", "n_fft", "win_length", "hop", "n_freqs"),
    [(64, 16, 16, 4, 8), (50, 16, 11, 5, 3), (33, 16, 12, 16, 8), (40, 20, 20, 7, 10)],
)
def test_the_magnitude_is_the_slow_sum(n_samples, n_fft, win_length, hop, n_freqs):
    values = np.random.default_rng(0).normal(size=n_samples).astype(np.float32)
    sizes = {"n_fft": n_fft, "win_length": win_length, "hop": hop, "n_freqs": n_freqs}
    expected = slow(values, **sizes)
    source = torch.from_numpy(values)[None, None]
    found = images(source, **sizes, **PLAIN)[0, 0]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(
        images(source, **sizes, **PLAIN, power=2)[0, 0], expected**2, rtol=1e-4, atol=1e-5
    )


@pytest.mark.parametrize(
    ("n_samples", "settings", "shape"),
    [
        (4096, {}, (64, 128)),
        (16384, {}, (64, 512)),
        (4096, {"n_freqs": 128}, (128, 128)),
        (4096, {"n_fft": 512, "win_length": 356, "hop": 16, "n_freqs": 256}, (256, 256)),
        (4100, {"n_freqs": 40}, (40, 128)),
    ],
)
def test_an_image_has_a_row_per_frequency_and_a_column_per_hop(n_samples, settings, shape):
    assert images(torch.zeros(2, 3, n_samples), **settings).shape == (2, 3, *shape)


def test_the_row_of_the_mean_is_left_out():
    """A constant reaches the first two rows through the window alone, and no others."""
    inside = images(torch.full((1, 1, 2048), 5.0), **PLAIN)[0, 0, :, 8:-8]
    assert inside[0].min() > 100
    assert inside[1:].max() < 1e-2
    hertz = np.arange(64) + 1
    tone = np.sin(2 * np.pi * 10 * np.arange(2048) / 256).astype(np.float32)
    strongest = images(torch.from_numpy(tone)[None, None], **PLAIN)[0, 0, :, 32].argmax()
    assert hertz[strongest] == 10


def test_scales_are_their_formulas():
    source = torch.from_numpy(chirp(1024))[None, None] * torch.tensor([[[1.0], [0.01]]])
    plain = images(source, **PLAIN).double().numpy()
    found = images(source, scale="log1p", norm="none")
    np.testing.assert_allclose(found, np.log1p(plain), atol=1e-5)
    for power in (1, 2):
        found = images(source, scale="db", norm="none", power=power)
        top = plain.max(axis=(2, 3), keepdims=True)
        expected = np.maximum(20 * np.log10(np.maximum(plain, 1e-10) / top), -80)
        np.testing.assert_allclose(found, expected, atol=1e-2)
        assert found.amax((2, 3)).abs().max() == 0
        assert found.min() >= -80


def test_norms_are_their_formulas_and_silence_stays_finite():
    source = torch.from_numpy(chirp(1024))[None, None] * torch.tensor([[[1.0], [3.0], [0.0]]])
    plain = images(source, scale="log1p", norm="none").numpy()
    found = images(source).numpy()
    mean = plain.mean(axis=(2, 3), keepdims=True)
    deviation = plain.std(axis=(2, 3), keepdims=True)
    np.testing.assert_allclose(found, (plain - mean) / (deviation + 1e-6), atol=1e-4)
    np.testing.assert_allclose(found[:, :2].std(axis=(2, 3)), 1, atol=1e-4)
    assert (found[:, 2] == 0).all()
    scaled = images(source, norm="global", mean=0.5, std=2.0).numpy()
    np.testing.assert_allclose(scaled, (plain - 0.5) / 2, atol=1e-6)
    for scale in ("linear", "log1p", "db"):
        silent = images(torch.zeros(1, 1, 512), scale=scale)
        assert (silent == 0).all()


def test_it_is_float32_under_autocast_and_leaves_no_trace_in_the_state_dict():
    layer = Spectrogram(SpectrogramSettings())
    source = torch.from_numpy(chirp(1024))[None, None]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(layer(source), layer(source.float()))
        assert layer(source).dtype == torch.float32
    assert not layer.state_dict()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_fft": 1}, "model.n_fft is 1"),
        ({"hop": 0}, "model.hop 0"),
        ({"win_length": 300}, "model.win_length is 300; give 1 to model.n_fft=256"),
        ({"n_freqs": 129}, "model.n_freqs is 129; .* give 1 to 128"),
        ({"n_freqs": 0}, "model.n_freqs is 0"),
        ({"power": 3}, "model.power is 3; give 1 or 2"),
        ({"std": 0.0}, "model.spectrogram_std is 0.0"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        SpectrogramSettings(**settings)


def test_a_recording_without_one_column_is_refused():
    with pytest.raises(ValueError, match=r"31 samples, less than model.hop=32; .*task.segment_s"):
        images(torch.zeros(1, 1, 31))
