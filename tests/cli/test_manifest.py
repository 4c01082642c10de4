import argparse
import json

import pytest

from fairseq_ecg.cli import manifest
from fairseq_ecg.cli.main import main
from fairseq_ecg.corpora._base import CorpusError
from fairseq_ecg.data.builder import BuildError
from fairseq_ecg.data.store import Store
from tests.builds import contents, make_adu, write_record


@pytest.fixture
def root(tmp_path):
    for i in range(6):
        write_record(tmp_path / "ecg", f"r{i}", make_adu(i), comments=("Dx: 164889003",))
    (tmp_path / "ecg" / "r5.dat").unlink()
    return tmp_path / "ecg"


def call(*arguments):
    parser = argparse.ArgumentParser()
    manifest.add_parser(parser.add_subparsers(dest="verb"))
    args = parser.parse_args(["manifest", *map(str, arguments)])
    return args.run(args)


def test_a_folder_becomes_a_store_and_the_summary_says_so(root, tmp_path, capsys):
    dest = tmp_path / "dest"
    assert call("physionet2021", root, "--dest", dest, "--workers", 1, "--rate", 250) == 0
    text = capsys.readouterr().out
    assert "physionet2021: 5 of 6 records of 5 patients" in text
    assert "at 250 Hz" in text
    assert "missing_file  1" in text
    assert "cinc2021" in text
    store = Store(dest / "store")
    assert store.rate_hz == 250
    assert store.meta["corpus"] == "physionet2021"
    summary = json.loads((dest / "summary.json").read_text())
    assert summary["ledger"] == {"excluded": {"missing_file": 1}}
    assert summary["label_sets"]["cinc2021"]["counts"]["AF"] == 5


def test_the_same_command_again_changes_nothing_and_says_it_was_finished(root, tmp_path, capsys):
    call("wfdb", root, "--dest", tmp_path / "dest", "--workers", 2)
    before = contents(tmp_path / "dest")
    call("wfdb", root, "--dest", tmp_path / "dest", "--workers", 1)
    assert "was finished already" in capsys.readouterr().out
    assert contents(tmp_path / "dest") == before


def test_overwriting_removes_the_manifests_of_other_label_sets(root, tmp_path):
    dest = tmp_path / "dest"
    call("physionet2021", root, "--dest", dest)
    with pytest.raises(BuildError, match="corpus was 'physionet2021', now 'wfdb'"):
        call("wfdb", root, "--dest", dest)
    assert (dest / "cinc2021").is_dir()
    call("wfdb", root, "--dest", dest, "--overwrite")
    assert not (dest / "cinc2021").exists()
    assert (dest / "train.tsv").is_file()


def test_options_of_leads_reach_the_store(tmp_path):
    write_record(tmp_path / "ecg", "a", make_adu(n_leads=2), leads=("MLII", "V5"))
    dest = tmp_path / "dest"
    call("wfdb", tmp_path / "ecg", "--dest", dest, "--lead-map", "MLII=II", "--leads", "II,V5")
    store = Store(dest / "store")
    assert store.leads == ("II", "V5")
    assert store.lead_mask(0).all()


def test_each_corpus_has_its_own_options(capsys):
    with pytest.raises(SystemExit):
        call("ptb_xl", "--help")
    text = capsys.readouterr().out
    assert "--sampling {100,500}" in text
    assert "--databases" not in text
    assert "--dest" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("mimic", "x", "--dest", "y"), "choose from"),
        (("wfdb", "x"), "--dest"),
        (("wfdb", "x", "--dest", "y", "--lead-map", "MLII"), "must be NAME=LEAD"),
        (("wfdb", "x", "--dest", "y", "--lead-map", "MLII=VX"), "unknown lead"),
    ],
)
def test_wrong_arguments_are_refused(capsys, arguments, message):
    with pytest.raises(SystemExit):
        call(*arguments)
    assert message in capsys.readouterr().err


def test_folders_that_cannot_be_used_are_named(root, tmp_path):
    with pytest.raises(CorpusError, match="absent does not exist"):
        call("wfdb", tmp_path / "absent", "--dest", tmp_path / "dest")
    with pytest.raises(CorpusError, match="not the folder of PTB-XL"):
        call("ptb_xl", root, "--dest", tmp_path / "dest")
    assert not (tmp_path / "dest").exists()
    with pytest.raises(BuildError, match="cannot be written to"):
        call("wfdb", root, "--dest", "/proc/store")


def test_preprocessing_brings_its_own_rate_and_dtype(tmp_path):
    write_record(tmp_path / "in", "a", make_adu(n_samples=1000), rate=250)
    arguments = ["manifest", "wfdb", str(tmp_path / "in"), "--workers", "1"]
    chosen = ["--preprocessing", "ecg-fm"]
    assert main([*arguments, "--dest", str(tmp_path / "sd"), *chosen]) == 0
    store = Store(tmp_path / "sd" / "store")
    assert (store.rate_hz, store.meta["dtype"], store.unit) == (
        500, "float32", "standard deviations",
    )  # fmt: skip
    assert main([*arguments, "--dest", str(tmp_path / "low"), *chosen, "--rate", "250"]) == 0
    assert Store(tmp_path / "low" / "store").rate_hz == 250
    wrong = [*arguments, "--dest", str(tmp_path / "no"), *chosen, "--dtype", "int16"]
    assert main(wrong) == 2
    assert main([*arguments, "--dest", str(tmp_path / "mv")]) == 0
    store = Store(tmp_path / "mv" / "store")
    assert (store.meta["dtype"], store.unit) == ("int16", "mV")
