"""What a network expects of its input: the one place that holds it and compares it.

Every checkpoint carries it as a dictionary. Training from a checkpoint (``model.model_path``) and
evaluating one compare it with the recordings at hand before anything is computed; a difference is
an error that says how to mend it. What is not known (None) is not compared.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import partial
from typing import Any

import numpy as np

from fairseq_ecg.data.segment_file import recording_name
from fairseq_ecg.data.signal import STANDARD_DEVIATIONS

# What decides whether recordings mean the same to a network; a classifier adds its labels.
INPUT_KEYS = (
    *("rate_hz", "leads", "unit", "standardize", "normalize"),
    *("filter", "highpass_hz", "lowpass_hz"),
)


_LISTS = ("leads", "present_leads", "labels")


class ContractError(ValueError):
    """Recordings are not what a network expects; the message says how to mend it."""


@dataclass(frozen=True)
class InputContract:
    """What a network expects of its input, or what a task gives it. None stands for unknown.

    Args:
        rate_hz: Sampling rate, Hz.
        leads: Names of the rows, in their order.
        present_leads: Those of them that carried signal in training; the others were silent in all
            recordings. Leads that training masks at random are present.
        unit: ``"mV"`` or ``"standard deviations"``, of the samples that reach the network.
        standardize: ``"record"`` if each lead was scaled by statistics of the whole recording,
            ``"person"`` if it was by those of all recordings of the person, ``"window"`` if windows
            were by theirs, ``"window_lead"`` if each lead of them was, else ``"none"``.
        normalize: Whether each lead is scaled by statistics of the training data.
        filter: Whether baseline wander and mains hum are removed.
        highpass_hz: Frequencies below are removed; 0 if none are.
        lowpass_hz: Frequencies above are removed; 0 if none are.
        segment_s: Length of the pieces it was trained on, seconds.
        labels: Names of the classes it decides, in their order.
        source_format: Which program wrote the checkpoint first.
        trained_on: ``corpus``, ``records`` (fingerprints) and ``names`` (hashes, by
            ``name_prints``) of its training data; the same of its encoder's pretraining under
            ``pretraining``.
    """

    rate_hz: float | None = None
    leads: tuple[str, ...] | None = None
    present_leads: tuple[str, ...] | None = None
    unit: str | None = None
    standardize: str | None = None
    normalize: bool | None = None
    filter: bool | None = None
    highpass_hz: float | None = None
    lowpass_hz: float | None = None
    segment_s: float | None = None
    labels: tuple[str, ...] | None = None
    source_format: str | None = None
    trained_on: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> InputContract:
        """Read the form that checkpoints hold; keys that are not known here are left out."""
        known = {f.name: values[f.name] for f in fields(cls) if values.get(f.name) is not None}
        for name in _LISTS:
            if name in known:
                known[name] = tuple(known[name])
        return cls(**known)

    def to_dict(self) -> dict[str, Any]:
        """Return the form that checkpoints hold: plain values."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        for name in _LISTS:
            values[name] = None if values[name] is None else list(values[name])
        values["trained_on"] = dict(self.trained_on)
        return values


CONTRACT_KEYS = tuple(f.name for f in fields(InputContract) if f.name != "trained_on")


def check(
    expected: InputContract, given: InputContract, of: str, keys: Sequence[str] = INPUT_KEYS
) -> None:
    """Compare what a network expects with what it would get.

    Args:
        expected: The network's contract.
        given: What the task gives.
        of: Whose expectation it is, for the message, e.g. the checkpoint's path.
        keys: What to compare; a value that one side does not know is not compared.

    Raises:
        ContractError: Naming every difference and the way to mend it.
    """
    differing = differences(expected, given, keys)
    if "normalize" in differing and "unit" in differing:
        differing.remove("unit")  # scaling by statistics changes it; one cause, one message
    if "standardize" in differing and "unit" in differing:
        differing.remove("standardize")  # the message about the unit names it
    if differing:
        faults = "; ".join(_FAULTS[key](expected, given) for key in differing)
        raise ContractError(f"{of} expects {faults}")


def differences(expected: InputContract, given: InputContract, keys: Sequence[str]) -> list[str]:
    """Return those of ``keys`` whose values both sides know and that are not the same."""
    pairs = {key: (getattr(expected, key), getattr(given, key)) for key in keys}
    return [key for key, pair in pairs.items() if None not in pair and pair[0] != pair[1]]


def lead_remark(expected: InputContract, present: Sequence[str], of: str) -> str | None:
    """Compare the rows that carry signal with those that did in training.

    Args:
        expected: The network's contract.
        present: Leads that carry signal now.
        of: Whose expectation it is, e.g. the checkpoint's path.

    Returns:
        What its user should know, or None if the rows are the same or not known.
    """
    if expected.present_leads is None or set(present) == set(expected.present_leads):
        return None
    new = [lead for lead in present if lead not in expected.present_leads]
    gone = [lead for lead in expected.present_leads if lead not in present]
    parts = [f"{', '.join(new)} carry signal now and were silent then"] if new else []
    parts += [f"{', '.join(gone)} are silent now"] if gone else []
    return (
        f"{of} was trained with signal in {len(expected.present_leads)} of its rows "
        f"({', '.join(expected.present_leads)}), but gets it in {len(present)}: "
        f"{'; '.join(parts)}. `fairseq-ecg leads` compares sets of leads"
    )


def name_prints(paths: Iterable[str]) -> np.ndarray:
    """Return one number per recording that depends on its name, whichever folder it is in.

    Args:
        paths: Names of recordings or segments, as manifests have them.

    Returns:
        uint64 [N]; the segments of one recording have one number.
    """
    digests = (hashlib.sha256(recording_name(p).encode("utf-8", "surrogateescape")) for p in paths)
    return np.array([int.from_bytes(d.digest()[:8], "little") for d in digests], dtype=np.uint64)


def seen_in_training(
    trained_on: Mapping[str, Any], fingerprints: np.ndarray, names: Sequence[str] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Find recordings that a network has seen.

    They are told by their content; where that is not known on one side, as of files that nobody
    has read for it, by their names.

    Args:
        trained_on: Of the network's contract.
        fingerprints: One number per recording that depends on its content, uint64 [N], or empty.
        names: Name of each recording.

    Returns:
        Whether each recording was in the network's own training data, and whether it was in the
        data that its encoder was pretrained on, bool [N] each; all False where nothing is known.
    """
    found = {"records": fingerprints, "names": name_prints(names)}
    numbers = {key: np.asarray(of, dtype=np.uint64).view(np.int64) for key, of in found.items()}
    own, *earlier = (_is_among(numbers, stage) for stage in _stages(trained_on))
    return own, np.logical_or.reduce(earlier) if earlier else np.zeros_like(own)


def _stages(trained_on: Mapping[str, Any]) -> Iterable[Mapping[str, Any]]:
    """Yield the training data of the last stage, then of those before it."""
    stage: Mapping[str, Any] | None = trained_on
    while stage is not None:
        yield stage
        stage = stage.get("pretraining")


def _is_among(numbers: Mapping[str, np.ndarray], stage: Mapping[str, Any]) -> np.ndarray:
    for key, found in numbers.items():
        known = np.asarray(stage.get(key, ()))
        if len(found) and len(known):
            return np.isin(found, known)
    return np.zeros(max(map(len, numbers.values())), dtype=bool)


# --- messages -----------------------------------------------------------------------------------


def _rate_fault(expected: InputContract, given: InputContract) -> str:
    return (
        f"{expected.rate_hz:g} Hz, but the recordings have {given.rate_hz:g} Hz: build them again "
        f"with `fairseq-ecg manifest ... --rate {expected.rate_hz:g}`, or fine-tune at this rate "
        "all the same with task.contract_ignores='[rate_hz]'"
    )


def _lead_fault(expected: InputContract, given: InputContract) -> str:
    missing_rows = set(given.leads) < set(expected.leads)
    return (
        f"{len(expected.leads)} leads ({', '.join(expected.leads)}), but gets {len(given.leads)} "
        f"({', '.join(given.leads)}): set task.leads_to_load='[{', '.join(expected.leads)}]'"
        + (
            ", or keep silent rows for the others with task.enable_padding_leads=true"
            if missing_rows and len(expected.leads) == 12
            else ""
        )
    )


_STANDARDIZATIONS = {
    "record": "which scales each recording by its own statistics",
    "person": "which scales each lead by statistics of the person",
    "window": "which scales each window by its own statistics",
    "window_lead": "which scales each lead of a window by its own statistics",
}


def _standardize_fault(expected: InputContract, given: InputContract) -> str:
    prepared = "; recordings that were scaled when they were prepared must be prepared again, in mV"
    return (
        f"standardize: {expected.standardize}, but gets {given.standardize}: "
        f"set task.standardize={expected.standardize}"
        + (prepared if given.standardize == "record" else "")
    )


def _unit_fault(expected: InputContract, given: InputContract) -> str:
    if expected.unit == STANDARD_DEVIATIONS:
        kind = expected.standardize if expected.standardize in _STANDARDIZATIONS else "record"
        way_out = f"set task.standardize={kind}, {_STANDARDIZATIONS[kind]}"
    elif given.standardize not in (None, "none"):
        way_out = (
            "set task.standardize=none, if that is what scales them; recordings that were scaled "
            "when they were prepared must be prepared again, in millivolts"
        )
    else:
        way_out = "the recordings were scaled when they were prepared; prepare them in millivolts"
    return f"samples in {expected.unit}, but gets {given.unit}: {way_out}"


def _normalize_fault(expected: InputContract, given: InputContract) -> str:
    way_out = "set task.normalize=false"
    if expected.normalize:
        way_out = (
            "set task.normalize=true, with task.mean_path and task.std_path, or task.mean_mv and "
            "task.std_mv, as in its training"
        )
    return f"normalize: {expected.normalize}, but task.normalize is {given.normalize}: {way_out}"


def _filter_fault(expected: InputContract, given: InputContract) -> str:
    return (
        f"filter: {expected.filter}, but task.filter is {given.filter}: "
        f"set task.filter={str(expected.filter).lower()}"
    )


def _edge_fault(key: str, expected: InputContract, given: InputContract) -> str:
    wanted, found = (
        f"{getattr(side, key):g}" if getattr(side, key) else "null" for side in (expected, given)
    )
    return f"{key}: {wanted}, but task.{key} is {found}: set task.{key}={wanted}"


def _label_fault(expected: InputContract, given: InputContract) -> str:
    names = [", ".join(c.labels[:4]) + ", ..." for c in (expected, given)]
    return (
        f"{len(expected.labels)} classes ({names[0]}), but the data have {len(given.labels)} "
        f"({names[1]}): give the label set it was trained on; names and order must be equal"
    )


_FAULTS: dict[str, Callable[[InputContract, InputContract], str]] = {
    "rate_hz": _rate_fault,
    "leads": _lead_fault,
    "unit": _unit_fault,
    "normalize": _normalize_fault,
    "standardize": _standardize_fault,
    "filter": _filter_fault,
    "highpass_hz": partial(_edge_fault, "highpass_hz"),
    "lowpass_hz": partial(_edge_fault, "lowpass_hz"),
    "labels": _label_fault,
}
