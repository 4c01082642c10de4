"""Folders of every kind as they lie, their unit, and standardising while reading."""

import math

import numpy as np
import pytest
import scipy.io

from fairseq_ecg.data.builder import build_store
from fairseq_ecg.data.ingest import BuildOptions, RecordEntry
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.manifest import read_manifest, write_manifest
from fairseq_ecg.data.record_file import RecordError
from fairseq_ecg.data.sources import PersonStandardizedSource, StandardizedSource, open_source
from tests.builds import make_adu, write_record
from tests.recordings import RATE_HZ, millivolts, write_folder, write_mat

STATISTICS = {"mean": np.zeros((12, 1)), "std": np.ones((12, 1))}


def open_tsv(folder, text):
    (folder / "train.tsv").write_text(text)
    return open_source(read_manifest(folder / "train.tsv"))


@pytest.mark.parametrize("first", ["{}", "\t{}"], ids=["plain", "leading TAB"])
def test_plain_manifests(tmp_path, first):
    for record in range(2):
        write_mat(tmp_path / "mat" / f"r{record}_0.mat", record, 0, 50, patient_id=record + 5)
    root = first.format(tmp_path / "mat")
    source = open_tsv(tmp_path, f"{root}\nr0_0.mat\t50\nr1_0.mat\t50\n")
    assert source.names == ["r0_0.mat", "r1_0.mat"]
    assert (source.rate_hz, source.unit) == (100, "mV")
    np.testing.assert_array_equal(source.read(1, 10, 20), millivolts(1, 10, 20))
    assert [source.identity(row) for row in range(2)] == [5, 6]


def test_age_and_sex_are_those_of_the_store_and_unknown_in_files(tmp_path):
    write_folder(tmp_path, [100, 100, 100])
    entries = [
        RecordEntry("r0", "r0", "p", "train", age=61.0, sex="female"),
        RecordEntry("r1", "r1", "q", "train", age=None, sex=""),
        RecordEntry("r2", "r2", "p", "train", age=20.5, sex="male"),
    ]
    build_store(entries, tmp_path / "wfdb", tmp_path, BuildOptions(rate_hz=RATE_HZ))
    rows = "r2\t100\nr1\t100\nr0\t100\n"
    for source in (stored := open_tsv(tmp_path, f"store\n{rows}"), StandardizedSource(stored)):
        age, sex = source.demographics()
        np.testing.assert_array_equal(age, [20.5, np.nan, 61.0])
        assert sex == ["male", "", "female"]
    age, sex = open_tsv(tmp_path, f"wfdb\n{rows}").demographics()
    assert np.isnan(age).all()
    assert sex == ["", "", ""]


def test_identification_manifests(tmp_path):
    write_mat(tmp_path / "p.mat", 3, 0, 50, patient_id=9)
    source = open_tsv(tmp_path, f"{tmp_path}\np.mat\t50\t0\n")
    assert source.patient(0) == 9
    np.testing.assert_array_equal(source.read(0, 0, 50), millivolts(3, 0, 50))


@pytest.mark.parametrize("first", ["{}", "\t{}"], ids=["plain", "leading TAB"])
def test_cmsc_manifests(tmp_path, first):
    for segment in (0, 1, 4, 7):
        write_mat(tmp_path / f"r_{segment}.mat", 2, 50 * segment, 50 * segment + 50, idx=8)
    source = open_tsv(tmp_path, f"{first.format(tmp_path)}\nmat\nr\t50\t0\t0,1,4,7\n")
    assert source.names == [f"r_{s}.mat" for s in (0, 1, 4, 7)]
    assert source.n_samples.tolist() == [50] * 4
    np.testing.assert_array_equal(source.read(2, 0, 50), millivolts(2, 200, 250))
    assert {source.identity(row) for row in range(4)} == {8}


def test_public_output_is_in_standard_deviations(shared, tmp_path):
    root = shared / "data" / "code-15-reference-output" / "segmented"
    lines = [f"\t{root}"] + [f"{p.name}\t2500" for p in sorted(root.glob("*.mat"))]
    source = open_tsv(tmp_path, "\n".join(lines) + "\n")
    assert (source.unit, source.rate_hz) == ("standard deviations", 500)
    assert np.isnan(source.scale_mv(0)).all()
    assert sorted({source.label_row(row) for row in range(14)}) == list(range(10))
    expected = scipy.io.loadmat(root / source.names[5])["feats"].astype(np.float32)
    np.testing.assert_array_equal(source.read(5, 0, 2500), expected)


def test_segments_of_two_preprocessings_do_not_mix(tmp_path):
    write_mat(tmp_path / "a.mat", 0, 0, 50, idx=0)
    write_mat(tmp_path / "b.mat", 0, 0, 50, idx=0, **STATISTICS)
    source = open_tsv(tmp_path, f"{tmp_path}\na.mat\t50\nb.mat\t50\n")
    assert source.unit == "mV"
    with pytest.raises(RecordError, match=r"b\.mat is in standard deviations, a\.mat in mV"):
        source.read(1, 0, 50)


def slow(values):
    """Standardise as ECG-FM's preprocessing does: each lead, over the whole recording."""
    result = np.zeros_like(values, dtype=np.float64)
    for row, lead in enumerate(values.astype(np.float64)):
        if lead.max() > lead.min():
            # Added up in the order of time, in double precision.
            mean = np.cumsum(lead)[-1] / lead.size
            centred = lead - mean
            centred = centred - np.cumsum(centred)[-1] / lead.size
            std = np.sqrt(np.cumsum(centred**2)[-1] / lead.size)
            result[row] = (lead - mean) / std
    return result.astype(np.float32)


@pytest.mark.parametrize("n_samples", [1, 2, 57, 500])
def test_standardising_while_reading_is_that_of_the_whole_recording(tmp_path, n_samples):
    rng = np.random.default_rng(n_samples)
    values = rng.normal(0.2, 1, (12, n_samples)).astype(np.float32)
    values[4] = 0.25
    scipy.io.savemat(tmp_path / "a.mat", {"feats": values, "curr_sample_rate": 500})
    source = StandardizedSource(open_tsv(tmp_path, f"{tmp_path}\na.mat\t{n_samples}\n"))
    assert source.unit == "standard deviations"
    expected = slow(values)
    half = n_samples // 2
    np.testing.assert_array_equal(source.read(0, half, n_samples), expected[:, half:])
    out = np.full((12, n_samples), 9, dtype=np.float32)
    assert source.read(0, 0, n_samples, out=out) is out
    np.testing.assert_array_equal(out, expected)
    assert (out[4] == 0).all()
    expected_scale = values.astype(np.float64).std(axis=1)
    np.testing.assert_allclose(source.scale_mv(0), expected_scale, rtol=1e-6, atol=1e-12)


def test_both_ways_to_standard_deviations_differ_by_the_rounding_of_millivolts_only(tmp_path):
    write_record(tmp_path / "in", "a", make_adu(n_samples=1300), gain="1300/mV")
    entries = [RecordEntry("a", "a", "p", "train")]
    for name, options in (
        ("mv", BuildOptions()),
        ("sd", BuildOptions(preprocessing="ecg-fm", dtype="float32")),
    ):
        build_store(entries, tmp_path / "in", tmp_path / name, options)
        write_manifest(tmp_path / f"{name}.tsv", f"{name}/store", [("a", 1300)])
    stores = [open_source(read_manifest(tmp_path / f"{name}.tsv")) for name in ("mv", "sd")]
    read, built = StandardizedSource(stores[0]), stores[1]
    assert read.unit == built.unit == "standard deviations"
    np.testing.assert_allclose(read.read(0, 3, 1300), built.read(0, 3, 1300), rtol=0, atol=1e-6)


def test_each_recording_is_read_whole_only_once(tmp_path):
    folder = write_folder(tmp_path, [90, 80])
    inner = open_source(read_manifest(folder / "train.tsv"))
    reads = []
    real = inner.read

    def read(row, start, stop, out=None):
        reads.append((row, start, stop))
        return real(row, start, stop, out)

    inner.read = read
    source = StandardizedSource(inner)
    for start in (0, 30, 60):
        source.read(0, start, start + 30)
    assert reads == [(0, 0, 90), (0, 30, 60), (0, 60, 90)]
    assert (source.rate_hz, source.names) == (100, ["r0", "r1"])


def test_what_is_standardised_is_not_standardised_again(tmp_path):
    write_mat(tmp_path / "a.mat", 0, 0, 50, idx=0, **STATISTICS)
    source = open_tsv(tmp_path, f"{tmp_path}\na.mat\t50\n")
    with pytest.raises(ValueError, match=r"task\.standardize=none"):
        StandardizedSource(source)
    assert len(STANDARD_LEADS) == source.read(0, 0, 1).shape[0]


def test_segments_without_ids_belong_together_if_they_stand_in_one_line(tmp_path):
    for name in ("a_0", "a_1", "b_0", "b_1"):
        write_mat(tmp_path / f"{name}.mat", 0, 0, 50)
    source = open_tsv(tmp_path, f"{tmp_path}\nmat\na\t50\t0\t0,1\nb\t50\t0\t0,1\n")
    assert [source.identity(row) for row in range(4)] == [0, 0, 1, 1]


def test_without_patients_the_segments_of_one_recording_have_one(tmp_path):
    for segment in range(2):
        write_mat(tmp_path / f"r_{segment}.mat", 0, 0, 50, idx=7)
    source = open_tsv(tmp_path, f"{tmp_path}\nmat\nr\t50\t0\t0,1\n")
    assert [source.patient(row) for row in range(2)] == [7, 7]


# --- scaling by person --------------------------------------------------------------------------


def slow_person(recordings):
    """Mean of all samples and deviation of the central 95 %, lead by lead, in float64."""
    means, stds = [], []
    for lead in range(12):
        samples = sorted(float(v) for values in recordings for v in values[lead])
        n = len(samples)
        central = samples[int(0.025 * n) : max(int(0.975 * n), 1)]
        centre = sum(central) / len(central)
        means.append(sum(samples) / n)
        stds.append(math.sqrt(sum((v - centre) ** 2 for v in central) / len(central)))
    return np.array(means)[:, None], np.array(stds)[:, None]


@pytest.mark.parametrize("lengths", [(1, 1, 1), (40, 41, 3), (150, 90, 70)])
@pytest.mark.parametrize("leads", [STANDARD_LEADS, ("II", "V3")])
def test_scaling_by_person_takes_all_recordings_of_the_store(tmp_path, lengths, leads):
    entries, values = [], {}
    for i, (patient, n) in enumerate(zip("aab", lengths, strict=True)):
        name = f"r{i}"
        adu = make_adu(i, n_samples=n)
        write_record(tmp_path / "in", name, adu)
        values[name] = (adu / 1000).astype(np.float32)
        entries.append(RecordEntry(name, name, patient, "train"))
    options = BuildOptions(min_seconds=0.0, leads=leads, flat_leads="keep_all")
    build_store(entries, tmp_path / "in", tmp_path, options)
    write_manifest(tmp_path / "x.tsv", "store", [("r0", lengths[0]), ("r2", lengths[2])])
    source = PersonStandardizedSource(open_source(read_manifest(tmp_path / "x.tsv")))
    assert source.unit == "standard deviations"
    rows = np.array([lead in leads for lead in STANDARD_LEADS])[:, None]
    for row, names in enumerate((["r0", "r1"], ["r2"])):  # r1 is not in the manifest
        recordings = [np.where(rows, values[name], 0) for name in names]
        mean, std = slow_person(recordings)
        expected = np.where(std > 0, (recordings[0] - mean) / np.where(std > 0, std, 1), 0)
        found = source.read(row, 0, recordings[0].shape[1])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(source.scale_mv(row), std[:, 0], rtol=1e-4, atol=1e-6)
        half = recordings[0].shape[1] // 2
        np.testing.assert_array_equal(source.read(row, half, half + 1), found[:, half : half + 1])


def test_an_artefact_does_not_shrink_the_rest_of_the_person(tmp_path):
    adu = make_adu(0, n_samples=2000)
    adu[:, 500:510] = 30000
    write_record(tmp_path / "in", "r", adu)
    build_store([RecordEntry("r", "r", "p", "train")], tmp_path / "in", tmp_path)
    write_manifest(tmp_path / "x.tsv", "store", [("r", 2000)])
    inner = open_source(read_manifest(tmp_path / "x.tsv"))
    scale = {
        source.kind: source.scale_mv(0)
        for source in (StandardizedSource(inner), PersonStandardizedSource(inner))
    }
    assert (scale["person"] < 0.6 * scale["record"]).all()


def test_files_are_scaled_by_the_patient_inside_them(tmp_path):
    for i, patient in enumerate((7, 8, 7)):
        write_mat(tmp_path / f"s{i}.mat", i, 0, 100, patient_id=patient)
    lines = "".join(f"s{i}.mat\t100\n" for i in range(3))
    source = PersonStandardizedSource(open_tsv(tmp_path, f"{tmp_path}\n{lines}"))
    both = [millivolts(i, 0, 100) for i in (0, 2)]
    mean, std = slow_person(both)
    np.testing.assert_allclose(source.read(2, 0, 100), (both[1] - mean) / std, rtol=1e-4, atol=1e-4)
    assert source.patient(2) == 7


def test_scaling_by_person_is_refused_where_it_was_done(tmp_path):
    write_mat(tmp_path / "a.mat", 0, 0, 50, idx=0, **STATISTICS)
    source = open_tsv(tmp_path, f"{tmp_path}\na.mat\t50\n")
    with pytest.raises(ValueError, match=r"task\.standardize=person needs recordings in mV"):
        PersonStandardizedSource(source)
