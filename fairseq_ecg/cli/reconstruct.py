"""``fairseq-ecg reconstruct``: what a network puts where a recording was hidden, as a picture."""

import argparse
from pathlib import Path

from fairseq_ecg.data.block_mask import MODES
from fairseq_ecg.data.signal import MILLIVOLTS
from fairseq_ecg.plots.reconstruction import plot_reconstruction
from fairseq_ecg.reconstruction import Reconstruction, reconstruct


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the verb to the command."""
    parser = subparsers.add_parser(
        "reconstruct", help="draw a recording, what was hidden of it, and its reconstruction"
    )
    parser.add_argument(
        "--checkpoint", required=True, help="checkpoint of a pretraining that rebuilds (.pt)"
    )
    parser.add_argument(
        "--record", required=True, help="name in the manifest; without --data a WFDB record"
    )
    parser.add_argument("--data", help="folder of manifests")
    parser.add_argument("--split", default="test", help="which manifest (default: test)")
    parser.add_argument(
        "--window", type=int, default=0, help="which window of the recording (default: 0)"
    )
    parser.add_argument(
        "--mask-ratio", type=_share, help="share that is hidden (default: that of the training)"
    )
    parser.add_argument(
        "--mask-mode", choices=MODES, help="what is hidden (default: as in the training)"
    )
    parser.add_argument(
        "--seed", type=int, help="draws what is hidden (default: what a validation hides)"
    )
    parser.add_argument("--out", type=Path, required=True, help="the picture, .png, .pdf or .svg")
    parser.add_argument("--dpi", type=int, default=110, help="pixels per inch (%(default)s)")
    parser.set_defaults(run=run)


def _share(text: str) -> float:
    """Read a share of what can be hidden: something must be, and something must stay."""
    try:
        share = float(text)
    except ValueError:
        share = float("nan")
    if not 0 < share < 1:
        raise argparse.ArgumentTypeError(
            "must be above 0 (nothing would be hidden) and below 1 (nothing would be visible), "
            f"but is {text}"
        )
    return share


def run(args: argparse.Namespace) -> int:
    """Rebuild, draw and print."""
    result = reconstruct(
        args.checkpoint,
        args.record,
        args.data,
        args.split,
        window=args.window,
        seed=args.seed,
        mask_ratio=args.mask_ratio,
        mask_mode=args.mask_mode,
    )
    draw(result, args.out, args.dpi)
    for name, value in result.metrics.items():
        print(f"{name:>14}  {value:.4f}")
    print(args.out)
    return 0


def draw(result: Reconstruction, path: Path, dpi: int = 110) -> Path:
    """Draw a reconstruction.

    Args:
        result: What ``reconstruct`` returned.
        path: The picture, .png, .pdf or .svg.
        dpi: Pixels per inch of a .png.

    Returns:
        The path.
    """
    return plot_reconstruction(
        result.original,
        result.made,
        result.hidden,
        path,
        title=result.record,
        note=describe(result),
        unit=result.unit,
        dpi=dpi,
        start_s=result.start_s,
    )


def describe(result: Reconstruction) -> str:
    """Return how much was hidden, and how well it was rebuilt, as one line of text."""
    parts = [
        result.model,
        f"{result.share:.0%} hidden in blocks of {1000 * result.block_s:.0f} ms",
        f"normalised MSE {result.metrics['nmse']:.3f}",
    ]
    if result.unit == MILLIVOLTS and result.norm_target == "none":
        root = result.metrics["mse_masked_uv2"] ** 0.5
        parts.append(f"root mean square error {root:.0f} \N{MICRO SIGN}V")
    if result.norm_target != "none":
        parts.append("level and size of each block are the original's, its shape the network's")
    return ", ".join(parts)
