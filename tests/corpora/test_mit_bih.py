"""The MIT-BIH Arrhythmia Database, read where it lies."""

import numpy as np
import pytest

from fairseq_ecg.corpora._base import CorpusError
from fairseq_ecg.corpora._build import build_manifest
from fairseq_ecg.corpora.mit_bih import MitBih
from fairseq_ecg.data.annotated import AnnotatedSource
from fairseq_ecg.data.manifest import read_manifest
from tests.holter import write_annotations, write_signal


def test_two_recordings_of_one_person_are_together(tmp_path):
    for name in ("100", "201", "202", "x_100", "300"):
        write_signal(tmp_path / name, np.zeros((2, 10)), 360, ["MLII", "V1"])
    for seed in range(20):
        entries = {entry.record: entry for entry in MitBih(seed=seed).entries(tmp_path)}
        assert sorted(entries) == ["100", "201", "202"]
        assert entries["201"].split == entries["202"].split
        assert entries["202"].patient == "201"


def test_a_listed_recording_that_is_missing_is_in_the_ledger(tmp_path):
    write_signal(tmp_path / "in/100", np.zeros((2, 10)), 360, ["MLII", "V1"])
    write_annotations(tmp_path / "in/100", [3], ["N"], rate_hz=None)
    write_signal(tmp_path / "in/101", np.zeros((2, 10)), 250, ["MLII", "V1"])
    (tmp_path / "in/RECORDS").write_text("100\n101\n102\n")
    report = build_manifest("mit-bih", tmp_path / "in", tmp_path / "out")
    assert {(row.record, row.reason) for row in report.ledger} == {
        ("101", "wrong_rate"),
        ("102", "missing_file"),
    }


def test_another_folder_is_refused(tmp_path):
    with pytest.raises(CorpusError, match=r"holds no 100\.hea"):
        MitBih().entries(tmp_path)


def test_the_real_recordings(shared, tmp_path):
    report = build_manifest("mit-bih", shared / "data/mitdb", tmp_path / "out")
    assert report.summary["splits"] == {
        split: {"records": 1, "patients": 1} for split in ("train", "valid", "test")
    }
    assert report.summary["beats"] == {
        **{"undefined": 5, "normal": 6311, "PAC": 33, "aberrated": 2, "PVC": 889}
    }
    source = AnnotatedSource(read_manifest(tmp_path / "out/train.tsv"))
    assert source.rate_hz == 360
    assert np.flatnonzero(source.recorded_leads()).tolist() == [1, 6, 10]
    build_manifest("mit-bih", shared / "data/mitdb", tmp_path / "as_i", lead_map=(("MLII", "I"),))
    source = AnnotatedSource(read_manifest(tmp_path / "as_i/train.tsv"))
    assert np.flatnonzero(source.recorded_leads()).tolist() == [0, 6, 10]
    assert source.read(0, 0, 100, [0]).any()
