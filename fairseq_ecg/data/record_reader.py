"""How recordings that are no WFDB records come into a store: one small reader per format.

A corpus gives each ``RecordEntry`` its reader, a frozen dataclass, so that it travels to other
processes and its fields are part of what a build compares when it goes on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from fairseq_ecg.data.signal import EcgSignal


@dataclass(frozen=True)
class RecordFacts:
    """What can be said about a recording before its samples are read.

    Attributes:
        n_samples: Samples per lead, at most.
        rate_hz: Its rate.
        leads: Names of its leads.
    """

    n_samples: int
    rate_hz: float
    leads: tuple[str, ...]


@dataclass(frozen=True)
class Recording:
    """A recording that was read, with what its file says besides the samples.

    Attributes:
        signal: The samples, in the unit that the store's options state.
        patient: Whose it is, if the corpus does not know; None if the file does not say either.
        group: Number shared by recordings that contrastive learning takes for one, or None.
        codes: Its codes, if the corpus does not know them; or None.
        age: Years, if the corpus does not know them; or None.
        sex: ``male`` or ``female``, if the corpus does not know it; or empty.
    """

    signal: EcgSignal
    patient: str | None = None
    group: int | None = None
    codes: tuple[str, ...] | None = None
    age: float | None = None
    sex: str = ""


class RecordReader(Protocol):
    """Reads one recording; implementations are frozen dataclasses."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def facts(self, path: Path) -> RecordFacts:
        """Return length, rate and leads, without reading the samples.

        Raises:
            RecordError: If the file cannot be read or is none of this format.
        """

    def read(self, path: Path) -> Recording:
        """Return the recording.

        Raises:
            RecordError: If the file is broken, or holds something else than expected.
        """
