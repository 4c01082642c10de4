"""Files that are whole or absent: written under a temporary name, flushed to disk, renamed."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

TEMPORARY_SUFFIX = ".partial"


@contextlib.contextmanager
def replacing(path: str | Path) -> Iterator[IO[bytes]]:
    """Open a temporary file that takes the place of ``path`` when the block ends well.

    Args:
        path: The file to write; its folder is made if absent.

    Yields:
        A binary file. If the block raises, it is removed and ``path`` is left as it was.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        with open(temporary, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextlib.contextmanager
def replacing_files(folder: str | Path, obsolete: Sequence[str] = ()) -> Iterator[Path]:
    """Open a temporary folder whose files appear together in ``folder`` when the block ends well.

    All are on disk before the first of them takes its place, so that a full disk leaves none.

    Args:
        folder: Made if absent; files of other names stay in it.
        obsolete: Names of files that leave it first, such as all that an earlier run may have
            written; with the folder inside it where they are in one.

    Yields:
        A folder beside ``folder``. If the block raises, it is removed and ``folder`` is left as it
        was.

    Raises:
        NotADirectoryError: If ``folder`` is a file.
    """
    folder = Path(folder).resolve()
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"{folder} is a file; give another name for the folder of results")
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}{TEMPORARY_SUFFIX}")
    try:
        temporary.mkdir()
        yield temporary
        if folder.exists():
            for name in obsolete:
                (folder / name).unlink(missing_ok=True)
            _move_into(folder, temporary)
        else:
            os.replace(temporary, folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _sync_folder(folder)


def _move_into(folder: Path, source: Path) -> None:
    for path in source.iterdir():
        target = folder / path.name
        if path.is_dir() and target.is_dir():
            _move_into(target, path)
        else:
            os.replace(path, target)


def write_text(path: str | Path, text: str) -> None:
    """Write text as UTF-8 without changing its line ends, whole or not at all.

    Args:
        path: File to write.
        text: Its content.
    """
    with replacing(path) as file:
        file.write(text.encode("utf-8"))


def write_json(path: str | Path, value: Any) -> None:
    """Write indented JSON with sorted keys, whole or not at all.

    Args:
        path: File to write.
        value: What ``json.dumps`` takes.
    """
    write_text(path, json.dumps(value, indent=2, sort_keys=True) + "\n")


def remove_temporary_files(folder: str | Path) -> None:
    """Remove what an interrupted ``replacing`` left in a folder.

    Args:
        folder: A folder that no other process is writing to.
    """
    for path in Path(folder).glob(f".*.????????{TEMPORARY_SUFFIX}"):
        if path.is_file():
            path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    # A rename is durable only when the folder is flushed too; some file systems refuse.
    with contextlib.suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
