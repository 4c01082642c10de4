import pytest

from fairseq_ecg.corpora._base import (
    CorpusError,
    LabelSet,
    available_corpora,
    get_corpus,
    register_corpus,
    split_patients,
)


def test_every_module_of_the_package_is_found():
    assert {"ptb-xl", "physionet2021", "wfdb"} <= set(available_corpora())


def test_an_unknown_corpus_or_option_lists_what_there_is():
    with pytest.raises(CorpusError, match="no corpus 'ptbxl'; there are: .*ptb-xl"):
        get_corpus("ptbxl")
    with pytest.raises(CorpusError, match="no option 'sample'; it has: sampling"):
        get_corpus("ptb_xl", sample=100)
    with pytest.raises(CorpusError, match=r"sampling must be one of \[100, 500\], but is 250"):
        get_corpus("ptb_xl", sampling=250)


def test_a_name_is_registered_once():
    with pytest.raises(ValueError, match="'wfdb' is registered already"):

        @register_corpus("wfdb")
        class Other:
            pass


def test_patients_are_divided_alike_whatever_their_order():
    patients = [f"P{i}" for i in range(100)]
    splits = split_patients(patients, 0.1, 0.2, seed=3)
    assert splits == split_patients(patients[::-1] + patients, 0.1, 0.2, seed=3)
    counts = [list(splits.values()).count(split) for split in ("train", "valid", "test")]
    assert counts == [70, 10, 20]
    assert splits != split_patients(patients, 0.1, 0.2, seed=4)


def test_three_patients_fill_three_splits():
    assert set(split_patients("abc", 0.1, 0.1, 0).values()) == {"train", "valid", "test"}
    assert set(split_patients("abc", 0.0, 0.1, 0).values()) == {"train", "test"}
    assert set(split_patients("a", 0.1, 0.1, 0).values()) == {"train"}


def test_given_splits_are_kept():
    fixed = {"a": "test", "z": "valid"}
    splits = split_patients("abcdefgh", 0.1, 0.1, 0, fixed)
    assert splits["a"] == "test"
    assert set(splits) == set("abcdefghz")


@pytest.mark.parametrize(("valid", "test"), [(-0.1, 0.1), (0.6, 0.5)])
def test_fractions_must_make_sense(valid, test):
    with pytest.raises(CorpusError, match="must not be negative nor exceed 1"):
        split_patients("abc", valid, test, 0)


def test_label_sets_keep_their_order_and_drop_what_they_do_not_know():
    drop = LabelSet(("b", "a"), lambda codes: codes)
    keep = LabelSet(("b", "a"), lambda codes: codes, keep_unlabelled=True)
    assert drop.apply(["x", "a", "b", "a"]) == ["b", "a"]
    assert drop.apply(["x"]) is None
    assert keep.apply(["x"]) == []
    assert keep.apply(None) is None
