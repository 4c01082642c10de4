import math

import numpy as np
import pandas as pd
import pytest

from fairseq_ecg.metrics.calibration import reliability
from fairseq_ecg.plots.subgroups import draw_subgroups, plot_subgroups

NUMBERS = ("auroc", "auroc_low", "auroc_high", "brier", "brier_low", "brier_high")


def table():
    values = [(0.9, 0.8, 0.95, 0.1, 0.05, 0.2), (math.nan,) * 6, (0.7, 0.6, 0.8, 0.2, 0.1, 0.3)]
    rows = [
        {
            "attribute": "sex",
            "group": group,
            "rows": 10 * place,
            **dict(zip(NUMBERS, of, strict=True)),
        }
        for place, (group, of) in enumerate(zip(("$f", "m", "x"), values, strict=True), start=1)
    ]
    rows.append({"attribute": "age", "group": "under 18", "rows": 3, **dict.fromkeys(NUMBERS)})
    return pd.DataFrame(rows).astype(dict.fromkeys(NUMBERS, float))


def found():
    rng = np.random.default_rng(0)
    one, other = (reliability(rng.random(50), rng.integers(2, size=50)) for _ in range(2))
    return {"sex": {"$f": one, "x": other}}


def test_every_group_is_a_line_with_its_interval_in_the_colour_of_its_reliability():
    figure = draw_subgroups(table(), found(), title="$5")
    left, middle, right = figure.axes
    spans = {line.get_gid(): line for line in left.get_lines() if line.get_gid()}
    assert list(spans["auroc $f"].get_xdata()) == [0.8, 0.95]
    assert set(spans) == {"auroc $f", "auroc x"}
    names = [label.get_text() for label in left.get_yticklabels()]
    assert names == [r"\$f (10)", "m (20)", "x (30)"]
    assert [text.get_text() for text in middle.texts] == ["too few, or no class in common"]
    curves = {line.get_gid(): line.get_color() for line in right.get_lines()}
    for name in ("$f", "x"):
        assert curves[f"line {name}"] == spans[f"auroc {name}"].get_color()
    assert [text.get_text() for text in right.get_legend().get_texts()] == [r"\$f", "x"]


def test_the_picture_is_written_and_nothing_to_draw_is_refused(tmp_path):
    assert plot_subgroups(table(), found(), tmp_path / "g.png").read_bytes()[1:4] == b"PNG"
    with pytest.raises(ValueError, match="there must be a group to draw"):
        draw_subgroups(table(), {})
