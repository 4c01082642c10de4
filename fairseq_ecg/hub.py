"""Exported folders on the Hugging Face hub, or in a folder that stands in its place.

Access is what the user's own login to the hub gives (``hf auth login``, or HF_TOKEN); nothing of it
is read or kept here.
"""

from __future__ import annotations

import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from fairseq_ecg import exported
from fairseq_ecg.data.atomic import replacing_files

_PART = r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?"
_REPOSITORY = re.compile(rf"(?:{_PART}/)?{_PART}")


class HubError(ValueError):
    """A repository cannot be written or read; the message says why and what to do."""


class _Hub(Protocol):
    """Where repositories are."""

    def push(self, folder: Path, repository: str, private: bool) -> str:
        """Write the files of a folder to a repository; return where that is."""

    def pull(self, repository: str, folder: Path, revision: str | None) -> None:
        """Fetch the files of a repository into a folder."""


def push_to_hub(
    folder: str | Path,
    repository: str,
    *,
    private: bool = True,
    hub_dir: str | Path | None = None,
) -> str:
    """Write an exported folder to a repository, which is made if it is new.

    Args:
        folder: What ``fairseq-ecg export`` wrote.
        repository: Its name, ``OWNER/NAME``.
        private: Whether a new repository is seen by its owner alone.
        hub_dir: Folder that stands in place of the hub; None: the Hugging Face hub.

    Returns:
        Where it is.

    Raises:
        ExportedError: If the folder is no export.
        HubError: If the name is none, huggingface_hub is not installed, or the hub refuses.
    """
    exported.read_config(folder)
    return _hub(hub_dir, repository).push(Path(folder), repository, private)


def pull_from_hub(
    repository: str,
    dest: str | Path,
    *,
    revision: str | None = None,
    hub_dir: str | Path | None = None,
) -> Path:
    """Fetch an exported folder from a repository, whole or not at all.

    Only files that ``fairseq-ecg export`` writes are fetched.

    Args:
        repository: Its name, ``OWNER/NAME``.
        dest: Folder to make; it must not exist.
        revision: Branch, tag or commit; None: the newest.
        hub_dir: As for ``push_to_hub``; such a folder has no revisions.

    Returns:
        The folder.

    Raises:
        ExportedError: If the repository holds no export.
        HubError: As ``push_to_hub``, or if the destination exists.
    """
    dest = Path(dest)
    if dest.exists():
        raise HubError(f"{dest} exists; give the name of a folder that does not, as --dest")
    hub = _hub(hub_dir, repository)
    with replacing_files(dest) as folder:
        hub.pull(repository, folder, revision)
        if not exported.is_exported(folder):
            raise HubError(
                f"{repository} holds no network of fairseq_ecg: it has no {exported.CONFIG_FILE}"
            )
        exported.read_config(folder)
    return dest


def _hub(hub_dir: str | Path | None, repository: str) -> _Hub:
    if not _REPOSITORY.fullmatch(repository) or ".." in repository:
        raise HubError(
            f"{repository!r} is no name of a repository; give OWNER/NAME, of letters, digits, "
            "'-', '_' and '.'"
        )
    if hub_dir is not None:
        return _LocalHub(Path(hub_dir))
    if find_spec("huggingface_hub") is None:
        raise HubError(
            "huggingface_hub is not installed: pip install 'fairseq-ecg[hub]', or give a folder "
            "that stands in place of the hub with --hub-dir"
        )
    from huggingface_hub import HfApi

    return _HuggingFaceHub(HfApi())


class _HuggingFaceHub:
    """The hub itself.

    Args:
        api: Its client.
    """

    def __init__(self, api: Any) -> None:
        self.api = api

    def push(self, folder: Path, repository: str, private: bool) -> str:
        """Make the repository if it is new, and upload what we wrote; see the base class."""
        try:
            self.api.create_repo(repository, private=private, exist_ok=True)
            self.api.upload_folder(
                repo_id=repository,
                folder_path=folder,
                commit_message="Export from fairseq_ecg",
                allow_patterns=list(exported.FILES),
            )
        except Exception as error:  # its transport has errors of its own
            raise HubError(
                f"{repository} cannot be written ({_reason(error)}). {folder} is complete: log in "
                f"(`hf auth login`), then `hf upload {repository} {folder}`"
            ) from error
        return f"https://huggingface.co/{repository}"

    def pull(self, repository: str, folder: Path, revision: str | None) -> None:
        """Download the files that we know; see the base class."""
        try:
            self.api.snapshot_download(
                repository,
                revision=revision,
                local_dir=folder,
                allow_patterns=list(exported.FILES),
            )
        except Exception as error:  # its transport has errors of its own
            raise HubError(
                f"{repository} cannot be fetched ({_reason(error)}); check name and revision, and "
                "for a private one log in (`hf auth login`)"
            ) from error
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # its notes for a later update


class _LocalHub:
    """A folder with one folder for each repository, such as on a disk that several people share.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def push(self, folder: Path, repository: str, private: bool) -> str:
        """Copy what we wrote; who may read it, the disk decides. See the base class."""
        del private
        dest = self.folder / repository
        with replacing_files(dest, obsolete=exported.FILES) as temporary:
            _copy(folder, temporary)
        return str(dest)

    def pull(self, repository: str, folder: Path, revision: str | None) -> None:
        """Copy the files that we know; see the base class."""
        if revision is not None:
            raise HubError("a folder in place of the hub has no revisions; leave out --revision")
        source = self.folder / repository
        if not source.is_dir():
            raise HubError(f"{self.folder} has no repository {repository}")
        _copy(source, folder)


def _copy(source: Path, dest: Path) -> None:
    for name in exported.FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, dest / name)


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
