"""ECG-ID: who, when, which channel; on the real folder and on broken ones."""

import numpy as np
import pytest

from fairseq_ecg.corpora._base import CorpusError, get_corpus
from fairseq_ecg.corpora._build import build_manifest
from fairseq_ecg.data.manifest import read_manifest
from fairseq_ecg.data.sources import open_source
from fairseq_ecg.data.wfdb_reader import read_signal
from tests.builds import make_adu, write_record


@pytest.fixture
def root(tmp_path):
    for person in (3, 12):
        for number in (1, 2, 10):
            write_record(
                tmp_path / "ecg" / f"Person_{person:02d}",
                f"rec_{number}",
                make_adu(100 * person + number, n_leads=2),
                leads=("ECG I", "ECG I filtered"),
                comments=("Age: 41", "Sex: female", f"ECG date: {number:02d}.12.2004"),
            )
    return tmp_path / "ecg"


def test_people_dates_and_order_are_those_of_the_tree(root):
    entries = {entry.record: entry for entry in get_corpus("ecg-id").entries(root)}
    assert sorted(entries) == [f"ecgid-{p}-{n}" for p in ("03", "12") for n in ("01", "02", "10")]
    entry = entries["ecgid-03-10"]
    assert (entry.path, entry.patient) == ("Person_03/rec_10", "ecgid-03")
    assert (entry.codes, entry.age, entry.sex) == (("date:2004-12-10",), 41.0, "female")


@pytest.mark.parametrize(("channel", "row"), [("filtered", 1), ("raw", 0)])
def test_lead_I_is_the_channel_that_was_chosen(root, tmp_path, channel, row):
    report = build_manifest("ecg-id", root, tmp_path / "dest", corpus_options={"channel": channel})
    store = report.store
    assert (store.leads, len(store), report.ledger) == (("I",), 6, [])
    expected = read_signal(root / "Person_12/rec_2").values_mv[row]
    np.testing.assert_allclose(store.read(store.row_of("ecgid-12-02"))[0], expected, atol=1e-4)
    source = open_source(read_manifest(tmp_path / "dest/train.tsv"))
    assert source.read(0, 0, 500).shape == (12, 500)
    assert not source.read(0, 0, 500)[1:].any()


def test_all_recordings_of_a_person_are_in_one_split(root, tmp_path):
    options = {"valid_fraction": 0.5, "test_fraction": 0.5}
    report = build_manifest("ecg-id", root, tmp_path / "dest", corpus_options=options)
    index = report.store.index
    assert sorted(index.groupby("patient")["split"].first()) == ["test", "valid"]
    assert index.groupby("patient")["split"].nunique().max() == 1


def test_a_header_without_a_date_has_no_code(root):
    header = root / "Person_03/rec_1.hea"
    header.write_text(header.read_text().replace("ECG date: 01.12.2004", "ECG date: unknown"))
    entries = {entry.record: entry for entry in get_corpus("ecg-id").entries(root)}
    assert entries["ecgid-03-01"].codes is None
    assert entries["ecgid-03-02"].codes == ("date:2004-12-02",)


def test_another_folder_is_refused(tmp_path):
    write_record(tmp_path / "ecg", "rec_1", make_adu())
    with pytest.raises(CorpusError, match="is not the folder of ECG-ID: it holds no Person_<n>"):
        get_corpus("ecg-id").entries(tmp_path / "ecg")


def test_the_real_folder_is_read_whole(shared, tmp_path):
    report = build_manifest("ecg-id", shared / "data/ecg-id-database-1.0.0", tmp_path / "dest")
    assert (report.summary["records_kept"], report.summary["patients"]) == (196, 60)
    assert report.ledger == []
    index = report.store.index.set_index("record")
    assert set(index["source_rate_hz"]) == {500.0}
    assert list(index.loc["ecgid-02-03", "codes"]) == ["date:2004-12-07"]
    assert index.loc["ecgid-02-01", "age"] == 23
