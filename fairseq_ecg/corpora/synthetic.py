"""Made-up twelve-lead ECGs with true physiology, for the demonstration and for tests.

Patients differ in anatomy, records of a patient in rate, rhythm and noise, and the labels are what
was put into the signal. Everything depends on (seed, patient, record) alone. The files are WFDB
records in the layout of the CinC 2021 training set, so the same reader serves for both. Nothing
here is a substitute for recordings: a network trained on it knows the model, not medicine.
"""

from __future__ import annotations

import csv
import os
import secrets
import shutil
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from fairseq_ecg.corpora import _anatomy, _beats, _dipole, _noise
from fairseq_ecg.corpora._findings import CODES, checked_findings, draw_findings, draw_habits
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import EcgSignal

__all__ = ["CODES", "SyntheticEcg", "WrittenRecord", "generate", "simulate"]

_RECORDS_PER_GROUP = 1000
_ADU_PER_MV = 1000


@dataclass(frozen=True)
class SyntheticEcg:
    """A made-up recording and the truth about it.

    Attributes:
        signal: float32 [12, T] in millivolts, standard leads.
        findings: abbreviations, keys of `CODES`, in its order.
        peaks_s: R peaks, those just outside the record included, [B].
        kinds: what each beat is, see `fairseq_ecg.corpora._beats`, [B].
        age: years.
        female: sex.
    """

    signal: EcgSignal
    findings: tuple[str, ...]
    peaks_s: NDArray[np.float64]
    kinds: NDArray[np.int64]
    age: int
    female: bool


@dataclass(frozen=True)
class WrittenRecord:
    """A record that `generate` has written: its name, its patient and its findings."""

    record: str
    patient: str
    findings: tuple[str, ...]


def simulate(
    seed: int,
    patient: int,
    record: int,
    rate_hz: float = 500,
    duration_s: float = 10,
    findings: Collection[str] | None = None,
    noise: bool = True,
) -> SyntheticEcg:
    """Make one recording; the same numbers give the same one, in any order and on its own.

    Args:
        seed: of the whole collection.
        patient: number of the patient, from 0.
        record: number of the patient's record, from 0.
        rate_hz: samples per second, 50 or more.
        duration_s: length in seconds, 2 or more.
        findings: keys of `CODES` to put in, one of them a rhythm; drawn if None.
        noise: False leaves out baseline wander, muscle noise and mains hum.

    Returns:
        The recording. A premature beat for which a short record has no room is not among its
        findings.

    Raises:
        ValueError: a number is out of range, or the findings are unknown or exclude each other.
    """
    _check_sampling(rate_hz, duration_s)
    for name, number in (("seed", seed), ("patient", patient), ("record", record)):
        if number < 0:
            raise ValueError(f"{name} must not be negative, but is {number}")
    of_patient, of_record = (
        np.random.default_rng(np.random.SeedSequence(seed, spawn_key=key))
        for key in ((patient,), (patient, record))
    )
    anatomy = _anatomy.draw_anatomy(of_patient)
    drawn = draw_findings(of_record, draw_habits(of_patient, anatomy.age))
    wanted = drawn if findings is None else checked_findings(findings)
    beats = _draw_beats(of_record, anatomy, wanted, duration_s)
    present = _present_findings(wanted, beats, duration_s)
    n_samples = round(duration_s * rate_hz)
    dipole = _dipole_over_time(of_record, anatomy, wanted, beats, rate_hz, n_samples)
    # Electrodes are never put on twice in the same places.
    lead_field = anatomy.lead_field * np.exp(0.03 * of_record.standard_normal((8, 3)))
    eight = lead_field @ dipole
    if noise:
        eight += _noise.recording_noise(of_record, anatomy, rate_hz, n_samples)
    values = _dipole.to_twelve_leads(eight).astype(np.float32)
    return SyntheticEcg(
        signal=EcgSignal(values, float(rate_hz), STANDARD_LEADS),
        findings=present,
        peaks_s=beats.times_s,
        kinds=beats.kinds,
        age=anatomy.age,
        female=anatomy.female,
    )


def generate(
    dest: str | Path,
    num_patients: int = 300,
    records_per_patient: int = 2,
    seed: int = 0,
    rate_hz: float = 500,
    duration_s: float = 10,
) -> list[WrittenRecord]:
    """Write a folder of made-up recordings in the layout of the CinC 2021 training set.

    It holds `training/synthetic/g<N>/<record>.{hea,dat}` (format 16, 1000 adu per mV, comments Age,
    Sex and Dx), a `RECORDS` in each group, and `records.csv` with the columns record and patient,
    so that splits can keep patients together. The folder appears when it is complete.

    Args:
        dest: the folder to make; it must not exist or be empty.
        num_patients: how many patients.
        records_per_patient: how many records each has.
        seed: the same seed gives the same signals.
        rate_hz: samples per second.
        duration_s: length of a record in seconds.

    Returns:
        What was written, in the order of the names.

    Raises:
        ValueError: a number is out of range, or the folder holds something.
    """
    dest = Path(dest).absolute()
    for name, number in (
        ("num_patients", num_patients),
        ("records_per_patient", records_per_patient),
    ):
        if number < 1:
            raise ValueError(f"{name} must be at least 1, but is {number}")
    _check_sampling(rate_hz, duration_s)
    if dest.exists() and not (dest.is_dir() and not any(dest.iterdir())):
        raise ValueError(f"{dest} must not exist or be an empty folder; remove it or name another")
    dest.parent.mkdir(parents=True, exist_ok=True)
    unfinished = dest.with_name(f".{dest.name}.{secrets.token_hex(4)}.partial")
    try:
        written = [
            _write_one(unfinished, seed, patient, record, records_per_patient, rate_hz, duration_s)
            for patient in range(num_patients)
            for record in range(records_per_patient)
        ]
        _write_lists(unfinished, written)
        os.replace(unfinished, dest)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    return written


def _draw_beats(
    rng: np.random.Generator, anatomy: _anatomy.Anatomy, findings: set[str], duration_s: float
) -> _beats.Beats:
    rate_bpm = float(np.clip(anatomy.rest_rate_bpm + rng.normal(0, 5), 63, 96))
    if "AF" in findings:
        beats = _beats.fibrillation_beats(rng, rng.uniform(68, 128), duration_s)
    else:
        if "SB" in findings:
            rate_bpm = rng.uniform(42, 56)
        elif "STach" in findings:
            rate_bpm = rng.uniform(106, 140)
        beats = _beats.sinus_beats(
            rng, rate_bpm, anatomy.breath_hz, anatomy.breath_depth, duration_s
        )
    kinds = [_beats.VENTRICULAR] * int("PVC" in findings) * int(rng.integers(1, 4))
    kinds += [_beats.ATRIAL] * int("PAC" in findings) * int(rng.integers(1, 4))
    return _beats.with_premature(rng, beats, kinds, duration_s) if kinds else beats


def _present_findings(wanted: set[str], beats: _beats.Beats, duration_s: float) -> tuple[str, ...]:
    inside = (beats.times_s > 0) & (beats.times_s < duration_s)
    missing = {
        name
        for name, kind in (("PVC", _beats.VENTRICULAR), ("PAC", _beats.ATRIAL))
        if not (beats.kinds[inside] == kind).any()
    }
    return tuple(name for name in CODES if name in wanted - missing)


def _dipole_over_time(
    rng: np.random.Generator,
    anatomy: _anatomy.Anatomy,
    findings: set[str],
    beats: _beats.Beats,
    rate_hz: float,
    n_samples: int,
) -> NDArray[np.float64]:
    """Return the dipole of the whole record, [3, T]."""
    waves = {
        _beats.SINUS: lambda: _anatomy.sinus_waves(anatomy, findings),
        _beats.ATRIAL: lambda: _anatomy.sinus_waves(anatomy, findings, ectopic=True),
        _beats.VENTRICULAR: lambda: _anatomy.ventricular_waves(anatomy),
        _beats.FIBRILLATION: lambda: _anatomy.conducted_waves(anatomy, findings),
    }
    stretch = beats.stretch()
    breath = np.sin(2 * np.pi * (anatomy.breath_hz * beats.times_s + rng.uniform()))
    gain = np.exp(0.04 * rng.standard_normal()) * (1 + 0.04 * breath)
    dipole = np.zeros((3, n_samples))
    for kind in np.unique(beats.kinds):
        chosen = beats.kinds == kind
        times = beats.times_s[chosen]
        dipole += _dipole.render(
            waves[int(kind)](), times, stretch[chosen], gain[chosen], rate_hz, n_samples
        )
    if "AF" in findings:
        dipole += _noise.fibrillatory_waves(rng, anatomy, rate_hz, n_samples)
    return dipole


def _check_sampling(rate_hz: float, duration_s: float) -> None:
    if not 50 <= rate_hz <= 10_000:
        raise ValueError(f"rate_hz must lie in 50 .. 10000, but is {rate_hz}")
    if not 2 <= duration_s <= 3600:
        raise ValueError(f"duration_s must lie in 2 .. 3600, but is {duration_s}")


def _write_one(
    folder: Path,
    seed: int,
    patient: int,
    record: int,
    records_per_patient: int,
    rate_hz: float,
    duration_s: float,
) -> WrittenRecord:
    ecg = simulate(seed, patient, record, rate_hz, duration_s)
    number = patient * records_per_patient + record
    name = f"SY{number + 1:05d}"
    group = folder / "training" / "synthetic" / f"g{number // _RECORDS_PER_GROUP + 1}"
    group.mkdir(parents=True, exist_ok=True)
    adu = np.rint(ecg.signal.values_mv * _ADU_PER_MV).clip(-32767, 32767).astype("<i2")
    (group / f"{name}.dat").write_bytes(adu.T.tobytes())
    (group / f"{name}.hea").write_text(_header(name, adu, ecg), encoding="ascii")
    return WrittenRecord(name, f"P{patient + 1:05d}", ecg.findings)


def _header(name: str, adu: NDArray[np.int16], ecg: SyntheticEcg) -> str:
    checksums = adu.sum(axis=1, dtype=np.int64).astype(np.int16)
    rows = zip(STANDARD_LEADS, adu[:, 0], checksums, strict=True)
    lines = [
        f"{name} {len(adu)} {ecg.signal.rate_hz:g} {adu.shape[1]}",
        *(
            f"{name}.dat 16 {_ADU_PER_MV}(0)/mV 16 0 {first} {checksum} 0 {lead}"
            for lead, first, checksum in rows
        ),
        f"# Age: {ecg.age}",
        f"# Sex: {'Female' if ecg.female else 'Male'}",
        f"# Dx: {','.join(CODES[finding] for finding in ecg.findings)}",
        "# Rx: Unknown",
        "# Hx: Unknown",
        "# Sx: Unknown",
    ]
    return "\n".join(lines) + "\n"


def _write_lists(folder: Path, written: list[WrittenRecord]) -> None:
    for group in (folder / "training" / "synthetic").iterdir():
        names = sorted(path.stem for path in group.glob("*.hea"))
        (group / "RECORDS").write_text("".join(f"{name}\n" for name in names), encoding="ascii")
    with open(folder / "records.csv", "w", encoding="utf-8", newline="") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["record", "patient"])
        table.writerows((entry.record, entry.patient) for entry in written)
