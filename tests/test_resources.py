import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fairseq_ecg import resources


def test_the_checkout_is_found():
    assert (resources.manifests_dir() / "physionet2021" / "weights.csv").is_file()
    assert resources.examples_dir().is_dir()
    assert len(resources.challenge_labels()) == 26


def test_an_installed_package_finds_its_own_folder_first(tmp_path, monkeypatch):
    package = tmp_path / "site-packages" / "fairseq_ecg"
    (package / "manifests").mkdir(parents=True)
    (tmp_path / "site-packages" / "examples").mkdir()
    monkeypatch.setattr(resources, "_PACKAGE", package)
    assert resources.manifests_dir() == package / "manifests"
    with pytest.raises(FileNotFoundError, match="examples"):
        resources.examples_dir()


def test_every_folder_of_manifests_has_a_readme():
    folders = [path for path in resources.manifests_dir().iterdir() if path.is_dir()]
    assert folders
    assert all((folder / "README.md").is_file() for folder in folders)


def test_nothing_heavy_is_imported(tmp_path):
    shutil.copy(Path(resources.__file__), tmp_path / "alone.py")
    code = "import alone, sys; assert not {'torch', 'numpy', 'pandas'} & set(sys.modules)"
    subprocess.run([sys.executable, "-S", "-c", code], cwd=tmp_path, check=True)
