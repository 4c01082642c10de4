"""SWELL-KW: recordings of blocks, their condition and ratings from the table."""

import numpy as np
import pytest

from fairseq_ecg.corpora._base import CorpusError, get_corpus
from fairseq_ecg.corpora._build import build_manifest
from fairseq_ecg.data.ledger import read_ledger
from fairseq_ecg.transforms.resample import resample
from tests.trials import swell_rows, swell_signal, write_swell, write_xlsx

TABLE = "Behavioral-features - per minute.xlsx"


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return write_swell(tmp_path_factory.mktemp("swell") / "in")


def test_windows_are_pieces_of_the_channel_in_millivolts(root, tmp_path):
    store = build_manifest("swell", root, tmp_path, dtype="float32").store
    assert (store.rate_hz, store.leads, len(store)) == (256, ("II",), 3 * 3 * 2)
    assert store.records[:2] == ["PP01_c1_000", "PP01_c1_001"]
    assert set(store.patients) == {f"swell-PP0{person}" for person in (1, 2, 3)}
    signal = (swell_signal(2, 3)[7:] / 1000).astype(np.float32)
    whole = resample(signal, 2048, 256)
    values = store.read(store.row_of("PP02_c3_001"))
    np.testing.assert_allclose(values, whole[:, 2560:5120], atol=1e-6)


def test_the_number_of_a_block_is_not_its_condition(root):
    corpus = get_corpus("swell")
    sets = corpus.label_sets(root)
    found = {}
    for entry in corpus.entries(root):
        person, block = entry.record.split("_")[:2]
        found[person, block] = [
            sets[name].apply(entry.codes)
            for name in ("condition", "stress", "block", "arousal", "valence", "dominance")
        ]
    assert found["PP01", "c2"] == [
        *(["time pressure"], ["stress"], ["2"], ["high"], ["high"], ["low"]),
    ]
    assert found["PP02", "c2"] == [
        *(["interruptions"], ["stress"], ["2"], ["high"], ["high"], None),
    ]
    assert found["PP01", "c1"][:2] == [["neutral"], ["no stress"]]
    assert found["PP01", "c1"][3] == ["low"]


def test_another_channel_is_refused_with_those_there_are(root, tmp_path):
    with pytest.raises(ValueError, match=r"not one of 18 .* no channel 9; it has 1: ch0 \[uV\]"):
        build_manifest("swell", root, tmp_path / "a", corpus_options={"channel": 9})
    ledger = read_ledger(tmp_path / "a" / "ledger.csv")
    assert {row.reason for row in ledger} == {"wrong_leads"}
    assert "8: ch7 [uV]" in ledger[0].detail
    with pytest.raises(ValueError, match="not one of 18 records could be kept"):
        build_manifest("swell", root, tmp_path / "b", corpus_options={"channel": 1})
    assert {row.reason for row in read_ledger(tmp_path / "b" / "ledger.csv")} == {"all_flat"}


def links(root, folder, rows):
    """Return a folder with the same recordings and another table."""
    folder.mkdir()
    for path in root.rglob("*.S00"):
        (folder / path.name).symlink_to(path)
    write_xlsx(folder / TABLE, rows)
    return folder


def edited(row, column, value):
    rows = swell_rows()
    rows[row] = list(rows[row])
    rows[row][column] = value
    return rows


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        (edited(0, 3, "Arousal"), "columns PP, Blok, .* missing: Arousal_rc"),
        ([], "must have rows and the columns"),
        (edited(2, 0, "Person1"), "line 3: PP must be PP and a number, but is 'Person1'"),
        (edited(2, 1, 4), "line 3: Blok must be 1, 2 or 3, but is '4'"),
        (edited(2, 2, "X"), "line 3: Condition must be N, T, I or R, but is 'X'"),
        (edited(2, 3, 12), "line 3: Arousal_rc must be a rating from 1 to 9, but is 12"),
        (edited(2, 4, "much"), "line 3: Valence_rc must be a number, but is 'much'"),
        (edited(3, 3, 7), "line 4: the minutes of one block must have one condition and one"),
        (edited(3, 2, "I"), "line 4: the minutes of one block .* condition:N.* condition:I"),
    ],
)
def test_tables_that_do_not_fit_are_refused_by_line_and_column(root, tmp_path, rows, match):
    with pytest.raises(CorpusError, match=match) as error:
        get_corpus("swell").entries(links(root, tmp_path / "x", rows))
    assert TABLE in str(error.value)


def test_a_block_that_the_table_lacks_has_no_condition(root, tmp_path):
    rows = [row for row in swell_rows() if row[0] != "PP3"]
    folder = links(root, tmp_path / "x", rows)
    corpus = get_corpus("swell")
    last = corpus.entries(folder)[-1]
    sets = corpus.label_sets(folder)
    assert last.record.startswith("PP03")
    assert sets["condition"].apply(last.codes) is None
    assert sets["block"].apply(last.codes) == ["3"]


def test_a_continued_recording_has_a_name_of_its_own(root, tmp_path):
    folder = links(root, tmp_path / "x", swell_rows())
    (folder / "pp1_18-9-2012_c2_cont.S00").symlink_to(next(root.rglob("pp1_*_c2.S00")))
    names = [entry.record for entry in get_corpus("swell").entries(folder)]
    assert "PP01_c2_000" in names
    assert "PP01_c2cont_000" in names


def test_other_folders_are_refused(root, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="must hold one 'Behavioral-features"):
        get_corpus("swell").entries(tmp_path / "empty")
    write_xlsx(tmp_path / "empty" / TABLE, swell_rows())
    with pytest.raises(CorpusError, match="is not the folder of SWELL-KW"):
        get_corpus("swell").entries(tmp_path / "empty")
    folder = links(root, tmp_path / "x", swell_rows())
    (folder / "other.S00").touch()
    with pytest.raises(CorpusError, match=r"other\.S00 must be called like pp1_18-9-2012_c1\.S00"):
        get_corpus("swell").entries(folder)
