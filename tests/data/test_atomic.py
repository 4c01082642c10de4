"""Folders of results that appear whole or not at all."""

import errno
import os

import pytest

from fairseq_ecg.data.atomic import replacing_files, write_text
from tests.builds import contents


def write(folder, **files):
    with replacing_files(folder, obsolete=["a", "b"]) as temporary:
        for name, text in files.items():
            write_text(temporary / name, text)


def test_a_new_folder_has_all_files_and_nothing_beside_it(tmp_path):
    write(tmp_path / "new" / "out", a="1", b="2")
    assert contents(tmp_path) == {"new/out/a": b"1", "new/out/b": b"2"}
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["out"]


def test_an_old_folder_loses_what_is_obsolete_and_keeps_what_is_foreign(tmp_path):
    write(tmp_path, a="1", b="2")
    (tmp_path / "foreign").write_text("3")
    write(tmp_path, a="4", c="5")
    assert contents(tmp_path) == {"a": b"4", "c": b"5", "foreign": b"3"}


def fail(folder):
    with replacing_files(folder, obsolete=["a"]) as temporary:
        write_text(temporary / "a", "2")
        raise KeyError


@pytest.mark.parametrize("folder", ["out", "other"])
def test_an_error_leaves_everything_as_it_was(tmp_path, folder):
    write(tmp_path / "out", a="1")
    with pytest.raises(KeyError):
        fail(tmp_path / folder)
    assert contents(tmp_path) == {"out/a": b"1"}
    assert os.listdir(tmp_path) == ["out"]


def test_a_full_disk_leaves_everything_as_it_was(tmp_path, monkeypatch):
    write(tmp_path / "out", a="1")

    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("fairseq_ecg.data.atomic.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write(tmp_path / "out", a="2", b="3")
    assert contents(tmp_path) == {"out/a": b"1"}
    assert os.listdir(tmp_path) == ["out"]


def test_the_folder_one_is_in_may_be_named_by_a_dot(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    write(".", a="1")
    assert contents(tmp_path) == {"here/a": b"1"}


def test_a_file_of_that_name_is_refused(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(NotADirectoryError, match="out is a file; give another name"):
        write(tmp_path / "out", a="1")
