import numpy as np
import pytest

from fairseq_ecg.data.signal import EcgSignal


def test_signal_knows_its_size_and_duration():
    signal = EcgSignal(np.zeros((2, 250), np.float32), 100.0, ("I", "II"))
    assert (signal.n_leads, signal.n_samples, signal.duration_s) == (2, 250, 2.5)


@pytest.mark.parametrize(
    ("values", "rate", "leads", "message"),
    [
        (np.zeros((1, 5)), 100.0, ("I",), "float32"),
        ([[0.0]], 100.0, ("I",), "list"),
        (np.zeros(5, np.float32), 100.0, ("I",), r"\(5,\)"),
        (np.zeros((1, 0), np.float32), 100.0, ("I",), r"\(1, 0\)"),
        (np.zeros((1, 5), np.float32), 0.0, ("I",), "rate_hz"),
        (np.zeros((1, 5), np.float32), float("nan"), ("I",), "rate_hz"),
        (np.zeros((2, 5), np.float32), 100.0, ("I",), "2 rows"),
    ],
)
def test_signal_refuses_parts_that_do_not_fit_together(values, rate, leads, message):
    with pytest.raises(ValueError, match=message):
        EcgSignal(values, rate, leads)
