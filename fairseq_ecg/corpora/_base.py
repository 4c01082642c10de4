"""What a corpus is, how one is registered, and how patients are divided among splits."""

from __future__ import annotations

import abc
import dataclasses
import hashlib
import importlib
import pkgutil
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from fairseq_ecg.data.ingest import RecordEntry

SPLITS = ("train", "valid", "test")
DATE = "date:"
"""Prefix of a code that is no diagnosis but the day of a recording, YYYY-MM-DD."""

_CORPORA: dict[str, type[Corpus]] = {}


class CorpusError(ValueError):
    """A corpus that does not exist, or a folder that does not hold it."""


@dataclass(frozen=True)
class LabelSet:
    """One way of turning a recording's codes into classes.

    Attributes:
        names: Class names in column order.
        rule: Codes of one recording -> its class names, in any order.
        keep_unlabelled: True keeps recordings to which no class applies, with an empty label;
            False leaves them out of this label set's manifests. Recordings about which the
            source says nothing at all are left out either way.
        splits: Record to split, of a label set with a division of its own: a recording that is not
            named is in none of its manifests. None: the division of the entries.
        subsets: Further manifests by name, such as ``train_010``: which of the recordings in
            ``train`` are in it.
    """

    names: tuple[str, ...]
    rule: Callable[[Sequence[str]], Iterable[str]]
    keep_unlabelled: bool = False
    splits: Mapping[str, str] | None = None
    subsets: Mapping[str, Collection[str]] = dataclasses.field(default_factory=dict)

    def apply(self, codes: Sequence[str] | None) -> list[str] | None:
        """Return one recording's class names in column order; None if it is left out.

        Args:
            codes: All its codes; None if the source says nothing about it.
        """
        if codes is None:
            return None
        found = set(self.rule(codes))
        names = [name for name in self.names if name in found]
        return names if names or self.keep_unlabelled else None


def option(default: Any, description: str, choices: Sequence[Any] | None = None) -> Any:
    """Declare an option of a corpus: a dataclass field that the command line offers too.

    Args:
        default: Its value unless given.
        description: One line of help.
        choices: Allowed values, or None.
    """
    return dataclasses.field(
        default=default, metadata={"description": description, "choices": choices}
    )


@dataclass(frozen=True)
class Corpus(abc.ABC):
    """Where a public dataset keeps its recordings, labels, patients and official splits.

    Subclasses are frozen dataclasses whose fields are made with ``option``.
    """

    name: ClassVar[str] = ""

    def build_defaults(self) -> dict[str, Any]:
        """Return fields of ``BuildOptions`` that fit this corpus better than their defaults."""
        return {}

    @abc.abstractmethod
    def entries(self, root: Path) -> list[RecordEntry]:
        """List all recordings below a folder.

        Args:
            root: Folder of the dataset as distributed.

        Raises:
            CorpusError: If the folder does not hold this dataset; says what was expected.
        """

    def label_sets(self, root: Path) -> dict[str, LabelSet]:
        """Return the label sets of this corpus by name; none by default.

        Args:
            root: Folder of the dataset.
        """
        del root
        return {}

    def source_facts(self, root: Path) -> dict[str, Any]:
        """Return what ``summary.json`` says about the files of labels; nothing by default.

        Args:
            root: Folder of the dataset.
        """
        del root
        return {}

    def remarks(self, summary: Mapping[str, Any]) -> list[str]:
        """Return lines that the printed summary of a build adds; none by default.

        Args:
            summary: Content of ``summary.json``.
        """
        del summary
        return []


CorpusClass = TypeVar("CorpusClass", bound=type[Corpus])


def register_corpus(name: str) -> Callable[[CorpusClass], CorpusClass]:
    """Register a corpus under the name that the command line takes.

    Args:
        name: The name; must be new.

    Returns:
        A class decorator.
    """
    name = name.replace("_", "-")

    def register(cls: CorpusClass) -> CorpusClass:
        if name in _CORPORA and _CORPORA[name].__qualname__ != cls.__qualname__:
            raise ValueError(f"corpus {name!r} is registered already, by {_CORPORA[name]}")
        cls.name = name
        _CORPORA[name] = cls
        return cls

    return register


def available_corpora() -> dict[str, type[Corpus]]:
    """Return all corpora by name, sorted. Every module of this package is imported for it."""
    package = importlib.import_module("fairseq_ecg.corpora")
    for module in pkgutil.iter_modules(package.__path__):
        if not module.name.startswith("_"):
            importlib.import_module(f"{package.__name__}.{module.name}")
    return dict(sorted(_CORPORA.items()))


def get_corpus(name: str, **options: Any) -> Corpus:
    """Make a corpus by name.

    Args:
        name: A registered name; an underscore counts as a hyphen.
        **options: Its options.

    Raises:
        CorpusError: If there is no such corpus, or no such option; lists what there is.
    """
    corpora = available_corpora()
    name = name.replace("_", "-")
    if name not in corpora:
        raise CorpusError(f"there is no corpus {name!r}; there are: {', '.join(corpora)}")
    known = {field.name: field for field in dataclasses.fields(corpora[name])}
    for key, value in options.items():
        if key not in known:
            raise CorpusError(
                f"corpus {name} has no option {key!r}; it has: {', '.join(known) or 'none'}"
            )
        choices = known[key].metadata["choices"]
        if choices is not None and value not in choices:
            raise CorpusError(f"{key} must be one of {list(choices)}, but is {value!r}")
    return corpora[name](**options)


def split_patients(
    patients: Iterable[str],
    valid_fraction: float,
    test_fraction: float,
    seed: int,
    fixed: Mapping[str, str] | None = None,
) -> dict[str, str]:
    """Divide patients among the splits, the same way whatever the order of the files.

    Patients are ordered by a hash of seed and name, and the first ones tested on. So the fractions
    are those of patients, exact up to rounding, and a split that is asked for is not empty as long
    as there are three patients.

    Args:
        patients: Names, repeated or not.
        valid_fraction: Share of the patients in ``valid``.
        test_fraction: Share of the patients in ``test``.
        seed: Another seed, another division.
        fixed: Patients whose split is given; they do not count towards the fractions.

    Returns:
        The split of every patient.

    Raises:
        CorpusError: If a fraction is negative or both make more than 1.
    """
    if min(valid_fraction, test_fraction) < 0 or valid_fraction + test_fraction > 1:
        raise CorpusError(
            "valid_fraction and test_fraction must not be negative nor exceed 1 together, but are "
            f"{valid_fraction} and {test_fraction}"
        )
    fixed = dict(fixed or {})
    free = sorted(set(patients) - set(fixed), key=lambda patient: rank(seed, patient))
    n_test = _share(test_fraction, len(free))
    n_valid = min(_share(valid_fraction, len(free)), len(free) - n_test)
    splits = ["test"] * n_test + ["valid"] * n_valid
    splits += ["train"] * (len(free) - len(splits))
    return fixed | dict(zip(free, splits, strict=True))


def _share(fraction: float, count: int) -> int:
    wanted = round(fraction * count)
    return max(wanted, 1) if fraction > 0 and count >= 3 else wanted


def rank(seed: int | str, name: str) -> bytes:
    """Return what puts names into an order of its own for each seed.

    Args:
        seed: A number, or a purpose and a number, such as ``valid:42``.
        name: Of what is ordered.
    """
    return hashlib.sha256(f"{seed}:{name}".encode("utf-8", "surrogateescape")).digest()
