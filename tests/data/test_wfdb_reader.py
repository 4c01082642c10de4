import itertools

import numpy as np
import pytest
import wfdb

from fairseq_ecg.data.wfdb_reader import (
    RecordError,
    read_header,
    read_raw,
    read_signal,
    to_millivolts,
    verify_checksum,
)

LIMITS = {"16": 15, "24": 23, "32": 31, "61": 15, "80": 7, "212": 11}
PER_MV = {"mv": 1.0, "uv": 1e3, "v": 1e-3}


def encode(values, code):
    """Store A/D values [T, C] in one format; written apart from the reader, as its oracle."""
    flat = values.reshape(-1).astype(np.int64)
    if code == "212":
        flat = np.append(flat, 0) if len(flat) % 2 else flat
        a, b = flat[0::2] & 0xFFF, flat[1::2] & 0xFFF
        triples = np.stack([a & 0xFF, (a >> 8) | ((b >> 8) << 4), b & 0xFF], axis=1)
        return triples.astype(np.uint8).tobytes()[: -(-values.size * 3 // 2)]
    if code == "24":
        return flat.astype("<i4").view(np.uint8).reshape(-1, 4)[:, :3].tobytes()
    if code == "80":
        return (flat + 128).astype(np.uint8).tobytes()
    return flat.astype({"16": "<i2", "61": ">i2", "32": "<i4"}[code]).tobytes()


def random_values(code, n_samples, n_leads, seed=0):
    """Draw A/D values that include both limits, the lower one being the invalid mark."""
    high = 1 << LIMITS[code]
    values = np.random.default_rng(seed).integers(-high, high, size=(n_samples, n_leads))
    values[0, 0], values[-1, -1], values[n_samples // 2, 0] = high - 1, -high, -high
    return values


def expected_mv(record):
    """Return wfdb's physical values as float32 mV, [C, T]."""
    scale = np.array([1 / PER_MV[unit.lower()] for unit in record.units])
    return (record.p_signal * scale).T.astype(np.float32)


def assert_same_as_wfdb(stem):
    stem = str(stem)
    record = wfdb.rdrecord(stem)
    signal = read_signal(stem)
    np.testing.assert_array_equal(signal.values_mv, expected_mv(record))
    assert signal.values_mv.dtype == np.float32
    assert signal.values_mv.flags.c_contiguous
    assert signal.rate_hz == record.fs
    assert signal.leads == tuple(record.sig_name)
    return signal


@pytest.mark.parametrize("n_leads", [1, 2, 3])
@pytest.mark.parametrize("n_samples", [1, 2, 7, 100])
@pytest.mark.parametrize("code", LIMITS)
def test_every_format_agrees_with_what_was_stored_and_with_wfdb(tmp_path, code, n_samples, n_leads):
    values = random_values(code, n_samples, n_leads)
    (tmp_path / "r.dat").write_bytes(b"head" + encode(values, code) + b"tail")
    leads = "".join(f"r.dat {code}+4 3.7(-2)/mV 0 0 0 0 0 L{i}\n" for i in range(n_leads))
    (tmp_path / "r.hea").write_text(f"r {n_leads} 100 {n_samples}\n{leads}")
    raw = read_raw(tmp_path / "r")
    np.testing.assert_array_equal(raw.adu, values.T)
    assert raw.adu.dtype == (np.int32 if code in ("24", "32") else np.int16)
    mark = -(1 << LIMITS[code])
    np.testing.assert_array_equal(raw.invalid, np.equal(values.T, mark))
    signal = assert_same_as_wfdb(tmp_path / "r")
    assert np.isnan(signal.values_mv).sum() == raw.invalid.sum()


@pytest.mark.parametrize("n_leads", [1, 2, 3])
@pytest.mark.parametrize("code", LIMITS)
def test_every_format_can_be_read_from_the_middle(tmp_path, code, n_leads):
    values = random_values(code, 23, n_leads)
    (tmp_path / "r.dat").write_bytes(b"head" + encode(values, code) + b"tail")
    leads = "".join(f"r.dat {code}+4 3.7(-2)/mV 0 0 0 0 0 L{i}\n" for i in range(n_leads))
    (tmp_path / "r.hea").write_text(f"r {n_leads} 100 23\n{leads}")
    whole = read_raw(tmp_path / "r")
    for start, stop in itertools.combinations(range(24), 2):
        part = read_raw(tmp_path / "r", whole.header, start, stop)
        np.testing.assert_array_equal(part.adu, whole.adu[:, start:stop])
        invalid = whole.invalid[:, start:stop]
        np.testing.assert_array_equal(invalid, False if part.invalid is None else part.invalid)


def test_part_of_several_files_and_of_rarer_formats(tmp_path):
    values = {"a.dat": random_values("16", 20, 1), "b.dat": random_values("212", 20, 2)}
    (tmp_path / "a.dat").write_bytes(encode(values["a.dat"], "16"))
    (tmp_path / "b.dat").write_bytes(encode(values["b.dat"], "212"))
    (tmp_path / "r.hea").write_text("r 3 100 20\na.dat 16\nb.dat 212\nb.dat 212\n")
    (tmp_path / "skewed.hea").write_text("skewed 2 100 18\nb.dat 212:1\nb.dat 212\n")
    for name, n_samples in (("r", 20), ("skewed", 18)):
        whole = read_raw(tmp_path / name).adu
        part = read_raw(tmp_path / name, None, 5, n_samples)
        np.testing.assert_array_equal(part.adu, whole[:, 5:])


@pytest.mark.parametrize(("start", "stop"), [(0, 11), (-1, 5), (5, 5), (7, 3), (10, None)])
def test_a_part_that_is_not_there_is_refused(tmp_path, start, stop):
    (tmp_path / "r.dat").write_bytes(np.arange(10, dtype="<i2").tobytes())
    (tmp_path / "r.hea").write_text("r 1 100 10\nr.dat 16\n")
    with pytest.raises(RecordError, match="has samples 0 to 10, not"):
        read_raw(tmp_path / "r", None, start, stop)


def test_a_record_without_invalid_samples_has_no_mask(tmp_path):
    (tmp_path / "r.dat").write_bytes(np.arange(10, dtype="<i2").tobytes())
    (tmp_path / "r.hea").write_text("r 1 100 10\nr.dat 16\n")
    assert read_raw(tmp_path / "r").invalid is None


def test_leads_in_several_files_of_different_formats_keep_their_order(tmp_path):
    parts = {"a.dat": ("16", 2), "b.dat": ("212", 1), "c.dat": ("24", 3)}
    text, expected = "r 6 100 31\n", []
    for name, (code, n_leads) in parts.items():
        values = random_values(code, 31, n_leads, seed=n_leads)
        (tmp_path / name).write_bytes(encode(values, code))
        text += "".join(f"{name} {code} 100 0 0 0 0 0 {name}{i}\n" for i in range(n_leads))
        expected.append(values.T)
    (tmp_path / "r.hea").write_text(text)
    raw = read_raw(tmp_path / "r")
    np.testing.assert_array_equal(raw.adu, np.concatenate(expected))
    assert raw.adu.dtype == np.int32
    assert raw.invalid.sum(axis=1).tolist() == [1, 1, 2, 1, 0, 1]
    assert_same_as_wfdb(tmp_path / "r")


@pytest.mark.parametrize(
    "gain", ["0", "1000/mV", "74.36482269503546(0)/mV", "200(-7)/uV", "3e4/V", "-5"]
)
def test_gains_and_units_scale_as_in_wfdb(tmp_path, gain):
    values = random_values("16", 300, 1)
    (tmp_path / "r.dat").write_bytes(encode(values, "16"))
    (tmp_path / "r.hea").write_text(f"r 1 100 300\nr.dat 16 {gain} 12 5 0 0 0 I\n")
    record = wfdb.rdrecord(str(tmp_path / "r"))
    ours = read_signal(tmp_path / "r").values_mv
    np.testing.assert_allclose(ours, expected_mv(record), rtol=1e-7, equal_nan=True)


def test_large_baselines_do_not_cost_precision(tmp_path):
    values = random_values("16", 50, 1)
    (tmp_path / "r.dat").write_bytes(encode(values, "16"))
    (tmp_path / "r.hea").write_text("r 1 100 50\nr.dat 16 1000(100000001)/mV 0 0 0 0 0 I\n")
    assert_same_as_wfdb(tmp_path / "r")


def test_an_own_header_saves_reading_it_again(tmp_path):
    (tmp_path / "r.dat").write_bytes(bytes(20))
    (tmp_path / "r.hea").write_text("r 1 100 10\nr.dat 16\n")
    header = read_header(tmp_path / "r")
    (tmp_path / "r.hea").unlink()
    assert read_raw(tmp_path / "r", header).header is header


def test_a_lead_that_is_no_voltage_can_be_read_raw_but_not_in_millivolts(tmp_path):
    (tmp_path / "r.dat").write_bytes(bytes(40))
    (tmp_path / "r.hea").write_text(
        "r 2 100 10\nr.dat 16 1/mV 0 0 0 0 0 I\nr.dat 16 1/mmHg 0 0 0 0 0 P\n"
    )
    raw = read_raw(tmp_path / "r")
    assert raw.adu.shape == (2, 10)
    with pytest.raises(RecordError, match=r"mmHg.*unknown_unit"):
        to_millivolts(raw)


def test_checksums_name_the_leads_that_disagree(tmp_path):
    values = random_values("16", 1000, 4)
    sums = values.sum(axis=0)
    unsigned, signed = int(sums[0] % 65536), int((sums[1] + 32768) % 65536 - 32768)
    (tmp_path / "r.dat").write_bytes(encode(values, "16"))
    (tmp_path / "r.hea").write_text(
        "r 4 100 1000\n"
        f"r.dat 16 200 0 0 0 {unsigned} 0 A\nr.dat 16 200 0 0 0 {signed} 0 B\n"
        f"r.dat 16 200 0 0 0 {int(sums[2]) % 65536 ^ 1} 0 C\nr.dat 16 200 0 0 0 0 0 unknown\n"
    )
    assert verify_checksum(read_raw(tmp_path / "r")) == ["C"]


# The records below go through wfdb-python, so the values are compared with its own.


def test_skewed_leads_are_aligned(tmp_path):
    values = random_values("16", 40, 2)
    (tmp_path / "r.dat").write_bytes(encode(values, "16"))
    (tmp_path / "r.hea").write_text(
        "r 2 100 40\nr.dat 16:3 200/uV 0 0 0 9 0 A\nr.dat 16 9 0 0 0 0 0 B\n"
    )
    raw = read_raw(tmp_path / "r")
    np.testing.assert_array_equal(raw.adu[0, :37], values[3:, 0])
    np.testing.assert_array_equal(raw.adu[1], values[:, 1])
    assert raw.invalid[0, 37:].all()
    assert verify_checksum(raw) == []
    assert_same_as_wfdb(tmp_path / "r")


def test_several_samples_per_frame_are_averaged(tmp_path):
    values = random_values("16", 30, 3)
    (tmp_path / "r.dat").write_bytes(encode(values, "16"))
    (tmp_path / "r.hea").write_text(
        "r 2 100 30\nr.dat 16x2 200 0 0 0 0 0 A\nr.dat 16 9 0 0 0 0 0 B\n"
    )
    assert assert_same_as_wfdb(tmp_path / "r").n_samples == 30


@pytest.mark.parametrize("code", ["160", "310", "311", "8"])
def test_rare_formats_are_read_too(tmp_path, code):
    rng = np.random.default_rng(3)
    (tmp_path / "r.dat").write_bytes(rng.integers(0, 100, 240, dtype=np.uint8).tobytes())
    (tmp_path / "r.hea").write_text(
        f"r 2 100 60\nr.dat {code} 200 0 0 5 0 0 A\nr.dat {code} 9 0 0 7 0 0 B\n"
    )
    if code == "8":  # wfdb has no invalid mark for it, and fails to scale; the A/D values are fine
        d = wfdb.rdrecord(str(tmp_path / "r"), physical=False).d_signal
        np.testing.assert_array_equal(read_raw(tmp_path / "r").adu, d.T)
    else:
        assert_same_as_wfdb(tmp_path / "r")


def write_segments(folder, names, n_samples=25, gain="100(3)/mV"):
    for seed, name in enumerate(names):
        values = random_values("16", n_samples, 2, seed)
        (folder / f"{name}.dat").write_bytes(encode(values, "16"))
        leads = "".join(f"{name}.dat 16 {gain} 0 0 0 0 0 {lead}\n" for lead in ("I", "II"))
        (folder / f"{name}.hea").write_text(f"{name} 2 250 {n_samples}\n{leads}")


def test_segments_of_a_fixed_layout_are_joined(tmp_path):
    write_segments(tmp_path, ["a", "b"])
    (tmp_path / "r.hea").write_text("r/2 2 250 50\na 25\nb 25\n# Age: 7\n")
    header = read_header(tmp_path / "r")
    assert header.segments == (("a", 25), ("b", 25))
    assert header.comments == ("Age: 7",)
    assert assert_same_as_wfdb(tmp_path / "r").n_samples == 50


def test_gaps_between_segments_of_a_variable_layout_are_nan(tmp_path):
    write_segments(tmp_path, ["a", "b"])
    (tmp_path / "layout.hea").write_text("layout 2 250 0\n~ 0 1 0 0 0 0 0 I\n~ 0 1 0 0 0 0 0 II\n")
    (tmp_path / "r.hea").write_text("r/4 2 250 60\nlayout 0\na 25\n~ 10\nb 25\n")
    signal = assert_same_as_wfdb(tmp_path / "r")
    assert np.isnan(signal.values_mv[:, 25:35]).all()
    assert read_raw(tmp_path / "r").header.gains == (100.0, 100.0)
    assert verify_checksum(read_raw(tmp_path / "r")) == []


# Real recordings.


def one_in(paths, n):
    paths = sorted(paths)
    assert paths
    return list(itertools.islice(paths, 0, None, max(1, len(paths) // n)))


def test_every_ptb_xl_record_at_100_hz_agrees_with_wfdb(shared):
    paths = sorted((shared / "data/ptb-xl/records100").rglob("*.hea"))
    assert len(paths) == 264
    for path in paths:
        assert_same_as_wfdb(path.with_suffix(""))
        assert verify_checksum(read_raw(path)) == []


@pytest.mark.parametrize(
    ("folder", "n"),
    [
        ("ptb-xl/records500", 10), ("challenge-2017", 20), ("challenge-2021/training/cpsc_2018", 5),
        ("challenge-2021/training/cpsc_2018_extra", 5), ("challenge-2021/training/georgia", 5),
        ("challenge-2021/training/ptb-xl", 5), ("challenge-2021/training/ptb", 1),
        ("challenge-2021/training/chapman_shaoxing", 5), ("challenge-2021/training/ningbo", 5),
        ("ludb", 10), ("ecg-id-database-1.0.0", 10), ("mitdb", 3), ("icentia11k-continuous-ecg", 1),
    ],
)  # fmt: skip
def test_records_of_every_other_set_agree_with_wfdb(shared, folder, n):
    for path in one_in((shared / "data" / folder).rglob("*.hea"), n):
        assert_same_as_wfdb(path.with_suffix(""))


def test_checksums_find_the_eight_altered_ecg_id_records_and_no_others(shared):
    paths = sorted((shared / "data/ecg-id-database-1.0.0").rglob("*.hea"))
    assert sum(bool(verify_checksum(read_raw(path))) for path in paths) == 8
    for path in one_in((shared / "data/challenge-2017").rglob("*.hea"), 20):
        assert verify_checksum(read_raw(path)) == []  # they are all 0 there
