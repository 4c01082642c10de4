"""``fairseq-ecg perturb``: a picture of each perturbation, or of the seven forms of a window."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fairseq_ecg.corpora.synthetic import simulate
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.data.sources import read_recording
from fairseq_ecg.plots.perturbations import plot_perturbation
from fairseq_ecg.transforms.perturbation import (
    Perturbation,
    available_perturbations,
    build_perturbation,
    options_of,
    perturbation_keys,
)
from fairseq_ecg.transforms.recognition import FORMS, TransformedForms


def add_parser(subparsers: argparse._SubParsersAction[Any]) -> None:
    """Add the verb to the command, with one option per key of the perturbations."""
    parser = subparsers.add_parser(
        "perturb", help="draw what each perturbation does to a recording"
    )
    parser.add_argument(
        "record",
        nargs="?",
        type=Path,
        help="a WFDB record or a .mat segment of fairseq-signals (default: a made-up recording)",
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for NAME.png")
    parser.add_argument(
        "--perturbations",
        type=lambda text: text.split(","),
        metavar="NAME,...",
        help=f"which of {', '.join(available_perturbations())} (default: all)",
    )
    parser.add_argument(
        "--transforms",
        metavar="LEAD",
        help="draw this lead in its forms of task.views=transforms instead, with the defaults",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the draws (default: %(default)s)")
    parser.add_argument(
        "--segment-s",
        type=float,
        default=5.0,
        help="seconds from the beginning to draw (default: %(default)g)",
    )
    parser.add_argument("--dpi", type=int, default=80, help="pixels per inch (%(default)s)")
    group = parser.add_argument_group("keys of the perturbations")
    for field in perturbation_keys().values():
        group.add_argument(f"--{field.name.replace('_', '-')}", **_kind(field))
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Draw and say what was written."""
    signal = made_up(args.segment_s) if args.record is None else read_recording(args.record)
    signal = first_seconds(signal, args.segment_s)
    if args.transforms is not None:
        print(draw_forms(signal, args.transforms, args.out, seed=args.seed, dpi=args.dpi))
        return 0
    pictures = draw_perturbations(
        signal,
        args.out,
        args.perturbations,
        {key: getattr(args, key) for key in perturbation_keys()},
        seed=args.seed,
        dpi=args.dpi,
    )
    for picture in pictures:
        print(picture)
    return 0


def draw_perturbations(
    signal: EcgSignal,
    folder: Path,
    names: Sequence[str] | None = None,
    options: Mapping[str, Any] | None = None,
    seed: int = 0,
    dpi: int = 80,
) -> list[Path]:
    """Draw a recording before and after each perturbation alone.

    Args:
        signal: The recording, in mV.
        folder: Where ``NAME.png`` go.
        names: Which perturbations; all if None.
        options: Values of their keys; defaults for those left out.
        seed: Each perturbation draws from a fresh generator of this seed.
        dpi: Pixels per inch.

    Returns:
        The pictures.

    Raises:
        ValueError: If there is no such perturbation, or one cannot work on this recording.
    """
    chosen = {name: build_perturbation(name, 1.0, options or {}) for name in names or _names()}
    pictures = []
    for name, perturbation in chosen.items():
        copy = EcgSignal(signal.values_mv.copy(), signal.rate_hz, signal.leads)
        after = perturbation(copy, np.random.default_rng(seed))
        picture = folder / f"{name}.png"
        values = describe(perturbation)
        pictures.append(plot_perturbation(signal, after, picture, name, values, dpi=dpi))
    return pictures


def draw_forms(signal: EcgSignal, lead: str, folder: Path, seed: int = 0, dpi: int = 80) -> Path:
    """Draw one lead in the seven forms of transformation recognition, each over the original.

    Args:
        signal: The recording, in mV.
        lead: Which of its leads.
        folder: Where ``transforms.png`` goes.
        seed: Of the draws.
        dpi: Pixels per inch.

    Raises:
        ValueError: If the recording has no such lead, or it has no forms.
    """
    if lead not in signal.leads:
        raise ValueError(f"--transforms must be one of {', '.join(signal.leads)}, but is {lead}")
    forms = TransformedForms()
    values = signal.values_mv[signal.leads.index(lead)]
    after = forms(values[None], lambda view: np.random.default_rng((seed, view)))[:, 0]
    before = np.broadcast_to(values, after.shape)
    pictured = (EcgSignal(rows, signal.rate_hz, FORMS) for rows in (before, after))
    keys = dataclasses.asdict(forms).items()
    texts = {
        "title": f"the forms of lead {lead}",
        "values": ",  ".join(f"{k} {v:g}" for k, v in keys),
    }
    return plot_perturbation(*pictured, folder / "transforms.png", **texts, leads=FORMS, dpi=dpi)


def describe(perturbation: Perturbation) -> str:
    """Return the options of a perturbation and their units as text."""
    parts = []
    for field in options_of(type(perturbation)).values():
        value = getattr(perturbation, field.name)
        several = value if isinstance(value, list | tuple) else [value]
        text = "/".join(f"{v:g}" if isinstance(v, float) else str(v) for v in several)
        parts.append(f"{field.name} {text} {field.metadata['unit']}".rstrip())
    return ",  ".join(parts)


def made_up(seconds: float) -> EcgSignal:
    """Return a recording without noise of a patient who does not exist, [12, T] at 500 Hz, mV."""
    return simulate(0, 0, 0, duration_s=max(seconds, 2.0), findings=["NSR"], noise=False).signal


def first_seconds(signal: EcgSignal, seconds: float) -> EcgSignal:
    """Return the beginning of a recording.

    Raises:
        ValueError: If nothing, or less than one sample, is asked for.
    """
    n_samples = round(seconds * signal.rate_hz)
    if n_samples < 1:
        raise ValueError(f"--segment-s must be at least one sample, but is {seconds:g}")
    return EcgSignal(signal.values_mv[:, :n_samples], signal.rate_hz, signal.leads)


def _names() -> list[str]:
    return list(available_perturbations())


def _kind(field: dataclasses.Field) -> dict[str, Any]:
    """Return how an option is read from the command line."""
    default = field.default
    kind: dict[str, Any] = {"default": default, "help": f"{field.metadata['help']} (%(default)s)"}
    if isinstance(default, bool):
        return {**kind, "action": argparse.BooleanOptionalAction}
    if isinstance(default, tuple):
        return {**kind, "nargs": "+", "type": type(default[0])}
    return {**kind, "type": type(default)}
