"""MATLAB level 5 files (`.mat`), as fairseq-signals writes them with `scipy.io.savemat`.

The files are parsed here because `scipy.io.whosmat` and `loadmat` obey whatever length a file
declares: a compressed file of 300 kB makes either of them fill hundreds of megabytes. Here a
variable is inflated only as far as its declared size, once that size has been accepted.

Source: MAT-File Format, MATLAB documentation (The MathWorks), level 5.
"""

from __future__ import annotations

import math
import os
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq_ecg.data.record_file import RecordError, open_regular, read_exactly

__all__ = ["RecordError", "read_mat", "read_mat_struct"]

_MAX_VARIABLES = 1000
MAX_DIMENSIONS = 32
# Text grows about fortyfold on its way to an array of letters.
_MAX_TEXT_BYTES = 1 << 16
# Flags, up to 32 dimensions and a name of at most 63 characters come first in every variable.
_PREFIX_BYTES = 1024

MATRIX, _COMPRESSED = 14, 15
NUMBER_TYPES = {
    1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8",
}  # fmt: skip
_TEXT_CODECS = {1: "latin-1", 2: "latin-1", 4: "utf-16", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CLASS_NAMES = {
    1: "cell array", 2: "struct", 3: "object", 5: "sparse array", 16: "function handle",
    17: "opaque object",
}  # fmt: skip
STRUCT, CHAR, _NUMERIC, _OPAQUE = 2, 4, range(6, 16), 17
COMPLEX_FLAG = 0x0800


@dataclass(frozen=True, slots=True)
class Variable:
    """A variable that has been found in a file, not yet loaded.

    Attributes:
        name: Its name.
        mclass: MATLAB class number.
        is_complex: Whether it has an imaginary part.
        dims: Declared shape.
        size: Declared bytes of the variable, when inflated.
        stored: Its bytes in the file, compressed or not.
        is_compressed: Whether `stored` has to be inflated.
    """

    name: str
    mclass: int
    is_complex: bool
    dims: tuple[int, ...]
    size: int
    stored: memoryview
    is_compressed: bool


def read_mat(
    path: str | Path, keys: Sequence[str] | None = None, max_bytes: int = 512 << 20
) -> dict[str, np.ndarray]:
    """Read numeric arrays and strings from a MATLAB level 5 file.

    Args:
        path: The file.
        keys: Names to read; all variables if None. Variables that are not named are skipped
            without being inflated, whatever they are.
        max_bytes: Largest sum of the declared sizes of what is read, and largest file. Memory
            peaks at twice this for a compressed variable.

    Returns:
        Arrays by name, with the shapes and dtypes of `scipy.io.loadmat`: scalars are [1, 1],
        vectors [1, N], a string is an array of one string.

    Raises:
        RecordError: If the file is broken, too large, not level 5, lacks a name, or holds
            anything but real numbers and text under a name that is read.
    """
    order, variables = find_variables(os.fspath(path), max_bytes)
    if keys is not None:
        variables = {name: choose_variable(variables, name, path) for name in keys}
    _check_total(variables.values(), max_bytes, path)
    return {name: _load(variable, order, path) for name, variable in variables.items()}


def read_mat_struct(
    path: str | Path, name: str, max_bytes: int = 512 << 20
) -> dict[str, np.ndarray]:
    """Read the fields of a single struct, such as `ECG` in the CPSC 2018 files.

    Args:
        path: The file.
        name: Name of a 1 x 1 struct.
        max_bytes: Largest declared size of the struct, and largest file.

    Returns:
        The fields by name, as in `read_mat`.

    Raises:
        RecordError: If the file is broken, too large, not level 5, or the variable is no single
            struct of real numbers and text.
    """
    order, variables = find_variables(os.fspath(path), max_bytes)
    variable = choose_variable(variables, name, path)
    _check_total([variable], max_bytes, path)
    if variable.mclass != STRUCT or math.prod(variable.dims) != 1:
        raise RecordError(
            "unsupported_mat",
            f"{path}: {name} must be a 1 x 1 struct, but is of class {variable.mclass} "
            f"with the shape {variable.dims}",
        )
    with MatFaults(path):
        return _parse_struct(_inflated(variable), order)


class MatFaults:
    """Turns what goes wrong while parsing into a RecordError that names the file."""

    def __init__(self, path: str | Path) -> None:
        self.path = path

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, RecordError):
            raise RecordError(error.reason, f"{self.path}: {error.args[1]}") from error
        if isinstance(error, MemoryError):
            raise RecordError("too_large", f"{self.path} does not fit into memory") from error
        if isinstance(error, (ValueError, OverflowError, struct.error, zlib.error)):
            raise RecordError(
                "bad_mat", f"{self.path} must be a sound MATLAB file, but: {error}"
            ) from error


def find_variables(path: str, max_bytes: int) -> tuple[str, dict[str, Variable]]:
    """Read a file and list its variables; return its byte order and the variables by name."""
    with open_regular(path) as (descriptor, size):
        if size > max_bytes:
            raise RecordError("too_large", f"{path} must not exceed {max_bytes} bytes, has {size}")
        content = np.empty(size, dtype=np.uint8).data
        read_exactly(descriptor, content, path)
    order = _byte_order(bytes(content[:128]), path)
    variables: dict[str, Variable] = {}
    with MatFaults(path):
        for kind, body in _elements(content[128:], order):
            variable = _describe(kind, body, order)
            if variable.name in variables or len(variables) == _MAX_VARIABLES:
                raise ValueError(
                    f"it must have at most {_MAX_VARIABLES} variables of different names, "
                    f"and {variable.name!r} is one too many"
                )
            variables[variable.name] = variable
    return order, variables


def _byte_order(head: bytes, path: str) -> str:
    """Check the file header; return "<" or ">"."""
    if head[:8] == b"\x89HDF\r\n\x1a\n" or head[124:128] in (b"\x00\x02IM", b"\x02\x00MI"):
        raise RecordError(
            "unsupported_mat",
            f"{path} is a MATLAB v7.3 (HDF5) file; open it with h5py, or save it with -v7",
        )
    if head[124:128] == b"\x00\x01IM":
        return "<"
    if head[124:128] == b"\x01\x00MI":
        return ">"
    if len(head) >= 20 and 0 in head[:4]:
        raise RecordError(
            "unsupported_mat",
            f"{path} is a MATLAB level 4 file; recordings in it have a .hea beside them and are "
            f"read as WFDB records",
        )
    raise RecordError("bad_mat", f"{path} must begin with the header of a MATLAB level 5 file")


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Walk over data elements: type and content of each."""
    at = 0
    while at < len(data):
        first, size = struct.unpack_from(f"{order}II", data, at)
        start = at + 8
        if first >> 16:  # up to four bytes are packed into the tag itself
            first, size, start = first & 0xFFFF, first >> 16, at + 4
            end = at + 8
            if size > 4:
                raise ValueError(f"a packed element must have at most 4 bytes, but has {size}")
        else:
            end = start + size
        if start + size > len(data):
            raise ValueError(f"an element of {size} bytes must fit into {len(data) - start}")
        yield first, data[start : start + size]
        at = end if first == _COMPRESSED else -(-end // 8) * 8


def _describe(kind: int, body: memoryview, order: str) -> Variable:
    """Read name, class and declared size of a variable without inflating its data."""
    size, prefix, compressed = len(body), body, kind == _COMPRESSED
    if compressed:
        head = zlib.decompressobj().decompress(body, _PREFIX_BYTES)
        kind, size = struct.unpack_from(f"{order}II", head)
        prefix = memoryview(head)[8:]
    if kind != MATRIX:
        raise ValueError(f"a variable must be an element of type {MATRIX}, but is of {kind}")
    mclass, is_complex, dims, name, _ = _matrix_header(prefix, order)
    return Variable(name, mclass, is_complex, dims, size, body, compressed)


def _matrix_header(
    body: memoryview, order: str
) -> tuple[int, bool, tuple[int, ...], str, Iterator[tuple[int, memoryview]]]:
    """Read class, complexity, shape and name of a matrix; the rest of its elements follow."""
    rest = _elements(body, order)
    (word,) = struct.unpack_from(f"{order}I", _next(rest)[1])
    if word & 0xFF == _OPAQUE:  # has no shape
        return _OPAQUE, False, (0, 0), bytes(_next(rest)[1]).decode("latin-1"), rest
    dims, name = _next(rest)[1], _next(rest)[1]
    if len(dims) % 4 or not 8 <= len(dims) <= 4 * MAX_DIMENSIONS:
        raise ValueError(f"a shape must have 2 to {MAX_DIMENSIONS} numbers of 4 bytes")
    shape = struct.unpack(f"{order}{len(dims) // 4}i", dims)
    if min(shape) < 0:
        raise ValueError(f"a shape must not be negative, but is {shape}")
    return word & 0xFF, bool(word & COMPLEX_FLAG), shape, bytes(name).decode("latin-1"), rest


def _next(elements: Iterator[tuple[int, memoryview]]) -> tuple[int, memoryview]:
    try:
        return next(elements)
    except StopIteration:
        raise ValueError("a variable ends early") from None


def choose_variable(variables: dict[str, Variable], name: str, path: str | Path) -> Variable:
    """Return a variable by name; if there is none, raise an error that lists those there are."""
    if name not in variables:
        present = ", ".join(sorted(variables)[:30]) or "nothing"
        raise RecordError("missing_key", f"{path} must hold {name!r}, but holds {present}")
    return variables[name]


def _check_total(variables: Iterable[Variable], max_bytes: int, path: str | Path) -> None:
    """Refuse what would not fit, by declared size, before anything is inflated."""
    total = sum(variable.size for variable in variables)
    if total > max_bytes:
        raise RecordError(
            "too_large",
            f"{path}: the variables must not exceed {max_bytes} bytes, but declare {total}",
        )


def _load(variable: Variable, order: str, path: str | Path) -> np.ndarray:
    with MatFaults(path):
        check_class(variable.name, variable.mclass, variable.is_complex)
        return _parse_array(_inflated(variable), order)


def _inflated(variable: Variable) -> memoryview:
    """Return the content of a variable, inflated to exactly its declared size."""
    if not variable.is_compressed:
        return variable.stored
    inflater = zlib.decompressobj()
    content = inflater.decompress(variable.stored, variable.size + 8)
    beyond = b"" if inflater.eof else inflater.decompress(inflater.unconsumed_tail, 1)
    if len(content) != variable.size + 8 or beyond or not inflater.eof:
        raise ValueError(
            f"{variable.name!r} must inflate to {variable.size + 8} bytes and end there"
        )
    return memoryview(bytearray(content))[8:]


def check_class(name: str, mclass: int, is_complex: bool) -> None:
    """Refuse a variable that holds anything but real numbers and text."""
    if is_complex or (mclass != CHAR and mclass not in _NUMERIC):
        found = "complex" if is_complex else f"a {_CLASS_NAMES.get(mclass, f'class {mclass}')}"
        raise RecordError(
            "unsupported_mat", f"{name!r} must hold real numbers or text, but is {found}"
        )


def _parse_array(body: memoryview, order: str) -> np.ndarray:
    """Turn the content of a numeric or text variable into an array."""
    mclass, is_complex, dims, name, rest = _matrix_header(body, order)
    check_class(name, mclass, is_complex)
    kind, data = _next(rest)
    if mclass == CHAR:
        return parse_text(kind, data, dims, order)
    if kind not in NUMBER_TYPES:
        raise ValueError(f"numbers must not be stored as type {kind}")
    # MATLAB may store a class in a smaller type; like scipy, the stored type is returned.
    dtype = np.dtype(order + NUMBER_TYPES[kind])
    if len(data) != math.prod(dims) * dtype.itemsize:
        raise ValueError(
            f"{name!r} must have {math.prod(dims)} numbers of {dtype.itemsize} bytes for its "
            f"shape {dims}, but has {len(data)} bytes"
        )
    array = np.frombuffer(data, dtype=dtype).reshape(dims, order="F")
    # A small array must not keep the content of a large file alive.
    small = 2 * len(data) < memoryview(data.obj).nbytes
    if small or not array.flags.aligned or not dtype.isnative:
        array = array.astype(dtype.newbyteorder("="))
    return array


def parse_text(kind: int, data: memoryview, dims: tuple[int, ...], order: str) -> np.ndarray:
    """Turn a text variable into an array of strings, one per row."""
    if kind not in _TEXT_CODECS:
        raise ValueError(f"text must not be stored as type {kind}")
    if len(data) > _MAX_TEXT_BYTES:
        raise RecordError(
            "too_large", f"text must not exceed {_MAX_TEXT_BYTES} bytes, but has {len(data)}"
        )
    codec = _TEXT_CODECS[kind]
    if codec in ("utf-16", "utf-32"):
        codec += "-le" if order == "<" else "-be"
    text = bytes(data).decode(codec)
    if len(text) != math.prod(dims):
        raise ValueError(f"text of the shape {dims} must not have {len(text)} characters")
    if not text:
        return np.array([], dtype="U1")
    letters = np.array(list(text)).reshape(dims, order="F")
    rows = letters.reshape(-1, dims[-1])
    return np.array(["".join(row) for row in rows]).reshape(dims[:-1])


def _parse_struct(body: memoryview, order: str) -> dict[str, np.ndarray]:
    """Turn the content of a 1 x 1 struct into its fields."""
    *_, rest = _matrix_header(body, order)
    (width,) = struct.unpack_from(f"{order}i", _next(rest)[1])
    names = bytes(_next(rest)[1])
    if not 0 < width <= 1024 or len(names) % width or len(names) // width > _MAX_VARIABLES:
        raise ValueError(f"{len(names)} bytes of field names must divide into {width} each")
    fields = {}
    for at in range(0, len(names), width):
        name = names[at : at + width].split(b"\0")[0].decode("latin-1")
        kind, content = _next(rest)
        if kind != MATRIX:
            raise ValueError(f"field {name!r} must be of type {MATRIX}, but is of {kind}")
        fields[name] = _parse_array(content, order) if len(content) else np.zeros((0, 0))
    return fields
