"""SWELL-KW (Koldijk et al. 2014, ICMI, 291): 25 people at office work, three blocks each.

Read are the recordings, such as ``pp1_18-9-2012_c1.S00`` (person 1, block 1; 2048 Hz), and a table
(``TABLE``) with condition and ratings of each minute: those of a block are the labels of its
recording. Block 1 is neutral; the order of the other two conditions changes from person to person,
so the number of a block is not its condition.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_ecg.corpora._base import CorpusError, LabelSet, option, register_corpus
from fairseq_ecg.corpora._emotion import (
    EmotionCorpus,
    Scale,
    class_set,
    code,
    rating_codes,
    rating_sets,
)
from fairseq_ecg.data.ingest import RecordEntry
from fairseq_ecg.data.poly5_reader import read_poly5_channel, read_poly5_header
from fairseq_ecg.data.trial_windows import (
    Trace,
    WindowReader,
    make_trace,
    samples_at_rate,
    window_starts,
)
from fairseq_ecg.data.xlsx_reader import read_xlsx

LEADS = ("II",)
TABLE = "Behavioral-features - per minute.xlsx"
SCALE = Scale(1, 9)
TARGETS = {"arousal": "Arousal_rc", "valence": "Valence_rc", "dominance": "Dominance"}
CONDITIONS = {"N": "neutral", "T": "time pressure", "I": "interruptions"}
BLOCKS = ("1", "2", "3")
_RELAXATION = "R"
_PERSON, _BLOCK, _CONDITION = "PP", "Blok", "Condition"
_MISSING = 999.0
_FILE = re.compile(r"pp(\d+)_(.+)[_-]c([1-3])(?:_(\w+))?\.S00", re.IGNORECASE)
_NO_STRESS, _STRESS = "no stress", "stress"


@register_corpus("swell")
@dataclass(frozen=True)
class Swell(EmotionCorpus):
    """SWELL-KW: 25 people at office work, undisturbed, under time pressure and interrupted."""

    threshold: float = option(5.0, "a rating above this is high")
    channel: int = option(8, "channel of the recordings that is taken, from 1")

    def build_defaults(self) -> dict[str, Any]:
        """Return one row."""
        return {**super().build_defaults(), "leads": LEADS}

    def windows(self, root: Path) -> list[RecordEntry]:
        """List the windows of all recordings; see ``EmotionCorpus.windows``.

        Recordings of a block that the table does not have get no labels.
        """
        SCALE.check_threshold(self.threshold)
        labels = read_labels(_find_table(root))
        return [
            entry for found in _find_files(root) for entry in self._windows_of(*found, labels, root)
        ]

    def label_sets(self, root: Path) -> dict[str, LabelSet]:
        """Return conditions, stress, the number of the block, and the ratings."""
        del root
        binary = {"N": _NO_STRESS, "T": _STRESS, "I": _STRESS}
        return {
            "condition": class_set("condition", tuple(CONDITIONS.values()), CONDITIONS),
            "stress": class_set("condition", (_NO_STRESS, _STRESS), binary),
            "block": class_set("block", BLOCKS, {block: block for block in BLOCKS}),
            **rating_sets(TARGETS, SCALE, self.threshold),
        }

    def _windows_of(
        self,
        person: int,
        block: str,
        part: str,
        path: Path,
        labels: Mapping[tuple[int, str], tuple[str, ...]],
        root: Path,
    ) -> list[RecordEntry]:
        header = read_poly5_header(path)
        n_samples = samples_at_rate(header.n_samples, header.rate_hz)
        return [
            RecordEntry(
                record=f"PP{person:02d}_c{block}{part}_{number:03d}",
                path=path.relative_to(root).as_posix(),
                patient=f"swell-PP{person:02d}",
                split="",
                codes=(code("block", block), *labels.get((person, block), ())),
                reader=SwellReader(start, self.channel),
            )
            for number, start in enumerate(window_starts(n_samples))
        ]


@dataclass(frozen=True)
class SwellReader(WindowReader):
    """Reads one window of a recording.

    Attributes:
        channel: Which of its channels, from 1.
    """

    leads = LEADS
    channel: int

    @property
    def options(self) -> tuple[Any, ...]:
        """See ``WindowReader.options``."""
        return (self.channel,)

    @staticmethod
    def load(path: Path, *options: Any) -> Mapping[str, Trace]:
        """See ``WindowReader.load``."""
        (channel,) = options
        signal = read_poly5_channel(path, channel)
        column = f"channel {channel} ({signal.leads[0]})"
        return {"": make_trace(signal.values_mv, signal.rate_hz, LEADS, (column,))}


def read_labels(path: Path) -> dict[tuple[int, str], tuple[str, ...]]:
    """Return the codes of each person and block.

    Minutes of relaxation are left out.

    Args:
        path: The table.

    Raises:
        CorpusError: If a column is missing, a value is none of the column's, or the minutes of a
            block differ; names file, line and column.
        RecordError: If the file cannot be read.
    """
    rows = read_xlsx(path)
    needed = (_PERSON, _BLOCK, _CONDITION, *TARGETS.values())
    missing = [name for name in needed if not rows or name not in rows[0][1]]
    if missing:
        raise CorpusError(
            f"{path} must have rows and the columns {', '.join(needed)} in its first sheet; "
            f"missing: {', '.join(missing)}"
        )
    labels: dict[tuple[int, str], tuple[str, ...]] = {}
    for line, row in rows:
        condition = row[_CONDITION].strip().upper()
        if condition == _RELAXATION:
            continue
        where = f"{path}, line {line}"
        key = _person_and_block(row, where)
        if condition not in CONDITIONS:
            raise CorpusError(
                f"{where}: {_CONDITION} must be {', '.join(CONDITIONS)} or {_RELAXATION}, but is "
                f"{row[_CONDITION]!r}"
            )
        ratings = {
            target: _rating(row[column], f"{where}: {column}") for target, column in TARGETS.items()
        }
        codes = (code("condition", condition), *rating_codes(ratings))
        if labels.setdefault(key, codes) != codes:
            raise CorpusError(
                f"{where}: the minutes of one block must have one condition and one rating, but "
                f"person {key[0]}, block {key[1]} has {', '.join(labels[key])} and "
                f"{', '.join(codes)}"
            )
    return labels


def _person_and_block(row: Mapping[str, str], where: str) -> tuple[int, str]:
    person = re.fullmatch(r"PP(\d+)", row[_PERSON].strip().upper())
    block = row[_BLOCK].strip().removesuffix(".0")
    if person is None:
        raise CorpusError(f"{where}: {_PERSON} must be PP and a number, but is {row[_PERSON]!r}")
    if block not in BLOCKS:
        raise CorpusError(f"{where}: {_BLOCK} must be 1, 2 or 3, but is {row[_BLOCK]!r}")
    return int(person[1]), block


def _rating(text: str, where: str) -> float:
    """Return a rating; NaN where the table has none, or 999."""
    try:
        rating = float(text) if text.strip() else math.nan
    except ValueError:
        raise CorpusError(f"{where} must be a number, but is {text!r}") from None
    if rating == _MISSING:
        return math.nan
    SCALE.check(rating, where)
    return rating


def _find_files(root: Path) -> Iterable[tuple[int, str, str, Path]]:
    """Return person, block, part and path of each recording."""
    found: dict[tuple[int, str, str], Path] = {}
    paths = sorted(path for path in root.rglob("*") if path.suffix.upper() == ".S00")
    for path in paths:
        match = _FILE.fullmatch(path.name)
        if match is None:
            raise CorpusError(
                f"{path} must be called like pp1_18-9-2012_c1.S00: person, day and block"
            )
        key = int(match[1]), match[3], (match[4] or "").casefold()
        if key in found:
            raise CorpusError(f"{found[key]} and {path} are of one person and block")
        found[key] = path
    if not found:
        raise CorpusError(
            f"{root} is not the folder of SWELL-KW: it holds no pp1_..._c1.S00, ...; they are in "
            "'D - Physiology - raw data'"
        )
    return [(*key, path) for key, path in sorted(found.items())]


def _find_table(root: Path) -> Path:
    found = sorted(root.rglob(TABLE))
    if len(found) != 1:
        raise CorpusError(
            f"{root} must hold one {TABLE!r}, which has the labels of SWELL-KW, but holds "
            f"{len(found)}"
        )
    return found[0]
