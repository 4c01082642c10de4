"""``fairseq-ecg pull``: an exported network from the Hugging Face hub."""

import argparse
from pathlib import Path

from fairseq_ecg.hub import pull_from_hub


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the verb to the command."""
    parser = subparsers.add_parser(
        "pull", help="fetch what `fairseq-ecg export --push-to-hub` uploaded"
    )
    parser.add_argument("repository", metavar="REPOSITORY", help="OWNER/NAME")
    parser.add_argument("--dest", required=True, type=Path, help="folder to make")
    parser.add_argument("--revision", help="branch, tag or commit (default: the newest)")
    parser.add_argument(
        "--hub-dir", type=Path, metavar="FOLDER", help="folder that stands in place of the hub"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Fetch, and print where it is."""
    folder = pull_from_hub(args.repository, args.dest, revision=args.revision, hub_dir=args.hub_dir)
    print(f"{args.repository} is in {folder}")
    return 0
