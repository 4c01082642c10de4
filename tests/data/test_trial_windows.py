"""Windows of trials: where they lie, and what is wrong with them, by file, column and sample."""

from dataclasses import dataclass

import numpy as np
import pytest

from fairseq_ecg.data.record_file import RecordError
from fairseq_ecg.data.trial_windows import (
    RATE_HZ,
    WINDOW,
    WindowReader,
    make_trace,
    samples_at_rate,
    window_starts,
)
from fairseq_ecg.transforms.resample import resample
from tests.trials import wave

LOADED = []


@dataclass(frozen=True)
class Reader(WindowReader):
    """Reads two leads of an .npy file."""

    rate_hz: float = 256.0

    leads = ("II", "III")

    @property
    def trial(self):
        return 1

    @property
    def options(self):
        return (self.rate_hz,)

    @staticmethod
    def load(path, *options):
        LOADED.append(path.name)
        values = np.load(path, allow_pickle=False).astype(np.float32)
        return {1: make_trace(values, *options, ("II", "III"), ("a", "b"))}


@pytest.fixture
def write(tmp_path):
    def write(values, name="x.npy"):
        np.save(tmp_path / name, values)
        LOADED.clear()
        return tmp_path / name

    return write


@pytest.mark.parametrize("n_samples", [0, 2559, 2560, 5119, 5120, 20000])
@pytest.mark.parametrize("first", [0, 100])
def test_windows_are_whole_and_follow_each_other(n_samples, first):
    starts = window_starts(n_samples, first)
    expected = [s for s in range(first, n_samples, WINDOW) if s + WINDOW <= n_samples]
    assert starts == (expected or [first])


@pytest.mark.parametrize("rate_hz", [128, 256, 700, 2048])
def test_a_window_is_a_piece_of_the_resampled_trial(write, rate_hz):
    values = wave(round(31 * rate_hz), rate_hz, 0, 2).astype(np.float32)
    path = write(values)
    whole = resample(values, rate_hz, RATE_HZ)
    assert whole.shape[1] == samples_at_rate(values.shape[1], rate_hz)
    for start in (0, 2560, 3000):
        signal = Reader(start, rate_hz).read(path).signal
        np.testing.assert_array_equal(signal.values_mv, whole[:, start : start + WINDOW])
        assert (signal.rate_hz, signal.leads) == (RATE_HZ, ("II", "III"))
    assert LOADED == ["x.npy"]


def test_a_changed_file_is_read_again(write):
    path = write(wave(3000, 256, 0, 2))
    Reader(0).read(path)
    values = wave(3100, 256, 1, 2).astype(np.float32)
    path = write(values)
    np.testing.assert_array_equal(Reader(0).read(path).signal.values_mv, values[:, :WINDOW])


@pytest.mark.parametrize("rate_hz", [128, 256, 700])
def test_missing_samples_are_named_where_they_are_and_nowhere_else(write, rate_hz):
    values = wave(31 * rate_hz, rate_hz, 0, 2)
    values[1, 15 * rate_hz : 15 * rate_hz + 7] = np.nan
    path = write(values)
    with pytest.raises(RecordError, match=r"must be finite, but are not in b \(7\)") as error:
        Reader(2560, rate_hz).read(path)
    assert error.value.reason == "nan"
    for start in (0, 5120):
        found = Reader(start, rate_hz).read(path).signal.values_mv
        whole = resample(np.nan_to_num(values).astype(np.float32), rate_hz, RATE_HZ)
        np.testing.assert_array_equal(found, whole[:, start : start + WINDOW])


@pytest.mark.parametrize("rate_hz", [128, 256, 700])
def test_a_constant_window_is_refused_and_a_constant_lead_stays_constant(write, rate_hz):
    values = wave(31 * rate_hz, rate_hz, 0, 2)
    values[:, : 10 * rate_hz] = 0.25
    values[1, 10 * rate_hz : 20 * rate_hz] = 0.5
    path = write(values)
    with pytest.raises(RecordError, match="samples 0 to .* are constant in a, b") as error:
        Reader(0, rate_hz).read(path)
    assert error.value.reason == "all_flat"
    second = Reader(2560, rate_hz).read(path).signal.values_mv
    assert np.ptp(second[0]) > 0.1
    assert (second[1] == 0.5).all()


@pytest.mark.parametrize("rate_hz", [0.0, 1e-300, 50.0, 8001.0, float("nan"), float("inf")])
def test_rates_that_no_recorder_has_are_refused_with_file_and_column(write, rate_hz):
    path = write(wave(3000, 256, 0, 2))
    with pytest.raises(RecordError, match=r"x\.npy: a, b must have a rate from 100 to 8000 Hz"):
        Reader(0, rate_hz).read(path)


def test_a_trial_without_samples_is_refused_by_file(write):
    with pytest.raises(RecordError, match=r"x\.npy: a signal must have leads and samples"):
        Reader(0).read(write(np.zeros((2, 0))))


def test_a_window_beyond_the_end_is_refused(write):
    path = write(wave(3000, 256, 0, 2))
    with pytest.raises(RecordError, match=r"a, b must last 20 s, but ends after 11\.7188 s"):
        Reader(2560).read(path)
    with pytest.raises(RecordError, match="does not exist"):
        Reader(0).read(path.with_name("y.npy"))
