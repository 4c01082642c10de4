import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import scipy.io
import scipy.sparse

from fairseq_ecg.data.mat_reader import RecordError, read_mat, read_mat_struct

MEGABYTE = 1 << 20
FILE_HEADER = b"MATLAB 5.0 MAT-file".ljust(124) + b"\x00\x01IM"


def element(kind, data):
    return struct.pack("<II", kind, len(data)) + data + b"\0" * (-len(data) % 8)


def matrix_header(name=b"feats", mclass=6, dims=(1, 1), flags=0):
    shape = struct.pack(f"<{len(dims)}i", *dims)
    return element(6, struct.pack("<II", mclass | flags, 0)) + element(5, shape) + element(1, name)


def plain_file(path, body):
    path.write_bytes(FILE_HEADER + element(14, body))
    return path


def compressed_file(path, start, n_more, fill=b"\0", declared=None):
    """Write a compressed variable: `start`, then `n_more` equal bytes, made in small pieces."""
    declared = len(start) + n_more if declared is None else declared
    squeeze = zlib.compressobj(9)
    parts = [squeeze.compress(struct.pack("<II", 14, declared) + start)]
    parts += [squeeze.compress(fill * MEGABYTE) for _ in range(n_more // MEGABYTE)]
    parts.append(squeeze.compress(fill * (n_more % MEGABYTE)) + squeeze.flush())
    stored = b"".join(parts)
    path.write_bytes(FILE_HEADER + struct.pack("<II", 15, len(stored)) + stored)
    return path


def refusal_of(path, **options):
    """Read a file that must be refused; check that this costs little memory."""
    tracemalloc.start()
    try:
        with pytest.raises(RecordError) as refusal:
            read_mat(path, **options)
        assert tracemalloc.get_traced_memory()[1] < 4 * MEGABYTE
    finally:
        tracemalloc.stop()
    assert str(path) in str(refusal.value)
    return refusal.value.reason


CONTENT = {
    "feats": np.random.default_rng(0).normal(size=(12, 250)),
    "feats32": np.random.default_rng(1).normal(size=(12, 25)).astype(np.float32),
    "curr_sample_rate": 500,
    "patient_id": 17,
    "label": np.array([0, 1, 0, 1]),
    "ecg_path": "a/b/A0001.mat",
    "accents": "Müller µV",
    "empty": np.zeros((0, 3)),
    "no_text": "",
    "names": np.array(["I", "aVR"]),
    "mask": np.array([True, False, True]),
    "cube": np.arange(24, dtype=np.int16).reshape(2, 3, 4),
    "small": np.uint8(7),
    "wide": np.array([2**62, -1]),
    "unsigned": np.array([2**63], dtype=np.uint64),
}


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("keys", [None, ["label", "feats"], list(CONTENT)])
def test_files_are_read_as_scipy_reads_them(tmp_path, compressed, keys):
    scipy.io.savemat(tmp_path / "a.mat", CONTENT, do_compression=compressed)
    expected = scipy.io.loadmat(tmp_path / "a.mat")
    ours = read_mat(tmp_path / "a.mat", keys)
    assert list(ours) == (keys or list(CONTENT))
    for name, array in ours.items():
        assert array.dtype == expected[name].dtype, name
        assert array.shape == expected[name].shape, name
        np.testing.assert_array_equal(array, expected[name], err_msg=name)
        assert array.flags.writeable
        assert array.flags.aligned


def test_numbers_stored_in_the_other_byte_order_are_read(tmp_path):
    header = FILE_HEADER[:124] + b"\x01\x00MI"
    body = struct.pack(">IIII", 6, 8, 6, 0) + struct.pack(">IIii", 5, 8, 1, 2)
    body += struct.pack(">HH", 1, 1) + b"x\0\0\0" + struct.pack(">IIdd", 9, 16, 1.5, -2)
    (tmp_path / "a.mat").write_bytes(header + struct.pack(">II", 14, len(body)) + body)
    array = read_mat(tmp_path / "a.mat")["x"]
    assert array.tolist() == [[1.5, -2.0]]
    assert array.dtype.isnative
    assert scipy.io.loadmat(tmp_path / "a.mat")["x"].tolist() == [[1.5, -2.0]]


def test_a_small_array_does_not_keep_the_whole_file_in_memory(tmp_path):
    content = {"feats": np.zeros((12, 5000)), "label": np.zeros(3)}
    scipy.io.savemat(tmp_path / "a.mat", content)
    tracemalloc.start()
    try:
        kept = [read_mat(tmp_path / "a.mat", ["label"]) for _ in range(20)]
        assert tracemalloc.get_traced_memory()[0] < MEGABYTE // 4
    finally:
        tracemalloc.stop()
    assert len(kept) == 20


def test_a_missing_name_is_answered_with_the_names_there_are(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"feats": 1, "idx": 2})
    with pytest.raises(RecordError, match=r"'label', but holds feats, idx \[missing_key\]"):
        read_mat(tmp_path / "a.mat", ["feats", "label"])


# Bombs.


def test_a_compressed_bomb_is_refused_before_it_is_inflated(tmp_path):
    start = matrix_header(dims=(12, 2_083_334)) + struct.pack("<II", 9, 200_000_064)
    path = compressed_file(tmp_path / "a.mat", start, 200_000_064)
    assert path.stat().st_size < 250_000
    assert scipy.io.whosmat(path) == [("feats", (12, 2_083_334), "double")]
    assert refusal_of(path, max_bytes=50_000_000) == "too_large"


@pytest.mark.parametrize("declared", [None, 64, 0, 2**32 - 1])
def test_a_bomb_with_a_false_shape_or_size_is_refused_too(tmp_path, declared):
    """scipy's whosmat sees a 1 x 1 array here, and its loadmat inflates all of it."""
    start = matrix_header() + struct.pack("<II", 9, 60_000_000)
    path = compressed_file(tmp_path / "a.mat", start, 60_000_000, declared=declared)
    expected = "bad_mat" if declared in (0, 64) else "too_large"
    assert refusal_of(path, max_bytes=50_000_000) == expected


def test_a_bomb_in_the_name_of_a_variable_is_refused(tmp_path):
    """scipy's whosmat inflates such a name, whatever its length."""
    start = matrix_header(name=b"")[:-8] + struct.pack("<II", 1, 60_000_000)
    path = compressed_file(tmp_path / "a.mat", start, 60_000_000, fill=b"a")
    assert refusal_of(path, max_bytes=50_000_000) == "bad_mat"


def test_bytes_after_the_declared_end_are_not_inflated(tmp_path):
    body = matrix_header() + element(9, struct.pack("<d", 1))
    path = compressed_file(tmp_path / "a.mat", body, 60_000_000, declared=len(body))
    assert refusal_of(path) == "bad_mat"


def test_many_small_variables_are_summed(tmp_path):
    content = {f"v{i}": np.zeros(1000) for i in range(100)}
    scipy.io.savemat(tmp_path / "a.mat", content, do_compression=True)
    assert refusal_of(tmp_path / "a.mat", max_bytes=100 * 8000) == "too_large"
    assert len(read_mat(tmp_path / "a.mat", max_bytes=100 * 8100)) == 100
    assert len(read_mat(tmp_path / "a.mat", ["v1", "v2"], max_bytes=20_000)) == 2


def test_a_file_larger_than_the_limit_is_not_even_read(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"feats": np.zeros(1_000_000)})
    assert refusal_of(tmp_path / "a.mat", max_bytes=100_000) == "too_large"


def test_more_variables_than_any_recording_has_are_refused(tmp_path):
    one = [element(14, matrix_header(b"%d" % i) + element(9, bytes(8))) for i in range(1001)]
    (tmp_path / "a.mat").write_bytes(FILE_HEADER + b"".join(one))
    assert refusal_of(tmp_path / "a.mat") == "bad_mat"


def test_long_text_is_refused(tmp_path):
    scipy.io.savemat(tmp_path / "a.mat", {"t": "x" * (MEGABYTE // 8)}, do_compression=True)
    with pytest.raises(RecordError, match="too_large"):
        read_mat(tmp_path / "a.mat")


# What is no array of numbers.


def objects():
    record = np.zeros((1, 1), dtype=[("a", object)])
    return {
        "cell array": np.array([1, "x", 2.5], dtype=object),
        "struct": {"a": 1},
        "struct ": record,
        "sparse": scipy.sparse.csc_matrix(np.eye(3)),
        "complex": np.array([1j]),
    }


@pytest.mark.parametrize("kind", objects())
def test_what_is_no_real_number_or_text_is_refused_unless_it_is_skipped(tmp_path, kind):
    scipy.io.savemat(tmp_path / "a.mat", {"odd": objects()[kind], "label": 3})
    with pytest.raises(RecordError, match=rf"'odd'.*{kind.strip()}.*unsupported_mat"):
        read_mat(tmp_path / "a.mat")
    assert read_mat(tmp_path / "a.mat", ["label"])["label"].item() == 3


@pytest.mark.parametrize("mclass", [3, 16, 17, 0, 99])
def test_objects_and_functions_are_refused_unless_they_are_skipped(tmp_path, mclass):
    odd = matrix_header(b"odd", mclass) if mclass != 17 else (
        element(6, struct.pack("<II", 17, 0)) + element(1, b"odd") + element(1, b"MCOS")
    )  # fmt: skip
    good = matrix_header(b"label") + element(9, struct.pack("<d", 3))
    (tmp_path / "a.mat").write_bytes(FILE_HEADER + element(14, odd) + element(14, good))
    assert refusal_of(tmp_path / "a.mat") == "unsupported_mat"
    assert read_mat(tmp_path / "a.mat", ["label"])["label"].item() == 3


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "bad_mat"), (b"short", "bad_mat"), (b"no header at all" * 20, "bad_mat"),
        (FILE_HEADER + b"\0" * 5, "bad_mat"), (FILE_HEADER + bytes(16), "bad_mat"),
        (FILE_HEADER + struct.pack("<II", 14, 2**31), "bad_mat"),
        (FILE_HEADER + struct.pack("<II", 15, 8) + b"no zlib!", "bad_mat"),
        (FILE_HEADER + element(9, bytes(8)), "bad_mat"),
        (struct.pack("<5i", 30, 2, 3, 0, 4) + b"val\0" + bytes(12), "unsupported_mat"),
        (FILE_HEADER[:124] + b"\x00\x02IM" + bytes(384) + b"\x89HDF\r\n\x1a\n", "unsupported_mat"),
    ],
)  # fmt: skip
def test_files_that_are_no_level_5_file_are_refused(tmp_path, content, reason):
    (tmp_path / "a.mat").write_bytes(content)
    assert refusal_of(tmp_path / "a.mat") == reason


def test_a_level_7_3_file_is_named_as_such(tmp_path):
    (tmp_path / "a.mat").write_bytes(FILE_HEADER[:124] + b"\x00\x02IM" + bytes(400))
    with pytest.raises(RecordError, match=r"v7\.3 \(HDF5\)"):
        read_mat(tmp_path / "a.mat")


@pytest.mark.parametrize(
    "body",
    [
        matrix_header(),
        matrix_header() + element(9, bytes(16)),
        matrix_header(dims=(2, 2)) + element(9, bytes(8)),
        matrix_header(dims=(-1, -1)) + element(9, bytes(8)),
        matrix_header(dims=(1,)) + element(9, bytes(8)),
        matrix_header(dims=(1,) * 40) + element(9, bytes(8)),
        matrix_header(dims=(2**31 - 1,) * 32) + element(9, bytes(8)),
        matrix_header() + element(14, bytes(8)),
        matrix_header() + struct.pack("<II", 9, 2**31),
        matrix_header() + struct.pack("<HH", 9, 8) + bytes(4),
        matrix_header(mclass=4) + element(9, b"x"),
        matrix_header(mclass=4, dims=(1, 2)) + element(16, b"x"),
        matrix_header(mclass=4) + element(16, b"\xff"),
        matrix_header(mclass=4) + element(18, b"\xff\xff\xff\xff"),
        b"",
    ],
)
def test_variables_that_contradict_themselves_are_refused(tmp_path, body):
    assert refusal_of(plain_file(tmp_path / "a.mat", body)) == "bad_mat"


def test_a_name_that_occurs_twice_is_refused(tmp_path):
    one = element(14, matrix_header() + element(9, bytes(8)))
    (tmp_path / "a.mat").write_bytes(FILE_HEADER + one + one)
    assert refusal_of(tmp_path / "a.mat") == "bad_mat"


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    assert refusal_of(tmp_path / "no.mat") == "missing_file"
    assert refusal_of(tmp_path) == "not_a_file"


@pytest.mark.parametrize("compressed", [False, True])
def test_a_damaged_file_is_either_read_or_refused_within_bounded_memory(tmp_path, compressed):
    path = tmp_path / "a.mat"
    scipy.io.savemat(path, CONTENT, do_compression=compressed)
    sound = path.read_bytes()
    rng = np.random.default_rng(5)
    outcomes = {"read": 0, "refused": 0}
    tracemalloc.start()
    try:
        for _ in range(400):
            damaged = bytearray(sound)
            for _ in range(rng.integers(1, 4)):
                damaged[int(rng.integers(0, len(damaged)))] ^= 1 << int(rng.integers(0, 8))
            path.write_bytes(
                damaged[: int(rng.integers(0, len(damaged)))] if rng.random() < 0.2 else damaged
            )
            tracemalloc.reset_peak()
            before = tracemalloc.get_traced_memory()[0]
            try:
                assert isinstance(read_mat(path), dict)
                outcomes["read"] += 1
            except RecordError:
                outcomes["refused"] += 1
            assert tracemalloc.get_traced_memory()[1] - before < 2 * MEGABYTE
    finally:
        tracemalloc.stop()
    assert outcomes["refused"] > 50
    assert outcomes["read"] > 10 or compressed  # zlib's checksum notices nearly all of them


# Real files.


def test_files_of_the_reference_pipeline_agree_with_scipy(shared):
    paths = sorted((shared / "data/code-15-reference-output").rglob("*.mat"))
    assert len(paths) == 24
    for path in paths:
        expected = scipy.io.loadmat(path)
        ours = read_mat(path)
        assert set(ours) == {name for name in expected if not name.startswith("__")}
        for name, array in ours.items():
            assert array.dtype == expected[name].dtype
            np.testing.assert_array_equal(array, expected[name])


def test_the_struct_of_a_cpsc_2018_recording_is_read(shared):
    paths = sorted((shared / "data/cpsc2018").rglob("*.mat"))
    assert len(paths) == 6
    for path in paths:
        expected = scipy.io.loadmat(path)["ECG"][0, 0]
        ours = read_mat_struct(path, "ECG")
        assert sorted(ours) == sorted(expected.dtype.names)
        for name, array in ours.items():
            np.testing.assert_array_equal(array, expected[name])


def test_structs_of_other_shapes_and_contents_are_refused(tmp_path):
    content = {"two": np.zeros((1, 2), dtype=[("a", float)]), "deep": {"a": {"b": 1}}, "x": 1}
    scipy.io.savemat(tmp_path / "a.mat", content)
    for name in content:
        with pytest.raises(RecordError, match="unsupported_mat"):
            read_mat_struct(tmp_path / "a.mat", name)
    with pytest.raises(RecordError, match="missing_key"):
        read_mat_struct(tmp_path / "a.mat", "ECG")
    scipy.io.savemat(tmp_path / "a.mat", {"ECG": {"data": np.zeros(10_000)}}, do_compression=True)
    with pytest.raises(RecordError, match="too_large"):
        read_mat_struct(tmp_path / "a.mat", "ECG", max_bytes=50_000)
