"""AMIGOS: windows behind the lead-in, the right two columns, ratings from 1 to 9."""

import numpy as np
import pytest

from fairseq_ecg.corpora._base import CorpusError, get_corpus
from fairseq_ecg.corpora._build import build_manifest
from fairseq_ecg.data.ledger import read_ledger
from fairseq_ecg.data.record_file import RecordError
from fairseq_ecg.transforms.resample import resample
from tests.trials import amigos_signal, write_amigos


def test_windows_begin_with_the_film_and_hold_the_electrocardiograms(tmp_path):
    root = write_amigos(tmp_path / "in")
    store = build_manifest("amigos", root, tmp_path / "out").store
    assert (store.rate_hz, store.leads, len(store)) == (256, ("II", "III"), 3 * 5)
    assert store.records[:5] == [f"P01_0{f}_00{w}" for f, w in ((1, 0), (1, 1), (2, 0), (2, 1), (2, 2))]  # fmt: skip
    assert sorted(set(store.patients)) == ["amigos-P01", "amigos-P02", "amigos-P03"]
    film = amigos_signal(2, 1, 40)[:, 14:16].T.astype(np.float32)
    whole = resample(film, 128, 256)
    row = store.row_of("P02_02_001")
    np.testing.assert_array_equal(store.read(row), whole[:, 1280 + 2560 : 1280 + 5120])


def test_the_lead_in_can_be_kept(tmp_path):
    root = write_amigos(tmp_path, n_people=3)
    entries = get_corpus("amigos", lead_in_s=0.0).entries(root)
    assert [entry.reader.start for entry in entries[:2]] == [0, 2560]
    assert len(entries) == 3 * (2 + 4)


def test_the_first_three_columns_are_arousal_valence_dominance(tmp_path):
    root = write_amigos(tmp_path)
    corpus = get_corpus("amigos")
    sets = corpus.label_sets(root)
    first, *_, last = corpus.entries(root)
    assert [sets[t].apply(first.codes) for t in ("arousal", "valence", "dominance")] == [
        *(["low"], ["high"], ["low"]),
    ]
    assert [sets[f"{t}_rating"].apply(last.codes) for t in ("arousal", "valence")] == [["4"], ["4"]]
    assert sets["arousal_rating"].apply(first.codes) == ["2"]  # 1.5, halves up
    assert sets["arousal_rating"].names == tuple("123456789")


def test_a_film_without_ratings_has_no_label(tmp_path):
    def change(person, films, scores):
        if person == 1:
            scores[0][:] = np.nan

    root = write_amigos(tmp_path / "in", change=change)
    report = build_manifest("amigos", root, tmp_path / "out")
    found = {row.record: row.reason for row in read_ledger(tmp_path / "out" / "ledger.csv")}
    assert found["P01_01_000"] == "no_label"
    assert report.summary["label_sets"]["arousal"]["records_without_label"] == 2


def put(person, film, where, value, of="scores"):
    def change(number, films, scores):
        if number == person:
            (scores if of == "scores" else films)[film - 1][where] = value

    return change


def replace(film, value, of="scores"):
    def change(number, films, scores):
        if number == 1:
            (scores if of == "scores" else films)[film - 1] = value

    return change


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (
            put(2, 1, (0, 0), 0.5),
            CorpusError,
            r"P02\.mat: labels_selfassessment\{1\}\(1\), arousal",
        ),
        (put(1, 2, (0, 1), 9.5), CorpusError, r"\{2\}\(2\), valence, must be a rating .* is 9\.5"),
        (put(1, 2, (0, 2), 90), CorpusError, r"\(3\), dominance, .*is it the right column"),
        (replace(1, np.ones((1, 5))), CorpusError, r"\{1\} must have 12 columns, .* but has 5"),
        (replace(2, np.ones((99, 15)), "films"), RecordError, r"joined_data\{2\} .*, 17\], but"),
        (replace(1, "text"), RecordError, "labels_selfassessment must be a cell of numbers"),
    ],
)
def test_wrong_columns_are_refused_by_file_and_column(tmp_path, change, error, match):
    root = write_amigos(tmp_path, change=change)
    with pytest.raises(error, match=match):
        get_corpus("amigos").entries(root)


def test_silent_and_missing_samples_are_in_the_ledger(tmp_path):
    def change(person, films, scores):
        if person == 1:
            films[0][640:1920, 14:16] = 1
            films[1][700, 15] = np.nan
        if person == 2:
            films[0][:, 14] = 1

    root = write_amigos(tmp_path / "in", change=change)
    build_manifest("amigos", root, tmp_path / "out")
    ledger = {row.record: row for row in read_ledger(tmp_path / "out" / "ledger.csv")}
    assert ledger["P01_01_000"].reason == "all_flat"
    assert ledger["P01_02_000"].reason == "nan"
    assert "joined_data{2}(:,16) (1)" in ledger["P01_02_000"].detail
    assert ledger["P01_02_000"].path.endswith("P01.mat")
    assert (ledger["P02_01_000"].reason, ledger["P02_01_000"].detail) == ("flat_lead", "II")
    assert set(ledger) == {"P01_01_000", "P01_02_000", "P02_01_000", "P02_01_001"}


def test_other_folders_and_options_are_refused(tmp_path):
    with pytest.raises(CorpusError, match="is not the folder of AMIGOS"):
        get_corpus("amigos").entries(tmp_path)
    root = write_amigos(tmp_path / "in")
    for options, match in (
        ({"threshold": 9.0}, "from 1 to below 9"),
        ({"units_per_mv": 0.0}, "units_per_mv must be above 0"),
        ({"lead_in_s": -1.0}, "lead_in_s must be at least 0"),
    ):
        with pytest.raises(CorpusError, match=match):
            get_corpus("amigos", **options).entries(root)
    first = next(root.rglob("*P01.mat"))
    (root / first.name).write_bytes(first.read_bytes())
    with pytest.raises(CorpusError, match="person 1 has two files"):
        get_corpus("amigos").entries(root)
