"""Small folders in the distributed layouts of the emotion data sets, with signals that are known."""

import json
import struct
import zipfile
from pathlib import Path

import numpy as np
import scipy.io

RATE_HZ = 256


def wave(n_samples: int, rate_hz: float, seed: int, n_leads: int = 1) -> np.ndarray:
    """Return slow waves of about 1 mV that differ between seeds and leads, float64 [C, T]."""
    rng = np.random.default_rng(seed)
    time = np.arange(n_samples) / rate_hz
    tones = 1 + 4 * rng.random((n_leads, 3))
    return sum(np.sin(2 * np.pi * tone[:, None] * time) for tone in tones.T) / 3


def cell(items) -> np.ndarray:
    """Return a cell array [1, n], as ``savemat`` takes it."""
    cells = np.empty((1, len(items)), dtype=object)
    for i, item in enumerate(items):
        cells[0, i] = item
    return cells


def write_dreamer(root: Path, films=((20, 31), (25, 12), (10, 9)), change=None) -> Path:
    """Write DREAMER.mat; ``films`` are the seconds of each film of each person."""
    people = []
    for person, seconds in enumerate(films, start=1):
        stimuli = [
            2000 + 100 * wave(s * RATE_HZ, RATE_HZ, 100 * person + film, 2).T
            for film, s in enumerate(seconds)
        ]
        numbers = np.arange(len(seconds)) + person
        people.append(
            {
                "Age": "30",
                "EEG": {"stimuli": cell([np.zeros((50, 14))] * len(seconds)).T},
                "ECG": {
                    "baseline": cell([np.ones((60, 2))] * len(seconds)).T,
                    "stimuli": cell(stimuli).T,
                },
                "ScoreValence": (numbers % 5 + 1).astype(float)[:, None],
                "ScoreArousal": (2 * numbers % 5 + 1).astype(float)[:, None],
                "ScoreDominance": (3 * numbers % 5 + 1).astype(float)[:, None],
            }
        )
    if change is not None:
        change(people)
    root.mkdir(parents=True, exist_ok=True)
    content = {"Data": cell(people), "EEG_SamplingRate": 128, "ECG_SamplingRate": RATE_HZ}
    scipy.io.savemat(root / "DREAMER.mat", {"DREAMER": content}, do_compression=True)
    return root


def amigos_signal(person: int, film: int, seconds: float) -> np.ndarray:
    """Return the 17 columns of one film at 128 Hz, float64 [n, 17]."""
    n_samples = round(seconds * 128)
    signal = np.zeros((n_samples, 17))
    signal[:, :14] = -1.0
    signal[:, 14:16] = wave(n_samples, 128, 10 * person + film, 2).T
    return signal


def write_amigos(root: Path, seconds=(26, 40), n_people: int = 3, change=None) -> Path:
    """Write one file per person, the last film of each not seen."""
    for person in range(1, n_people + 1):
        films = [amigos_signal(person, film, s) for film, s in enumerate(seconds)]
        scores = [
            np.array([[1.5 + 2 * film, 7.2 - person, 4.4, *range(1, 10)]], dtype=float)
            for film in range(len(seconds))
        ]
        films.append(np.zeros((0, 0)))
        scores.append(np.zeros((0, 0)))
        if change is not None:
            change(person, films, scores)
        folder = root / f"Data_Preprocessed_P{person:02d}"
        folder.mkdir(parents=True)
        scipy.io.savemat(
            folder / f"Data_Preprocessed_P{person:02d}.mat",
            {
                "joined_data": cell(films),
                "labels_selfassessment": cell(scores),
                "VideoIDs": cell([f"'{film}'" for film in range(len(films))]),
            },
            do_compression=True,
        )
    return root


SCHEDULE = (
    ("Base", "0.05", "0.5"),  # 5 s to 50 s
    ("TSST", "0.55", "1.2"),
    ("sRead", "1.21", "1.25"),
    ("Medi 1", "1.3", "2.05"),
    ("Fun", "2.06", "2.4"),
    ("Medi 2", "2.45", "3.00"),
)


def wesad_counts(person: int, seconds: float = 185) -> np.ndarray:
    """Return the counts of the electrocardiogram at 700 Hz, int64 [T]."""
    n_samples = round(seconds * 700)
    return np.rint((wave(n_samples, 700, person)[0] / 3 + 0.5) * 65536).astype(np.int64)


def write_wesad(root: Path, n_people: int = 3, schedule=SCHEDULE, seconds: float = 185) -> Path:
    """Write the text files of each person."""
    device = {
        "sensor": ["ECG", "EDA", "EMG", "TEMP", "XYZ", "XYZ", "XYZ", "RESPIRATION"],
        "column": ["nSeq", "DI", *(f"CH{i}" for i in range(1, 9))],
        "sampling rate": 700,
        "resolution": [16] * 8,
    }
    for person in range(2, n_people + 2):
        folder = root / f"S{person}"
        folder.mkdir(parents=True)
        counts = wesad_counts(person, seconds)
        table = np.full((len(counts), 10), 30000)
        table[:, 0], table[:, 1], table[:, 2] = np.arange(len(counts)) % 65536, 0, counts
        text = "\n".join("\t".join(map(str, row)) + "\t" for row in table.tolist())
        (folder / f"S{person}_respiban.txt").write_text(
            "# OpenSignals Text File Format\n"
            f"# {json.dumps({'00:07:80:D8:AB:58': device})}\n# EndOfHeader\n{text}\n"
        )
        lines = [f"# Subj;S{person};;", *(
            f"# {key};{';'.join(row[k] for row in schedule)};;"
            for k, key in enumerate(("ORDER", "START", "END"))
        ), ";;", "# DIM;5;2;;"]  # fmt: skip
        (folder / f"S{person}_quest.csv").write_text("\n".join(lines) + "\n")
        (folder / f"S{person}_readme.txt").write_text(
            f"### Personal information ###\nAge: {20 + person}\nHeight (cm): 175\nGender: male\n"
        )
    return root


def write_poly5(
    path: Path, values, units=None, rate_hz: int = 2048, block: int = 64, version: int = 203
) -> Path:
    """Write channels, float [C, T] in their units, as TMSi's recorders do."""
    n_channels, n_samples = values.shape
    units = units or ["uV"] * n_channels
    n_blocks = -(-n_samples // block)
    magic = f"POLY SAMPLE FILEversion {version / 100:.2f}\r\n\x1a".encode()
    head = struct.pack(
        f"<{31 if version == 203 else 32}sH81phhBHi4x7HiHHH64x",
        magic, version, b"test", rate_hz, rate_hz, 0, 2 * n_channels, n_samples,
        *(2012, 9, 18, 2, 13, 26, 0), n_blocks, block, 4 * n_channels * block, 0,
    )  # fmt: skip
    signals = b"".join(
        struct.pack("<41p4x11p4f64x", f"({half}) ch{i}".encode(), unit.encode("latin-1"), *ranges)
        for i, unit in enumerate(units)
        for half, ranges in (("Lo", (-200, 200, -2e6, 2e6)), ("Hi", (0, 0, 0, 0)))
    )
    stored = np.zeros((n_channels, n_blocks * block), dtype="<f4")
    stored[:, :n_samples] = values * 1e4  # 4e6 numbers span 400 units
    blocks = [
        bytes(86) + stored[:, i * block : (i + 1) * block].T.tobytes() for i in range(n_blocks)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(head + signals + b"".join(blocks))
    return path


def write_xlsx(path: Path, rows) -> Path:
    """Write a workbook whose first sheet holds texts (shared) and numbers; None is an empty cell."""
    texts = list(dict.fromkeys(v for row in rows for v in row if isinstance(v, str)))
    lines = []
    for i, row in enumerate(rows, start=1):
        cells = "".join(
            f'<c r="{_letters(k)}{i}" t="s"><v>{texts.index(v)}</v></c>'
            if isinstance(v, str)
            else f'<c r="{_letters(k)}{i}"><v>{v}</v></c>'
            for k, v in enumerate(row)
            if v is not None
        )
        lines.append(f'<row r="{i}">{cells}</row>')
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    relations = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
    package = "http://schemas.openxmlformats.org/package/2006/relationships"
    parts = {
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{relations}"><sheets>'
        '<sheet name="one" sheetId="2" r:id="rId7"/><sheet name="two" sheetId="1" r:id="rId1"/>'
        "</sheets></workbook>",
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{package}">'
        '<Relationship Id="rId1" Target="worksheets/sheet1.xml"/>'
        '<Relationship Id="rId7" Target="worksheets/sheet2.xml"/></Relationships>',
        "xl/sharedStrings.xml": f'<sst xmlns="{main}">'
        + "".join(f"<si><r><t>{t[:1]}</t></r><r><t>{t[1:]}</t></r></si>" for t in texts)
        + "</sst>",
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData/></worksheet>',
        "xl/worksheets/sheet2.xml": f'<worksheet xmlns="{main}"><sheetData>'
        f"{''.join(lines)}</sheetData></worksheet>",
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return path


def _letters(column: int) -> str:
    letters = ""
    column += 1
    while column:
        column, rest = divmod(column - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


SWELL_COLUMNS = ("PP", "Blok", "Condition", "Arousal_rc", "Valence_rc", "Dominance", "Stress")


def swell_rows(n_people: int = 3) -> list[list]:
    """Return the table: two minutes of relaxation and of work in each block."""
    rows = [list(SWELL_COLUMNS)]
    for person in range(1, n_people + 1):
        order = "NTI" if person % 2 else "NIT"
        for block, condition in enumerate(order, start=1):
            rows.append([f"PP{person}", block, "R", 999, 999, 999, 999])
            ratings = [2 + block * 2, 9 - person, None if person == 2 else 5, 3.5]
            rows += [[f"PP{person}", block, condition, *ratings]] * 2
    return rows


def swell_signal(person: int, block: int, seconds: float = 21) -> np.ndarray:
    """Return the eight channels, the last one the electrocardiogram in uV, float64 [8, T]."""
    n_samples = round(seconds * 2048)
    values = np.tile(np.arange(8.0)[:, None], (1, n_samples))
    values[7] = 100 * wave(n_samples, 2048, 10 * person + block)[0]
    return values


def write_swell(root: Path, n_people: int = 3, rows=None) -> Path:
    """Write recordings and table; names are spelled in both ways of the data set."""
    folder = root / "0 - Raw data" / "D - Physiology - raw data"
    for person in range(1, n_people + 1):
        for block in (1, 2, 3):
            mark = "_" if person % 2 else "-"
            name = f"pp{person}_18-9-2012{mark}c{block}.S00"
            write_poly5(folder / name, swell_signal(person, block))
    name = "Behavioral-features - per minute.xlsx"
    write_xlsx(root / name, swell_rows(n_people) if rows is None else rows)
    return root
