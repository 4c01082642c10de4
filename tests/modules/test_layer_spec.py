"""Layer specifications are read, never run."""

import time

import pytest

from fairseq_ecg.modules.layer_spec import parse_layers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[(256, 2, 2)] * 4", ((256, 2, 2),) * 4),
        ("4 * [(256, 2, 2)]", ((256, 2, 2),) * 4),
        ("[(8, 3, 2)] + [(16, 2, 1)] * 2", ((8, 3, 2), (16, 2, 1), (16, 2, 1))),
        ("([(8, 3, 2)] * 2 + [(4, 1, 1)]) * 2", ((8, 3, 2), (8, 3, 2), (4, 1, 1)) * 2),
        ("[(512,10,5)] + [(512,3,2)] * 4 + [(512,2,2)] * 2",
         ((512, 10, 5), *[(512, 3, 2)] * 4, *[(512, 2, 2)] * 2)),
        ("  [[1, 2, 3]]\n", ((1, 2, 3),)),
        ([[1, 2, 3], (4, 5, 6)], ((1, 2, 3), (4, 5, 6))),
    ],
)  # fmt: skip
def test_lists_sums_and_repetitions_are_understood(text, expected):
    assert parse_layers(text) == expected


HOSTILE = [
    "__import__('os').system('touch pwned')",
    "[(256, 2, 2)] * 10**9",
    "[(256, 2, 2)] * 1000000000",
    "[[(256, 2, 2)] * 256] * 256",
    "[(256, 2, 2)] * -1",
    "[(256, 2, 2)] * 0",
    "[(256, 2, 2)] * True",
    "[(256, 2)]",
    "[(256, 2, 2, 2)]",
    "[(256, 2, 0)]",
    "[(256.0, 2, 2)]",
    "[(-256, 2, 2)]",
    "[(True, 2, 2)]",
    "[('256', 2, 2)]",
    "(lambda: [(256, 2, 2)])()",
    "[(256, 2, 2) for _ in range(4)]",
    "[x for x in ().__class__.__base__.__subclasses__()]",
    "[(256, 2, 2)][0]",
    "(256, 2, 2) + (256, 2, 2)",
    "f'{1}'",
    "[*[(256, 2, 2)]]",
    "[(99999999999999999999, 2, 2)]",
    "[(" + "9" * 4000 + ", 2, 2)]",
    "[" * 1000 + "]" * 1000,
    "(" * 3000,
    "+".join(["[(1, 1, 1)]"] * 340),
    "1" + "+1" * 2000,
    "[(256, 2, 2)] * 4; import os",
    "[(1, 1, 1)]\0",
    "a" * 100_000,
    "[]",
    "",
    "4",
]


@pytest.mark.parametrize("text", HOSTILE, ids=[text[:24] or "empty" for text in HOSTILE])
def test_anything_else_is_refused_quickly_with_the_text_and_a_valid_form(
    text, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    begin = time.perf_counter()
    with pytest.raises(ValueError, match="is not understood") as caught:
        parse_layers(text)
    assert time.perf_counter() - begin < 1.0
    message = str(caught.value)
    assert repr(text)[:20] in message
    assert '"[(256, 2, 2)] * 4"' in message
    assert len(message) < 600
    assert list(tmp_path.iterdir()) == []
