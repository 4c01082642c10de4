"""Which pieces of recordings are items: consecutive, balanced, random, spread and last windows."""

import numpy as np
import pytest

from fairseq_ecg.data.windows import (
    balanced_windows,
    cut_windows,
    last_windows,
    random_windows,
    spread_windows,
)


def pieces(windows):
    """Return (row, start, length) of each window."""
    return list(
        zip(windows.row.tolist(), windows.start.tolist(), windows.length.tolist(), strict=True)
    )


def test_windows_cover_whole_recordings_and_keep_short_ones():
    windows = cut_windows(np.array([25, 10, 7, 39]), 10)
    assert windows.row.tolist() == [0, 0, 1, 2, 3, 3, 3]
    assert windows.start.tolist() == [0, 10, 0, 0, 0, 10, 20]
    assert windows.length.tolist() == [10, 10, 10, 7, 10, 10, 10]


@pytest.mark.parametrize(
    "cut", [cut_windows, balanced_windows, random_windows, spread_windows, last_windows]
)
def test_a_window_without_samples_is_refused(cut):
    with pytest.raises(ValueError, match="at least one sample, got 0"):
        cut(np.array([10]), 0)


@pytest.mark.parametrize("cut", [cut_windows, spread_windows])
def test_without_a_window_recordings_stay_whole(cut):
    assert pieces(cut(np.array([50, 7]))) == [(0, 0, 50), (1, 0, 7)]


def test_the_last_window_ends_with_the_recording_and_short_ones_are_whole():
    windows = last_windows(np.array([25, 10, 7, 11]), 10)
    assert pieces(windows) == [(0, 15, 10), (1, 0, 10), (2, 0, 7), (3, 1, 10)]
    assert windows.slack is None


# --- balanced -------------------------------------------------------------------------------------


def balanced_by_hand(n_samples, window):
    """Section 2.2 of the method, word for word."""
    count = n_samples // window
    if n_samples - count * window > window / 2:
        count += 1
    count = max(count, 1)
    first = max(n_samples - count * window, 0) // 2
    starts = [first + window * k for k in range(count)]
    return [(start, min(window, n_samples - start)) for start in starts]


@pytest.mark.parametrize("window", [1, 4, 7, 10])
def test_balanced_windows_are_those_of_the_method(window):
    lengths = np.arange(1, 45)
    found = pieces(balanced_windows(lengths, window))
    expected = [
        (row, *piece)
        for row, n in enumerate(lengths.tolist())
        for piece in balanced_by_hand(n, window)
    ]
    assert found == expected


def test_balanced_windows_at_their_limits():
    def windows_of(n):
        return [piece[1:] for piece in pieces(balanced_windows(np.array([n]), 4096))]

    assert windows_of(4000) == [(0, 4000)]
    assert windows_of(6144) == [(1024, 4096)]  # half a window remains: 1024 left out at each end
    assert windows_of(6145) == [(0, 4096), (4096, 2049)]
    assert windows_of(8192 + 5) == [(2, 4096), (4098, 4096)]


# --- random and evenly spread ---------------------------------------------------------------------


def test_random_windows_are_one_per_recording_with_room_to_move():
    windows = random_windows(np.array([50, 10, 7]), 10)
    assert pieces(windows) == [(0, 0, 10), (1, 0, 10), (2, 0, 7)]
    assert windows.slack.tolist() == [40, 0, 0]
    kept = windows.select(np.array([True, False, True]))
    assert kept.slack.tolist() == [40, 0]
    assert kept.row.tolist() == [0, 2]


def test_one_spread_window_is_the_middle_of_each_recording():
    windows = spread_windows(np.array([50, 10, 7, 21]), 10)
    assert pieces(windows) == [(0, 20, 10), (1, 0, 10), (2, 0, 7), (3, 5, 10)]


@pytest.mark.parametrize("count", [2, 3, 4, 7])
def test_spread_windows_reach_both_ends_at_even_distances(count):
    windows = spread_windows(np.array([50, 10, 7, 12]), 10, count)
    starts = {row: windows.start[windows.row == row] for row in range(4)}
    assert len(starts[0]) == count
    assert (starts[0][0], starts[0][-1]) == (0, 40)
    assert np.ptp(np.diff(starts[0])) <= 1
    assert starts[1].tolist() == starts[2].tolist() == [0]  # no second one that differs
    assert len(set(starts[3].tolist())) == len(starts[3]) == min(count, 3)
    assert windows.length.tolist() == [10] * count + [10, 7] + [10] * len(starts[3])


def test_no_windows_at_all_are_refused():
    with pytest.raises(ValueError, match="at least one window, got 0"):
        spread_windows(np.array([50]), 10, 0)
