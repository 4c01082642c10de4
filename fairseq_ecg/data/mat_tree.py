"""Nested variables of MATLAB level 5 files: structs and cell arrays of numbers and text.

The variable is inflated piece by piece, and fields that nobody wants are passed over, so memory is
that of what is kept: most of the struct of DREAMER are electroencephalograms. What follows the
variable in its compressed element is not looked at (files of AMIGOS are said to hold a surplus
there, over which other readers stumble).

Source: MAT-File Format, MATLAB documentation (The MathWorks), level 5.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fairseq_ecg.data.mat_reader import (
    CHAR,
    COMPLEX_FLAG,
    MATRIX,
    MAX_DIMENSIONS,
    NUMBER_TYPES,
    STRUCT,
    MatFaults,
    Variable,
    check_class,
    choose_variable,
    find_variables,
    parse_text,
)
from fairseq_ecg.data.record_file import RecordError

_CELL = 1
_CHUNK = 1 << 20
_MAX_DEPTH = 12
_MAX_MEMBERS = 1_000_000
_MAX_FIELDS = 1000


def read_mat_tree(
    path: str | Path, name: str, skip: Collection[str] = (), max_bytes: int = 1 << 30
) -> Any:
    """Read a variable with everything inside it.

    Args:
        path: The file.
        name: The variable.
        skip: Names of fields, at any depth, that are passed over.
        max_bytes: Largest file, and largest sum of the arrays that are kept.

    Returns:
        A 1 x 1 struct is a dictionary of its fields, another one a list of such dictionaries; a
        cell array is a list of what is in it; lists run down the columns, as MATLAB counts. Numbers
        are arrays of at least two dimensions, text is a string.

    Raises:
        RecordError: If the file is broken, too large, not level 5, lacks the variable, or it holds
            anything else: complex or sparse numbers, objects, functions.
    """
    order, variables = find_variables(os.fspath(path), max_bytes)
    variable = choose_variable(variables, name, path)
    with MatFaults(path):
        tree = _Tree(_Stream(_pieces(variable)), order, skip, max_bytes)
        if variable.is_compressed:
            tree.stream.skip(8)  # the tag of the variable inside
        return tree.matrix(name, 0)


def _pieces(variable: Variable) -> Iterator[bytes]:
    """Yield the content of a variable in pieces of limited size."""
    if not variable.is_compressed:
        for at in range(0, len(variable.stored), _CHUNK):
            yield bytes(variable.stored[at : at + _CHUNK])
        return
    inflater = zlib.decompressobj()
    waiting: bytes | memoryview = variable.stored
    while not inflater.eof:
        piece = inflater.decompress(waiting, _CHUNK)
        if not piece and not inflater.eof:
            return  # cut short: whoever asks for more says so
        waiting = inflater.unconsumed_tail
        yield piece


class _Stream:
    """Bytes in the order in which they are asked for."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._piece = b""
        self._at = 0
        self.position = 0

    def take(self, size: int) -> bytearray:
        """Return the next bytes; memory grows with what is there, not with what is asked for."""
        found = bytearray()
        for part in self._next(size):
            found += part
        return found

    def skip(self, size: int) -> None:
        """Pass over the next bytes."""
        for _ in self._next(size):
            pass

    def _next(self, size: int) -> Iterator[memoryview]:
        missing = size
        while missing:
            if self._at == len(self._piece):
                piece = next(self._pieces, None)
                if piece is None:
                    raise ValueError(f"a variable ends {missing} bytes early")
                self._piece, self._at = piece, 0
                continue
            part = memoryview(self._piece)[self._at : self._at + missing]
            self._at += len(part)
            self.position += len(part)
            missing -= len(part)
            yield part


class _Tree:
    """Parses one variable; each method starts where the one before it ended."""

    def __init__(self, stream: _Stream, order: str, skip: Collection[str], max_bytes: int) -> None:
        self.stream = stream
        self._order = order
        self._skip = frozenset(skip)
        self._left = max_bytes
        self._members_left = _MAX_MEMBERS

    def matrix(self, name: str, depth: int) -> Any:
        """Parse the content of a matrix element: its header, and what its class holds."""
        if depth > _MAX_DEPTH:
            raise ValueError(f"{name} must not be nested more than {_MAX_DEPTH} levels deep")
        (word,) = struct.unpack_from(f"{self._order}I", self._small(8))
        mclass, is_complex = word & 0xFF, bool(word & COMPLEX_FLAG)
        if mclass not in (_CELL, STRUCT):
            check_class(name, mclass, is_complex)
        dims = self._dims()
        self._small(256)  # the name, which only the outermost one has
        if mclass == _CELL:
            count = self._count(name, dims, 1)
            return [self._member(f"{name}{{{i + 1}}}", depth) for i in range(count)]
        if mclass == STRUCT:
            return self._struct(name, dims, depth)
        return self._values(name, mclass, dims)

    def _struct(self, name: str, dims: tuple[int, ...], depth: int) -> Any:
        (width,) = struct.unpack_from(f"{self._order}i", self._small(8))
        packed = self._small(_MAX_FIELDS * 64)
        if not 0 < width <= 1024 or len(packed) % width:
            raise ValueError(f"{len(packed)} bytes of field names must divide into {width} each")
        fields = [
            packed[at : at + width].split(b"\0")[0].decode("latin-1")
            for at in range(0, len(packed), width)
        ]
        single = math.prod(dims) == 1
        members = []
        for i in range(self._count(name, dims, max(1, len(fields)))):
            where = name if single else f"{name}({i + 1})"
            found = {field: self._member(f"{where}.{field}", depth, field) for field in fields}
            members.append({key: value for key, value in found.items() if key not in self._skip})
        return members[0] if single else members

    def _member(self, name: str, depth: int, field: str | None = None) -> Any:
        """Parse a matrix element inside a cell array or struct; None where it is skipped."""
        kind, size, _ = self._tag()
        if kind != MATRIX:
            raise ValueError(f"{name} must be an element of type {MATRIX}, but is of {kind}")
        if field in self._skip:
            self.stream.skip(size)
            return None
        if not size:
            return np.zeros((0, 0))
        end = self.stream.position + size
        value = self.matrix(name, depth + 1)
        if self.stream.position > end:
            raise ValueError(f"{name} must have {size} bytes, but has more")
        self.stream.skip(end - self.stream.position)
        return value

    def _values(self, name: str, mclass: int, dims: tuple[int, ...]) -> Any:
        kind, size, inline = self._tag()
        if mclass == CHAR:
            text = parse_text(kind, memoryview(self._content(size, inline)), dims, self._order)
            return "\n".join(text.ravel().tolist())
        if kind not in NUMBER_TYPES:
            raise ValueError(f"{name}: numbers must not be stored as type {kind}")
        dtype = np.dtype(self._order + NUMBER_TYPES[kind])
        if size != math.prod(dims) * dtype.itemsize:
            raise ValueError(
                f"{name} must have {math.prod(dims)} numbers of {dtype.itemsize} bytes for its "
                f"shape {dims}, but has {size} bytes"
            )
        values = np.frombuffer(self._content(size, inline), dtype=dtype)
        return values.reshape(dims, order="F").astype(dtype.newbyteorder("="), copy=False)

    def _content(self, size: int, inline: bytes) -> bytes | bytearray:
        """Return the content of an element that is kept."""
        self._left -= size
        if self._left < 0:
            raise RecordError("too_large", "what is kept of it exceeds the memory allowed")
        if inline:
            return inline[:size]
        content = self.stream.take(size)
        self.stream.skip(-size % 8)
        return content

    def _small(self, limit: int) -> bytes | bytearray:
        """Return the content of an element of the header."""
        _, size, inline = self._tag()
        if size > limit:
            raise ValueError(f"an element of {size} bytes must not exceed {limit}")
        return self._content(size, inline)

    def _tag(self) -> tuple[int, int, bytes]:
        """Return type and size of the next element, and its content where that is in the tag."""
        tag = bytes(self.stream.take(8))
        first, size = struct.unpack(f"{self._order}II", tag)
        if not first >> 16:
            return first, size, b""
        if first >> 16 > 4:
            raise ValueError(f"a packed element must have at most 4 bytes, but has {first >> 16}")
        return first & 0xFFFF, first >> 16, tag[4:]

    def _dims(self) -> tuple[int, ...]:
        packed = self._small(4 * MAX_DIMENSIONS)
        if len(packed) % 4 or len(packed) < 8:
            raise ValueError(f"a shape must have 2 to {MAX_DIMENSIONS} numbers of 4 bytes")
        dims = struct.unpack(f"{self._order}{len(packed) // 4}i", packed)
        if min(dims) < 0:
            raise ValueError(f"a shape must not be negative, but is {dims}")
        return dims

    def _count(self, name: str, dims: tuple[int, ...], each: int) -> int:
        """Return how many elements there are; an empty one costs a hundred times its 8 bytes."""
        count = math.prod(dims)
        self._members_left -= count * each
        if self._members_left < 0:
            raise ValueError(
                f"with the {count * each} members of {name} it has more than {_MAX_MEMBERS}"
            )
        return count
