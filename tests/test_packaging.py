"""What an installed wheel holds, and that importing it leaves other people's logging alone."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
TRAVELS = ("fairseq_ecg", "hydra_plugins", "examples", "manifests")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """Return the names in a wheel built from the files of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
    for name in TRAVELS:
        shutil.copytree(REPOSITORY / name, folder / "source" / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "fairseq_ecg_launch.py"):
        shutil.copy(REPOSITORY / name, folder / "source" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-build-isolation", "--no-deps"]
    done = subprocess.run(
        [*command, "-w", str(folder), str(folder / "source")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
        return set(archive.namelist())


def files(folder: str, pattern: str) -> set[str]:
    return {str(path.relative_to(REPOSITORY)) for path in (REPOSITORY / folder).rglob(pattern)}


def test_every_module_travels_in_the_wheel(wheel):
    modules = files("fairseq_ecg", "*.py") | files("hydra_plugins", "*.py")
    assert modules | {"fairseq_ecg_launch.py"} <= wheel
    assert "hydra_plugins/__init__.py" not in wheel  # others put their plugins there too


def test_presets_and_vocabularies_travel_inside_the_package(wheel):
    for folder in ("examples", "manifests"):
        expected = {f"fairseq_ecg/{name}" for name in files(folder, "*.*")}
        assert expected
        assert expected <= wheel


def test_importing_the_package_leaves_the_root_logger_as_it_was():
    program = (
        "import logging, fairseq_ecg; root = logging.getLogger(); "
        "print(root.level == logging.WARNING and not root.handlers)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["True"], done.stderr[-2000:]
