from fairseq_ecg.cli.main import main
from tests.corpora.test_code_15 import write_code_15


def test_the_command_writes_segments(tmp_path, capsys):
    root = write_code_15(tmp_path / "in", exams=[11, 12, 13], missing=[12])
    dest = tmp_path / "out"
    arguments = ["preprocess", "code-15", str(root), "--dest", str(dest), "--workers", "1"]
    assert main([*arguments, "--segment-seconds", "1"]) == 0
    assert capsys.readouterr().out.startswith("2 exams, 6 segments in ")
    assert sorted(path.name for path in (dest / "org").iterdir()) == [
        "code_15_11.mat",
        "code_15_13.mat",
    ]
    assert len(list((dest / "segmented").iterdir())) == 6
    assert not (dest / "manifests").exists()


def test_the_command_divides_the_patients(tmp_path, capsys):
    root = write_code_15(tmp_path / "in", exams=[11, 12, 21, 31])
    words = ["preprocess", "code-15", str(root), "--dest", str(tmp_path / "out"), "--workers", "1"]
    words += ["--segment-seconds", "1", "--splits", "--valid-fraction", "0", "--seed", "1"]
    assert main([*words, "--test-fraction", "0.4"]) == 0
    assert "exams by split: train " in capsys.readouterr().out
    manifests = tmp_path / "out" / "manifests"
    assert sorted(path.name for path in manifests.iterdir()) == ["test.tsv", "train.tsv"]


def test_segments_without_a_sample_are_refused(tmp_path, capsys):
    root = write_code_15(tmp_path / "in", exams=[11])
    arguments = ["preprocess", "code-15", str(root), "--dest", str(tmp_path / "out")]
    assert main([*arguments, "--segment-seconds", "0"]) == 2
    assert "must have a sample at least" in capsys.readouterr().err
