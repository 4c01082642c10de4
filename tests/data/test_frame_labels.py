"""Labels of frames: the published vectors, the rules written out slowly, real annotations."""

from collections import Counter

import numpy as np
import pytest
import wfdb

from fairseq_ecg.data.frame_labels import (
    BEATS,
    BEATS_3,
    HEART_RATES,
    RHYTHMS,
    RHYTHMS_4,
    TO_BEATS_3,
    TO_RHYTHMS_4,
    Marks,
    beat_label,
    heart_rate_label,
    marks_of,
    rhythm_label,
)
from fairseq_ecg.data.record_file import RecordError
from fairseq_ecg.data.wfdb_annotations import Annotations, read_annotations
from tests.holter import write_patients

CODES = dict(
    zip(
        wfdb.io.annotation.ann_label_table["symbol"],
        wfdb.io.annotation.ann_label_table.index,
        strict=True,
    )
)


def beats(sample, ids=None):
    ids = [1] * len(sample) if ids is None else ids
    nothing = np.empty(0, np.int32), np.empty(0, np.uint8)
    return Marks(np.array(sample, np.int32), np.array(ids, np.uint8), *nothing)


def rhythms(sample, ids):
    nothing = np.empty(0, np.int32), np.empty(0, np.uint8)
    return Marks(*nothing, np.array(sample, np.int32), np.array(ids, np.uint8))


def annotations(*marks):
    """Return annotations of (sample, symbol or code, text)."""
    codes = [CODES.get(code, code) for _, code, *_ in marks]
    return Annotations(
        np.array([sample for sample, *_ in marks], np.int64),
        np.array(codes, np.uint8),
        {i: text for i, (_, _, *rest) in enumerate(marks) for text in rest},
        None,
    )


@pytest.mark.parametrize(
    ("ids", "frame", "label"),
    [
        ((0, 1, 2, 3, 4), (10, 40), 2),  # 1, 2, 3: of equals the first of 2, 3, 4
        ((0, 1, 2, 3, 4), (11, 39), 2),
        ((0, 1, 1, 3, 4), (11, 39), 1),
        ((0, 1, 2, 3, 4), (45, 49), 0),
        ((0, 1, 2, 3, 4), (60, 70), 0),
        ((0, 1, 1, 4, 1), (10, 40), 4),  # {1, 1, 4}
        ((0, 4, 2, 1, 1), (10, 30), 2),  # {4, 2}
        ((4, 0, 1, 1, 1), (10, 30), 0),  # {0, 1}; the first mark belongs to a beat before
        ((4, 0, 1, 1, 1), (10, 40), 1),
        ((4, 4, 2, 2, 4), (10, 50), 2),
    ],
)
def test_beat_vectors(ids, frame, label):
    assert beat_label(beats((10, 20, 30, 40, 50), ids), *frame) == label


@pytest.mark.parametrize(
    ("frame", "label"),
    [((150, 900), 4), ((150, 1200), 4), ((1001, 1500), 0), ((150, 201), 4), ((110, 200), 3)],
)
def test_rhythm_vectors(frame, label):
    assert rhythm_label(rhythms((100, 200, 300, 1000), (3, 3, 4, 3)), *frame) == label


@pytest.mark.parametrize(
    ("sample", "label"),
    [
        ((0, 250, 500), 2),
        ((0, 251, 502), 1),
        ((0, 150, 300), 2),
        ((0, 149, 298), 0),
        ((0, 10, 259, 510), 2),  # the mean of 249 and 251
        ((0, 250), 3),
        ((), 3),
        ((0, 250, 250), 3),
    ],
)
def test_heart_rate_vectors(sample, label):
    assert heart_rate_label(beats(sample), 0, 1000, 250) == label


def slow_beat(sample, ids, start, stop):
    inside = [i for i, s in zip(ids, sample, strict=True) if start <= s <= stop][1:]
    counts = Counter(inside)
    if any(i >= 2 for i in inside):
        return max((2, 3, 4), key=lambda i: (counts[i], -i))
    return 1 if counts[1] > counts[0] else 0


def slow_rhythm(sample, ids, start, stop):
    """Give every sample of the frame the id of the mark that ends its stretch."""
    after = [(s, i) for s, i in zip(sample, ids, strict=True) if s > start]
    if not after:
        return 0
    counts = Counter()
    for t in range(start, stop):
        counts[next((i for s, i in after if s > t), after[-1][1])] += 1
    high = [i for i in (0, 4, 5) if counts[i]]
    return max(high or (1, 2, 3), key=lambda i: counts[i])


@pytest.mark.parametrize("seed", range(300))
def test_any_marks_against_the_rules_written_out(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 12))
    sample = np.sort(rng.choice(60, n, replace=False))
    beat_ids, rhythm_ids = rng.integers(0, 5, n), rng.integers(0, 6, n)
    start = int(rng.integers(0, 60))
    stop = start + int(rng.integers(1, 40))
    assert beat_label(beats(sample, beat_ids), start, stop) == slow_beat(
        sample, beat_ids, start, stop
    )
    assert rhythm_label(rhythms(sample, rhythm_ids), start, stop) == slow_rhythm(
        sample, rhythm_ids, start, stop
    )


def test_zones_of_icentia11k_end_at_their_closing_bracket():
    marks, remarks = marks_of(
        annotations(
            *[(10, "N"), (10, "+", "(N"), (20, "S"), (30, "V"), (30, "+", ")")],
            *[(40, "Q"), (50, "N"), (50, "+", "(AFIB)"), (60, "a"), (70, "N"), (70, "+", "(AFL")],
            *[(80, "N"), (80, "+", ")")],
        ),
        100,
    )
    assert not remarks
    assert marks.beat_sample.tolist() == [10, 20, 30, 40, 50, 60, 70, 80]
    assert marks.beat_id.tolist() == [1, 2, 4, 0, 1, 3, 1, 1]
    assert marks.rhythm_sample.tolist() == marks.beat_sample.tolist()
    assert marks.rhythm_id.tolist() == [3, 3, 3, 2, 4, 2, 5, 5]


def test_rhythms_of_mit_bih_hold_until_the_next():
    marks, remarks = marks_of(
        annotations(
            *[(5, "+", "(N\0"), (10, "N"), (20, "L"), (25, "+", "(AFIB\0"), (30, "N")],
            *[(35, "+", "(VT\0"), (40, "V"), (45, "~"), (50, "/"), (60, "+", "(N\0")],
        ),
        100,
    )
    assert not remarks
    assert marks.beat_sample.tolist() == [10, 20, 30, 40, 50]
    assert marks.beat_id.tolist() == [1, 1, 1, 4, 0]
    assert marks.rhythm_sample.tolist() == [5, 10, 20, 25, 30, 35, 40, 50, 60, 100]
    assert marks.rhythm_id.tolist() == [2, 3, 3, 3, 4, 4, 0, 0, 0, 3]
    assert rhythm_label(marks, 26, 35) == 4
    assert rhythm_label(marks, 60, 90) == 3


def test_what_lies_past_the_end_or_is_unknown_is_told():
    marks, remarks = marks_of(
        annotations((5, "N"), (7, 45), (8, "+", "(XYZ"), (99, "N"), (100, "V"), (200, "V")), 100
    )
    assert marks.beat_sample.tolist() == [5, 7, 99]
    assert marks.beat_id.tolist() == [1, 0, 1]
    assert [reason for reason, _ in remarks] == [
        "annotation_past_end",
        "unknown_symbol",
        "unknown_symbol",
    ]
    assert "2 of 6 annotations lie past the end of the recording, from sample 100" in remarks[0][1]
    assert "45 (in 1 of 4 annotations)" in remarks[1][1]
    assert "'(XYZ'" in remarks[2][1]
    assert marks.rhythm_id.tolist() == [2, 2, 2, 0, 0]


@pytest.mark.parametrize("texts", [[], [""], [")"], [")", "(N"], ["(N", "(AFIB)", ")"], ["()"]])
def test_odd_brackets_are_survived(texts):
    marks, _ = marks_of(annotations((5, "N"), *[(9, "+", text) for text in texts]), 100)
    assert marks.beat_sample.tolist() == [5]
    assert (np.diff(marks.rhythm_sample) > 0).all()
    assert len(marks.rhythm_sample) == len(marks.rhythm_id)


@pytest.mark.parametrize("seed", range(200))
def test_any_annotations_give_sound_marks(seed):
    rng = np.random.default_rng(seed)
    n = int(rng.integers(0, 30))
    texts = ["", "(N", "(AFIB", "(AFL\0", ")", "(N)", "(VT", "odd", "()"]
    mix = rng.choice(texts, int(rng.integers(1, 5)))
    found = Annotations(
        np.sort(rng.integers(0, 120, n)),
        rng.choice([1, 5, 13, 14, 28, 28, 45, 57], n).astype(np.uint8),
        {i: str(rng.choice(mix)) for i in range(n) if rng.random() < 0.7},
        None,
    )
    marks, _ = marks_of(found, 100)
    assert len(marks.beat_sample) == len(marks.beat_id)
    assert len(marks.rhythm_sample) == len(marks.rhythm_id)
    assert (marks.beat_sample < 100).all()
    assert (marks.rhythm_sample <= 100).all()
    assert (np.diff(marks.beat_sample) >= 0).all()
    assert (np.diff(marks.rhythm_sample) > 0).all()
    assert marks.beat_id.max(initial=0) < len(BEATS)
    assert marks.rhythm_id.max(initial=0) < len(RHYTHMS)
    for start, stop in rng.integers(0, 130, (5, 2)):
        if start < stop:
            assert 0 <= beat_label(marks, int(start), int(stop)) < len(BEATS)
            assert 0 <= rhythm_label(marks, int(start), int(stop)) < len(RHYTHMS)
            assert 0 <= heart_rate_label(marks, int(start), int(stop), 250) < len(HEART_RATES)


def test_too_long_a_recording_is_refused():
    with pytest.raises(RecordError, match=r"less than 2\*\*31"):
        marks_of(annotations((5, "N")), 1 << 31)


def test_every_symbol_of_the_format_has_its_place():
    for symbol, code in CODES.items():
        _, remarks = marks_of(annotations((5, code)), 10)
        assert not remarks or symbol == " "


def test_the_smaller_sets_of_classes_name_what_the_larger_ones_do():
    for names, smaller, places in (
        (BEATS, BEATS_3, TO_BEATS_3),
        (RHYTHMS, RHYTHMS_4, TO_RHYTHMS_4),
    ):
        assert len(places) == len(names)
        kept = {
            name: smaller[place] for name, place in zip(names, places, strict=True) if place >= 0
        }
        assert kept.pop("end", "noise") == "noise"
        assert all(name == other for name, other in kept.items())
        assert set(kept.values()) == set(smaller)
    assert len(HEART_RATES) == 4


def test_made_up_patients_have_the_marks_they_were_made_with(tmp_path):
    for holter in write_patients(tmp_path, 2, seconds=120):
        marks, remarks = marks_of(
            read_annotations(f"{tmp_path / holter.path}.atr"), len(holter.adu)
        )
        assert not remarks
        assert marks.rhythm_sample.tolist() == holter.beats.tolist()
        ids = {"N": 3, "AFIB": 4, "AFL": 5, "": 2}
        assert marks.rhythm_id.tolist() == [ids[zone] for zone in holter.zones]
        ids = {"Q": 0, "N": 1, "S": 2, "V": 4}
        assert marks.beat_id.tolist() == [ids[symbol] for symbol in holter.symbols]


@pytest.mark.parametrize(
    ("name", "n_samples", "beat_counts", "hours"),
    [
        ("icentia11k-continuous-ecg/p00/p00000/p00000_s00", 1048577, (244, 6641, 0, 0, 0), {}),
        ("mitdb/100", 650000, (0, 2239, 33, 0, 1), {3: 1.0}),
        ("mitdb/119", 650000, (0, 1543, 0, 0, 444), {}),
        ("mitdb/203", 650000, (5, 2529, 0, 2, 444), {}),
    ],
)
def test_real_annotations_give_the_known_counts(shared, name, n_samples, beat_counts, hours):
    marks, remarks = marks_of(read_annotations(f"{shared / 'data' / name}.atr"), n_samples)
    assert not remarks
    assert np.bincount(marks.beat_id, minlength=5).tolist() == list(beat_counts)
    for id, share in hours.items():
        stretches = np.diff(marks.rhythm_sample, prepend=0)
        assert stretches[marks.rhythm_id == id].sum() / n_samples == pytest.approx(share, abs=1e-3)
