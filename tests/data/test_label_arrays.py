import numpy as np
import pytest

from fairseq_ecg.data.label_arrays import LabelArrayError, read_label_array, read_label_names


def test_names_come_from_the_table_beside_the_array(tmp_path):
    np.save(tmp_path / "y.npy", np.eye(3)[:, :2])
    labels, names = read_label_array(tmp_path / "y.npy")
    assert names is None
    assert labels.dtype == np.float32
    (tmp_path / "label_def.csv").write_text("name,pos_count_all\nAF,3\n1dAVb,4\n")
    labels, names = read_label_array(tmp_path / "y.npy")
    assert names == ["AF", "1dAVb"]
    np.testing.assert_array_equal(labels, np.eye(3)[:, :2])


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("name\nAF\n", r"label_def\.csv names 1 classes, but .*y\.npy has 2"),
        ("class\nAF\nSB\n", r"label_def\.csv must have a column name"),
        ("name\n", "0 rows"),
        ("name\nAF\nAF\n", "name 'AF' must not be empty nor occur twice"),
        ("name,count\n,1\nAF,2\n", "name '' must not be empty"),
    ],
)
def test_names_that_do_not_fit_are_refused(tmp_path, text, match):
    np.save(tmp_path / "y.npy", np.zeros((3, 2)))
    (tmp_path / "label_def.csv").write_text(text)
    with pytest.raises(LabelArrayError, match=match):
        read_label_array(tmp_path / "y.npy")


def test_what_is_no_array_of_labels_is_refused(tmp_path):
    path = tmp_path / "y.npy"
    with pytest.raises(LabelArrayError, match=r"y\.npy cannot be read"):
        read_label_array(path)
    path.write_bytes(b"nothing")
    with pytest.raises(LabelArrayError, match="cannot be read"):
        read_label_array(path)
    np.save(path, np.zeros(3))
    with pytest.raises(LabelArrayError, match=r"\[N, K\], but has .*float64.*\(3,\)"):
        read_label_array(path)
    np.save(path, np.array([[{"a": 1}]], dtype=object), allow_pickle=True)
    with pytest.raises(LabelArrayError, match="cannot be read"):
        read_label_array(path)
    with pytest.raises(LabelArrayError, match="cannot be read"):
        read_label_names(tmp_path / "nothing.csv")
