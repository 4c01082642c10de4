from fairseq_ecg.cli.main import main
from fairseq_ecg.data.manifest import read_manifest
from tests.interop.test_pack import newer


def test_the_command_packs_and_says_what_it_found(tmp_path, capsys):
    folder = newer(tmp_path / "in")
    (folder / "mat" / "r0_1.mat").unlink()
    arguments = ["pack", str(folder), "--dest", str(tmp_path / "out"), "--workers", "1"]
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert text.startswith("11 segments, 0.0 h at 100 Hz, in standard deviations\n")
    assert "train: 11 lines (plain), 4 recordings with pairs, 11 with labels, 1 left out" in text
    assert "excluded: 1 missing_file" in text
    assert len(read_manifest(tmp_path / "out" / "train.tsv")) == 11
    assert main(arguments) == 0
    assert "(was finished already)" in capsys.readouterr().out


def test_a_folder_of_something_else_is_one_line_on_stderr(tmp_path, capsys):
    assert main(["pack", str(tmp_path), "--dest", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("fairseq-ecg pack: error: ")
    assert error.count("\n") == 1
