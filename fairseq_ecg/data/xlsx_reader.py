"""The first sheet of an Excel workbook (``.xlsx``) as text, without running or following anything.

Only values are read: a formula's cell has the value that was saved with it. Source: ECMA-376,
Office Open XML, part 1, section 18.3.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

from fairseq_ecg.data.record_file import RecordError, open_regular

_MAX_BYTES = 64 << 20
_MAX_COLUMNS = 16_384
_CELL = re.compile(r"([A-Z]{1,3})\d+")
_SHEETS = "xl/workbook.xml"
_RELATIONS = "xl/_rels/workbook.xml.rels"
_STRINGS = "xl/sharedStrings.xml"
# What zipfile, ElementTree and a part without the expected content raise; an archive that is
# encrypted, or compressed in a way that is not known, is a RuntimeError.
_FAULTS = (
    zipfile.BadZipFile,
    zlib.error,
    ElementTree.ParseError,
    LookupError,
    ValueError,
    RuntimeError,
    EOFError,
)


def read_xlsx(path: Path) -> list[tuple[int, dict[str, str]]]:
    """Read the first sheet, whose first line names the columns.

    Args:
        path: The workbook.

    Returns:
        Line number and cells of each further line; an empty cell is an empty text. Of columns of
        one name the first counts.

    Raises:
        RecordError: If it is no workbook, is damaged, or is too large.
    """
    with open_regular(str(path)):
        pass
    try:
        with zipfile.ZipFile(path) as archive:
            rows = list(_rows(archive, _first_sheet(archive, path), path))
    except RecordError:
        raise
    except _FAULTS as error:
        raise RecordError(
            "unsupported_format", f"{path} must be an Excel workbook (.xlsx), but: {error}"
        ) from error
    if not rows:
        return []
    names = rows[0][1]
    columns = {name: place for place, name in sorted(names.items(), reverse=True) if name}
    return [
        (line, {name: cells.get(place, "") for name, place in columns.items()})
        for line, cells in rows[1:]
    ]


def _rows(archive: zipfile.ZipFile, sheet: str, path: Path) -> Iterator[tuple[int, dict[int, str]]]:
    """Yield line number and cells by column of each line that has any."""
    shared = _shared_strings(archive, path)
    for number, row in enumerate(_parse(archive, sheet, path).findall(".//{*}row"), start=1):
        cells = {}
        for place, cell in enumerate(row.findall("{*}c")):
            text = _text(cell, shared)
            if text:
                cells[_column(cell.get("r"), place)] = text
        if cells:
            yield int(row.get("r", number)), cells


def _text(cell: ElementTree.Element, shared: list[str]) -> str:
    kind = cell.get("t", "n")
    if kind == "inlineStr":
        return "".join(part.text or "" for part in cell.findall(".//{*}t")).strip()
    value = (cell.findtext("{*}v") or "").strip()
    if kind != "s" or not value:
        return value
    if not 0 <= int(value) < len(shared):
        raise ValueError(f"a cell has the shared text {value} of {len(shared)}")
    return shared[int(value)]


def _column(reference: str | None, place: int) -> int:
    """Return the column of a reference such as "AB7", from 0."""
    match = _CELL.fullmatch(reference or "")
    if match is None:
        return place
    column = 0
    for letter in match[1]:
        column = 26 * column + ord(letter) - ord("A") + 1
    if column > _MAX_COLUMNS:
        raise ValueError(f"the cell {reference} lies beyond column {_MAX_COLUMNS}")
    return column - 1


def _first_sheet(archive: zipfile.ZipFile, path: Path) -> str:
    sheet = _parse(archive, _SHEETS, path).find(".//{*}sheet")
    if sheet is None:
        raise ValueError("it has no sheet")
    identifiers = [value for key, value in sheet.items() if key.endswith("}id")]
    for relation in _parse(archive, _RELATIONS, path):
        if relation.get("Id") in identifiers:
            target = str(relation.get("Target"))
            inside = PurePosixPath(_SHEETS).parent / target
            return target.lstrip("/") if target.startswith("/") else str(inside)
    raise ValueError("its first sheet is missing")


def _shared_strings(archive: zipfile.ZipFile, path: Path) -> list[str]:
    if _STRINGS not in archive.namelist():
        return []
    return [
        "".join(part.text or "" for part in item.findall(".//{*}t")).strip()
        for item in _parse(archive, _STRINGS, path).findall("{*}si")
    ]


class _PlainTree(ElementTree.TreeBuilder):
    """Builds a tree of a part that defines no document type, and with it no entities."""

    def doctype(self, name: str, public: str | None, system: str | None) -> None:
        """Refuse it, in whatever encoding it is written."""
        del public, system
        raise ValueError(f"a part defines the document type {name}")


def _parse(archive: zipfile.ZipFile, name: str, path: Path) -> ElementTree.Element:
    """Parse a part that defines no entities and is not too large."""
    with archive.open(name) as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise RecordError("too_large", f"{path}: {name} must not exceed {_MAX_BYTES} bytes")
    parser = ElementTree.XMLParser(target=_PlainTree())  # noqa: S314 - bounded, without entities
    parser.feed(content)
    return parser.close()
