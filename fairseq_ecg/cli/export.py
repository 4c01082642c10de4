"""``fairseq-ecg export``: a checkpoint as a folder that runs elsewhere, for the hub too."""

import argparse
import json
from pathlib import Path
from typing import Any

from fairseq_ecg import interop
from fairseq_ecg.export import FORMATS, PURPOSES, Export, ExportError, export_checkpoint
from fairseq_ecg.hub import push_to_hub


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the verb to the command."""
    parser = subparsers.add_parser(
        "export",
        help="write a checkpoint as a folder of safetensors, ONNX and torch.export",
        epilog="What is written is a repository of the Hugging Face hub as it stands. Its README "
        "says how to run the network without this package.",
    )
    parser.add_argument("checkpoint", metavar="CHECKPOINT", help="checkpoint (.pt) of any layout")
    parser.add_argument("--dest", required=True, type=Path, help="folder to make")
    parser.add_argument(
        "--format",
        dest="formats",
        type=lambda text: text.split(","),
        metavar="FORMAT,...",
        help=f"which of {', '.join(FORMATS)} (default: all; for fine-tuning safetensors)",
    )
    parser.add_argument(
        "--for",
        dest="purpose",
        default=PURPOSES[0],
        choices=PURPOSES,
        help="finetuning: the encoder alone, as a checkpoint too (default: %(default)s)",
    )
    parser.add_argument(
        "--kind",
        choices=tuple(interop.KINDS),
        help="how the data of a foreign checkpoint were prepared (the file seldom says it)",
    )
    parser.add_argument(
        "--contract",
        type=Path,
        metavar="JSON",
        help="file with what the checkpoint does not know of its input, such as "
        '{"rate_hz": 500, "unit": "mV"}',
    )
    parser.add_argument(
        "--push-to-hub", metavar="REPOSITORY", help="upload the folder as OWNER/NAME"
    )
    parser.add_argument(
        "--public", action="store_true", help="make a new repository public (default: private)"
    )
    parser.add_argument(
        "--hub-dir", type=Path, metavar="FOLDER", help="folder that stands in place of the hub"
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Export, print what was written, and upload it if asked for."""
    if args.push_to_hub is None and (args.hub_dir is not None or args.public):
        raise ExportError("--hub-dir and --public say where --push-to-hub writes; give that too")
    written = export_checkpoint(
        args.checkpoint,
        args.dest,
        args.formats,
        purpose=args.purpose,
        kind=args.kind,
        contract=None if args.contract is None else _read(args.contract),
    )
    print(describe(written))
    if args.push_to_hub is not None:
        place = push_to_hub(
            args.dest, args.push_to_hub, private=not args.public, hub_dir=args.hub_dir
        )
        print(f"pushed to {place}")
    return 0


def describe(written: Export) -> str:
    """Return what was written as text."""
    lines = [f"{written.folder}: {written.model_name}, {written.parameters:,} parameters"]
    if written.outputs:
        more = "any number" if written.step == 1 else f"any multiple of {written.step}"
        other = f", or {more} more or fewer" if written.step else " only"
        lines.append(f"graphs: {written.n_samples} samples{other}; {', '.join(written.outputs)}")
    lines += [
        f"largest difference to PyTorch, {name}: {value:.1e}"
        for name, value in written.differences.items()
    ]
    return "\n".join([*lines, f"files: {', '.join(written.files)}"])


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExportError(f"{path} is no JSON file: {error}") from None
    if not isinstance(content, dict):
        raise ExportError(f'{path} holds no dictionary; write {{"rate_hz": 500, "unit": "mV"}}')
    return content
