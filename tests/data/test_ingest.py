from dataclasses import dataclass

import numpy as np
import pytest

from fairseq_ecg.data.ingest import BuildOptions, RecordEntry, ingest
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.preprocess import like_ecg_fm
from fairseq_ecg.data.quantise import quantise
from fairseq_ecg.data.record_reader import RecordFacts, Recording
from fairseq_ecg.data.signal import EcgSignal
from tests.builds import make_adu, write_record


def entry(name="a", **facts):
    return RecordEntry(name, name, "p", "train", **facts)


def run(tmp_path, name="a", **options):
    return ingest(entry(name, codes=("x",)), tmp_path, BuildOptions(**options))


def reasons(result):
    return [(row.reason, row.action) for row in result.remarks]


@pytest.mark.parametrize("peak", [0.05, 1.0, 5.0, 16.0, 32.0])
def test_quantised_values_are_within_half_a_step_and_never_clip(peak):
    values = (np.random.default_rng(0).uniform(-1, 1, (12, 2000)) * peak).astype(np.float32)
    values[3, 7] = peak
    stored, gain, baseline = quantise(values)
    assert stored.dtype == np.dtype("<i2")
    assert (baseline == 0).all()
    assert (gain >= 1000).all()
    back = (stored.astype(np.float64) - baseline[:, None]) / gain[:, None]
    assert np.abs(back - values).max() <= 0.5 / gain[0] * (1 + 1e-9)


def test_an_offset_beyond_the_range_is_taken_off_before_the_step_grows():
    values = np.random.default_rng(0).uniform(-1, 1, (2, 500)).astype(np.float32)
    values[1] += 200
    stored, gain, baseline = quantise(values)
    assert gain.tolist() == [1000, 1000]
    back = (stored.astype(np.float64) - baseline[:, None]) / gain[:, None]
    assert np.abs(back - values).max() <= 0.5 / 1000 * (1 + 1e-6)


def test_values_too_wide_for_16_bits_take_a_coarser_step_and_still_do_not_clip():
    values = np.array([[-400.0, 400.0, 1.0]], dtype=np.float32)
    stored, gain, baseline = quantise(values)
    back = (stored.astype(np.float64) - baseline[:, None]) / gain[:, None]
    assert gain[0] < 1000
    assert np.abs(back - values).max() <= 0.5 / gain[0] * (1 + 1e-9)


def test_resampled_records_keep_the_wave(tmp_path):
    time = np.arange(2500) / 250
    adu = np.rint(1000 * np.sin(2 * np.pi * 3 * time)).astype(int)[None].repeat(12, 0)
    write_record(tmp_path, "a", adu, rate=250)
    result = run(tmp_path)
    assert result.stored.shape == (12, 5000)
    gain = result.facts["gain"][:, None]
    assert (gain >= 1000).all()
    middle = slice(500, 4500)
    expected = np.sin(2 * np.pi * 3 * np.arange(5000) / 500)[middle]
    np.testing.assert_allclose((result.stored / gain)[0, middle], expected, atol=0.003)
    assert result.facts["source_rate_hz"] == 250
    assert result.facts["source_n_samples"] == 2500


def test_wide_integers_are_kept_whole_where_a_shift_fits_them_into_16_bits(tmp_path):
    adu = make_adu(n_samples=1000) + 3_000_000
    path = write_record(tmp_path, "a", adu)
    text = path.with_suffix(".hea").read_text().replace(".dat 16", ".dat 32")
    path.with_suffix(".hea").write_text(text.replace("1000/mV", "1000(3000000)/mV"))
    path.with_suffix(".dat").write_bytes(adu.T.astype("<i4").tobytes())
    result = run(tmp_path)
    back = result.stored.astype(np.int64) - result.facts["baseline"][:, None]
    np.testing.assert_array_equal(back, adu - 3_000_000)
    assert (result.facts["gain"] == 1000).all()
    assert result.remarks == []


def test_microvolts_become_millivolts(tmp_path):
    adu = make_adu(n_samples=1000)
    write_record(tmp_path, "a", adu, gain="1/uV")
    result = run(tmp_path)
    np.testing.assert_array_equal(result.stored, adu)
    assert (result.facts["gain"] == 1000).all()


def test_float32_stores_hold_millivolts(tmp_path):
    adu = make_adu(n_samples=1000)
    write_record(tmp_path, "a", adu)
    result = run(tmp_path, dtype="float32")
    assert result.stored.dtype == np.dtype("<f4")
    np.testing.assert_allclose(result.stored, adu / 1000, rtol=1e-6)
    assert (result.facts["gain"] == 1).all()


def test_one_flat_lead_is_noted_or_excluded_and_all_flat_always_excluded(tmp_path):
    adu = make_adu(n_samples=1000)
    adu[[2, 5]] = 7
    write_record(tmp_path, "a", adu)
    kept = run(tmp_path)
    assert reasons(kept) == [("flat_lead", "kept")]
    assert kept.remarks[0].detail == "III, aVF"
    assert kept.stored is not None
    excluded = run(tmp_path, flat_leads="exclude")
    assert reasons(excluded) == [("flat_lead", "excluded")]
    assert excluded.stored is None
    write_record(tmp_path, "b", np.full((12, 1000), 3))
    assert reasons(run(tmp_path, "b")) == [("all_flat", "excluded")]


def test_missing_samples_exclude_a_record_only_in_leads_that_are_stored(tmp_path):
    adu = make_adu(n_samples=1000)
    adu[4, 10] = -32768
    write_record(tmp_path, "a", adu)
    assert reasons(run(tmp_path)) == [("nan", "excluded")]
    assert run(tmp_path, leads=("I", "II")).stored.shape == (2, 1000)


def test_leads_of_other_names_need_a_map(tmp_path):
    write_record(tmp_path, "a", make_adu(n_leads=2), leads=("MLII", "resp"))
    assert reasons(run(tmp_path)) == [("no_standard_leads", "excluded")]
    result = run(tmp_path, lead_map=(("mlii", "II"),), leads=("II",))
    np.testing.assert_array_equal(result.stored, make_adu(n_leads=2)[:1])
    assert result.remarks == []


def test_a_mapped_lead_takes_the_place_of_one_that_has_the_name(tmp_path):
    write_record(tmp_path, "a", make_adu(n_leads=2), leads=("ECG I", "ECG I filtered"))
    np.testing.assert_array_equal(run(tmp_path, leads=("I",)).stored, make_adu(n_leads=2)[:1])
    result = run(tmp_path, leads=("I",), lead_map=(("ecg i FILTERED", "I"),))
    np.testing.assert_array_equal(result.stored, make_adu(n_leads=2)[1:])
    assert result.remarks == []


def test_length_limits(tmp_path):
    write_record(tmp_path, "a", make_adu(n_samples=499))
    assert reasons(run(tmp_path)) == [("too_short", "excluded")]
    write_record(tmp_path, "b", make_adu(n_samples=5500))
    assert reasons(run(tmp_path, "b", max_seconds=10.0)) == [("too_long", "excluded")]


def test_a_path_out_of_the_folder_is_refused(tmp_path):
    write_record(tmp_path, "a", make_adu())
    (tmp_path / "inner").mkdir()
    for path in ("../a", str(tmp_path / "a"), "x/../../a"):
        outside = RecordEntry("a", path, "p", "train")
        result = ingest(outside, tmp_path / "inner", BuildOptions())
        assert reasons(result) == [("unsafe_path", "excluded")]


def test_an_unexpected_error_is_noted_with_its_text(tmp_path, monkeypatch):
    write_record(tmp_path, "a", make_adu())

    def fail(*args):
        raise KeyError("surprise")

    monkeypatch.setattr("fairseq_ecg.data.ingest.read_raw", fail)
    result = run(tmp_path)
    assert reasons(result) == [("error", "excluded")]
    assert result.remarks[0].detail == "KeyError: 'surprise'"


def test_a_lack_of_memory_is_no_fault_of_the_record(tmp_path, monkeypatch):
    write_record(tmp_path, "a", make_adu())

    def fail(*args):
        raise MemoryError

    monkeypatch.setattr("fairseq_ecg.data.ingest.read_raw", fail)
    with pytest.raises(MemoryError):
        run(tmp_path)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"rate_hz": 0}, "rate_hz must lie between 1"),
        ({"rate_hz": float("nan")}, "rate_hz"),
        ({"dtype": "int8"}, "dtype must be one of int16, float32"),
        ({"leads": ("I", "I")}, "each lead once"),
        ({"leads": ("X",)}, "leads must be one of"),
        ({"flat_leads": "drop"}, "flat_leads must be one of"),
        ({"min_seconds": 9.0, "max_seconds": 5.0}, "min_seconds"),
    ],
)
def test_wrong_options_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        BuildOptions(**options)


# --- recordings of other formats, and preprocessing -----------------------------------------------


@dataclass(frozen=True)
class Drawn:
    """A reader that draws its recording, and reads no file."""

    seed: int
    n_samples: int = 500
    claimed: int = 500
    hole: bool = False

    def facts(self, path):
        return RecordFacts(self.claimed, 250.0, STANDARD_LEADS)

    def read(self, path):
        values = np.random.default_rng(self.seed).normal(0, 1, (12, self.n_samples))
        if self.hole:
            values[3, 7] = np.nan
        signal = EcgSignal(values.astype(np.float32), 250.0, STANDARD_LEADS)
        return Recording(signal, patient="from the file", group=5, codes=("a",))


def drawn(tmp_path, reader, patient="", codes=None, **options):
    entry = RecordEntry("r", "r", patient, "train", codes, reader=reader)
    return ingest(entry, tmp_path, BuildOptions(**{"rate_hz": 250.0, **options}))


def test_a_reader_brings_any_format_into_the_store(tmp_path):
    result = drawn(tmp_path, Drawn(3), dtype="float32")
    np.testing.assert_array_equal(result.stored, Drawn(3).read(None).signal.values_mv)
    assert result.facts["patient"] == "from the file"
    assert (result.facts["group"], result.facts["codes"]) == (5, ["a"])
    known = drawn(tmp_path, Drawn(3), patient="p", codes=("b",))
    assert (known.facts["patient"], known.facts["codes"]) == ("p", ["b"])
    back = known.stored / known.facts["gain"][:, None]
    assert np.abs(back - result.stored).max() <= 0.5 / known.facts["gain"][0] * (1 + 1e-6)


def test_what_a_reader_returns_is_checked_like_any_recording(tmp_path):
    assert reasons(drawn(tmp_path, Drawn(3, hole=True))) == [("nan", "excluded")]
    assert reasons(drawn(tmp_path, Drawn(3, claimed=100))) == [("too_short", "excluded")]
    assert reasons(drawn(tmp_path, Drawn(3, n_samples=100))) == [("too_short", "excluded")]
    long = drawn(tmp_path, Drawn(3, claimed=5000), max_seconds=10.0)
    assert reasons(long) == [("too_long", "excluded")]


def test_preprocessing_is_that_of_the_double_precision_millivolts(tmp_path):
    adu = make_adu(n_samples=1000)
    adu[2] = 40
    write_record(tmp_path, "a", adu, rate=250, gain="200(7)/mV")
    result = run(tmp_path, preprocessing="ecg-fm", dtype="float32")
    expected = like_ecg_fm((adu - 7) / 200, 250, 500).values.astype(np.float32)
    np.testing.assert_array_equal(result.stored, expected)
    assert (result.stored[2] == 0).all()
    assert (result.facts["gain"] == 1).all()


def test_recordings_without_any_wave_are_kept_if_asked(tmp_path):
    write_record(tmp_path, "b", np.full((12, 1000), 3))
    assert reasons(run(tmp_path, "b", flat_leads="keep_all")) == [("flat_lead", "kept")]


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"preprocessing": "ecg-fm"}, "give dtype float32"),
        ({"preprocessing": "z", "dtype": "float32"}, "preprocessing must be one of none, ecg-fm"),
        ({"unit": "V"}, "unit must be one of mV, standard deviations"),
        (
            {"preprocessing": "ecg-fm", "dtype": "float32", "unit": "standard deviations"},
            "in standard deviations already",
        ),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, match):
    with pytest.raises(ValueError, match=match):
        BuildOptions(**options)
    assert BuildOptions(preprocessing="ecg-fm", dtype="float32").store_unit != "mV"
