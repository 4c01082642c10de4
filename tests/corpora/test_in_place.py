"""Corpora that are read where they lie: what is listed, what is left out, and what is said."""

import argparse
import csv
import json
import re
import struct

import numpy as np
import pytest

from fairseq_ecg.cli import manifest as cli
from fairseq_ecg.corpora import _in_place
from fairseq_ecg.corpora._base import CorpusError
from fairseq_ecg.corpora._build import build_manifest
from fairseq_ecg.data import wfdb_reader
from fairseq_ecg.data.annotated import AnnotatedSource
from fairseq_ecg.data.manifest import read_manifest
from fairseq_ecg.data.pool import BuildError
from tests.builds import contents
from tests.holter import segment_path, write_annotations, write_patients, write_signal


def rows(folder, name="train"):
    return read_manifest(folder / f"{name}.tsv").paths


def ledger(folder):
    with open(folder / "ledger.csv", encoding="utf-8", newline="") as file:
        return {(row["record"], row["reason"], row["action"]) for row in csv.DictReader(file)}


def atr(root, patient, segment):
    return root / f"{segment_path(patient, segment)}.atr"


def test_nothing_is_copied_and_the_manifest_can_be_read(tmp_path):
    written = write_patients(tmp_path / "in", [0, 5], seconds=20)
    before = contents(tmp_path / "in")
    report = build_manifest("icentia11k", tmp_path / "in", tmp_path / "out")
    assert contents(tmp_path / "in") == before
    assert report.store is None
    assert not report.ledger
    source = AnnotatedSource(read_manifest(tmp_path / "out/train.tsv"))
    assert source.corpus == "icentia11k"
    assert source.n_samples.tolist() == [5000, 5000]
    patient = source.patient(0)
    chosen = [holter for holter in written if holter.patient == patient]
    assert source.names == [holter.path for holter in chosen]
    assert source.marks(1).beat_sample.tolist() == chosen[1].beats.tolist()
    symbols = [symbol for holter in written for symbol in holter.symbols]
    assert report.summary["beats"] == {
        "undefined": symbols.count("Q"),
        "normal": symbols.count("N"),
        "PAC": symbols.count("S"),
        "aberrated": 0,
        "PVC": symbols.count("V"),
    }
    hours = sum(report.summary["rhythm_hours"].values())
    assert hours == pytest.approx(sum(h.beats[-1] for h in written) / 250 / 3600, abs=3e-4)


@pytest.fixture
def bad(tmp_path):
    """Write one patient for each thing that can be wrong with a segment; segment 1 is good."""
    root = tmp_path / "in"
    written = write_patients(root, range(8), seconds=20)

    def path(patient):
        return root / segment_path(patient, 0)

    atr(root, 0, 0).unlink()
    path(1).with_suffix(".dat").write_bytes(path(1).with_suffix(".dat").read_bytes()[:1000])
    write_signal(path(2), written[4].adu, rate_hz=200)
    write_annotations(path(3), [10, 400], ["N", "V"])
    content = bytearray(atr(root, 3, 0).read_bytes())
    content[-4:-2] = struct.pack("<H", 45 << 10 | 5)
    atr(root, 3, 0).write_bytes(content)
    write_annotations(path(4), [10, 5000], ["N", "V"])
    atr(root, 5, 0).write_bytes(np.random.default_rng(0).bytes(2001) + b"x")
    path(6).with_suffix(".hea").write_text("garbage")
    write_signal(path(7), written[4].adu, leads="resp")
    with open(root / "RECORDS", "a") as file:
        file.write("p00/p00077/p00077_s00\np00/p00077/p00077_s01\np10/p10999/\np00\n")
        file.write("p00/p00003/p00003_s07\nnonsense\n")
    return root


def test_what_is_wrong_is_in_the_ledger_and_the_rest_is_listed(bad, tmp_path):
    report = build_manifest(
        "icentia11k", bad, tmp_path / "out", corpus_options={"valid_patients": 0}
    )
    assert ledger(tmp_path / "out") == {
        ("p00000_s00", "no_annotation", "signal_only"),
        ("p00001_s00", "truncated", "excluded"),
        ("p00002_s00", "wrong_rate", "excluded"),
        ("p00003_s00", "unknown_symbol", "kept"),
        ("p00003_s07", "missing_file", "excluded"),
        ("p00004_s00", "annotation_past_end", "kept"),
        ("p00005_s00", "truncated", "signal_only"),
        ("p00006_s00", "bad_header", "excluded"),
        ("p00007_s00", "wrong_leads", "excluded"),
        ("p00077", "missing_patient", "excluded"),
        ("p10999", "missing_patient", "excluded"),
    }
    good = {segment_path(patient, 1) for patient in range(8)}
    kept = {segment_path(3, 0), segment_path(4, 0)}
    assert set(rows(tmp_path / "out")) == good | kept
    without = {segment_path(0, 0), segment_path(5, 0)}
    assert set(rows(tmp_path / "out", "train_all")) == good | kept | without
    assert report.summary["records_listed"] == 19
    assert report.summary["records_kept"] == 12
    assert report.summary["records_labelled"] == 10
    source = AnnotatedSource(read_manifest(tmp_path / "out/train.tsv"))
    for row in range(len(source.names)):
        assert source.marks(row).beat_sample.max(initial=0) < 5000
        assert source.read(row, 0, 5000, [0]).any()


def test_the_report_says_all_this(bad, tmp_path):
    report = build_manifest("icentia11k", bad, tmp_path / "out")
    text = cli.format_report(report)
    assert text.startswith("icentia11k: 12 of 19 records of 8 patients")
    assert "hours of rhythm" in text
    assert "patients in the folder: 8 of 11,000" in text
    assert (
        "none of the 550 validation patients of seed 42 is in the folder; in their place:" in text
    )
    assert "without labels, only in the manifests *_all.tsv:" in text
    assert "no annotation file" in text


def test_the_result_does_not_depend_on_the_processes(bad, tmp_path, monkeypatch):
    monkeypatch.setattr(_in_place, "_ENTRIES_WORTH_A_POOL", 0)
    monkeypatch.setattr(_in_place, "_ENTRIES_PER_TASK", 2)
    for workers in (1, 2):
        build_manifest("icentia11k", bad, tmp_path / f"out{workers}", workers=workers)
    assert contents(tmp_path / "out1") == contents(tmp_path / "out2")


def test_other_options_need_overwrite_which_removes_what_they_left(tmp_path):
    root, dest = tmp_path / "in", tmp_path / "out"
    write_patients(root, 2, seconds=5)
    build_manifest("icentia11k", root, dest, corpus_options={"subsets": "10,50"})
    assert (dest / "train_010_all.tsv").exists()
    before = contents(dest)
    build_manifest("icentia11k", root, dest, corpus_options={"subsets": "10,50"})
    assert contents(dest) == before
    with pytest.raises(BuildError, match="written with other options: corpus_options was"):
        build_manifest("icentia11k", root, dest, corpus_options={"subsets": "20"})
    with pytest.raises(BuildError, match="lead_map was"):
        build_manifest(
            *("icentia11k", root, dest),
            corpus_options={"subsets": "10,50"},
            lead_map=(("ecg", "II"),),
        )
    assert contents(dest) == before
    build_manifest("icentia11k", root, dest, overwrite=True, corpus_options={"subsets": "20"})
    assert {path.name for path in dest.glob("train_*")} == {
        *("train_all.tsv", "train_020.tsv", "train_020_all.tsv")
    }
    (dest / "summary.json").write_text("{")
    with pytest.raises(BuildError, match="damaged or of another kind; use --overwrite"):
        build_manifest("icentia11k", root, dest)
    build_manifest("icentia11k", root, dest, overwrite=True)


def test_a_folder_with_a_store_is_left_alone(tmp_path):
    write_patients(tmp_path / "in", 1, seconds=5)
    (tmp_path / "out/store").mkdir(parents=True)
    with pytest.raises(BuildError, match="holds a store; choose another --dest"):
        build_manifest("icentia11k", tmp_path / "in", tmp_path / "out")


def test_options_of_a_store_are_refused(tmp_path):
    write_patients(tmp_path / "in", 1, seconds=5)
    with pytest.raises(CorpusError, match=r"no store is built, so \['rate_hz'\] cannot be given"):
        build_manifest("icentia11k", tmp_path / "in", tmp_path / "out", rate_hz=100)


def test_nothing_usable_is_an_error_that_names_the_first(tmp_path):
    write_patients(tmp_path / "in", 1, seconds=5, rate_hz=100)
    with pytest.raises(BuildError, match="not one of 2 recordings can be used; .* has 100 Hz"):
        build_manifest("icentia11k", tmp_path / "in", tmp_path / "out")


def test_recordings_without_labels_can_still_be_listed(tmp_path):
    write_patients(tmp_path / "in", 1, seconds=5, annotated=lambda patient, segment: False)
    report = build_manifest("icentia11k", tmp_path / "in", tmp_path / "out")
    assert not rows(tmp_path / "out")
    assert len(rows(tmp_path / "out", "train_all")) == 2
    assert "no record is in train and valid" in cli.format_report(report)


def test_from_the_command_line(tmp_path, capsys):
    parser = argparse.ArgumentParser()
    cli.add_parser(parser.add_subparsers(dest="verb"))
    write_patients(tmp_path / "in", 1, seconds=5, lead="MLII")
    words = ["manifest", "icentia11k", tmp_path / "in", "--dest", tmp_path / "out"]
    args = parser.parse_args([*map(str, words), "--lead-map", "MLII=I", "--subsets", "100"])
    assert args.run(args) == 0
    assert re.search(r"train_100\.tsv +2 +1", capsys.readouterr().out)
    facts = json.loads((tmp_path / "out/in_place.json").read_text())
    assert facts["lead_map"] == {"MLII": "I"}
    assert facts["leads"] == ["I"]
    with pytest.raises(SystemExit):
        parser.parse_args([*map(str, words), "--rate", "100"])
    assert "unrecognized arguments: --rate" in capsys.readouterr().err


def test_the_samples_are_not_read(tmp_path, monkeypatch):
    write_patients(tmp_path / "in", 1, seconds=5)
    monkeypatch.setattr(wfdb_reader, "read_exactly", lambda *_: pytest.fail("samples were read"))
    assert build_manifest("icentia11k", tmp_path / "in", tmp_path / "out").summary["records_kept"]
