"""Recordings read where they lie: the same samples as the whole file, and its marks."""

import json
import pickle

import numpy as np
import pytest
import wfdb

from fairseq_ecg.data.annotated import IN_PLACE_FILE, AnnotatedSource, standard_leads
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.manifest import ManifestError, read_manifest, write_manifest
from fairseq_ecg.data.record_file import RecordError
from fairseq_ecg.data.sources import PersonStandardizedSource, open_source
from fairseq_ecg.data.wfdb_header import read_header
from fairseq_ecg.data.wfdb_reader import read_signal
from tests.holter import segment_path, write_annotations, write_patients, write_signal


def write_manifest_of(folder, holters):
    rows = [(holter.path, len(holter.adu), holter.patient) for holter in holters]
    write_manifest(folder / "train.tsv", ".", rows)
    return read_manifest(folder / "train.tsv")


def write_in_place(folder, **facts):
    facts = {"corpus": "c", "rate_hz": 250.0, "leads": ["I"], "lead_map": {}} | facts
    (folder / IN_PLACE_FILE).write_text(json.dumps(facts))


@pytest.fixture
def holters(tmp_path):
    return write_patients(tmp_path, [7, 3], seconds=10)


def test_stretches_are_those_of_the_whole_recording(tmp_path, holters):
    source = AnnotatedSource(write_manifest_of(tmp_path, holters))
    assert source.rate_hz == 250
    assert source.unit == "mV"
    assert source.n_samples.tolist() == [2500] * 4
    rng = np.random.default_rng(0)
    for row, holter in enumerate(holters):
        whole = read_signal(tmp_path / holter.path).values_mv
        for start, stop in [(0, 2500), (2499, 2500), *np.sort(rng.integers(0, 2500, (20, 2)))]:
            if start < stop:
                found = source.read(row, int(start), int(stop), [2, 0])
                assert found.dtype == np.float32
                assert not found[0].any()
                assert found[1].tolist() == whole[0, start:stop].tolist()


def test_all_twelve_rows_can_be_written_into_a_view(tmp_path, holters):
    source = AnnotatedSource(write_manifest_of(tmp_path, holters))
    out = np.full((2, 12, 100), 9, dtype=np.float32)
    source.read(1, 50, 150, out=out[1])
    assert out[1].tolist() == source.read(1, 50, 150).tolist()
    assert (out[0] == 9).all()
    assert not out[1, 1:].any()


def test_a_stretch_beyond_the_recording_is_refused(tmp_path, holters):
    source = AnnotatedSource(write_manifest_of(tmp_path, holters))
    with pytest.raises(RecordError, match="has samples 0 to 2500, not 2000 to 2501"):
        source.read(0, 2000, 2501)


def test_invalid_samples_are_silent(tmp_path):
    [holter] = write_patients(tmp_path, 1, segments=1, seconds=2)
    adu = holter.adu.copy()
    adu[100:110] = -32768
    (tmp_path / f"{holter.path}.dat").write_bytes(adu.astype("<i2").tobytes())
    values = AnnotatedSource(write_manifest_of(tmp_path, [holter])).read(0, 90, 120, [0])
    assert not values[0, 10:20].any()
    assert np.isfinite(values).all()
    assert values[0, :10].any()


def test_patients_are_in_the_order_of_the_manifest(tmp_path, holters):
    mixed = [holters[0], holters[2], holters[1], holters[3]]
    source = AnnotatedSource(write_manifest_of(tmp_path, mixed))
    assert [rows.tolist() for rows in source.patients] == [[0, 2], [1, 3]]
    assert [source.patient(row) for row in range(4)] == [7, 3, 7, 3]
    assert source.people() == ["7", "3", "7", "3"]
    assert not source.fingerprints().size


def test_marks_are_read_once_and_only_the_last_are_kept(tmp_path, holters):
    source = AnnotatedSource(write_manifest_of(tmp_path, holters), cache_segments=2)
    assert source.marks(0).beat_sample.tolist() == holters[0].beats.tolist()
    first = source.marks(0)
    assert source.marks(1) is source.marks(1)
    assert source.marks(0) is first
    source.marks(2)
    assert source.marks(0) is first
    (tmp_path / f"{holters[1].path}.atr").unlink()
    with pytest.raises(RecordError, match="does not exist"):
        source.marks(1)


def test_a_source_goes_to_other_processes(tmp_path, holters):
    source = AnnotatedSource(write_manifest_of(tmp_path, holters))
    copy = pickle.loads(pickle.dumps(source))  # noqa: S301
    assert copy.read(1, 0, 50).tolist() == source.read(1, 0, 50).tolist()


def test_missing_annotations_are_noticed_at_the_start_or_not_at_all(tmp_path):
    holters = write_patients(tmp_path, 1, seconds=2, annotated=lambda patient, segment: False)
    manifest = write_manifest_of(tmp_path, holters)
    with pytest.raises(RecordError, match=r"_s00\.atr does not exist"):
        AnnotatedSource(manifest)
    assert AnnotatedSource(manifest, annotations=False).read(0, 0, 10).shape == (12, 10)


def test_annotations_that_count_other_samples_are_refused(tmp_path, holters):
    write_annotations(tmp_path / holters[0].path, [5, 9], ["N", "N"], rate_hz=360)
    with pytest.raises(RecordError, match="counts 360 samples per second, .* has 250 Hz"):
        AnnotatedSource(write_manifest_of(tmp_path, holters))


def test_recordings_that_are_no_longer_as_listed_are_refused(tmp_path, holters):
    manifest = write_manifest_of(tmp_path, holters)
    write_signal(tmp_path / holters[1].path, holters[1].adu, rate_hz=200)
    write_signal(tmp_path / holters[2].path, holters[2].adu[:-1])
    dat = tmp_path / f"{holters[3].path}.dat"
    dat.write_bytes(dat.read_bytes()[:-10])
    source = AnnotatedSource(manifest)
    with pytest.raises(RecordError, match="has 200 Hz, but .* 250 Hz"):
        source.read(1, 0, 10)
    with pytest.raises(RecordError, match="2499 samples, but its manifest says 2500"):
        source.read(2, 0, 10)
    with pytest.raises(RecordError, match="must have 5000 bytes"):
        source.read(3, 0, 10)


def test_other_manifests_are_refused(tmp_path, holters):
    write_manifest(tmp_path / "plain.tsv", ".", [(holters[0].path, 2500)])
    with pytest.raises(ManifestError, match="number of the patient, but is of the kind plain"):
        AnnotatedSource(read_manifest(tmp_path / "plain.tsv"))
    write_manifest(tmp_path / "empty.tsv", ".", [])
    with pytest.raises(ManifestError, match="lists 0"):
        AnnotatedSource(read_manifest(tmp_path / "empty.tsv"))


def test_leads_have_standard_names(tmp_path):
    write_signal(tmp_path / "a", np.zeros((3, 10)), leads=["MLII", "ECG", "V5"])
    header = read_header(tmp_path / "a")
    assert standard_leads(header, {}) == [(1, "I"), (0, "II"), (2, "V5")]
    assert standard_leads(header, {"mlii": "I", "ecg": "V1"}) == [(0, "I"), (1, "V1"), (2, "V5")]
    with pytest.raises(RecordError, match="lead I must occur once"):
        standard_leads(header, {"MLII": "I"})
    write_signal(tmp_path / "a", np.zeros((1, 10)), leads=["resp"])
    with pytest.raises(RecordError, match="no standard lead, only 'resp'; .*--lead-map"):
        standard_leads(read_header(tmp_path / "a"), {})


def test_the_file_beside_the_manifest_says_what_they_have_in_common(tmp_path, holters):
    write_in_place(tmp_path, corpus="holter", leads=["II", "V1"], lead_map={"ecg": "II"})
    source = AnnotatedSource(write_manifest_of(tmp_path, holters))
    assert source.corpus == "holter"
    assert np.flatnonzero(source.recorded_leads()).tolist() == [1, 6]
    assert source.read(0, 0, 10)[1].any()
    (tmp_path / IN_PLACE_FILE).write_text('{"rate_hz": "x"}')
    with pytest.raises(ManifestError, match=r"in_place\.json is damaged"):
        AnnotatedSource(read_manifest(tmp_path / "train.tsv"))


def test_every_task_opens_such_a_folder(tmp_path, holters):
    write_in_place(tmp_path)
    source = open_source(write_manifest_of(tmp_path, holters), 250)
    assert isinstance(source, AnnotatedSource)
    assert source.scale_mv(0).tolist() == [1] * 12
    assert (source.identity(3), source.label_row(0), source.label(0)) == (3, None, None)
    assert np.flatnonzero(source.recorded_leads()).tolist() == [0]
    whole = np.concatenate([holters[0].adu, holters[1].adu])
    scaled = PersonStandardizedSource(source).read(0, 0, 2500)[0]
    assert np.corrcoef(scaled, whole[:2500])[0, 1] == pytest.approx(1)
    with pytest.raises(ValueError, match="250 Hz"):
        open_source(read_manifest(tmp_path / "train.tsv"), 500)


def test_real_recordings_are_read_as_wfdb_reads_them(shared, tmp_path):
    data = shared / "data"
    cases = {
        "icentia11k-continuous-ecg": [(segment_path(0, 0), 1048577, 0)],
        "mitdb": [("100", 650000, 100), ("119", 650000, 119), ("203", 650000, 203)],
    }
    rng = np.random.default_rng(0)
    for name, rows in cases.items():
        write_manifest(tmp_path / "train.tsv", data / name, rows)
        source = AnnotatedSource(read_manifest(tmp_path / "train.tsv"))
        for row, (path, n_samples, _) in enumerate(rows):
            leads = standard_leads(read_header(data / name / path), {})
            for start in rng.integers(0, n_samples - 4096, 3).tolist():
                found = source.read(row, start, start + 4096)
                theirs = wfdb.rdrecord(
                    str(data / name / path), sampfrom=start, sampto=start + 4096
                ).p_signal.astype(np.float32)
                for lead, standard in leads:
                    assert found[STANDARD_LEADS.index(standard)].tolist() == (
                        theirs[:, lead].tolist()
                    )
