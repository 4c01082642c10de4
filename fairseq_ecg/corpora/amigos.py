"""AMIGOS (Miranda-Correa et al. 2021, IEEE Trans. Affect. Comput. 12(2):479): 40 people, 20 films.

The preprocessed recordings, ``Data_Preprocessed_P01.mat`` and so on: ``joined_data{film}`` [n, 17]
at 128 Hz, of which columns 15 and 16 are electrocardiograms (right and left arm), and
``labels_selfassessment{film}`` [1, 12], whose first three columns are arousal, valence and
dominance from 1 to 9. Films that a person did not see are empty.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fairseq_ecg.corpora._base import CorpusError, LabelSet, option, register_corpus
from fairseq_ecg.corpora._emotion import (
    EmotionCorpus,
    Scale,
    check_amount,
    rating_codes,
    rating_sets,
)
from fairseq_ecg.data.ingest import RecordEntry
from fairseq_ecg.data.mat_tree import read_mat_tree
from fairseq_ecg.data.record_file import RecordError
from fairseq_ecg.data.trial_windows import (
    RATE_HZ,
    Trace,
    WindowReader,
    load_trials,
    make_trace,
    window_starts,
)

LEADS = ("II", "III")
SCALE = Scale(1, 9)
TARGETS = ("arousal", "valence", "dominance")
"""The first columns of the self-assessment, in file order."""

_SIGNALS, _RATINGS = "joined_data", "labels_selfassessment"
_N_RATINGS = 12
_N_CHANNELS = 17
_ECG_COLUMNS = (15, 16)
_FILE_RATE_HZ = 128.0
_FILE = re.compile(r"Data_Preprocessed_P(\d+)\.mat")


@register_corpus("amigos")
@dataclass(frozen=True)
class Amigos(EmotionCorpus):
    """AMIGOS: 40 people, up to 20 films each, with arousal, valence and dominance from 1 to 9."""

    threshold: float = option(5.0, "a rating above this is high")
    lead_in_s: float = option(5.0, "seconds before the film at the start of each recording")
    units_per_mv: float = option(1.0, "divide the numbers by this; the files state no unit")

    def build_defaults(self) -> dict[str, Any]:
        """Return two rows, and numbers that are not rounded, because their unit is unknown."""
        return {**super().build_defaults(), "leads": LEADS, "dtype": "float32"}

    def windows(self, root: Path) -> list[RecordEntry]:
        """List the windows of all films; see ``EmotionCorpus.windows``."""
        SCALE.check_threshold(self.threshold)
        check_amount("units_per_mv", self.units_per_mv, positive=True)
        check_amount("lead_in_s", self.lead_in_s)
        return [
            entry
            for person, path in _find_files(root).items()
            for entry in self._windows_of(person, path, root)
        ]

    def label_sets(self, root: Path) -> dict[str, LabelSet]:
        """Return each target by threshold and by rating; see ``Corpus.label_sets``."""
        del root
        return rating_sets(TARGETS, SCALE, self.threshold)

    def _windows_of(self, person: int, path: Path, root: Path) -> list[RecordEntry]:
        trials = load_trials(AmigosReader, path, self.units_per_mv)
        ratings = read_ratings(path)
        if len(ratings) < max(trials, default=0):
            raise CorpusError(
                f"{path}: {_RATINGS} must have a cell for each film, but has {len(ratings)}"
            )
        first = round(self.lead_in_s * RATE_HZ)
        return [
            RecordEntry(
                record=f"P{person:02d}_{film:02d}_{number:03d}",
                path=path.relative_to(root).as_posix(),
                patient=f"amigos-P{person:02d}",
                split="",
                codes=rating_codes(ratings[film]),
                reader=AmigosReader(start, film, self.units_per_mv),
            )
            for film, trace in trials.items()
            for number, start in enumerate(window_starts(trace.values.shape[1], first))
        ]


@dataclass(frozen=True)
class AmigosReader(WindowReader):
    """Reads one window of one film.

    Attributes:
        film: From 1.
        units_per_mv: Numbers are divided by this.
    """

    leads = LEADS
    film: int
    units_per_mv: float = 1.0

    @property
    def trial(self) -> int:
        """See ``WindowReader.trial``."""
        return self.film

    @property
    def options(self) -> tuple[Any, ...]:
        """See ``WindowReader.options``."""
        return (self.units_per_mv,)

    @staticmethod
    def load(path: Path, *options: Any) -> Mapping[int, Trace]:
        """See ``WindowReader.load``; films that were not seen have no trial."""
        (units_per_mv,) = options
        traces = {}
        for film, values in enumerate(_cells(path, _SIGNALS), start=1):
            where = f"{_SIGNALS}{{{film}}}"
            if not np.size(values):
                continue
            if np.ndim(values) != 2 or values.shape[1] != _N_CHANNELS:
                raise RecordError(
                    "wrong_leads",
                    f"{path}: {where} must be [samples, {_N_CHANNELS}], but is {np.shape(values)}",
                )
            rows = [column - 1 for column in _ECG_COLUMNS]
            source = np.ascontiguousarray(values[:, rows].T / units_per_mv, dtype=np.float32)
            columns = tuple(f"{where}(:,{column})" for column in _ECG_COLUMNS)
            traces[film] = make_trace(source, _FILE_RATE_HZ, LEADS, columns)
        return traces


def read_ratings(path: Path) -> dict[int, dict[str, float]]:
    """Return the ratings of each film, counted from 1; NaN where there is none.

    Args:
        path: A file of one person.

    Raises:
        CorpusError: If a film has other columns than twelve, or a rating is not from 1 to 9; names
            file, film and column.
        RecordError: If the file cannot be read.
    """
    ratings = {}
    for film, cell in enumerate(_cells(path, _RATINGS), start=1):
        where = f"{path}: {_RATINGS}{{{film}}}"
        scores = np.asarray(cell, dtype=np.float64).ravel()
        if scores.size not in (0, _N_RATINGS):
            raise CorpusError(
                f"{where} must have {_N_RATINGS} columns, arousal, valence and dominance first, "
                f"but has {scores.size}"
            )
        found = scores[: len(TARGETS)].tolist() if scores.size else [np.nan] * len(TARGETS)
        for column, score in enumerate(found, start=1):
            SCALE.check(score, f"{where}({column}), {TARGETS[column - 1]},")
        ratings[film] = dict(zip(TARGETS, found, strict=True))
    return ratings


def _cells(path: Path, name: str) -> list[Any]:
    cells = read_mat_tree(path, name)
    if not isinstance(cells, list) or not all(isinstance(cell, np.ndarray) for cell in cells):
        raise RecordError("missing_key", f"{path}: {name} must be a cell of numbers for each film")
    return cells


def _find_files(root: Path) -> dict[int, Path]:
    """Return the file of each person; the archives unpack into folders of their own."""
    found: dict[int, Path] = {}
    for path in sorted(root.rglob("Data_Preprocessed_P*.mat")):
        match = _FILE.fullmatch(path.name)
        if match is None or not path.is_file():
            continue
        other = found.setdefault(int(match[1]), path)
        if other != path:
            raise CorpusError(f"person {int(match[1])} has two files, {other} and {path}")
    if not found:
        raise CorpusError(
            f"{root} is not the folder of AMIGOS: it holds no Data_Preprocessed_P01.mat, ...; its "
            "authors give out the preprocessed data after an agreement"
        )
    return found
