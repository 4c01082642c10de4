"""The storage formats of WFDB signal files: their sizes, their marks, and how to decode them.

Source: `signal(5)` of the WFDB Applications Guide (PhysioNet).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

BYTES_PER_SAMPLE = {
    "8": 1.0, "16": 2.0, "24": 3.0, "32": 4.0, "61": 2.0, "80": 1.0, "160": 2.0, "212": 1.5,
    "310": 4 / 3, "311": 4 / 3,
}  # fmt: skip
"""Storage of one sample in the formats without compression."""

INVALID = {
    "16": -(1 << 15), "24": -(1 << 23), "32": -(1 << 31), "61": -(1 << 15), "80": -(1 << 7),
    "160": -(1 << 15), "212": -(1 << 11), "310": -(1 << 9), "311": -(1 << 9),
    "508": -(1 << 7), "516": -(1 << 15), "524": -(1 << 23),
}  # fmt: skip
"""The A/D value with which each format marks an invalid sample."""


VALUES_PER_GROUP = {"212": 2, "310": 3, "311": 3}
"""How many values share the bytes of one group, in the formats where a value is no whole bytes."""


def stored_bytes(code: str, n_values: int) -> int:
    """Count the bytes that a number of samples takes in a file, in whole numbers throughout."""
    if code in ("212", "310", "311"):
        numerator, denominator = (3, 2) if code == "212" else (4, 3)
        return -(-n_values * numerator // denominator)
    return n_values * int(BYTES_PER_SAMPLE[code])


def _decode_212(stored: np.ndarray, n_values: int) -> np.ndarray:
    """Unpack pairs of 12-bit samples: low byte, both high nibbles, low byte."""
    padded = np.zeros((n_values + 1) // 2 * 3, dtype=np.uint8)
    padded[: stored.size] = stored
    pairs = padded.reshape(-1, 3)
    values = np.empty((len(pairs), 2), dtype=np.int16)
    nibbles = pairs[:, 1].astype(np.int16)
    # Each sample is put into the upper 12 bits first, so that the shift back extends its sign.
    values[:, 0] = (nibbles << 12) | (pairs[:, 0].astype(np.int16) << 4)
    values[:, 1] = ((nibbles & 0xF0) << 8) | (pairs[:, 2].astype(np.int16) << 4)
    values >>= 4
    return values.reshape(-1)[:n_values]


def _decode_24(stored: np.ndarray, n_values: int) -> np.ndarray:
    """Widen 3-byte two's complement samples, least significant byte first."""
    padded = np.zeros((n_values, 4), dtype=np.uint8)
    padded[:, 1:] = stored.reshape(-1, 3)
    return (padded.view("<i4").reshape(-1) >> 8).astype(np.int32, copy=False)


DECODERS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "16": lambda stored, _: stored.view("<i2").astype(np.int16, copy=False),
    "24": _decode_24,
    "32": lambda stored, _: stored.view("<i4").astype(np.int32, copy=False),
    "61": lambda stored, _: stored.view(">i2").astype(np.int16),
    "80": lambda stored, _: stored.astype(np.int16) - np.int16(128),
    "212": _decode_212,
}
"""For each format read here, how stored bytes, uint8 [N], become A/D values."""
