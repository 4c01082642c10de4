import numpy as np
import pytest

from fairseq_ecg.data.manifest import (
    ManifestError,
    join_labels,
    read_classes,
    read_manifest,
    write_classes,
    write_manifest,
)


def write(folder, text, name="train.tsv"):
    path = folder / name
    path.write_bytes(text.encode())
    return path


def test_reads_a_plain_manifest_of_fairseq_signals(tmp_path):
    manifest = read_manifest(write(tmp_path, "/data/ecg\na/x_0.mat\t2500\nb/y_1.mat\t1250\n"))
    assert manifest.kind == "plain"
    assert str(manifest.root) == "/data/ecg"
    assert manifest.paths == ["a/x_0.mat", "b/y_1.mat"]
    np.testing.assert_array_equal(manifest.n_samples, [2500, 1250])
    assert manifest.n_samples.dtype == np.int64
    assert manifest.labels is None
    assert manifest.segments is None
    assert len(manifest) == 2


@pytest.mark.parametrize(
    "text",
    [
        "\t/data/ecg\na.mat\t5\n",
        "/data/ecg\r\na.mat\t5\r\n",
        "\ufeff/data/ecg\na.mat\t5\n",
        "/data/ecg\na.mat\t5",
        "/data/ecg\na.mat\t5\n\n",
    ],
    ids=["leading TAB of pandas", "Windows", "byte order mark", "no last line end", "empty line"],
)
def test_reads_the_variants_that_occur(tmp_path, text):
    manifest = read_manifest(write(tmp_path, text))
    assert (str(manifest.root), manifest.paths) == ("/data/ecg", ["a.mat"])
    assert manifest.n_samples.tolist() == [5]


def test_reads_an_identification_manifest(tmp_path):
    manifest = read_manifest(write(tmp_path, "/d\na.mat\t5\t0\nb.mat\t5\t17\n"))
    assert manifest.kind == "identification"
    assert manifest.labels == ["0", "17"]


def test_reads_a_cmsc_manifest(tmp_path):
    text = "/d\nmat\na/x\t2500\t0\t0,1\na/y\t2500\t0\t2,3,5,6\n"
    manifest = read_manifest(write(tmp_path, text))
    assert manifest.kind == "cmsc"
    assert manifest.extension == "mat"
    assert manifest.paths == ["a/x", "a/y"]
    assert manifest.segments == [[0, 1], [2, 3, 5, 6]]


def test_integers_are_names_of_classes_where_a_vocabulary_is_beside(tmp_path):
    write(tmp_path, "0\n17\n", "labels.txt")
    manifest = read_manifest(write(tmp_path, "store\nr1\t5\t17\nr2\t5\t\nr3\t5\t0;17\n"))
    assert manifest.kind == "plain"
    assert manifest.classes == ("0", "17")
    assert [manifest.label_names(i) for i in range(3)] == [["17"], [], ["0", "17"]]


def test_a_relative_root_is_one_from_the_manifests_own_folder(tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    path = write(tmp_path / "set", "../store\nr1\t5\n")
    monkeypatch.chdir("/")
    assert read_manifest(path).root == tmp_path / "store"


def test_what_is_written_is_read_again(tmp_path):
    write_manifest(tmp_path / "new" / "train.tsv", "store", [("r1", 10), ("r2", 20)])
    manifest = read_manifest(tmp_path / "new" / "train.tsv")
    assert (manifest.paths, manifest.n_samples.tolist()) == (["r1", "r2"], [10, 20])
    assert manifest.root == tmp_path / "new" / "store"
    rows = [("x", 10, 0, "0,1")]
    write_manifest(tmp_path / "cmsc.tsv", "/d", rows, extension=".mat")
    assert read_manifest(tmp_path / "cmsc.tsv").segments == [[0, 1]]
    assert read_manifest(tmp_path / "cmsc.tsv").extension == "mat"


def test_labels_and_vocabulary_are_written_and_read_again(tmp_path):
    write_classes(tmp_path / "labels.txt", ["CLBBB|LBBB", "LAFB/LPFB"])
    rows = [("r1", 5, join_labels(["LAFB/LPFB", "CLBBB|LBBB"])), ("r2", 5, join_labels([]))]
    write_manifest(tmp_path / "t.tsv", "store", rows)
    manifest = read_manifest(tmp_path / "t.tsv")
    assert manifest.label_names(0) == ["LAFB/LPFB", "CLBBB|LBBB"]
    assert manifest.label_names(1) == []
    assert read_classes(tmp_path / "labels.txt") == ("CLBBB|LBBB", "LAFB/LPFB")


def test_a_manifest_may_have_no_recordings(tmp_path):
    write_manifest(tmp_path / "t.tsv", "store", [])
    assert len(read_manifest(tmp_path / "t.tsv")) == 0


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("", "empty; line 1"),
        ("a.mat\t5\nb.mat\t5\n", "line 1: must be the root"),
        ("/d\na.mat\n", "line 2: expected path TAB"),
        ("/d\na.mat\t5\nb.mat\t5\t1\n", "line 3: expected 2 fields"),
        ("/d\na.mat\t5.0\n", "line 2: the length .* '5.0'"),
        ("/d\na.mat\t-5\n", "line 2: the length .* '-5'"),
        ("/d\n\t5\n", "line 2: the first field"),
        ("/d\na.mat\t5\tAF\n", "line 2: label 'AF' is no integer"),
        ("/d\nmat\na\t5\t0\n", "line 3: expected 4 fields"),
        ("/d\nmat\na\t5\t0\t3\n", "line 3: .* at least 2 segments"),
        ("/d\nmat\na\t5\t0\t3,x\n", "line 3: segments must be integers"),
    ],
)
def test_errors_name_file_and_line(tmp_path, text, match):
    with pytest.raises(ManifestError, match=match) as error:
        read_manifest(write(tmp_path, text))
    assert "train.tsv" in str(error.value)


def test_an_unknown_class_is_refused(tmp_path):
    write(tmp_path, "AF\nNSR\n", "labels.txt")
    with pytest.raises(ManifestError, match=r"line 3: class 'SB' is not in .*labels.txt"):
        read_manifest(write(tmp_path, "store\nr1\t5\tAF\nr2\t5\tNSR;SB\n"))


def test_a_missing_manifest_and_a_binary_one_are_refused(tmp_path):
    with pytest.raises(ManifestError, match="no such file"):
        read_manifest(tmp_path / "absent.tsv")
    (tmp_path / "binary.tsv").write_bytes(b"\xff\xfe\x00\x80")
    with pytest.raises(ManifestError, match="UTF-8"):
        read_manifest(tmp_path / "binary.tsv")


@pytest.mark.parametrize("text", ["", "\n", "AF\nAF\n"])
def test_a_vocabulary_without_or_with_repeated_names_is_refused(tmp_path, text):
    with pytest.raises(ManifestError):
        read_classes(write(tmp_path, text, "labels.txt"))


def test_fields_that_would_break_a_line_are_not_written(tmp_path):
    write_manifest(tmp_path / "t.tsv", "store", [("old", 1)])
    with pytest.raises(ManifestError, match="line 3"):
        write_manifest(tmp_path / "t.tsv", "store", [("r1", 5), ("r\t2", 5)])
    with pytest.raises(ManifestError, match="expected 2"):
        write_manifest(tmp_path / "t.tsv", "store", [("r1", 5), ("r2", 5, "AF")])
    assert read_manifest(tmp_path / "t.tsv").paths == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["t.tsv"]
    for name in ("a;b", "", "a\tb"):
        with pytest.raises(ManifestError, match="class name"):
            join_labels([name])
