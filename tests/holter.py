"""Made-up long single-lead recordings with beat and rhythm annotations, laid out as Icentia11k.

Beats of the classes N, S, V and Q look different and come at the rate of their rhythm, so that a
small network can learn the labels. Records are written with wfdb-python.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import wfdb

GAIN = 74.36482269503546
RHYTHMS = ("N", "AFIB", "AFL")
_MEAN_RR_S = {"N": 0.85, "AFIB": 0.65, "AFL": 0.5, "": 0.8}
_RR_JITTER = {"N": 0.03, "AFIB": 0.25, "AFL": 0.02, "": 0.15}
_ECTOPIC = {"N": 0.15, "AFIB": 0.05, "AFL": 0.05, "": 0.0}


@dataclass(frozen=True)
class Holter:
    """One written segment and the truth about it.

    Attributes:
        path: The record without suffix, relative to the root.
        patient: Number of the patient.
        adu: Stored samples, int16 [T].
        beats: Position of each beat, int64 [M], ascending.
        symbols: Symbol of each beat: N, S, V or Q.
        zones: Rhythm of each beat: N, AFIB, AFL, or empty outside every zone.
    """

    path: str
    patient: int
    adu: np.ndarray
    beats: np.ndarray
    symbols: tuple[str, ...]
    zones: tuple[str, ...]


def write_patients(
    root,
    n,
    segments=2,
    seconds=60.0,
    rate_hz=250,
    seed=0,
    first=0,
    annotated=lambda patient, segment: True,
    lead="ecg",
):
    """Write patients ``first``, ``first + 1``, ... and return their segments.

    Args:
        root: Folder of the release; made if absent. ``RECORDS`` in it lists all segments.
        n: Patients, or their numbers.
        segments: Segments of each patient.
        seconds: Length of a segment.
        rate_hz: Sampling rate, a whole number.
        seed: Another seed, other recordings.
        first: Number of the first patient.
        annotated: Tells which segments have an ``.atr`` (their beats are in the result anyway).
        lead: Name of the only lead.

    Returns:
        list of ``Holter`` in the order of patients and segments.
    """
    root = Path(root)
    patients = range(first, first + n) if isinstance(n, int) else n
    written = []
    for patient in patients:
        for segment in range(segments):
            rng = np.random.default_rng((seed, patient, segment))
            beats, symbols, zones = draw_beats(rng, int(seconds * rate_hz), rate_hz)
            adu = draw_signal(rng, int(seconds * rate_hz), rate_hz, beats, symbols, zones)
            path = segment_path(patient, segment)
            write_signal(root / path, adu, rate_hz, lead)
            if annotated(patient, segment):
                write_marks(root / path, beats, symbols, zones, rate_hz)
            written.append(Holter(path, patient, adu, beats, symbols, zones))
    paths = [f"{holter.path}\n" for holter in written]
    (root / "RECORDS").write_text("".join(paths))
    return written


def segment_path(patient, segment):
    """Where the release keeps a segment: ``p00/p00000/p00000_s00``."""
    return f"p{patient // 1000:02d}/p{patient:05d}/p{patient:05d}_s{segment:02d}"


def draw_beats(rng, n_samples, rate_hz):
    """Draw zones of 8 to 25 beats each, and their beats: positions, symbols, zones."""
    beats, symbols, zones = [], [], []
    position = 0.2 * rate_hz
    while position < n_samples:
        zone = str(rng.choice(["N", "AFIB", "AFL", ""], p=[0.55, 0.2, 0.1, 0.15]))
        mean_s = _MEAN_RR_S[zone] * rng.uniform(0.6, 1.4)
        for _ in range(int(rng.integers(8, 26))):
            if position >= n_samples:
                break
            symbol = "Q" if zone == "" else "N"
            if rng.random() < _ECTOPIC[zone]:
                symbol = str(rng.choice(["S", "V"]))
            beats.append(int(position))
            symbols.append(symbol)
            zones.append(zone)
            rr_s = mean_s * (1 + _RR_JITTER[zone] * rng.standard_normal())
            position += rate_hz * max(rr_s, 0.25)
    return np.array(beats, dtype=np.int64), tuple(symbols), tuple(zones)


def draw_signal(rng, n_samples, rate_hz, beats, symbols, zones):
    """Draw stored samples with a deflection at each beat: int16 [T]."""
    time_s = np.arange(n_samples) / rate_hz
    values_mv = 0.1 * np.sin(2 * np.pi * 0.25 * time_s) + 0.02 * rng.standard_normal(n_samples)
    half = int(0.3 * rate_hz)
    around_s = np.arange(-half, half + 1) / rate_hz
    for beat, symbol, zone in zip(beats, symbols, zones, strict=True):
        shape = _deflection(around_s, symbol, zone)
        if symbol == "Q":
            shape = shape + 0.5 * rng.standard_normal(len(shape))
        low, high = max(beat - half, 0), min(beat + half + 1, n_samples)
        values_mv[low:high] += shape[low - beat + half : high - beat + half]
    return np.rint(values_mv * GAIN).astype(np.int16)


def _deflection(around_s, symbol, zone):
    """Return QRS, and P or flutter waves, of one beat in mV."""
    if symbol == "V":
        return -1.6 * np.exp(-((around_s / 0.06) ** 2)) + 0.5 * np.exp(
            -(((around_s - 0.15) / 0.05) ** 2)
        )
    shape = 1.2 * np.exp(-((around_s / 0.015) ** 2))
    if zone == "N":
        centre_s = -0.12 if symbol == "S" else -0.18
        shape += 0.3 * np.exp(-(((around_s - centre_s) / 0.03) ** 2))
    if zone == "AFL":
        shape += 0.25 * np.sin(2 * np.pi * 5 * around_s)
    return shape


def write_signal(path, adu, rate_hz=250, leads="ecg", gain=GAIN, fmt="16"):
    """Write ``.hea`` and ``.dat``; ``adu`` is [T] or [C, T], ``leads`` one name or C names."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    adu = np.atleast_2d(adu)
    names = [leads] * len(adu) if isinstance(leads, str) else list(leads)
    wfdb.wrsamp(
        path.name,
        fs=rate_hz,
        units=["mV"] * len(adu),
        sig_name=names,
        d_signal=adu.T.astype(np.int64),
        fmt=[fmt] * len(adu),
        adc_gain=[gain] * len(adu),
        baseline=[0] * len(adu),
        write_dir=str(path.parent),
    )


def write_marks(path, beats, symbols, zones, rate_hz=250):
    """Write ``.atr`` as Icentia11k does: zones are opened and closed at their outermost beats.

    The mark ``+`` follows its beat at the same sample; its text is "(AFIB" to open a zone, ")" to
    close it, and "(AFIB)" where the zone is one beat.
    """
    samples, codes, texts = [], [], []
    for i, (beat, symbol) in enumerate(zip(beats, symbols, strict=True)):
        samples.append(int(beat))
        codes.append(symbol)
        texts.append("")
        opens = zones[i] and (i == 0 or zones[i - 1] != zones[i])
        closes = zones[i] and (i + 1 == len(zones) or zones[i + 1] != zones[i])
        if opens or closes:
            samples.append(int(beat))
            codes.append("+")
            texts.append((f"({zones[i]}" if opens else "") + (")" if closes else ""))
    write_annotations(path, samples, codes, texts, rate_hz)


def write_annotations(path, samples, symbols, texts=None, rate_hz=250, **fields):
    """Write any annotations to ``path.atr``; ``fields`` are further arguments of ``wfdb.wrann``."""
    path = Path(path)
    wfdb.wrann(
        path.name,
        "atr",
        np.asarray(samples, dtype=np.int64),
        list(symbols),
        aux_note=None if texts is None else list(texts),
        fs=rate_hz,
        write_dir=str(path.parent),
        **fields,
    )
