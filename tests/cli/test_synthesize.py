import argparse

import pytest

from fairseq_ecg.cli import synthesize


def parse(arguments):
    parser = argparse.ArgumentParser()
    synthesize.add_parser(parser.add_subparsers())
    return parser.parse_args(["synthesize", *map(str, arguments)])


def test_the_command_writes_the_folder_and_counts_the_findings(tmp_path, capsys):
    folder = tmp_path / "made"
    sizes = ["--patients", 3, "--records-per-patient", 2, "--rate-hz", 100, "--duration-s", 4]
    args = parse([folder, *sizes, "--seed", 1])
    assert args.run(args) == 0
    out = capsys.readouterr().out
    assert out.startswith(f"6 records of 3 patients in {folder}")
    assert "NSR " in out
    assert len(list(folder.rglob("*.hea"))) == 6


def test_the_defaults_are_those_of_the_demonstration(tmp_path):
    args = parse([tmp_path])
    assert (args.patients, args.records_per_patient, args.seed) == (300, 2, 0)
    assert (args.rate_hz, args.duration_s) == (500.0, 10.0)


def test_a_folder_in_use_is_an_error_that_names_it(tmp_path):
    (tmp_path / "mine.txt").write_text("x", "ascii")
    args = parse([tmp_path])
    with pytest.raises(ValueError, match=str(tmp_path)):
        args.run(args)
