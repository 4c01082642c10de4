"""Raw recordings of a RespiBAN: the right column, in millivolts."""

import numpy as np
import pytest

from fairseq_ecg.data.opensignals_reader import read_opensignals_ecg
from fairseq_ecg.data.record_file import RecordError
from tests.trials import wesad_counts, write_wesad


@pytest.fixture
def path(tmp_path):
    return write_wesad(tmp_path, n_people=1, seconds=2) / "S2" / "S2_respiban.txt"


def test_counts_become_millivolts(path):
    signal = read_opensignals_ecg(path)
    expected = (wesad_counts(2, 2) / 65536 - 0.5) * 3
    np.testing.assert_allclose(signal.values_mv[0], expected, atol=1e-6)
    assert (signal.rate_hz, signal.leads) == (700, ("ECG",))
    assert np.abs(signal.values_mv).max() < 1.5


def test_the_column_follows_the_header(path):
    lines = path.read_text().splitlines()
    lines[1] = lines[1].replace('"ECG", "EDA"', '"EDA", "ECG"')
    path.write_text("\n".join(lines) + "\n")
    assert np.unique(read_opensignals_ecg(path).values_mv).size == 1  # 30000 throughout


@pytest.mark.parametrize(
    ("old", "new", "reason", "match"),
    [
        ("# OpenSignals", "# Another", "bad_header", "must begin with '# OpenSignals"),
        ("# EndOfHeader", "#", "bad_header", "hold '# EndOfHeader'"),
        ('"ECG"', '"RAW"', "bad_header", "line 2 must describe .* one sensor ECG.*RAW"),
        ('"EDA"', '"ECG"', "bad_header", "its sensors are ECG, ECG"),
        ('"sampling rate": 700', '"sampling rate": 0', "bad_header", "0 Hz"),
        ("[16, ", "[99, ", "bad_header", "99 bits"),
        ("}}", "}, 1: 2}", "bad_header", "line 2"),
        ("\n1\t0\t", "\n1\t0\tx", "unreadable_file", "number in column 3"),
        ("\n1\t0\t", "\n1\t0\t99", "nan", r"line 5: column 3 \(ECG\) must be a count"),
        ("\n1\t0\t", "\n1\t0\t-", "nan", "line 5: column 3"),
    ],
)
def test_what_does_not_fit_is_named_with_its_line(path, old, new, reason, match):
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(RecordError, match=match) as error:
        read_opensignals_ecg(path)
    assert error.value.reason == reason
    assert str(path) in str(error.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(RecordError, match="does not exist"):
        read_opensignals_ecg(tmp_path / "S9_respiban.txt")
