import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score, roc_curve

from fairseq_ecg.metrics.bootstrap import Interval
from fairseq_ecg.plots.scores import draw_scores, plot_scores


def table(classes, n=60):
    rng = np.random.default_rng(classes)
    truth = rng.random((n, classes)) < np.linspace(0.2, 0.8, classes)
    return np.clip(rng.random((n, classes)) * 0.7 + 0.3 * truth, 0, 1), truth


def lines(axes):
    return {line.get_gid(): np.stack(line.get_data(), axis=1) for line in axes.get_lines()}


def texts(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


def test_the_curves_are_scikit_learns_and_enclose_their_areas():
    chance, truth = table(2)
    left, right, *_ = draw_scores(chance, truth, ["a", "b"]).axes
    for k, label in enumerate("ab"):
        roc = lines(left)[f"roc {label}"]
        x, y, _ = roc_curve(truth[:, k], chance[:, k], drop_intermediate=False)
        np.testing.assert_allclose(roc, np.stack([x, y], axis=1), atol=1e-12)
        assert np.trapezoid(*roc.T[::-1]) == pytest.approx(roc_auc_score(truth[:, k], chance[:, k]))
        recall, precision = lines(right)[f"precision {label}"].T
        area = (np.diff(recall) * precision[1:]).sum()
        assert area == pytest.approx(average_precision_score(truth[:, k], chance[:, k]))
        assert (np.diff(recall) > 0).all()


def test_the_legend_names_classes_by_frequency_with_areas_and_intervals():
    chance, truth = table(3)
    area = roc_auc_score(truth[:, 2], chance[:, 2])
    found = {"auroc/$c": Interval(area, 0.5, 0.987, 9), "macro_auroc": Interval(0.8, 0.75, 0.85, 9)}
    figure = draw_scores(chance, truth, ["a", "b", "$c"], found, title="$5")
    left, _, below, _ = figure.axes
    assert texts(below)[0] == rf"\$c {area:.3f} (0.500-0.987)"
    assert texts(below)[1].startswith("b 0.")
    assert left.get_title().endswith("(0.750-0.850)")
    assert below.get_legend().get_title().get_text() == ""


def test_classes_without_a_curve_and_rare_ones_are_said_to_be():
    chance, truth = table(14)
    truth[:, 3], truth[:, 4] = False, True
    figure = draw_scores(chance, truth, [f"c{k}" for k in range(14)])
    left, _, below, _ = figure.axes
    assert len(lines(left)) == 12 + 1
    assert len(texts(below)) == 10
    said = below.get_legend().get_title().get_text()
    assert said == "2 rarer classes in grey; 2 without positives or negatives have no curve"


def test_nothing_to_rank_is_an_empty_picture(tmp_path):
    figure = draw_scores(np.full((3, 1), 0.4), np.zeros((3, 1), dtype=bool), ["a"])
    assert figure.axes[0].get_title() == "macro AUROC -"
    assert plot_scores(*table(2), ["a", "b"], tmp_path / "c.png").read_bytes()[1:4] == b"PNG"
    with pytest.raises(ValueError, match="a picture must be named"):
        plot_scores(*table(2), ["a", "b"], tmp_path / "c.txt")
