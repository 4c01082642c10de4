import numpy as np
import pytest

from fairseq_ecg.data.leads import (
    STANDARD_LEADS,
    canonical_lead,
    choose_leads,
    lead_rows,
    parse_leads,
    to_standard,
)
from fairseq_ecg.data.signal import EcgSignal


@pytest.mark.parametrize(
    ("spelling", "standard"),
    [
        ("I", "I"), ("iii", "III"), ("AVR", "aVR"), ("avl", "aVL"), ("aVF", "aVF"), ("v6", "V6"),
        ("DI", "I"), ("DII", "II"), ("DIII", "III"), ("D2", "II"), ("ECG I", "I"), ("EKG V3", "V3"),
        ("Lead I", "I"), ("lead_I", "I"), ("LEAD II", "II"), ("ECG Lead aVF", "aVF"),
        ("MDC_ECG_LEAD_I", "I"), ("MDC_ECG_LEAD_AVR", "aVR"), ("MDC_ECG_LEAD_V1", "V1"),
        ("I (mV)", "I"), ("V1 [uV]", "V1"), (" aVR ", "aVR"),
    ],
)  # fmt: skip
def test_spellings_in_use_are_understood(spelling, standard):
    assert canonical_lead(spelling) == standard


@pytest.mark.parametrize(
    "name",
    ["MLII", "-aVR", "ECG", "ECG I filtered", "V7", "V3R", "ecg", "", "IV", "1", "Resp", "C3", "X"],
)
def test_other_signals_are_not_taken_for_standard_leads(name):
    assert canonical_lead(name) is None


@pytest.mark.parametrize(
    ("spec", "rows"),
    [
        (None, list(range(12))), ("None", list(range(12))), ("[0, 1]", [0, 1]), ([0, 1], [0, 1]),
        ("['I', 'II']", [0, 1]), ("I,II", [0, 1]), (["I", "avr"], [0, 3]), ("0,6", [0, 6]),
        ("(1, 0)", [1, 0]), (("V6",), [11]), ("II", [1]), (np.array([2, 3]), [2, 3]),
        ("['I', 'II', 'V2']", [0, 1, 7]),
    ],
)  # fmt: skip
def test_choices_of_leads_are_read_in_every_form_in_use(spec, rows):
    assert parse_leads(spec) == rows


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("[0, 12]", "0..11"), ("[-1]", "0..11"), ([], "empty"), ("", "empty"),
        ([0, "I"], "repeats I"), ("aVX", "aV"), ("[0, 1", "must be a list"),
        ("[__import__('os')]", "must be a list"),
        ([True], "row number or a name"), ([0.5], "row number or a name"), (7, "list of rows"),
    ],
)  # fmt: skip
def test_unfit_choices_of_leads_are_refused_with_the_reason(spec, message):
    with pytest.raises(ValueError, match=message):
        parse_leads(spec)


def test_an_unknown_lead_is_answered_with_near_names():
    with pytest.raises(ValueError, match=r"'aVS'; near: aV"):
        parse_leads("aVS")


def test_lead_rows_finds_each_standard_lead_or_says_it_is_absent():
    rows = lead_rows(["V1", "MLII", "ii", "AVR"])
    expected = dict.fromkeys(STANDARD_LEADS, -1) | {"V1": 0, "II": 2, "aVR": 3}
    assert dict(zip(STANDARD_LEADS, rows, strict=True)) == expected


def test_a_lead_that_occurs_twice_is_refused_by_name():
    with pytest.raises(ValueError, match=r"'DI'.*'lead I'"):
        lead_rows(["DI", "lead I"])


def test_to_standard_reorders_and_fills_missing_rows_with_zeros():
    values = np.arange(9, dtype=np.float32).reshape(3, 3) + 1
    standard, mask = to_standard(EcgSignal(values, 360.0, ("V5", "MLII", "DII")))
    assert standard.leads == STANDARD_LEADS
    assert standard.rate_hz == 360.0
    assert mask.dtype == bool
    assert np.flatnonzero(mask).tolist() == [1, 10]
    np.testing.assert_array_equal(standard.values_mv[10], values[0])
    np.testing.assert_array_equal(standard.values_mv[1], values[2])
    assert not standard.values_mv[~mask].any()


def test_to_standard_does_not_copy_what_is_standard_already():
    values = np.ones((12, 4), np.float32)
    standard, mask = to_standard(EcgSignal(values, 500.0, tuple(n.upper() for n in STANDARD_LEADS)))
    assert standard.values_mv is values
    assert mask.all()


def test_to_standard_does_not_mistake_a_reversed_order_for_the_standard_one():
    values = np.arange(12, dtype=np.float32)[:, None].copy()
    standard, _ = to_standard(EcgSignal(values, 500.0, STANDARD_LEADS[::-1]))
    assert standard.values_mv[:, 0].tolist() == list(range(11, -1, -1))


def test_to_standard_refuses_a_recording_without_any_standard_lead():
    with pytest.raises(ValueError, match="'ECG'"):
        to_standard(EcgSignal(np.ones((1, 4), np.float32), 300.0, ("ECG",)))


# --- sets of leads --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "leads"),
    [
        ("12-lead", STANDARD_LEADS),
        ("6-lead", ("I", "II", "III", "aVR", "aVL", "aVF")),
        ("4-lead", ("I", "II", "III", "V2")),
        ("3-lead", ("I", "II", "V2")),
        ("2-Lead", ("I", "II")),
        (" 1-lead ", ("I",)),
    ],
)
def test_a_set_may_stand_for_its_leads_alone_or_in_twelve_rows(name, leads):
    assert choose_leads(name).leads == leads
    assert not choose_leads(name).padded
    padded = choose_leads(f" p-{name.strip().split('-')[0]} ")
    assert padded.leads == STANDARD_LEADS
    assert tuple(STANDARD_LEADS[row] for row in padded.rows) == leads
    assert choose_leads(name, padded=True) == padded


@pytest.mark.parametrize("name", ["P-5", "5-lead", "P-lead", "P3"])
def test_unknown_sets_are_refused_with_those_there_are(name):
    with pytest.raises(ValueError, match=r"unknown lead.*sets: 12-lead, .*1-lead"):
        choose_leads(name)
