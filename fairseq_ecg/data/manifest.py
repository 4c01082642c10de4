"""Manifests: tab-separated lists of recordings, ours and fairseq-signals', read by one function.

A manifest's first line is the root folder, each further line one recording:

=================  =============================================  ===============================
kind               line                                           told apart by
=================  =============================================  ===============================
``plain``          ``path TAB n_samples``                         two fields
``plain``, named   ``record TAB n_samples TAB name;name``         three fields, ``labels.txt``
labels (ours)                                                     beside the manifest
``identification`` ``path TAB n_samples TAB integer``             three fields, all integers, no
                                                                  ``labels.txt`` beside it
``cmsc``           ``prefix TAB n_samples TAB 0 TAB i,j``         a second line that is a bare
                                                                  file extension
=================  =============================================  ===============================

fairseq-signals' newer tools write manifests with pandas, whose first line is a TAB and then the
root; that TAB, a byte order mark and Windows line ends are accepted.
"""

from __future__ import annotations

import dataclasses
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fairseq_ecg.data.atomic import write_text

LABEL_SEPARATOR = ";"
LABELS_FILE = "labels.txt"

_EXTENSION = re.compile(r"\.?[A-Za-z0-9]{1,8}")


class ManifestError(ValueError):
    """A manifest, or the vocabulary beside it, that cannot be read or written as asked."""


@dataclass(frozen=True)
class Manifest:
    """The content of one manifest.

    Attributes:
        root: Folder that ``paths`` are relative to, made absolute.
        paths: One path, or record of a store, per recording; for ``cmsc`` the common prefix.
        n_samples: Length of each recording in samples, int64 [N].
        kind: ``plain``, ``identification`` or ``cmsc``.
        labels: Third column as written, or None where there is none.
        segments: For ``cmsc`` the segment numbers of each prefix, else None.
        extension: For ``cmsc`` the extension of the segment files without a dot, else None.
        classes: Class names of the ``labels.txt`` beside a manifest with labels, in column order.
        folder: Folder of the manifest itself; None if it was not read from a file.
    """

    root: Path
    paths: list[str]
    n_samples: np.ndarray
    kind: str
    labels: list[str] | None = None
    segments: list[list[int]] | None = None
    extension: str | None = None
    classes: tuple[str, ...] | None = None
    folder: Path | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def recordings(self) -> tuple[list[str], np.ndarray]:
        """Return name and length (int64) of each recording; for ``cmsc`` of each segment."""
        if self.segments is None:
            return self.paths, self.n_samples
        pairs = list(zip(self.paths, self.segments, strict=True))
        names = [
            f"{path}_{number}.{self.extension}" for path, numbers in pairs for number in numbers
        ]
        return names, np.repeat(self.n_samples, [len(numbers) for _, numbers in pairs])

    def lines(self) -> np.ndarray:
        """Return the line of each of ``recordings``, counted from 0, int64 [N]."""
        counts = [1] * len(self) if self.segments is None else [len(s) for s in self.segments]
        return np.repeat(np.arange(len(self)), counts)

    def label_names(self, row: int) -> list[str]:
        """Return the class names of one recording; empty if it has none.

        Args:
            row: Position in ``paths``.
        """
        text = self.labels[row] if self.labels is not None else ""
        return text.split(LABEL_SEPARATOR) if text else []


def read_manifest(path: str | Path) -> Manifest:
    """Read a manifest of any kind (see the module's table).

    Args:
        path: The ``.tsv`` file.

    Returns:
        Its content; a relative root is taken from the manifest's own folder.

    Raises:
        ManifestError: If the file is absent or a line is malformed; names file and line.
    """
    path = Path(path)
    lines = _read_lines(path)
    if not lines:
        raise ManifestError(f"{path}: the manifest is empty; line 1 must be the root folder")
    root = _parse_root(path, lines[0])
    extension, first = _parse_extension(lines)
    rows = [
        (number, line.split("\t"))
        for number, line in enumerate(lines[first:], start=first + 1)
        if line.strip()
    ]
    if extension is not None:
        manifest = _read_cmsc(path, root, extension, rows)
    else:
        manifest = _read_rows(path, root, rows)
    return dataclasses.replace(manifest, folder=path.absolute().parent)


def write_manifest(
    path: str | Path,
    root: str | Path,
    rows: Iterable[Sequence[str | int]],
    extension: str | None = None,
) -> None:
    """Write a manifest atomically: a reader sees the old file or the whole new one.

    Args:
        path: File to write; its folder is made if absent.
        root: First line, written as given. A relative root is one from the manifest's folder.
        rows: ``(path, n_samples)`` or ``(path, n_samples, label)``; for CMSC
            ``(prefix, n_samples, 0, "i,j")``. All rows must have the same number of fields.
        extension: Extension of the segment files; makes it a CMSC manifest.

    Raises:
        ManifestError: If a field holds a TAB or a line break, or the rows differ in width.
    """
    path = Path(path)
    lines = [_clean_field(path, 1, str(root))]
    if extension is not None:
        lines.append(_clean_field(path, 2, extension.lstrip(".")))
    width = None if extension is None else 4
    for row in rows:
        number = len(lines) + 1
        width = len(row) if width is None else width
        if len(row) != width or width < 2:
            raise ManifestError(f"{path}, line {number}: {len(row)} fields, but expected {width}")
        lines.append("\t".join(_clean_field(path, number, str(field)) for field in row))
    write_text(path, "\n".join(lines) + "\n")


def join_labels(names: Iterable[str]) -> str:
    """Join class names into the third column of a manifest.

    Args:
        names: Class names.

    Raises:
        ManifestError: If a name is empty or holds the separator, a TAB or a line break.
    """
    names = list(names)
    for name in names:
        if not name or any(mark in name for mark in (LABEL_SEPARATOR, "\t", "\n", "\r")):
            raise ManifestError(
                f"class name {name!r} cannot be written to a manifest: it must not be empty nor "
                f"hold {LABEL_SEPARATOR!r}, a TAB or a line break; rename the class"
            )
    return LABEL_SEPARATOR.join(names)


def read_classes(path: str | Path) -> tuple[str, ...]:
    """Read a vocabulary: one class name per line, in column order.

    Args:
        path: A ``labels.txt``.

    Raises:
        ManifestError: If it is absent or empty, or a name is repeated.
    """
    path = Path(path)
    names = tuple(line.strip() for line in _read_lines(path) if line.strip())
    if not names:
        raise ManifestError(f"{path}: no class name in it; write one per line")
    repeated = sorted({name for name in names if names.count(name) > 1})
    if repeated:
        raise ManifestError(f"{path}: class {repeated[0]!r} is listed more than once")
    return names


def write_classes(path: str | Path, names: Sequence[str]) -> None:
    """Write a vocabulary atomically, one class name per line.

    Args:
        path: File to write.
        names: Class names in column order.

    Raises:
        ManifestError: If a name cannot be part of a manifest.
    """
    join_labels(names)
    write_text(path, "".join(f"{name}\n" for name in names))


def _read_lines(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        others = ", ".join(sorted(other.name for other in path.parent.glob("*.tsv")))
        raise ManifestError(
            f"{path}: no such file" + (f"; there are: {others}" if others else "")
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path}: cannot be read as UTF-8 text ({error})") from error
    return text.removesuffix("\n").split("\n") if text else []


def _parse_root(path: Path, line: str) -> Path:
    fields = line.split("\t")
    if fields[0] == "" and len(fields) == 2:
        fields = fields[1:]
    root = fields[0].strip()
    if len(fields) != 1 or not root:
        raise ManifestError(
            f"{path}, line 1: must be the root folder alone, but is {line!r}; if the root line is "
            "missing, put it in front"
        )
    return Path(os.path.normpath(path.absolute().parent / Path(root).expanduser()))


def _parse_extension(lines: list[str]) -> tuple[str | None, int]:
    if len(lines) > 1 and _EXTENSION.fullmatch(lines[1].strip(" ")):
        return lines[1].strip(" ").lstrip("."), 2
    return None, 1


def _read_rows(path: Path, root: Path, rows: list[tuple[int, list[str]]]) -> Manifest:
    vocabulary = path.parent / LABELS_FILE
    classes = read_classes(vocabulary) if vocabulary.is_file() else None
    width = len(rows[0][1]) if rows else (3 if classes else 2)
    if width not in (2, 3):
        raise ManifestError(
            f"{path}, line {rows[0][0]}: expected path TAB n_samples [TAB label], but found "
            f"{width} fields"
        )
    for number, fields in rows:
        _check_width(path, number, fields, width)
    paths = [_parse_path(path, number, fields[0]) for number, fields in rows]
    n_samples = np.array([_parse_length(path, n, f[1]) for n, f in rows], dtype=np.int64)
    if width == 2:
        return Manifest(root, paths, n_samples, "plain")
    labels = [fields[2].strip() for _, fields in rows]
    if classes is not None:
        _check_names(path, rows, labels, classes)
        return Manifest(root, paths, n_samples, "plain", labels=labels, classes=classes)
    for (number, _), label in zip(rows, labels, strict=True):
        if not re.fullmatch(r"\d+", label):
            raise ManifestError(
                f"{path}, line {number}: label {label!r} is no integer (identification), and "
                f"there is no {LABELS_FILE} in {path.parent} that would name classes"
            )
    return Manifest(root, paths, n_samples, "identification", labels=labels)


def _read_cmsc(
    path: Path, root: Path, extension: str, rows: list[tuple[int, list[str]]]
) -> Manifest:
    segments = []
    for number, fields in rows:
        _check_width(path, number, fields, 4)
        parts = fields[3].strip().split(",")
        if not all(re.fullmatch(r"\d+", part.strip()) for part in parts):
            raise ManifestError(
                f"{path}, line {number}: segments must be integers joined with ',', but are "
                f"{fields[3]!r}"
            )
        if len(parts) < 2:
            raise ManifestError(
                f"{path}, line {number}: a CMSC line needs at least 2 segments, but has "
                f"{fields[3]!r}"
            )
        segments.append([int(part) for part in parts])
    paths = [_parse_path(path, number, fields[0]) for number, fields in rows]
    n_samples = np.array([_parse_length(path, n, f[1]) for n, f in rows], dtype=np.int64)
    return Manifest(root, paths, n_samples, "cmsc", segments=segments, extension=extension)


def _check_width(path: Path, number: int, fields: list[str], width: int) -> None:
    if len(fields) != width:
        raise ManifestError(
            f"{path}, line {number}: expected {width} fields separated by TAB as in the lines "
            f"before, but found {len(fields)}"
        )


def _parse_path(path: Path, number: int, text: str) -> str:
    if not text.strip():
        raise ManifestError(f"{path}, line {number}: the first field, a path, is empty")
    return text.strip()


def _parse_length(path: Path, number: int, text: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text.strip()):
        raise ManifestError(
            f"{path}, line {number}: the length must be a whole number of samples, but is {text!r}"
        )
    return int(text)


def _check_names(
    path: Path, rows: list[tuple[int, list[str]]], labels: list[str], classes: tuple[str, ...]
) -> None:
    known = set(classes)
    for (number, _), label in zip(rows, labels, strict=True):
        for name in label.split(LABEL_SEPARATOR) if label else ():
            if name not in known:
                raise ManifestError(
                    f"{path}, line {number}: class {name!r} is not in "
                    f"{path.parent / LABELS_FILE} ({len(classes)} classes: "
                    f"{', '.join(classes[:8])}{', ...' if len(classes) > 8 else ''})"
                )


def _clean_field(path: Path, number: int, text: str) -> str:
    if any(mark in text for mark in "\t\n\r"):
        raise ManifestError(f"{path}, line {number}: {text!r} holds a TAB or a line break")
    return text
