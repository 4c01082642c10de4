"""Broken and hostile records: always a RecordError, never a crash, a wait or a large allocation."""

import os
import struct
import tracemalloc

import numpy as np
import pytest

from fairseq_ecg.data import wfdb_header
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.data.wfdb_reader import RecordError, read_header, read_raw, read_signal

MEGABYTE = 1 << 20


def write(folder, header, data=None, file="r.dat"):
    (folder / "r.hea").write_text(header)
    if data is not None:
        (folder / file).write_bytes(data)
    return folder / "r"


def refusal_of(path):
    """Read a record that must be refused; check that this costs next to no memory."""
    tracemalloc.start()
    try:
        with pytest.raises(RecordError) as refusal:
            read_signal(path)
        assert tracemalloc.get_traced_memory()[1] < 4 * MEGABYTE
    finally:
        tracemalloc.stop()
    return refusal.value.reason


@pytest.mark.parametrize(
    ("lead", "n_samples", "reason"),
    [
        ("16", 501, "truncated"), ("16+2", 500, "truncated"), ("32", 500, "truncated"),
        ("24", 334, "truncated"), ("212", 667, "truncated"), ("80", 1001, "truncated"),
        ("16", 10**12, "size_mismatch"), ("16", 10**17, "size_mismatch"),
        ("212", 10**12, "size_mismatch"), ("24+5", 10**12, "size_mismatch"),
        (f"16+{10**17}", 5, "size_mismatch"), ("16x999999999", 500, "size_mismatch"),
        ("16x2", 500, "truncated"), ("16:5", 501, "truncated"), ("16:501", 500, "bad_header"),
        ("310", 10**12, "size_mismatch"), ("8", 10**12, "size_mismatch"),
        ("516", 10**12, "size_mismatch"), ("516", 500, "unsupported_format"),
        ("0", 500, "unsupported_format"), ("999", 500, "unsupported_format"),
        ("16", 0, "empty"), ("16 1/mmHg", 500, "unknown_unit"),
    ],
)  # fmt: skip
def test_claims_that_the_signal_file_does_not_bear_out_are_refused(
    tmp_path, lead, n_samples, reason
):
    path = write(tmp_path, f"r 1 500 {n_samples}\nr.dat {lead}\n", bytes(1000))
    assert refusal_of(path) == reason


def test_an_empty_signal_file_is_truncated(tmp_path):
    assert refusal_of(write(tmp_path, "r 1 500 10\nr.dat 16\n", b"")) == "truncated"


def test_an_empty_signal_file_without_declared_length_is_empty(tmp_path):
    assert refusal_of(write(tmp_path, "r 1 500\nr.dat 16\n", b"")) == "empty"


def test_a_second_file_that_is_too_short_is_refused(tmp_path):
    (tmp_path / "b.dat").write_bytes(bytes(18))
    path = write(tmp_path, "r 2 500 10\nr.dat 16\nb.dat 16\n", bytes(20))
    assert refusal_of(path) == "truncated"


def test_leads_of_one_file_must_share_their_format(tmp_path):
    path = write(tmp_path, "r 2 500 10\nr.dat 16\nr.dat 212\n", bytes(200))
    assert refusal_of(path) == "bad_header"


def test_a_missing_signal_file_is_named(tmp_path):
    path = write(tmp_path, "r 1 500 10\nmissing.dat 16\n")
    with pytest.raises(RecordError, match=r"missing\.dat does not exist.*missing_file"):
        read_raw(path)


@pytest.mark.parametrize("name", ["r.dat", "r.hea"])
@pytest.mark.parametrize("kind", ["folder", "pipe"])
def test_what_is_no_regular_file_is_refused_without_waiting(tmp_path, name, kind):
    path = write(tmp_path, "r 1 500 10\nr.dat 16:1\n", bytes(20))
    (tmp_path / name).unlink()
    if kind == "folder":
        (tmp_path / name).mkdir()
    else:
        os.mkfifo(tmp_path / name)
    assert refusal_of(path) == "not_a_file"


def test_links_out_of_the_folder_are_followed(tmp_path):
    inside = tmp_path / "in"
    inside.mkdir()
    (tmp_path / "real.dat").write_bytes(bytes(20))
    path = write(inside, "r 1 500 10\nr.dat 16\n")
    (inside / "r.dat").symlink_to(tmp_path / "real.dat")
    assert read_signal(path).n_samples == 10


def test_a_circle_of_links_is_refused(tmp_path):
    path = write(tmp_path, "r 1 500 10\nr.dat 16\n")
    (tmp_path / "r.dat").symlink_to("r.dat")
    assert refusal_of(path) == "unreadable_file"


def test_a_path_with_a_zero_byte_is_refused():
    assert refusal_of("no\0where") == "unreadable_file"


def test_a_sparse_file_cannot_make_a_false_claim_true(tmp_path):
    path = write(tmp_path, f"r 1 500 {10**11}\nr.dat 16\n", b"")
    os.truncate(tmp_path / "r.dat", 2 * 10**11)
    assert refusal_of(path) == "too_large"


def test_a_file_that_does_not_fit_into_memory_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(wfdb_header, "MAX_RECORD_BYTES", 1 << 62)
    path = write(tmp_path, f"r 1 500 {2**41}\nr.dat 16\n", b"")
    os.truncate(tmp_path / "r.dat", 2**42)
    with pytest.raises(RecordError, match="too_large"):
        read_raw(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("r/2 1 500 10\na 5\nmissing 5\n", "missing_file"),
        ("r/2 1 500 1000000000005\na 5\n~ 1000000000000\n", "size_mismatch"),
        ("r/1 1 500 6\na 6\n", "size_mismatch"),
        ("r/2 1 500 10\na 5\nr 5\n", "size_mismatch"),
        ("r/1 1 500 5\nlong 5\n", "truncated"),
        ("r/1 1 500 5\nmicro 5\n", "unsupported_format"),
        ("r/10001 1 500 10001\n" + "a 1\n" * 10001, "size_mismatch"),
    ],
)
def test_hostile_segments_are_refused(tmp_path, text, reason):
    (tmp_path / "a.hea").write_text("a 1 500 5\na.dat 16\n")
    (tmp_path / "a.dat").write_bytes(bytes(10))
    (tmp_path / "long.hea").write_text("a 1 500 50\na.dat 16\n")
    (tmp_path / "micro.hea").write_text("a 1 500 5\na.dat 16 1/µV\n")
    assert refusal_of(write(tmp_path, text)) == reason


def v4_record(folder, rows=2, columns=30, kind=30, imaginary=0, name=b"val\0", declared=30):
    header = struct.pack("<5i", kind, rows, columns, imaginary, len(name)) + name
    data = header + np.arange(60, dtype="<i2").tobytes()
    leads = "r.mat 16+24 1000/mV\n" * 2
    return write(folder, f"r 2 500 {declared}\n{leads}", data, file="r.mat")


def test_a_matlab_wrapped_record_is_read(tmp_path):
    assert read_raw(v4_record(tmp_path)).adu[:, 1].tolist() == [2, 3]


@pytest.mark.parametrize(
    "disagreement",
    [
        {"rows": 30, "columns": 2}, {"columns": 29}, {"columns": 31}, {"rows": 12}, {"kind": 0},
        {"imaginary": 1}, {"name": b"value\0"}, {"declared": 29}, {"kind": -1}, {"rows": -2},
    ],
)  # fmt: skip
def test_a_matlab_header_that_disagrees_with_the_wfdb_header_is_refused(tmp_path, disagreement):
    assert refusal_of(v4_record(tmp_path, **disagreement)) == "mat_mismatch"


def test_a_matlab_file_of_another_kind_is_not_read_as_samples(tmp_path):
    data = b"MATLAB 5.0 MAT-file".ljust(128) + bytes(500)
    path = write(tmp_path, "r 1 500 30\nr.mat 16+24\n", data, file="r.mat")
    assert refusal_of(path) == "mat_mismatch"


def specimen(folder, kind):
    """Write a small sound record of one kind; return the names of its files."""
    rng = np.random.default_rng(7)
    data = rng.integers(0, 256, 600, dtype=np.uint8).tobytes()
    lead = " 200(3)/mV 12 0 0 77 0 I\n"
    if kind == "mat":
        v4_record(folder)
        return ["r.hea", "r.mat"]
    if kind == "segments":
        write(folder, "r/3 2 250 110\na 50\na 10\na 50\n")
        (folder / "a.hea").write_text("a 2 250 50\n" + f"r.dat 16{lead}" * 2)
        (folder / "r.dat").write_bytes(data)
        return ["r.hea", "a.hea", "r.dat"]
    text = {
        "plain": "r 2 500 150 12:00:00 01/01/2001\n" + f"r.dat 16{lead}" * 2 + "# Age: 5\n",
        "212": "r 2 360 200\n" + f"r.dat 212{lead}" * 2,
        "files": f"r 3 360 100\nr.dat 24{lead}" + f"s.dat 80+7{lead}" * 2,
        "skew": f"r 2 360 100\nr.dat 16:2{lead}r.dat 16x2{lead}",
    }[kind]
    write(folder, text, data)
    (folder / "s.dat").write_bytes(data)
    return ["r.hea", "r.dat"]


def mutate(content, rng):
    """Flip bits, replace, cut, insert, duplicate or append."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        at = int(rng.integers(0, len(content) + 1))
        kind = rng.integers(0, 6)
        if kind == 0 and at < len(content):
            content[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1 and at < len(content):
            content[at] = int(rng.choice(list(b"0123456789-+x:/.()\n\t #~eN\x00\xff")))
        elif kind == 2:
            del content[at:]
        elif kind == 3:
            content[at:at] = bytes(rng.choice(list(b"0123456789-+x:/(."), int(rng.integers(1, 9))))
        elif kind == 4:
            content[at:at] = content[at : at + 20]
        else:
            content += rng.integers(0, 256, int(rng.integers(1, 40)), dtype=np.uint8).tobytes()
    return bytes(content)


@pytest.mark.parametrize("kind", ["plain", "212", "files", "mat", "skew", "segments"])
def test_a_damaged_record_is_either_read_or_refused_within_bounded_memory(tmp_path, kind):
    names = specimen(tmp_path, kind)
    sound = {name: (tmp_path / name).read_bytes() for name in names}
    assert isinstance(read_signal(tmp_path / "r"), EcgSignal)
    rng = np.random.default_rng(20)
    outcomes = {"read": 0, "refused": 0}
    tracemalloc.start()
    try:
        for turn in range(200):
            name = names[turn % len(names)]
            (tmp_path / name).write_bytes(mutate(sound[name], rng))
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                assert isinstance(read_signal(tmp_path / "r"), EcgSignal)
                outcomes["read"] += 1
            except RecordError:
                outcomes["refused"] += 1
            assert tracemalloc.get_traced_memory()[1] - before < 8 * MEGABYTE
            (tmp_path / name).write_bytes(sound[name])
    finally:
        tracemalloc.stop()
    assert min(outcomes.values()) > 10


def test_the_header_of_a_refused_record_can_still_be_read(tmp_path):
    path = write(tmp_path, "r 1 500 10\nr.dat 16\n", bytes(3))
    assert read_header(path).n_samples == 10
