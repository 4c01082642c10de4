"""What the readers of recordings share: an error with a reason, and a safe way to open files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager

# O_NONBLOCK keeps the opening of a pipe from waiting for a writer; Windows has O_BINARY instead.
_OPEN_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_NONBLOCK", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_LARGEST_READ = 1 << 30


class RecordError(ValueError):
    """A recording that cannot be read, with a short code that a ledger can count.

    Attributes:
        reason: One of `missing_file`, `unreadable_file`, `not_a_file`, `unsafe_path`,
            `bad_header`, `empty`, `truncated`, `size_mismatch`, `mat_mismatch`, `too_large`,
            `unknown_unit`, `unsupported_format`, `bad_mat`, `unsupported_mat`, `missing_key`,
            `not_a_segment`, `wrong_leads`, `wrong_rate`, `wrong_unit`, `bad_label`, `nan`,
            `all_flat`, `bad_annotations`.
    """

    def __init__(self, reason: str, message: str) -> None:
        """Keep both arguments in `args`, so that the error survives the way between processes."""
        super().__init__(reason, message)
        self.reason = reason

    def __str__(self) -> str:
        return f"{self.args[1]} [{self.reason}]"


@contextmanager
def open_regular(path: str) -> Iterator[tuple[int, int]]:
    """Open a regular file for reading, without ever waiting on a pipe or a device.

    Args:
        path: File to open; symbolic links are followed.

    Yields:
        The file descriptor and the size in bytes.

    Raises:
        RecordError: If the file is missing, unreadable, or no regular file.
    """
    descriptor = _open(path)
    try:
        info = os.fstat(descriptor)
        if not stat.S_ISREG(info.st_mode):
            raise RecordError("not_a_file", f"{path} must be a regular file, but is not")
        yield descriptor, info.st_size
    finally:
        os.close(descriptor)


def _open(path: str) -> int:
    try:
        return os.open(path, _OPEN_FLAGS)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise RecordError("missing_file", f"{path} does not exist") from error
    except (OSError, ValueError) as error:
        raise RecordError("unreadable_file", f"{path!r} cannot be opened: {error}") from error


def read_exactly(descriptor: int, buffer: memoryview, path: str, offset: int = 0) -> None:
    """Fill a buffer from a file.

    Args:
        descriptor: Open file.
        buffer: Bytes to fill, writable and contiguous.
        path: Name for the error message.
        offset: First byte in the file.

    Raises:
        RecordError: If the file ends early or reading fails.
    """
    done = 0
    try:
        os.lseek(descriptor, offset, os.SEEK_SET)
        while done < len(buffer):
            if hasattr(os, "readv"):
                got = os.readv(descriptor, [buffer[done : done + _LARGEST_READ]])
            else:
                chunk = os.read(descriptor, min(len(buffer) - done, _LARGEST_READ))
                got = len(chunk)
                buffer[done : done + got] = chunk
            if got == 0:
                raise RecordError(
                    "truncated",
                    f"{path} must hold {len(buffer)} bytes from byte {offset} on, "
                    f"but ends after {done}",
                )
            done += got
    except OSError as error:
        raise RecordError("unreadable_file", f"{path} cannot be read: {error}") from error


def read_small_file(path: str, max_bytes: int) -> bytes:
    """Read a whole regular file of limited size.

    Args:
        path: File to read.
        max_bytes: Largest size that is accepted.

    Returns:
        The content.

    Raises:
        RecordError: If the file is missing, unreadable, no regular file, or too large.
    """
    with open_regular(path) as (descriptor, size):
        if size > max_bytes:
            raise RecordError(
                "too_large", f"{path} must not exceed {max_bytes} bytes, but has {size}"
            )
        content = bytearray(size)
        read_exactly(descriptor, memoryview(content), path)
    return bytes(content)
