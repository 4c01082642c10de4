"""Poly5 files: header, blocks, calibration and units."""

import struct

import numpy as np
import pytest

from fairseq_ecg.data.poly5_reader import read_poly5_channel, read_poly5_header
from fairseq_ecg.data.record_file import RecordError
from tests.trials import wave, write_poly5


@pytest.mark.parametrize("version", [203, 204])
@pytest.mark.parametrize("n_samples", [1, 63, 64, 65, 1000])
def test_channels_come_back_in_millivolts(tmp_path, version, n_samples):
    values = 100 * wave(n_samples, 2048, 1, 3)
    path = write_poly5(tmp_path / "a.S00", values, version=version)
    header = read_poly5_header(path)
    assert (header.rate_hz, header.n_samples) == (2048, n_samples)
    assert [channel.name for channel in header.channels] == ["ch0", "ch1", "ch2"]
    for k in range(3):
        signal = read_poly5_channel(path, k + 1)
        np.testing.assert_allclose(signal.values_mv[0], values[k] / 1000, atol=1e-6)
        assert (signal.rate_hz, signal.leads) == (2048, (f"ch{k}",))


@pytest.mark.parametrize(
    ("unit", "factor"),
    [("uV", 1e-3), ("\xb5V", 1e-3), ("\xb5Volt", 1e-3), ("mV", 1), ("V", 1e3), ("Volts", 1e3)],
)
def test_units_are_understood(tmp_path, unit, factor):
    path = write_poly5(tmp_path / "a.S00", np.ones((1, 10)), [unit])
    np.testing.assert_allclose(read_poly5_channel(path, 1).values_mv, factor, rtol=1e-6)


@pytest.mark.parametrize("unit", ["%", "", "uS", "bpm"])
def test_a_channel_that_is_no_voltage_is_refused(tmp_path, unit):
    path = write_poly5(tmp_path / "a.S00", np.ones((2, 10)), ["mV", unit])
    with pytest.raises(RecordError, match="channel 2 must be a voltage; it has 1: ch0") as error:
        read_poly5_channel(path, 2)
    assert error.value.reason == "unknown_unit"


@pytest.mark.parametrize("number", [0, 3])
def test_a_channel_that_is_not_there_names_the_others(tmp_path, number):
    path = write_poly5(tmp_path / "a.S00", np.ones((2, 10)))
    with pytest.raises(RecordError, match=r"it has 1: ch0 \[uV\], 2: ch1 \[uV\]"):
        read_poly5_channel(path, number)


def damaged(path, at, content):
    whole = bytearray(path.read_bytes())
    whole[at : at + len(content)] = content
    path.write_bytes(whole)
    return path


@pytest.mark.parametrize(
    ("at", "content", "reason"),
    [
        (0, b"EDF", "unsupported_format"),
        (31, struct.pack("<H", 205), "unsupported_format"),
        (114, struct.pack("<h", 0), "bad_header"),
        (119, struct.pack("<H", 5), "bad_header"),
        (119, struct.pack("<H", 0), "bad_header"),
        (121, struct.pack("<i", 999), "truncated"),
        (121, struct.pack("<i", -1), "truncated"),
        (143, struct.pack("<i", 99), "truncated"),
        (147, struct.pack("<H", 7), "bad_header"),
        (151, struct.pack("<H", 1), "bad_header"),
    ],
)
def test_headers_that_do_not_fit_are_refused(tmp_path, at, content, reason):
    path = damaged(write_poly5(tmp_path / "a.S00", np.ones((2, 100))), at, content)
    with pytest.raises(RecordError) as error:
        read_poly5_channel(path, 1)
    assert error.value.reason == reason
    assert str(path) in str(error.value)


@pytest.mark.parametrize("size", [0, 30, 100, 300, 700])
def test_files_that_are_cut_short_are_refused(tmp_path, size):
    path = write_poly5(tmp_path / "a.S00", np.ones((2, 100)))
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(RecordError):
        read_poly5_channel(path, 1)
