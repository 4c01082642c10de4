"""Options of every verb that goes through a folder of recordings with several processes."""

import argparse
import os
import sys

import pytest

from fairseq_ecg.cli import _building
from fairseq_ecg.cli.main import main


def parse(*words, overwrite=True):
    parser = argparse.ArgumentParser()
    _building.add_options(parser)
    if overwrite:
        _building.add_overwrite(parser)
    return _building.options_of(parser.parse_args(words))


def test_what_is_given_reaches_the_function():
    given = parse("--workers", "3", "--overwrite", "--progress")
    assert given == {"workers": 3, "overwrite": True, "progress": True}
    assert parse("--workers", "1", overwrite=False).keys() == {"workers", "progress"}


@pytest.mark.parametrize("terminal", [True, False])
def test_progress_is_shown_on_a_terminal_unless_said_otherwise(monkeypatch, terminal):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    assert parse()["progress"] is terminal
    assert parse("--no-progress")["progress"] is False


def test_processes_are_as_many_as_the_scheduler_grants(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {4, 7, 9}, raising=False)
    assert parse()["workers"] == 3
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 5)
    assert parse()["workers"] == 5


@pytest.mark.parametrize("verb", [["manifest", "code-15"], ["pack"], ["preprocess"]])
def test_the_verbs_have_these_options(verb, monkeypatch, capsys):
    monkeypatch.setattr(_building, "usable_cpus", lambda: 41)
    with pytest.raises(SystemExit):
        main([*verb, "--help"])
    assert "processes (all: 41)" in capsys.readouterr().out
