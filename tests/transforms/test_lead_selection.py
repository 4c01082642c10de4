"""Choosing leads, with and without silent rows for the others."""

import numpy as np
import pytest

from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.transforms.lead_selection import SelectLeads

RNG = np.random.default_rng(0)


def signal(leads=STANDARD_LEADS):
    values = np.arange(1, 1 + len(leads) * 4, dtype=np.float32).reshape(len(leads), 4)
    return EcgSignal(values, 250.0, tuple(leads))


@pytest.mark.parametrize("rows", [(0,), (1, 6), (11, 0, 5), tuple(range(12))])
def test_rows_are_kept_in_the_order_wanted_with_their_names(rows):
    chosen = SelectLeads(rows)(signal(), RNG)
    np.testing.assert_array_equal(chosen.values_mv, signal().values_mv[list(rows)])
    assert chosen.leads == tuple(STANDARD_LEADS[row] for row in rows)
    assert chosen.rate_hz == 250.0
    assert chosen.values_mv.dtype == np.float32


def test_padding_keeps_twelve_rows_in_place_and_silences_the_others():
    before = signal()
    chosen = SelectLeads((7, 1), pad=True)(before, RNG)
    expected = signal().values_mv
    expected[[row for row in range(12) if row not in (1, 7)]] = 0
    np.testing.assert_array_equal(chosen.values_mv, expected)
    assert chosen.leads == STANDARD_LEADS
    assert chosen.values_mv is before.values_mv


def test_a_selection_without_padding_leaves_the_input_alone():
    before = signal()
    chosen = SelectLeads((3, 4))(before, RNG)
    chosen.values_mv[:] = 0
    np.testing.assert_array_equal(before.values_mv, signal().values_mv)


def test_a_signal_of_which_only_these_leads_were_read_stays_as_it_is():
    before = signal(("V1", "I"))
    assert SelectLeads((6, 0))(before, RNG) is before
    with pytest.raises(ValueError, match="here are \\('V1', 'I'\\)"):
        SelectLeads((0, 6))(before, RNG)


@pytest.mark.parametrize("leads", [STANDARD_LEADS[:11], STANDARD_LEADS[::-1]])
def test_leads_that_are_not_the_standard_twelve_in_order_are_refused(leads):
    with pytest.raises(ValueError, match="chosen from the standard twelve, but here are"):
        SelectLeads((0,))(signal(leads), RNG)
