"""The first sheet of a workbook, by the names of its columns."""

import zipfile

import pytest

from fairseq_ecg.data.record_file import RecordError
from fairseq_ecg.data.xlsx_reader import read_xlsx
from tests.trials import write_xlsx

ROWS = [
    ["PP", "Blok", *(f"x{i}" for i in range(30)), "Condition"],
    ["PP1", 1, *range(30), "N"],
    ["PP2", 2.5, *[None] * 30, "T"],
]


def test_texts_and_numbers_are_found_by_column(tmp_path):
    first, second = read_xlsx(write_xlsx(tmp_path / "a.xlsx", ROWS))
    assert first[0] == 2
    assert second[0] == 3
    assert [first[1][name] for name in ("PP", "Blok", "x0", "x29", "Condition")] == [
        *("PP1", "1", "0", "29", "N"),
    ]
    assert [second[1][name] for name in ("Blok", "x3", "Condition")] == ["2.5", "", "T"]


def rewritten(path, part, change):
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name).decode() for name in archive.namelist()}
    parts[part] = change(parts[part])
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in parts.items():
            if text is not None:
                archive.writestr(name, text)
    return path


def test_texts_in_the_cells_themselves_are_read(tmp_path):
    def inline(text):
        return text.replace(
            '<c r="A2" t="s"><v>33</v>', '<c r="A2" t="inlineStr"><is><t>y</t></is>'
        )

    path = write_xlsx(tmp_path / "a.xlsx", ROWS)
    rewritten(path, "xl/worksheets/sheet2.xml", inline)
    assert read_xlsx(path)[0][1]["PP"] == "y"


def test_an_empty_sheet_has_no_rows(tmp_path):
    assert read_xlsx(write_xlsx(tmp_path / "a.xlsx", [])) == []


@pytest.mark.parametrize(
    ("part", "change", "match"),
    [
        ("xl/workbook.xml", lambda text: None, "There is no item named 'xl/workbook.xml'"),
        ("xl/workbook.xml", lambda text: text.replace("rId7", "rId9"), "first sheet is missing"),
        ("xl/worksheets/sheet2.xml", lambda text: text[:-9], "must be an Excel workbook"),
        ("xl/worksheets/sheet2.xml", lambda t: t.replace("<v>33<", "<v>x<"), "invalid literal"),
        ("xl/worksheets/sheet2.xml", lambda t: t.replace("A2", "ZZZ2"), "beyond column 16384"),
        ("xl/worksheets/sheet2.xml", lambda t: t.replace("<v>33<", "<v>-1<"), "shared text -1 of"),
        ("xl/worksheets/sheet2.xml", lambda t: t.replace("<v>33<", "<v>999<"), "text 999 of"),
        ("xl/workbook.xml", lambda text: text.replace(' r:id="rId7"', ""), "sheet is missing"),
        (
            "xl/sharedStrings.xml",
            lambda text: f"<!DOCTYPE sst [<!ENTITY a 'aaaa'>]>{text}",
            "defines the document type sst",
        ),
    ],
)
def test_damaged_and_hostile_workbooks_are_refused(tmp_path, part, change, match):
    path = rewritten(write_xlsx(tmp_path / "a.xlsx", ROWS), part, change)
    with pytest.raises(RecordError, match=match):
        read_xlsx(path)


def test_other_files_are_refused(tmp_path):
    (tmp_path / "a.xlsx").write_text("PP;Blok\n")
    with pytest.raises(RecordError, match=r"a\.xlsx must be an Excel workbook"):
        read_xlsx(tmp_path / "a.xlsx")


def test_a_document_type_is_found_in_any_encoding(tmp_path):
    def hidden(text):
        return f"<?xml version='1.0' encoding='UTF-16'?><!DOCTYPE s [<!ENTITY a 'b'>]>{text}"

    path = write_xlsx(tmp_path / "a.xlsx", ROWS)
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name).decode() for name in archive.namelist()}
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in parts.items():
            is_sheet = name.endswith("sheet2.xml")
            archive.writestr(name, hidden(text).encode("utf-16") if is_sheet else text)
    with pytest.raises(RecordError, match="defines the document type s"):
        read_xlsx(path)


@pytest.mark.parametrize(
    ("place", "value", "match"),
    [(8, 1, "is encrypted"), (10, 97, "compression method is not supported")],
)
def test_archives_that_cannot_be_unpacked_are_refused(tmp_path, place, value, match):
    path = write_xlsx(tmp_path / "a.xlsx", ROWS)
    content = bytearray(path.read_bytes())
    at = content.find(b"PK\x01\x02")
    while at >= 0:
        content[at + place] = value
        at = content.find(b"PK\x01\x02", at + 4)
    path.write_bytes(content)
    with pytest.raises(RecordError, match=match):
        read_xlsx(path)


def test_a_bomb_is_refused_before_it_is_parsed(tmp_path):
    path = write_xlsx(tmp_path / "a.xlsx", ROWS)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("xl/workbook.xml", b"<x>" * (23 << 20))
    with pytest.raises(RecordError, match=r"workbook\.xml must not exceed 67108864 bytes") as error:
        read_xlsx(path)
    assert error.value.reason == "too_large"
