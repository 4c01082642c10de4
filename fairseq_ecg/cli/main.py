"""``fairseq-ecg VERB ...``: parse, call, print.

Each verb is one file of this folder with a function ``add_parser``, and a plain function besides.
"""

import argparse
import errno
import importlib
import pkgutil
import sys
from collections.abc import Sequence
from types import ModuleType

from fairseq_ecg import cli


def verbs() -> list[ModuleType]:
    """Return the modules of this folder that have a verb, in the order of their names."""
    names = sorted(module.name for module in pkgutil.iter_modules(cli.__path__))
    modules = [importlib.import_module(f"{cli.__name__}.{name}") for name in names]
    return [module for module in modules if hasattr(module, "add_parser")]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = argparse.ArgumentParser(
        prog="fairseq-ecg",
        description="Pretrain, fine-tune and evaluate ECG models with fairseq.",
        epilog="Training: fairseq-hydra-train --user-dir fairseq_ecg --config-name PRESET "
        "KEY=VALUE ..., or the same after `fairseq-ecg train`.",
    )
    subparsers = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    subparsers.add_parser("train", help="train; the same as fairseq-hydra-train", add_help=False)
    for module in verbs():
        module.add_parser(subparsers)
    return parser


def main(arguments: Sequence[str]) -> int:
    """Run one verb and return its exit status; expected errors become one line on stderr."""
    args = build_parser().parse_args(arguments)
    try:
        return args.run(args)
    except (ValueError, OSError) as error:
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        way_out = "; make room where the results go, or name a place on another disk"
        words = f"{error}{way_out if full else ''}"
        print(f"fairseq-ecg {args.verb}: error: {words}", file=sys.stderr)
        return 2
