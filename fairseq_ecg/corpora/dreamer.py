"""DREAMER (Katsigiannis & Ramzan 2018, IEEE J. Biomed. Health Inform. 22(1):98): 23 people.

All is in one file, ``DREAMER.mat``: the struct ``DREAMER`` with the cells ``Data{person}``, each
with ``ECG.stimuli{film}`` [n, 2] at 256 Hz for 18 films, and ratings from 1 to 5 in columns of
their own. The electroencephalograms are passed over, and so are the baseline films, which have no
rating.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
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
    Trace,
    WindowReader,
    load_trials,
    make_trace,
    window_starts,
)

FILE = "DREAMER.mat"
LEADS = ("II", "III")
SCALE = Scale(1, 5)
TARGETS = {
    "arousal": "ScoreArousal",
    "valence": "ScoreValence",
    "dominance": "ScoreDominance",
}
_MAX_BYTES = 2 << 30


@register_corpus("dreamer")
@dataclass(frozen=True)
class Dreamer(EmotionCorpus):
    """DREAMER: 23 people, 18 films each, with arousal, valence and dominance from 1 to 5."""

    threshold: float = option(3.0, "a rating above this is high")
    units_per_mv: float = option(1.0, "divide the numbers by this; the file states no unit")

    def build_defaults(self) -> dict[str, Any]:
        """Return two rows, and numbers that are not rounded, because their unit is unknown."""
        return {**super().build_defaults(), "leads": LEADS, "dtype": "float32"}

    def windows(self, root: Path) -> list[RecordEntry]:
        """List the windows of all films; see ``EmotionCorpus.windows``."""
        path = root / FILE
        if not path.is_file():
            raise CorpusError(
                f"{root} is not the folder of DREAMER: it has no {FILE}, which its authors give "
                "out after an agreement"
            )
        SCALE.check_threshold(self.threshold)
        check_amount("units_per_mv", self.units_per_mv, positive=True)
        trials = load_trials(DreamerReader, path, self.units_per_mv)
        ratings = read_ratings(path, trials)
        return [
            RecordEntry(
                record=f"P{person:02d}_{film:02d}_{number:03d}",
                path=FILE,
                patient=f"dreamer-P{person:02d}",
                split="",
                codes=rating_codes(ratings[person, film]),
                reader=DreamerReader(start, person, film, self.units_per_mv),
            )
            for (person, film), trace in trials.items()
            for number, start in enumerate(window_starts(trace.values.shape[1]))
        ]

    def label_sets(self, root: Path) -> dict[str, LabelSet]:
        """Return each target by threshold and by rating; see ``Corpus.label_sets``."""
        del root
        return rating_sets(TARGETS, SCALE, self.threshold)


@dataclass(frozen=True)
class DreamerReader(WindowReader):
    """Reads one window of one film.

    Attributes:
        person: From 1.
        film: From 1.
        units_per_mv: Numbers are divided by this.
    """

    leads = LEADS
    person: int
    film: int
    units_per_mv: float = 1.0

    @property
    def trial(self) -> tuple[int, int]:
        """See ``WindowReader.trial``."""
        return self.person, self.film

    @property
    def options(self) -> tuple[Any, ...]:
        """See ``WindowReader.options``."""
        return (self.units_per_mv,)

    @staticmethod
    def load(path: Path, *options: Any) -> Mapping[tuple[int, int], Trace]:
        """See ``WindowReader.load``."""
        (units_per_mv,) = options
        tree = read_mat_tree(path, "DREAMER", skip=("EEG", "baseline"), max_bytes=_MAX_BYTES)
        rate_hz = _rate(path, tree)
        traces = {}
        for person, data in enumerate(_people(path, tree), start=1):
            for film, values in enumerate(_films(path, person, data), start=1):
                where = f"Data{{{person}}}.ECG.stimuli{{{film}}}"
                if np.ndim(values) != 2 or values.shape[1] != len(LEADS):
                    raise RecordError(
                        "wrong_leads",
                        f"{path}: {where} must be [samples, {len(LEADS)}], but is "
                        f"{np.shape(values)}",
                    )
                source = np.ascontiguousarray(values.T / units_per_mv, dtype=np.float32)
                columns = tuple(f"{where}(:,{k})" for k in range(1, len(LEADS) + 1))
                traces[person, film] = make_trace(source, rate_hz, LEADS, columns)
        return traces


def read_ratings(
    path: Path, trials: Iterable[tuple[int, int]]
) -> dict[tuple[int, int], dict[str, float]]:
    """Return the ratings of each film of each person, both counted from 1.

    Args:
        path: ``DREAMER.mat``.
        trials: Person and film of each recording in it.

    Raises:
        CorpusError: If a column is missing, has another length than there are films, or holds
            anything but a rating from 1 to 5; names file and column.
        RecordError: If the file cannot be read.
    """
    tree = read_mat_tree(path, "DREAMER", skip=("EEG", "ECG"), max_bytes=_MAX_BYTES)
    films = Counter(person for person, _ in trials)
    ratings: dict[tuple[int, int], dict[str, float]] = {}
    for person, data in enumerate(_people(path, tree), start=1):
        count = films[person]
        for target, column in TARGETS.items():
            where = f"{path}: Data{{{person}}}.{column}"
            scores = data.get(column, np.zeros(0))
            if not isinstance(scores, np.ndarray) or scores.size != count:
                raise CorpusError(
                    f"{where} must have one rating for each of {count} films, but has "
                    f"{np.size(scores)}, or is no column of numbers"
                )
            for film, score in enumerate(scores.astype(np.float64).ravel().tolist(), start=1):
                SCALE.check(score, f"{where}({film})")
                ratings.setdefault((person, film), {})[target] = score
    return ratings


def _rate(path: Path, tree: Any) -> float:
    rate = tree.get("ECG_SamplingRate") if isinstance(tree, dict) else None
    if not isinstance(rate, np.ndarray) or rate.size != 1:
        raise RecordError("bad_header", f"{path}: DREAMER.ECG_SamplingRate must be one rate in Hz")
    return float(rate.item())


def _people(path: Path, tree: Any) -> list[dict[str, Any]]:
    people = tree.get("Data") if isinstance(tree, dict) else None
    if not isinstance(people, list) or not all(isinstance(one, dict) for one in people):
        raise RecordError("missing_key", f"{path}: DREAMER.Data must be a cell for each person")
    return people


def _films(path: Path, person: int, data: Mapping[str, Any]) -> list[np.ndarray]:
    ecg = data.get("ECG")
    films = ecg.get("stimuli") if isinstance(ecg, dict) else None
    if not isinstance(films, list) or not all(isinstance(one, np.ndarray) for one in films):
        raise RecordError(
            "missing_key",
            f"{path}: Data{{{person}}}.ECG.stimuli must be a cell of numbers for each film",
        )
    return films
