"""WESAD (Schmidt et al. 2018, ICMI, 400): 15 people in four states, one chest lead at 700 Hz.

Read are ``S2/S2_respiban.txt``, the raw recording, and ``S2/S2_quest.csv``, the times of the states
in it. ``S2/S2.pkl``, which holds the same signal with labels, is a Python pickle: to open one is to
run what it says, so it is left alone. The labels of the pickles are the intervals of the table
without 10 s at either end.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fairseq_ecg.corpora._base import CorpusError, LabelSet, option, register_corpus
from fairseq_ecg.corpora._emotion import EmotionCorpus, check_amount, class_set, code
from fairseq_ecg.data.ingest import RecordEntry
from fairseq_ecg.data.opensignals_reader import read_opensignals_ecg
from fairseq_ecg.data.record_file import read_small_file
from fairseq_ecg.data.trial_windows import (
    RATE_HZ,
    WINDOW,
    Trace,
    WindowReader,
    make_trace,
    window_starts,
)

LEADS = ("II",)
STATES = ("baseline", "stress", "amusement", "meditation")
NO_STRESS, STRESS = "no stress", "stress"
_STATE_OF = {
    "base": "baseline",
    "tsst": "stress",
    "fun": "amusement",
    "medi 1": "meditation",
    "medi 2": "meditation",
}
_MAX_TEXT_BYTES = 1 << 20
_READING = re.compile(r"[a-z]read")
_TIME = re.compile(r"(\d+)(?:\.(\d{1,2}))?")
_AGE = re.compile(r"^Age:\s*(\d+)", re.MULTILINE)
_SEX = re.compile(r"^Gender:\s*(male|female)\b", re.MULTILINE | re.IGNORECASE)


@register_corpus("wesad")
@dataclass(frozen=True)
class Wesad(EmotionCorpus):
    """WESAD: 15 people at rest, under stress, amused and in meditation."""

    margin_s: float = option(10.0, "seconds left out at both ends of each state, as in the pickles")

    def build_defaults(self) -> dict[str, Any]:
        """Return one row."""
        return {**super().build_defaults(), "leads": LEADS}

    def windows(self, root: Path) -> list[RecordEntry]:
        """List the windows of all states; see ``EmotionCorpus.windows``."""
        check_amount("margin_s", self.margin_s)
        return [
            entry
            for person in _find_people(root)
            for entry in self._windows_of(person, root / f"S{person}", root)
        ]

    def label_sets(self, root: Path) -> dict[str, LabelSet]:
        """Return the four states, and stress against rest and amusement."""
        del root
        binary = {"baseline": NO_STRESS, "amusement": NO_STRESS, "stress": STRESS}
        return {
            "state": class_set("state", STATES, {state: state for state in STATES}),
            "stress": class_set("state", (NO_STRESS, STRESS), binary),
        }

    def _windows_of(self, person: int, folder: Path, root: Path) -> list[RecordEntry]:
        path = folder / f"S{person}_respiban.txt"
        age, sex = _read_person(folder / f"S{person}_readme.txt")
        entries = []
        for name, begin_s, end_s in read_schedule(folder / f"S{person}_quest.csv"):
            first = round((begin_s + self.margin_s) * RATE_HZ)
            last = round((end_s - self.margin_s) * RATE_HZ)
            if last - first < WINDOW:
                raise CorpusError(
                    f"{folder / f'S{person}_quest.csv'}: {name} must leave {WINDOW / RATE_HZ:g} s "
                    f"between margins of {self.margin_s:g} s, but lasts {end_s - begin_s:g} s"
                )
            for number, start in enumerate(window_starts(last, first)):
                entries.append(
                    RecordEntry(
                        record=f"S{person:02d}_{name.replace(' ', '')}_{number:03d}",
                        path=path.relative_to(root).as_posix(),
                        patient=f"wesad-S{person:02d}",
                        split="",
                        codes=(code("state", _STATE_OF[name]),),
                        age=age,
                        sex=sex,
                        reader=WesadReader(start),
                    )
                )
        return entries


@dataclass(frozen=True)
class WesadReader(WindowReader):
    """Reads one window of the recording of one person."""

    leads = LEADS

    @staticmethod
    def load(path: Path, *options: Any) -> Mapping[str, Trace]:
        """See ``WindowReader.load``."""
        del options
        signal = read_opensignals_ecg(path)
        return {"": make_trace(signal.values_mv, signal.rate_hz, LEADS, ("the column ECG",))}


def read_schedule(path: Path) -> list[tuple[str, float, float]]:
    """Read when each state began and ended, in seconds from the start of the recording.

    Args:
        path: ``S2_quest.csv``. Times are minutes and seconds, ``50.3`` being 50 min 30 s.

    Returns:
        Name, in lower case, begin and end of each state; the phases of reading are left out.

    Raises:
        CorpusError: If a line is missing, a name is not known, a time is none, or a state ends
            before it begins; names file and line.
        RecordError: If the file is no table of that size.
    """
    if not path.is_file():
        raise CorpusError(f"{path} is missing; it says when each state began and ended")
    rows = [line.split(";") for line in _read_text(path).splitlines()]
    lines = {row[0].strip(): row[1:] for row in rows}
    missing = [key for key in ("# ORDER", "# START", "# END") if key not in lines]
    if missing:
        raise CorpusError(f"{path} must have the lines # ORDER, # START, # END; no {missing[0]}")
    names = [name.strip().casefold() for name in lines["# ORDER"] if name.strip()]
    found: dict[str, tuple[float, float]] = {}
    for column, name in enumerate(names):
        if _READING.fullmatch(name):
            continue
        if name not in _STATE_OF or name in found:
            raise CorpusError(
                f"{path}, # ORDER: {name!r} must be one of {', '.join(_STATE_OF)} or a reading, "
                "each once"
            )
        begin_s, end_s = (
            _seconds(lines[key], column, f"{path}, {key}, {name}") for key in ("# START", "# END")
        )
        if end_s <= begin_s:
            raise CorpusError(f"{path}: {name} must end after {begin_s:g} s, but ends at {end_s:g}")
        found[name] = begin_s, end_s
    return [(name, *times) for name, times in found.items()]


def _seconds(row: list[str], column: int, where: str) -> float:
    text = row[column].strip() if column < len(row) else ""
    match = _TIME.fullmatch(text)
    seconds = int((match[2] or "0").ljust(2, "0")) if match else 60
    if match is None or seconds >= 60:
        raise CorpusError(f"{where} must be minutes and seconds such as 39.55, but is {text!r}")
    return 60.0 * int(match[1]) + seconds


def _read_person(path: Path) -> tuple[float | None, str]:
    """Return age and sex; None and empty where they are not stated."""
    text = _read_text(path) if path.is_file() else ""
    age, sex = _AGE.search(text), _SEX.search(text)
    return (float(age[1]) if age else None), (sex[1].casefold() if sex else "")


def _read_text(path: Path) -> str:
    return read_small_file(str(path), _MAX_TEXT_BYTES).decode("utf-8", "replace")


def _find_people(root: Path) -> list[int]:
    folders = {
        int(path.name[1:]): path
        for path in root.glob("S*")
        if path.is_dir() and re.fullmatch(r"S\d+", path.name)
    }
    people = []
    for number, folder in sorted(folders.items()):
        name = f"S{number}"
        if (folder / f"{name}_respiban.txt").is_file():
            people.append(number)
        elif (folder / f"{name}.pkl").is_file():
            raise CorpusError(
                f"{folder} has {name}.pkl, but no {name}_respiban.txt; a pickle could run any code "
                f"and is not read: unpack the other files of the data set too"
            )
    if not people:
        raise CorpusError(
            f"{root} is not the folder of WESAD: it holds no S2/S2_respiban.txt, S3/..., ..."
        )
    return people
