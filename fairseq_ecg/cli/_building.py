"""Options of every verb that goes through a folder of recordings with several processes."""

import argparse
import os
import sys
from typing import Any


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add ``--workers`` and ``--progress`` to a verb.

    Args:
        parser: The verb's parser.
    """
    parser.add_argument(
        "--workers", type=int, default=usable_cpus(), help="processes (all: %(default)s)"
    )
    add_progress(parser)


def add_progress(parser: argparse.ArgumentParser) -> None:
    """Add ``--progress`` to a verb.

    Args:
        parser: The verb's parser.
    """
    parser.add_argument(
        "--progress",
        action=argparse.BooleanOptionalAction,
        help="show a progress bar (on a terminal by default)",
    )


def progress_of(args: argparse.Namespace) -> bool:
    """Return whether a progress bar shall be shown.

    Args:
        args: The parsed arguments.
    """
    return sys.stderr.isatty() if args.progress is None else args.progress


def add_overwrite(parser: argparse.ArgumentParser) -> None:
    """Add ``--overwrite`` to a verb whose runs go on where they were stopped.

    Args:
        parser: The verb's parser.
    """
    parser.add_argument(
        "--overwrite", action="store_true", help="discard what an earlier run left in DEST"
    )


def options_of(args: argparse.Namespace) -> dict[str, Any]:
    """Return the keywords that the options give to the function behind the verb.

    Args:
        args: The parsed arguments.
    """
    options = {
        "workers": args.workers,
        "progress": progress_of(args),
    }
    if hasattr(args, "overwrite"):
        options["overwrite"] = args.overwrite
    return options


def usable_cpus() -> int:
    """Return how many CPUs this process may use; a scheduler may have granted it few of many."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
