"""When the heart beats, and from where: sinus rhythm, atrial fibrillation, premature beats."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SINUS, ATRIAL, VENTRICULAR, FIBRILLATION = range(4)
_LEAST_SPREAD, _MOST_DRAWS = 0.15, 50


@dataclass(frozen=True)
class Beats:
    """The beats of a record, those just outside it included.

    Attributes:
        times_s: R peaks, ascending, [B].
        kinds: SINUS, ATRIAL (premature), VENTRICULAR (premature) or FIBRILLATION, [B].
        mean_rr_s: interval between regular beats.
    """

    times_s: NDArray[np.float64]
    kinds: NDArray[np.int64]
    mean_rr_s: float

    def stretch(self) -> NDArray[np.float64]:
        """Return the factor on repolarisation times, [B]: square root of the interval before."""
        before = np.diff(self.times_s, prepend=self.times_s[0] - self.mean_rr_s)
        return np.sqrt(0.75 * self.mean_rr_s + 0.25 * before)


def sinus_beats(
    rng: np.random.Generator,
    rate_bpm: float,
    breath_hz: float,
    breath_depth: float,
    duration_s: float,
) -> Beats:
    """Draw a sinus rhythm whose rate follows breathing and, slower, blood pressure (0.1 Hz).

    Args:
        rng: source of chance.
        rate_bpm: mean rate.
        breath_hz: breaths per second.
        breath_depth: relative swing of the interval with breathing.
        duration_s: length of the record.
    """
    mean_rr = 60.0 / rate_bpm
    n_beats = int((duration_s + 8 * mean_rr) / (0.8 * mean_rr)) + 1
    nominal = mean_rr * np.arange(n_beats)
    phase = rng.uniform(0, 2 * np.pi, 2)
    swing = breath_depth * np.sin(2 * np.pi * breath_hz * nominal + phase[0])
    swing += 0.012 * np.sin(2 * np.pi * 0.1 * nominal + phase[1])
    intervals = mean_rr * (1 + swing + 0.006 * rng.standard_normal(n_beats))
    times = np.cumsum(intervals) - (2 + rng.uniform()) * mean_rr
    return Beats(times, np.full(n_beats, SINUS), mean_rr)


def fibrillation_beats(rng: np.random.Generator, rate_bpm: float, duration_s: float) -> Beats:
    """Draw irregularly irregular beats: independent gamma intervals above a refractory time.

    A draw that happens to look regular is drawn again, since the label would not be seen in it.

    Args:
        rng: source of chance.
        rate_bpm: mean rate.
        duration_s: length of the record.
    """
    mean_rr, refractory = 60.0 / rate_bpm, 0.30
    extra = mean_rr - refractory
    spread = rng.uniform(0.21, 0.29) * mean_rr
    shape = (extra / spread) ** 2
    n_beats = int(2.5 * (duration_s + 4) / mean_rr) + 8
    for _ in range(_MOST_DRAWS):
        intervals = refractory + rng.gamma(shape, extra / shape, n_beats)
        times = np.cumsum(intervals) - 2.5 * mean_rr
        inside = np.diff(times[(times > 0) & (times < duration_s)])
        if inside.size < 2 or inside.std() > _LEAST_SPREAD * inside.mean():
            break
    kept = times < duration_s + 2
    return Beats(times[kept], np.full(int(kept.sum()), FIBRILLATION), mean_rr)


def with_premature(
    rng: np.random.Generator, beats: Beats, kinds: list[int], duration_s: float
) -> Beats:
    """Return the rhythm with premature beats put in where there is room.

    A ventricular one blocks the next sinus beat and the one after comes on time (compensatory
    pause); an atrial one resets the sinus node, so all later beats move forward. Two premature
    beats are at least three beats apart.

    Args:
        rng: source of chance.
        beats: the regular rhythm.
        kinds: ATRIAL or VENTRICULAR, one for each premature beat wanted.
        duration_s: length of the record; premature beats lie well inside.
    """
    places = _places(rng, beats, len(kinds), duration_s)
    chosen = dict(zip(places, rng.permutation(kinds)[: len(places)], strict=True))
    times: list[float] = []
    found: list[int] = []
    shift, blocked = 0.0, False
    for index, time in enumerate(beats.times_s):
        if blocked:
            blocked = False
            continue
        times.append(time + shift)
        found.append(int(beats.kinds[index]))
        if index not in chosen:
            continue
        interval = beats.times_s[index + 1] - time
        early = max(0.36, rng.uniform(0.54, 0.70) * interval)
        times.append(time + shift + early)
        found.append(int(chosen[index]))
        if chosen[index] == VENTRICULAR:
            blocked = True
        else:
            shift += early + rng.uniform(1.02, 1.12) * beats.mean_rr_s - interval
    return Beats(np.array(times), np.array(found), beats.mean_rr_s)


def _places(rng: np.random.Generator, beats: Beats, wanted: int, duration_s: float) -> list[int]:
    """Choose the beats after which a premature one comes, in order, three or more apart."""
    inside = (beats.times_s > 0.3) & (beats.times_s < duration_s - 2 * beats.mean_rr_s - 0.4)
    places: list[int] = []
    for candidate in rng.permutation(np.flatnonzero(inside)):
        if len(places) < wanted and all(abs(candidate - place) >= 3 for place in places):
            places.append(int(candidate))
    return sorted(places)
