import math
import pickle

import pytest
import wfdb

from fairseq_ecg.data.wfdb_reader import RecordError, read_header


def write(folder, text, name="r"):
    (folder / f"{name}.hea").write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def lead(fields, record="r 1 500 100"):
    return f"{record}\n{fields}\n"


def test_all_fields_of_a_full_header_are_read(tmp_path):
    text = (
        "rec 2 360/25.5(7) 650000 12:30:01.5 01/02/2003\n"
        "# <age>: 58\n"
        "a.dat 212x1:0+512 200.5(-3)/uV 11 1024 995 -22131 0 MLII  modified\n"
        "\n"
        "b.dat 16 2000 12 -7 1011 20052 0 V5\n"
        "#Age: 74\n##  Sex: F \n"
    )
    header = read_header(write(tmp_path, text))
    assert header.record == "rec"
    assert (header.n_leads, header.rate_hz, header.n_samples) == (2, 360.0, 650000)
    assert header.leads == ("MLII  modified", "V5")
    assert header.gains == (200500.0, 2000.0)
    assert header.baselines == (-3, -7)
    assert header.formats == ("212", "16")
    assert header.files == ("a.dat", "b.dat")
    assert header.byte_offsets == (512, 0)
    assert header.units == ("uV", "mV")
    assert header.init_values == (995, 1011)
    assert header.checksums == (-22131, 20052)
    assert header.comments == ("<age>: 58", "Age: 74", "Sex: F")


@pytest.mark.parametrize("suffix", ["", ".hea"])
@pytest.mark.parametrize("as_text", [True, False])
def test_a_record_is_named_with_or_without_suffix(tmp_path, suffix, as_text):
    write(tmp_path, lead("a.dat 16"), name="x.y")
    path = tmp_path / f"x.y{suffix}"
    assert read_header(str(path) if as_text else path).n_samples == 100


@pytest.mark.parametrize(
    "moment",
    ["2014-05-08 05:05:15", "05:05:15 2014-05-08", "12-May-2020 12:33:59", "::", "10:00",
     "12:00:00.123456 1/1/850", "0:0:0 00/00/0000", "noon yesterday", "12:30 01/01/2020 UTC"],
)  # fmt: skip
def test_base_time_and_date_are_ignored_in_whatever_form(tmp_path, moment):
    header = read_header(write(tmp_path, lead("a.dat 16", f"r 1 300 100 {moment}")))
    assert (header.rate_hz, header.n_samples) == (300.0, 100)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ("16+24 1000/mV", ("16", 24, 1000.0, 0)), ("16x1+24 1000.0(0)/mV", ("16", 24, 1000.0, 0)),
        ("16", ("16", 0, 200.0, 0)), ("16 0", ("16", 0, 200.0, 0)),
        ("16 0/mV", ("16", 0, 200.0, 0)),
        ("16 1e3", ("16", 0, 1000.0, 0)), ("16 .5(12)/mv", ("16", 0, 0.5, 12)),
        ("16 100 11 1024", ("16", 0, 100.0, 1024)), ("16 100(5) 11 1024", ("16", 0, 100.0, 5)),
        ("16 -200", ("16", 0, -200.0, 0)), ("16 /uV", ("16", 0, 200e3, 0)),
        ("16 1000000/V", ("16", 0, 1000.0, 0)), ("16 1(0)/µV", ("16", 0, 1000.0, 0)),
        ("16 (7)", ("16", 0, 200.0, 7)),
    ],
)  # fmt: skip
def test_format_and_gain_are_read_in_every_form(tmp_path, fields, expected):
    header = read_header(write(tmp_path, lead(f"a.dat {fields}")))
    found = (header.formats[0], header.byte_offsets[0], header.gains[0], header.baselines[0])
    assert found == expected


def test_a_unit_that_is_no_voltage_has_no_gain_in_millivolts(tmp_path):
    assert math.isnan(read_header(write(tmp_path, lead("a.dat 16 100/mmHg"))).gains[0])


def test_a_missing_rate_is_250_hz_and_a_missing_length_comes_from_the_file(tmp_path):
    (tmp_path / "a.dat").write_bytes(bytes(24 + 2 * 3 * 50 + 5))
    header = read_header(write(tmp_path, "r 3\n" + "a.dat 16+24\n" * 3))
    assert (header.rate_hz, header.n_samples) == (250.0, 50)


def test_a_length_left_out_before_the_time_comes_from_the_file(tmp_path):
    (tmp_path / "a.dat").write_bytes(bytes(30))
    assert read_header(write(tmp_path, lead("a.dat 212", "r 1 500 12:00:00"))).n_samples == 20


def test_comments_need_not_be_utf8_but_leads_must(tmp_path):
    text = lead("a.dat 16").encode() + b"# Diagn\xf3stico: x\n"
    assert read_header(write(tmp_path, text)).comments[0].startswith("Diagn")
    with pytest.raises(RecordError, match="UTF-8"):
        read_header(write(tmp_path, lead("a.dat 16 200 0 0 0 0 0 X").encode("utf-8") + b"\xf3\n"))


def test_line_ends_and_byte_order_mark_of_other_systems_are_understood(tmp_path):
    text = b"\xef\xbb\xbf" + lead("a.dat 16 200 0 0 0 0 0 ECG I\r").replace("\n", "\r\n").encode()
    assert read_header(write(tmp_path, text)).leads == ("ECG I",)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "bad_header"), ("\n \n", "bad_header"), ("# only a comment\n", "bad_header"),
        ("r\n", "bad_header"), (b"\xff\xfe\x00\x00r 1", "bad_header"), (bytes(5000), "bad_header"),
        ("r x\n", "bad_header"), ("r -1 500 100\n", "bad_header"),
        ("r 1.5 500 100\n", "bad_header"),
        ("r 1_0 500 100\n", "bad_header"), ("r ١ 500 100\na.dat 16", "bad_header"),
        (lead("a.dat 16", "r 1 0 9"), "bad_header"), (lead("a.dat 16", "r 1 nan"), "bad_header"),
        (lead("a.dat 16", "r 1 inf 9"), "bad_header"), (lead("a.dat 16", "r 1 -5"), "bad_header"),
        (lead("a.dat 16", "r 1 1e999"), "bad_header"), (lead("a.dat 16", "r 1 5 -9"), "bad_header"),
        (lead("a.dat 16", "r 1 500 9e9"), "bad_header"), (lead("a.dat"), "bad_header"),
        (lead("a.dat x16"), "bad_header"), (lead("a.dat 16x0"), "bad_header"),
        (lead("a.dat 16+-24"), "bad_header"), (lead("a.dat 16 nan"), "bad_header"),
        (lead("a.dat 16 inf/mV"), "bad_header"), (lead("a.dat 16 1e-300"), "bad_header"),
        (lead("a.dat 16 1e300"), "bad_header"), (lead("a.dat 16 200(x)"), "bad_header"),
        (lead("a.dat 16 200 11 nan"), "bad_header"),
        (lead("a.dat 16 200 11 99999999999"), "bad_header"),
        (lead("a.dat 16 200 11 0 0 0 0 x\x0by"), "bad_header"),
        (lead("a.dat 16 200 " + "x" * 2000), "bad_header"), ("1" * 100_000 + ".x\n", "bad_header"),
        (lead("a.dat 16", "r 1 " + "9" * 500 + "x 9"), "bad_header"),
        (lead("/etc/passwd 16"), "unsafe_path"), (lead("../a.dat 16"), "unsafe_path"),
        (lead(".. 16"), "unsafe_path"), (lead("..\\a.dat 16"), "unsafe_path"),
        (lead("C:a.dat 16"), "unsafe_path"), (lead("a\0.dat 16"), "unsafe_path"),
        ("r 1000000 500 100\n" + "a.dat 16\n" * 12, "size_mismatch"),
        ("r 2 500 100\n" + "a.dat 16\n" * 3, "size_mismatch"),
        ("r 1001 500 1\n" + "a.dat 16\n" * 1001, "size_mismatch"),
        ("r 0 500 100\n", "empty"), (lead("a.dat 16", "r 1 500 0"), "empty"),
        ("r/2 1 500 100\na 50\n", "size_mismatch"), ("r/2 1 500 9\na 5\nb 5\n", "size_mismatch"),
        ("r/0 1 500 0\n", "size_mismatch"), ("r/1 1 500 9\n../a 9\n", "unsafe_path"),
        ("r/1 1 500 9\na\n", "bad_header"), ("r/1 1 500 9\n~ 9\n", "empty"),
        ("r/1 1 500 9\na 9\n", "missing_file"), ("r/1 1 500 9\nr 9\n", "size_mismatch"),
        (lead("a.dat 16", "r 1 500"), "missing_file"),
        (lead("a.dat 516", "r 1 500"), "unsupported_format"),
    ],
)  # fmt: skip
def test_hostile_headers_are_refused_with_a_reason(tmp_path, text, reason):
    path = write(tmp_path, text)
    with pytest.raises(RecordError) as refusal:
        read_header(path)
    assert refusal.value.reason == reason
    assert str(tmp_path) in str(refusal.value)


def test_a_huge_header_is_refused_by_its_size(tmp_path):
    path = write(tmp_path, b"#" * (5 << 20))
    with pytest.raises(RecordError, match="too_large"):
        read_header(path)


def test_a_missing_header_is_named(tmp_path):
    with pytest.raises(RecordError, match=r"nothing\.hea does not exist"):
        read_header(tmp_path / "nothing")


def test_an_error_survives_the_way_between_processes():
    error = pickle.loads(pickle.dumps(RecordError("truncated", "too short")))  # noqa: S301
    assert (error.reason, str(error)) == ("truncated", "too short [truncated]")


def test_headers_without_signals_agree_with_wfdb(shared):
    folder = shared / "data/scoring/cinc2020-28-records/labels"
    paths = sorted(folder.glob("*.hea"))
    assert len(paths) == 28
    compared = 0
    for path in paths:
        ours = read_header(path)
        try:
            theirs = wfdb.rdheader(str(path.with_suffix("")))
        except ValueError:  # wfdb refuses record names with a dot
            assert ours.record.endswith(".mat")
            continue
        assert ours.leads == tuple(theirs.sig_name)
        assert ours.gains == tuple(theirs.adc_gain)
        assert ours.comments == tuple(theirs.comments)
        assert ours.checksums == tuple(theirs.checksum)
        assert (ours.rate_hz, ours.n_samples) == (theirs.fs, theirs.sig_len)
        compared += 1
    assert compared
