"""Poly5 files (``.S00``, ``.Poly5``) of TMSi's recorders, as SWELL-KW has them.

A header (217 bytes in version 2.03, 218 in 2.04), two descriptions of 136 bytes for each channel
(the halves of its 32-bit samples), then blocks: 86 bytes, and float32 samples, all channels of a
moment together. Source: the file format that TMSi's own readers implement.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq_ecg.data.record_file import RecordError, open_regular, read_exactly
from fairseq_ecg.data.signal import EcgSignal

_MAGIC = b"POLY SAMPLE FILEversion "
_HEADERS = {203: "<31sH81phhBHi4x7HiHHH64x", 204: "<32sH81phhBHi4x7HiHHH64x"}
_CHANNEL = "<41p4x11p4f64x"
_CHANNEL_BYTES = struct.calcsize(_CHANNEL)
_BLOCK_HEAD_BYTES = 86
_MV_PER_UNIT = {"v": 1e3, "mv": 1.0, "uv": 1e-3}


@dataclass(frozen=True)
class Channel:
    """What a file says about a channel.

    Attributes:
        name: Its name.
        unit: Its unit, as written.
        low: What stands for ``adc_low`` in this unit.
        high: What stands for ``adc_high``.
        adc_low: A stored number.
        adc_high: Another one.
    """

    name: str
    unit: str
    low: float
    high: float
    adc_low: float
    adc_high: float

    @property
    def mv_per_unit(self) -> float | None:
        """Millivolts per unit; None where the unit is no voltage."""
        text = self.unit.strip().casefold().replace("\xb5", "u").replace("\u03bc", "u")
        return _MV_PER_UNIT.get(text.removesuffix("olt").removesuffix("olts"))


@dataclass(frozen=True)
class Poly5Header:
    """The header of a file.

    Attributes:
        rate_hz: Samples per second.
        n_samples: Samples of each channel.
        channels: The channels, in file order.
        offset: First byte of the first block.
        n_blocks: Number of blocks.
        block_samples: Samples of each channel in a block.
    """

    rate_hz: float
    n_samples: int
    channels: tuple[Channel, ...]
    offset: int
    n_blocks: int
    block_samples: int


def read_poly5_header(path: Path) -> Poly5Header:
    """Read what comes before the samples.

    Args:
        path: The file.

    Raises:
        RecordError: If it is no such file, of another version, compressed, or shorter than it says.
    """
    with open_regular(str(path)) as (descriptor, size):
        version = _version(_read(descriptor, min(size, 40), path), path)
        layout = _HEADERS[version]
        start = struct.calcsize(layout)
        head = struct.unpack(layout, _read(descriptor, start, path))
        rate_hz, n_signals, n_samples = head[3], head[6], head[7]
        n_blocks, block_samples, block_bytes, compression = head[15:19]
        n_channels = n_signals // 2
        sound = rate_hz > 0 and n_channels > 0 and not n_signals % 2 and not compression
        if not sound or block_bytes != 4 * n_channels * block_samples:
            raise RecordError(
                "bad_header",
                f"{path} must have a rate, pairs of signals and blocks of plain 32-bit samples, "
                f"but says {rate_hz} Hz, {n_signals} signals, {block_samples} samples and "
                f"{block_bytes} bytes per block, compression {compression}",
            )
        offset = start + n_signals * _CHANNEL_BYTES
        needed = offset + n_blocks * (_BLOCK_HEAD_BYTES + block_bytes)
        if size < needed or not 0 <= n_samples <= n_blocks * block_samples:
            raise RecordError(
                "truncated",
                f"{path} must hold {n_blocks} blocks for {n_samples} samples, {needed} bytes, but "
                f"has {size}",
            )
        described = _read(descriptor, offset, path)
    channels = tuple(
        _channel(described[start + 2 * i * _CHANNEL_BYTES :]) for i in range(n_channels)
    )
    return Poly5Header(float(rate_hz), n_samples, channels, offset, n_blocks, block_samples)


def read_poly5_channel(path: Path, number: int) -> EcgSignal:
    """Read one channel.

    Args:
        path: The file.
        number: Which channel, from 1.

    Returns:
        float32 [1, T] in mV, under the channel's name.

    Raises:
        RecordError: As ``read_poly5_header``; or if there is no such channel, or its unit is no
            voltage; names those there are.
    """
    header = read_poly5_header(path)
    there = ", ".join(
        f"{i}: {channel.name} [{channel.unit}]" for i, channel in enumerate(header.channels, 1)
    )
    if not 1 <= number <= len(header.channels):
        raise RecordError("wrong_leads", f"{path} has no channel {number}; it has {there}")
    channel = header.channels[number - 1]
    span = channel.adc_high - channel.adc_low
    if channel.mv_per_unit is None or not span:
        raise RecordError(
            "unknown_unit", f"{path}: channel {number} must be a voltage; it has {there}"
        )
    shape = (header.block_samples, len(header.channels))
    block = np.dtype([("head", f"V{_BLOCK_HEAD_BYTES}"), ("data", "<f4", shape)])
    blocks = np.memmap(path, block, "r", header.offset, (header.n_blocks,))
    stored = blocks["data"][:, :, number - 1].reshape(-1)[: header.n_samples].astype(np.float64)
    slope = (channel.high - channel.low) / span
    values = ((stored - channel.adc_low) * slope + channel.low) * channel.mv_per_unit
    return EcgSignal(values.astype(np.float32)[None], header.rate_hz, (channel.name,))


def _read(descriptor: int, size: int, path: Path) -> bytes:
    content = bytearray(size)
    read_exactly(descriptor, memoryview(content), str(path))
    return bytes(content)


def _version(head: bytes, path: Path) -> int:
    for version, layout in _HEADERS.items():
        at = struct.calcsize(layout.partition("H")[0])
        if head.startswith(_MAGIC) and head[at : at + 2] == struct.pack("<H", version):
            return version
    raise RecordError("unsupported_format", f"{path} must be a Poly5 file of version 2.03 or 2.04")


def _channel(described: bytes) -> Channel:
    name, unit, low, high, adc_low, adc_high = struct.unpack_from(_CHANNEL, described)
    text = name.decode("latin-1").strip()
    text = text.removeprefix("(Lo) ").removeprefix("(Hi) ")
    return Channel(text, unit.decode("latin-1").strip(), low, high, adc_low, adc_high)
