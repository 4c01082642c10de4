import numpy as np

from fairseq_ecg.metrics.calibration import reliability
from fairseq_ecg.plots.calibration import draw_calibration, plot_calibration


def table(classes, n=200):
    rng = np.random.default_rng(classes)
    chance = rng.random((n, classes))
    return chance, rng.random((n, classes)) < chance * np.linspace(0.3, 1, classes)


def test_the_first_panel_is_of_all_classes_and_the_others_are_by_frequency():
    chance, truth = table(3)
    figure = draw_calibration(chance, truth, ["a", "b", "c"])
    titles = [axes.get_title() for axes in figure.axes[:4]]
    assert titles[0].startswith("all classes, mean ECE 0.")
    assert [title[0] for title in titles[1:]] == ["c", "b", "a"]
    found = reliability(chance[:, 2], truth[:, 2])
    assert titles[1] == f"c, ECE {found.error:.3f}"
    (bins,) = figure.axes[1].collections
    expected = np.stack([found.predicted, found.observed], axis=1)
    np.testing.assert_allclose(bins.get_offsets(), expected)
    assert np.argmax(bins.get_sizes()) == np.argmax(found.count)


def test_of_classes_that_exclude_each_other_the_first_panel_is_of_the_answers():
    chance, _ = table(3)
    figure = draw_calibration(
        chance, np.eye(3, dtype=bool)[chance.argmax(axis=1)], list("abc"), True
    )
    assert figure.axes[0].get_title().startswith("the answer, ECE 0.")
    (bins,) = figure.axes[0].collections
    assert (np.asarray(bins.get_offsets())[:, 1] == 1).all()  # every answer is right


def test_many_classes_are_the_eleven_most_frequent_ones(tmp_path):
    chance, truth = table(20)
    figure = draw_calibration(chance, truth, [f"c{k}" for k in range(20)])
    shown = [axes.get_title() for axes in figure.axes if axes.axison]
    assert len(shown) == 12
    assert shown[1].startswith("c19,")
    path = plot_calibration(chance, truth, [f"c{k}" for k in range(20)], tmp_path / "c.png")
    assert path.read_bytes()[1:4] == b"PNG"
