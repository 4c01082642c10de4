"""The one lead order of the package, and the many ways in which files spell its names."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fairseq_ecg._near_misses import near_misses
from fairseq_ecg.data.signal import EcgSignal

STANDARD_LEADS: tuple[str, ...] = (
    "I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6",
)  # fmt: skip

# The reduced sets of the PhysioNet/CinC 2021 challenge; one lead: Oh et al., CHIL 2022, Table 1.
LEAD_SETS: dict[str, tuple[str, ...]] = {
    "12-lead": STANDARD_LEADS,
    "6-lead": ("I", "II", "III", "aVR", "aVL", "aVF"),
    "4-lead": ("I", "II", "III", "V2"),
    "3-lead": ("I", "II", "V2"),
    "2-lead": ("I", "II"),
    "1-lead": ("I",),
}
# Oh et al. write P-3 for three leads in their rows of twelve, the others silent.
_PADDED_SETS = {f"P-{name.removesuffix('-lead')}": name for name in LEAD_SETS}

_BY_FOLDED = {name.casefold(): name for name in STANDARD_LEADS}
# Brazilian, Spanish and Italian devices write D for "derivacion": DI or D1 is lead I.
_BY_FOLDED |= {"di": "I", "dii": "II", "diii": "III", "d1": "I", "d2": "II", "d3": "III"}

# A leading "-" is never dropped: "-aVR" (Cabrera order) is the inverted lead, not the lead.
_SPELLING = re.compile(
    r"\s*(?:mdc[ _]ecg[ _](?:lead[ _])?|(?:ecg|ekg)[ _:]+(?:lead[ _:]+)?|lead[ _:]*)?"
    r"(?P<core>[a-z]+[1-6]?)"
    r"\s*(?:[(\[]\s*(?:mv|uv|µv|μv|v)\s*[)\]])?\s*",
    re.IGNORECASE,
)


@lru_cache(maxsize=1024)
def canonical_lead(name: str) -> str | None:
    """Translate one spelling of a standard lead into its standard name.

    Understood are any case (`AVR`, `avr`), `DI`/`D1`, `ECG I`, `Lead I`, `lead_I`, `V1 (mV)` and
    `MDC_ECG_LEAD_I` (ISO/IEEE 11073-10101 nomenclature). Modified (`MLII`), inverted (`-aVR`) and
    derived (`ECG I filtered`) leads are other signals and are not translated.

    Args:
        name: Lead name as a file writes it.

    Returns:
        The name as in `STANDARD_LEADS`, or None if it is not one of them.
    """
    match = _SPELLING.fullmatch(name)
    return _BY_FOLDED.get(match["core"].casefold()) if match else None


def parse_leads(spec: object) -> list[int]:
    """Read a choice of leads as row numbers in the standard order.

    Args:
        spec: None for all twelve; a sequence of row numbers or names; or a string holding such
            a list (`"[0, 1]"`, `"['I', 'II']"`), names separated by commas (`"I,II"`), or the name
            of one of the `LEAD_SETS` (`"3-lead"`).

    Returns:
        Row numbers 0..11, in the order given.

    Raises:
        ValueError: If the choice is empty, names a lead twice, or names something unknown.
    """
    if spec is None:
        return list(range(len(STANDARD_LEADS)))
    items = _items_of(spec)
    rows = [_row_of(item) for item in items]
    if not rows:
        raise ValueError(
            f"the choice of leads is empty ({spec!r}); give names or rows, or None for all twelve"
        )
    repeated = sorted({row for row in rows if rows.count(row) > 1})
    if repeated:
        names = ", ".join(STANDARD_LEADS[row] for row in repeated)
        raise ValueError(f"each lead may be chosen once, but {spec!r} repeats {names}")
    return rows


@dataclass(frozen=True)
class LeadChoice:
    """Which leads a network is given.

    Args:
        rows: Rows of the twelve that carry signal, in the order wanted.
        padded: Whether all twelve rows are there, the others silent.
    """

    rows: tuple[int, ...]
    padded: bool = False

    @property
    def leads(self) -> tuple[str, ...]:
        """Leads of the rows that the network is given."""
        return STANDARD_LEADS if self.padded else tuple(STANDARD_LEADS[row] for row in self.rows)


def choose_leads(spec: object, padded: bool = False) -> LeadChoice:
    """Read ``task.leads_to_load`` and ``task.enable_padding_leads``.

    Args:
        spec: What ``parse_leads`` reads; or ``"P-6"`` and the like, a set of ``LEAD_SETS`` in its
            rows of twelve.
        padded: Keep twelve rows whatever ``spec`` is.

    Raises:
        ValueError: As ``parse_leads``.
    """
    name = _PADDED_SETS.get(spec.strip().upper()) if isinstance(spec, str) else None
    if name is not None:
        return LeadChoice(tuple(parse_leads(name)), padded=True)
    return LeadChoice(tuple(parse_leads(spec)), padded)


def lead_rows(names: Sequence[str]) -> list[int]:
    """Find each standard lead among the lead names of a recording.

    Args:
        names: Lead names of the recording, in row order.

    Returns:
        Twelve row numbers into `names`, in the standard order; -1 where the lead is absent.

    Raises:
        ValueError: If two rows carry the same standard lead.
    """
    rows = [-1] * len(STANDARD_LEADS)
    for row, name in enumerate(names):
        standard = canonical_lead(name)
        if standard is None:
            continue
        index = STANDARD_LEADS.index(standard)
        if rows[index] >= 0:
            raise ValueError(
                f"lead {standard} must occur once in a recording, but rows {rows[index]} "
                f"({names[rows[index]]!r}) and {row} ({name!r}) both carry it; rename one"
            )
        rows[index] = row
    return rows


def to_standard(signal: EcgSignal) -> tuple[EcgSignal, np.ndarray]:
    """Bring a recording into the standard twelve rows.

    Args:
        signal: Recording with any leads in any order.

    Returns:
        The recording with twelve rows in standard order, rows of missing leads zero (other leads
        are dropped), and the lead mask, bool [12], True where the lead is present. A recording
        that has the standard rows already shares its values with the result.

    Raises:
        ValueError: If no lead, or one lead twice, is a standard lead.
    """
    rows = np.array(lead_rows(signal.leads))
    present = rows >= 0
    if not present.any():
        raise ValueError(
            f"the recording must have at least one of the leads {', '.join(STANDARD_LEADS)}, "
            f"but has only {', '.join(map(repr, signal.leads))}; rename its leads first"
        )
    if present.all() and signal.n_leads == len(rows) and (np.diff(rows) == 1).all():
        values = signal.values_mv
    else:
        values = np.zeros((len(rows), signal.n_samples), dtype=np.float32)
        values[present] = signal.values_mv[rows[present]]
    return EcgSignal(values, signal.rate_hz, STANDARD_LEADS), present


def _items_of(spec: object) -> list[object]:
    """Split a choice of leads into its items."""
    if isinstance(spec, str):
        text = spec.strip()
        if text.casefold() in ("none", "null"):
            return list(range(len(STANDARD_LEADS)))
        if text.casefold() in LEAD_SETS:
            return list(LEAD_SETS[text.casefold()])
        if not text.startswith(("[", "(")):
            return [item.strip() for item in text.split(",") if item.strip()]
        try:
            spec = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError) as error:
            raise ValueError(
                "a choice of leads must be a list such as [0, 1] or ['I', 'II'], "
                f"or names separated by commas, but is {text[:200]!r}"
            ) from error
    if isinstance(spec, Sequence) and not isinstance(spec, (str, bytes)):
        return list(spec)
    if isinstance(spec, np.ndarray) and spec.ndim == 1:
        return spec.tolist()
    raise ValueError(
        f"a choice of leads must be None, a list of rows or names, or such a list as a string, "
        f"but is {spec!r}"
    )


def _row_of(item: object) -> int:
    """Turn one item of a choice, a row number or a name, into a row number."""
    if isinstance(item, str) and item.strip().isdecimal():
        item = int(item)
    if isinstance(item, (int, np.integer)) and not isinstance(item, bool):
        if 0 <= item < len(STANDARD_LEADS):
            return int(item)
        raise ValueError(f"a lead number must lie in 0..{len(STANDARD_LEADS) - 1}, but is {item}")
    if isinstance(item, str):
        standard = canonical_lead(item)
        if standard is not None:
            return STANDARD_LEADS.index(standard)
        near = near_misses(item.casefold()[:20], _BY_FOLDED)
        hint = ", ".join(dict.fromkeys(_BY_FOLDED[folded] for folded in near))
        raise ValueError(
            f"unknown lead {item!r}"
            + (f"; near: {hint}" if hint else "")
            + f"; known: {', '.join(STANDARD_LEADS)}; sets: {', '.join(LEAD_SETS)}"
        )
    raise ValueError(f"a lead must be a row number or a name, but is {item!r}")
