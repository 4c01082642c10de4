"""WESAD: windows inside the states of the schedule, from the raw text files."""

import numpy as np
import pytest

from fairseq_ecg.corpora._base import CorpusError, get_corpus
from fairseq_ecg.corpora._build import build_manifest
from fairseq_ecg.corpora.wesad import read_schedule
from fairseq_ecg.data.ledger import read_ledger
from fairseq_ecg.data.record_file import RecordError
from fairseq_ecg.transforms.resample import resample
from tests.trials import SCHEDULE, wesad_counts, write_wesad

SHORT = (("Base", "0.00", "0.45"), ("TSST", "0.50", "1.2"), ("sRead", "1.21", "1.25"))


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_wesad(tmp_path_factory.mktemp("wesad") / "in", seconds=85, schedule=SHORT)


def test_windows_lie_inside_the_states(root, tmp_path):
    report = build_manifest("wesad", root, tmp_path, dtype="float32")
    store = report.store
    assert (store.rate_hz, store.leads) == (256, ("II",))
    assert store.records[:3] == ["S02_base_000", "S02_base_001", "S02_tsst_000"]
    assert len(store) == 3 * 3
    signal = ((wesad_counts(3, 85) / 65536 - 0.5) * 3).astype(np.float32)[None]
    whole = resample(signal, 700, 256)
    for name, start_s in (("S03_base_001", 20), ("S03_tsst_000", 60)):
        values = store.read(store.row_of(name))
        np.testing.assert_array_equal(values, whole[:, start_s * 256 : start_s * 256 + 2560])
    assert store.index["age"].tolist()[:4] == [22, 22, 22, 23]
    assert set(store.index["sex"]) == {"male"}
    counts = report.summary["label_sets"]["state"]["counts"]
    assert counts == {"baseline": 6, "stress": 3, "amusement": 0, "meditation": 0}


def test_no_sample_of_a_window_is_outside_its_state(tmp_path):
    (tmp_path / "S2_quest.csv").write_text(
        "".join(
            f"# {key};{';'.join(row[k] for row in SCHEDULE)};;\n"
            for k, key in enumerate(("ORDER", "START", "END"))
        )
    )
    found = read_schedule(tmp_path / "S2_quest.csv")
    assert found == [
        ("base", 5, 50),
        ("tsst", 55, 80),
        ("medi 1", 90, 125),
        ("fun", 126, 160),
        ("medi 2", 165, 180),
    ]
    for margin_s in (0.0, 2.0):
        (tmp_path / f"{margin_s}" / "S2").mkdir(parents=True)
        folder = tmp_path / f"{margin_s}"
        for person in (2, 3, 4):
            (folder / f"S{person}").mkdir(exist_ok=True)
            (folder / f"S{person}" / f"S{person}_respiban.txt").touch()
            quest = (tmp_path / "S2_quest.csv").read_text()
            (folder / f"S{person}" / f"S{person}_quest.csv").write_text(quest)
        entries = get_corpus("wesad", margin_s=margin_s).entries(folder)
        times = {name.replace(" ", ""): (begin, end) for name, begin, end in found}
        for entry in entries:
            begin, end = times[entry.record.split("_")[1]]
            assert entry.reader.start / 256 >= begin + margin_s
            assert entry.reader.start / 256 + 10 <= end - margin_s
        assert {entry.record.split("_")[1] for entry in entries} == set(times)


def test_label_sets_leave_out_what_they_have_no_class_for():
    sets = get_corpus("wesad").label_sets(None)
    assert sets["state"].apply(["state:meditation"]) == ["meditation"]
    assert sets["stress"].apply(["state:meditation"]) is None
    assert sets["stress"].apply(["state:amusement"]) == ["no stress"]
    assert sets["stress"].apply(["state:stress"]) == ["stress"]


def changed(tmp_path, old, new):
    root = write_wesad(tmp_path, seconds=1, schedule=SHORT)
    path = root / "S2" / "S2_quest.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    return root


@pytest.mark.parametrize(
    ("old", "new", "match"),
    [
        ("# START", "# BEGIN", r"S2_quest\.csv must have the lines .* no # START"),
        ("TSST", "Party", "# ORDER: 'party' must be one of base, tsst"),
        ("TSST", "Base", "'base' must be .* each once"),
        ("0.50", "0.75", "# START, tsst must be minutes and seconds .* but is '0.75'"),
        ("0.50", "", "# START, tsst must be minutes and seconds .* but is ''"),
        ("1.2;", "0.2;", "tsst must end after 50 s, but ends at 20"),
        ("1.2;", "1.1;", "tsst must leave 10 s between margins of 10 s, but lasts 20 s"),
    ],
)
def test_schedules_that_do_not_fit_are_refused(tmp_path, old, new, match):
    with pytest.raises(CorpusError, match=match):
        get_corpus("wesad").entries(changed(tmp_path, old, new))


def test_a_schedule_without_end_is_refused_before_it_is_read(tmp_path):
    path = changed(tmp_path, "", "") / "S2" / "S2_quest.csv"
    path.write_bytes(path.read_bytes() + bytes(2 << 20))
    with pytest.raises(RecordError, match=r"S2_quest\.csv must not exceed"):
        read_schedule(path)


@pytest.mark.parametrize("margin_s", [-1.0, float("inf"), float("nan")])
def test_margins_without_a_meaning_are_refused(tmp_path, margin_s):
    with pytest.raises(CorpusError, match="margin_s must be at least 0 and finite"):
        get_corpus("wesad", margin_s=margin_s).entries(tmp_path)


def test_a_recording_that_ends_early_is_in_the_ledger(tmp_path):
    root = write_wesad(tmp_path / "in", seconds=45, schedule=SHORT)
    build_manifest("wesad", root, tmp_path / "out")
    ledger = {row.record: row for row in read_ledger(tmp_path / "out" / "ledger.csv")}
    assert ledger["S02_tsst_000"].reason == "truncated"
    assert ledger["S02_tsst_000"].path == "S2/S2_respiban.txt"
    assert "must last 70 s, but ends after 45 s" in ledger["S02_tsst_000"].detail


def test_a_pickle_is_never_read(tmp_path):
    folder = tmp_path / "S2"
    folder.mkdir()
    (folder / "S2.pkl").write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(CorpusError, match=r"has S2\.pkl, but no S2_respiban\.txt; a pickle could"):
        get_corpus("wesad").entries(tmp_path)


def test_other_folders_are_refused(tmp_path):
    with pytest.raises(CorpusError, match="is not the folder of WESAD"):
        get_corpus("wesad").entries(tmp_path)
