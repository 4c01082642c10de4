"""Our parser of annotation files against wfdb-python's, and against files that are none."""

import struct

import numpy as np
import pytest
import wfdb

from fairseq_ecg.data.record_file import RecordError
from fairseq_ecg.data.wfdb_annotations import MAX_ANNOTATION_BYTES, read_annotations
from tests.holter import write_annotations, write_patients

REAL = {
    "icentia11k-continuous-ecg/p00/p00000/p00000_s00": 6923,
    "mitdb/100": 2274,
    "mitdb/119": 2094,
    "mitdb/203": 3108,
}


def words(*pairs):
    """Return the bytes of (code, value) pairs; a plain number is a word."""
    numbers = [p if isinstance(p, int) else p[0] << 10 | p[1] for p in pairs]
    return struct.pack(f"<{len(numbers)}H", *numbers)


def write(tmp_path, content):
    path = tmp_path / "a.atr"
    path.write_bytes(content)
    return path


def assert_as_wfdb(stem, annotations):
    theirs = wfdb.rdann(str(stem), "atr", return_label_elements=["label_store"])
    assert annotations.sample.tolist() == theirs.sample.tolist()
    assert annotations.code.tolist() == theirs.label_store.tolist()
    texts = [annotations.aux.get(i, "") for i in range(len(annotations.sample))]
    assert texts == ["" if text == "None" else text for text in theirs.aux_note]


@pytest.mark.parametrize("name", REAL)
def test_real_files_are_read_as_wfdb_reads_them(shared, name):
    annotations = read_annotations(f"{shared / 'data' / name}.atr")
    assert len(annotations.sample) == REAL[name]
    assert_as_wfdb(shared / "data" / name, annotations)


def test_the_segment_of_icentia11k_has_the_known_marks(shared):
    annotations = read_annotations(
        shared / "data/icentia11k-continuous-ecg/p00/p00000/p00000_s00.atr"
    )
    assert np.bincount(annotations.code)[[1, 13, 28]].tolist() == [6641, 244, 38]
    assert annotations.rate_hz == 250
    assert list(annotations.aux.values())[:3] == ["(N", ")", "(N"]


def test_made_up_patients_are_read_as_wfdb_reads_them(tmp_path):
    for holter in write_patients(tmp_path, 2, seconds=120):
        annotations = read_annotations(f"{tmp_path / holter.path}.atr")
        assert annotations.sample[annotations.code != 28].tolist() == holter.beats.tolist()
        assert_as_wfdb(tmp_path / holter.path, annotations)


def test_every_kind_of_element_is_understood(tmp_path):
    rng = np.random.default_rng(0)
    sample = np.cumsum(rng.integers(0, 5000, 300))
    write_annotations(
        tmp_path / "a",
        sample,
        rng.choice(["N", "V", "+", "~"], 300),
        [rng.choice(["", "(N", "odd", "x" * 120]) for _ in range(300)],
        rate_hz=None,
        subtype=rng.integers(-5, 5, 300),
        chan=rng.integers(0, 3, 300),
        num=rng.integers(0, 9, 300),
    )
    annotations = read_annotations(tmp_path / "a.atr")
    assert annotations.rate_hz is None
    assert_as_wfdb(tmp_path / "a", annotations)


def test_long_and_backward_steps_and_what_marks_nothing(tmp_path):
    content = words(
        *[(59, 0), 1, 34464, (1, 0)],  # 100,000 samples on, N
        *[(59, 0), 0xFFFF, 0xFFF6, (5, 3)],  # 10 back and 3 on, V
        *[(0, 7)],  # moves on, marks nothing
        *[(28, 1), (63, 3), *struct.unpack("<2H", b"(N\0\0")],
        *[0, (1, 1)],  # the end, and a rest
    )
    annotations = read_annotations(write(tmp_path, content))
    assert annotations.sample.tolist() == [99_993, 100_000, 100_001]
    assert annotations.code.tolist() == [5, 1, 28]
    assert annotations.aux == {2: "(N\0"}


def test_comments_at_the_beginning_describe_the_file(tmp_path):
    text = b"## time resolution: 360.5\0"
    content = words((22, 0), (63, 25)) + text + words((22, 9), (1, 1), 0)
    annotations = read_annotations(write(tmp_path, content))
    assert annotations.rate_hz == 360.5
    assert annotations.sample.tolist() == [9, 10]


def test_a_file_without_marks_is_empty(tmp_path):
    annotations = read_annotations(write(tmp_path, words(0)))
    assert annotations.sample.dtype == np.int64
    assert not annotations.sample.size
    assert not annotations.code.size


@pytest.mark.parametrize(
    ("content", "reason", "message"),
    [
        (b"", "truncated", "two zero bytes"),
        (words((1, 5), (1, 5)), "truncated", "cut short"),
        (words((59, 0), 0), "truncated", "cut short"),
        (words((1, 5), (63, 1000), 0), "truncated", "cut short"),
        (words((63, 2), 0x4141, (1, 5), 0), "bad_annotations", "begins with text"),
        (words((59, 0), 0xFFFF, 0xFFF6, (1, 0), 0), "bad_annotations", "but marks -10"),
    ],
)
def test_broken_files_are_refused(tmp_path, content, reason, message):
    with pytest.raises(RecordError, match=message) as caught:
        read_annotations(write(tmp_path, content))
    assert caught.value.reason == reason


def test_missing_and_huge_files_are_refused(tmp_path):
    with pytest.raises(RecordError, match="does not exist"):
        read_annotations(tmp_path / "a.atr")
    with open(tmp_path / "a.atr", "wb") as file:
        file.truncate(MAX_ANNOTATION_BYTES + 2)
    with pytest.raises(RecordError, match="must not exceed"):
        read_annotations(tmp_path / "a.atr")


def slow_parse(content):
    """Parse word by word as the format's page says; None where the file has no end."""
    numbers = [*struct.unpack(f"<{len(content) // 2}H", content[: len(content) // 2 * 2])]
    marks, time, i = [], 0, 0
    while i < len(numbers):
        code, value = numbers[i] >> 10, numbers[i] & 1023
        if numbers[i] == 0:
            return marks
        if code == 59:
            if i + 2 >= len(numbers):
                return None
            step = numbers[i + 1] << 16 | numbers[i + 2]
            time += step - (1 << 32) if step >= 1 << 31 else step
            i += 3
            continue
        if code == 63:
            i += 1 + (value + 1) // 2
            continue
        i += 1
        if code < 59:
            time += value
            marks.append((time, code))
    return None


def begins_with_text(content):
    """Tell whether text stands before the first mark."""
    at = 0
    while content[at + 1] >> 2 == 59:
        at += 6
    while content[at + 1] >> 2 in (60, 61, 62):
        at += 2
    return content[at + 1] >> 2 == 63


@pytest.mark.parametrize("seed", range(150))
def test_mutated_files_give_the_marks_or_an_error(tmp_path, seed):
    rng = np.random.default_rng(seed)
    [holter] = write_patients(tmp_path, 1, segments=1, seconds=20, seed=seed)
    content = bytearray((tmp_path / f"{holter.path}.atr").read_bytes())
    if seed % 3 == 0:
        content = bytearray(rng.bytes(int(rng.integers(0, 400))) + b"\0\0")
    for at in rng.integers(0, len(content), int(rng.integers(1, 6))):
        content[at] = rng.integers(256)
    content = bytes(content)[: len(content) if seed % 2 else int(rng.integers(2, len(content) + 1))]
    expected = slow_parse(content)
    if expected is None or any(time < 0 for time, _ in expected) or begins_with_text(content):
        with pytest.raises(RecordError) as caught:
            read_annotations(write(tmp_path, content))
        wanted = "truncated" if expected is None else "bad_annotations"
        assert caught.value.reason == wanted
        return
    found = read_annotations(write(tmp_path, content))
    real = [(t, c) for t, c in expected if c and not (c == 22 and t == 0)]
    assert list(zip(found.sample.tolist(), found.code.tolist(), strict=True)) == sorted(
        real, key=lambda mark: mark[0]
    )
    assert set(found.aux) <= set(range(len(real)))
