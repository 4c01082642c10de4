"""DREAMER: windows of each film, its own ratings, on a scale from 1 to 5."""

import numpy as np
import pytest

from fairseq_ecg.corpora._base import CorpusError, get_corpus
from fairseq_ecg.corpora._build import build_manifest
from fairseq_ecg.data.ledger import read_ledger
from fairseq_ecg.data.record_file import RecordError
from tests.trials import RATE_HZ, wave, write_dreamer


def test_windows_are_pieces_of_the_films(tmp_path):
    root = write_dreamer(tmp_path / "in")
    report = build_manifest("dreamer", root, tmp_path / "out")
    store = report.store
    assert (store.rate_hz, store.leads) == (256, ("II", "III"))
    names = ["P01_01_000", "P01_01_001", "P01_02_000", "P01_02_001", "P01_02_002"]
    names += ["P02_01_000", "P02_01_001", "P02_02_000", "P03_01_000"]
    assert store.records == names
    film = 2000 + 100 * wave(31 * RATE_HZ, RATE_HZ, 101, 2)
    np.testing.assert_allclose(store.read(4), film[:, 5120:7680], rtol=1e-6)
    assert store.patients[0] == "dreamer-P01"
    ledger = {row.record: row for row in read_ledger(tmp_path / "out" / "ledger.csv")}
    assert ledger["P03_02_000"].reason == "truncated"
    assert "Data{3}.ECG.stimuli{2}(:,1)" in ledger["P03_02_000"].detail


def test_each_target_has_a_column_of_its_own(tmp_path):
    root = write_dreamer(tmp_path)
    corpus = get_corpus("dreamer")
    sets = corpus.label_sets(root)
    for entry in corpus.entries(root):
        number = entry.reader.film - 1 + entry.reader.person
        expected = {
            "valence": number % 5 + 1,
            "arousal": 2 * number % 5 + 1,
            "dominance": 3 * number % 5 + 1,
        }
        for target, rating in expected.items():
            assert sets[f"{target}_rating"].apply(entry.codes) == [str(rating)]
            assert sets[target].apply(entry.codes) == ["high" if rating > 3 else "low"]


def test_numbers_are_divided_by_the_unit(tmp_path):
    root = write_dreamer(tmp_path)
    options = {"units_per_mv": 200.0}
    entry, *_ = get_corpus("dreamer", **options).entries(root)
    values = entry.reader.read(root / entry.path).signal.values_mv
    film = 2000 + 100 * wave(20 * RATE_HZ, RATE_HZ, 100, 2)
    np.testing.assert_allclose(values, film[:, :2560] / 200, rtol=1e-6)


def set_score(column, value, person=1, film=1):
    def change(people):
        people[person - 1][column][film - 1] = value

    return change


def remove(*keys):
    def change(people):
        place = people[1]
        for key in keys[:-1]:
            place = place[key]
        del place[keys[-1]]

    return change


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        (set_score("ScoreArousal", 7, 2, 2), CorpusError, r"Data\{2\}\.ScoreArousal\(2\) must be"),
        (set_score("ScoreValence", 0), CorpusError, r"ScoreValence\(1\) .* from 1 to 5, but is 0"),
        (remove("ScoreDominance"), CorpusError, r"Data\{2\}\.ScoreDominance must have one rating"),
        (remove("ECG", "stimuli"), RecordError, r"Data\{2\}\.ECG\.stimuli must be a cell"),
        (
            lambda people: people[0].update(ScoreArousal=np.ones((5, 1))),
            CorpusError,
            r"Data\{1\}\.ScoreArousal must have one rating for each of 2 films, but has 5",
        ),
        (
            lambda people: people[0].update(ScoreArousal="3"),
            CorpusError,
            r"Data\{1\}\.ScoreArousal must have one rating .* or is no column of numbers",
        ),
        (
            lambda people: people[0].update(ScoreArousal={"a": 1}),
            CorpusError,
            r"Data\{1\}\.ScoreArousal must have one rating .* or is no column of numbers",
        ),
        (
            lambda people: people[0]["ECG"]["stimuli"].__setitem__((0, 0), "text"),
            RecordError,
            r"Data\{1\}\.ECG\.stimuli must be a cell of numbers",
        ),
        (
            lambda people: people[0]["ECG"]["stimuli"].__setitem__((0, 0), np.ones((0, 2))),
            RecordError,
            r"a signal must have leads and samples",
        ),
        (
            lambda people: people[0]["ECG"]["stimuli"].__setitem__((0, 0), np.ones((9, 14))),
            RecordError,
            r"Data\{1\}\.ECG\.stimuli\{1\} must be \[samples, 2\], but is \(9, 14\)",
        ),
    ],
)
def test_wrong_columns_are_refused_by_file_and_column(tmp_path, change, error, match):
    root = write_dreamer(tmp_path, change=change)
    with pytest.raises(error, match=match) as found:
        get_corpus("dreamer").entries(root)
    assert "DREAMER.mat" in str(found.value)


def test_the_threshold_of_another_scale_is_refused(tmp_path):
    root = write_dreamer(tmp_path)
    with pytest.raises(CorpusError, match="threshold must lie on the scale, from 1 to below 5"):
        build_manifest("dreamer", root, tmp_path / "out", corpus_options={"threshold": 5.0})


def test_silent_and_missing_samples_are_in_the_ledger(tmp_path):
    def change(people):
        people[0]["ECG"]["stimuli"][0, 0][:2560] = 5
        people[0]["ECG"]["stimuli"][1, 0][3000, 1] = np.nan

    root = write_dreamer(tmp_path / "in", change=change)
    build_manifest("dreamer", root, tmp_path / "out")
    ledger = {row.record: row for row in read_ledger(tmp_path / "out" / "ledger.csv")}
    assert ledger["P01_01_000"].reason == "all_flat"
    assert "constant in Data{1}.ECG.stimuli{1}(:,1), Data{1}" in ledger["P01_01_000"].detail
    assert ledger["P01_02_001"].reason == "nan"
    assert "stimuli{2}(:,2) (1)" in ledger["P01_02_001"].detail


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(CorpusError, match="is not the folder of DREAMER: it has no DREAMER.mat"):
        get_corpus("dreamer").entries(tmp_path)
    (tmp_path / "DREAMER.mat").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(200))
    with pytest.raises(RecordError, match=r"MATLAB v7\.3"):
        get_corpus("dreamer").entries(tmp_path)
