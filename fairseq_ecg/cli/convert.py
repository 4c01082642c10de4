"""``fairseq-ecg convert``: a checkpoint from one layout to another."""

import argparse

from fairseq_ecg import interop
from fairseq_ecg.checkpoint import CONTRACT_KEYS, Checkpoint
from fairseq_ecg.conversion import FORMATS, convert_checkpoint


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the verb to the command."""
    parser = subparsers.add_parser("convert", help="write a checkpoint in another layout")
    parser.add_argument("source", metavar="IN", help="checkpoint to read (.pt), of any layout")
    parser.add_argument("dest", metavar="OUT", help="checkpoint to write (.pt)")
    parser.add_argument(
        "--to", default=FORMATS[0], choices=FORMATS, help="layout (default: %(default)s)"
    )
    parser.add_argument(
        "--kind",
        choices=tuple(interop.KINDS),
        help="how the data of a foreign checkpoint were prepared (the file seldom says it)",
    )
    parser.add_argument(
        "--encoder-only",
        action="store_true",
        help="write the encoder alone, without pretraining modules and heads",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Convert and print what the network expects of its input."""
    written = convert_checkpoint(
        args.source, args.dest, args.to, kind=args.kind, encoder_only=args.encoder_only
    )
    count = sum(tensor.numel() for tensor in written.state.values())
    print(f"{args.dest}: {written.model_name}, {count:,} numbers, layout {args.to}")
    for key in CONTRACT_KEYS:
        print(f"{key:>14}  {_shown(written, key)}")
    return 0


def _shown(checkpoint: Checkpoint, key: str) -> str:
    value = checkpoint.contract.get(key)
    if value is None:
        return "not known"
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
