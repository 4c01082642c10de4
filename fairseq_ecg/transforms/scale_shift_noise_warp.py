"""Views for contrastive learning: scaling, shift, noise and time-warp, some of them at once.

After Dhruv, "Enhancing Self-Supervised ECG Representation Learning", course report EE798R, 2024,
which names the four; the ranges are ours. Negation and inversion are not among them: those are
classes of the task that this is combined with (``transforms/recognition.py``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.transforms.perturbation import Perturbation, option, register_perturbation
from fairseq_ecg.transforms.recognition import add_noise, draw_warp, warp

_CHANGES = ("scaling", "shift", "noise", "warp")


@register_perturbation("scale_shift_noise_warp")
@dataclass(frozen=True)
class ScaleShiftNoiseWarp(Perturbation):
    """Scale, shift around the ends, add noise and warp, each with a chance, one of them at least.

    All leads are changed alike. Draws, in order: which of the four; if none, one with equal chance;
    then for those chosen, in the order of their application: the factor; the shift, rounded to
    samples; SNR in dB and T standard normal numbers in single precision; the factor of the
    time-warp and what ``recognition.draw_warp`` draws.

    Args:
        view_chance: Chance of each of the four.
        view_scaling: Least and largest factor of the samples.
        view_shift_s: Largest shift to either side, in seconds.
        view_snr_db: Least and largest ratio of the power of a lead to that of its noise, in dB.
        view_warp_pieces: Pieces that become longer or shorter.
        view_warp_factor: Least and largest factor by which some become longer, the others shorter.
        p: Probability that a segment is touched at all, in [0, 1].

    Raises:
        ValueError: If a value lies outside its range, or two are not in order.
    """

    view_chance: float = option(
        0.5, "scale_shift_noise_warp: chance of each of the four, at least one", low=0, high=1
    )
    view_scaling: Any = option(
        (0.8, 1.2), "scale_shift_noise_warp: least and largest factor of the samples"
    )
    view_shift_s: float = option(
        0.5, "scale_shift_noise_warp: largest circular shift to either side", "s", low=0
    )
    view_snr_db: Any = option(
        (10.0, 25.0), "scale_shift_noise_warp: least and largest ratio of signal to noise", "dB"
    )
    view_warp_pieces: int = option(
        9, "scale_shift_noise_warp: pieces that become longer or shorter", low=2
    )
    view_warp_factor: Any = option(
        (1.02, 1.1), "scale_shift_noise_warp: least and largest factor of pieces that grow"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        least = {"view_scaling": 0.0, "view_snr_db": -np.inf, "view_warp_factor": 1.0}
        for name, lowest in least.items():
            _check_range(name, getattr(self, name), lowest)

    def draw(self, signal: EcgSignal, rng: np.random.Generator) -> tuple[dict[str, Any]]:
        """Return what is drawn for the changes that are chosen, by their names."""
        chosen = rng.random(len(_CHANGES)) < self.view_chance
        if not chosen.any():
            chosen[rng.integers(len(_CHANGES))] = True
        n_samples = signal.n_samples
        draws = {
            "scaling": lambda: rng.uniform(*self.view_scaling),
            "shift": lambda: round(
                rng.uniform(-self.view_shift_s, self.view_shift_s) * signal.rate_hz
            ),
            "noise": lambda: (
                rng.uniform(*self.view_snr_db),
                rng.standard_normal(n_samples, dtype=np.float32),
            ),
            "warp": lambda: draw_warp(
                n_samples, self.view_warp_pieces, rng.uniform(*self.view_warp_factor), rng
            ),
        }
        return ({name: draws[name]() for name, yes in zip(_CHANGES, chosen, strict=True) if yes},)

    def apply(self, signals: Sequence[EcgSignal], changes: Sequence[dict[str, Any]]) -> None:
        """Change ``values_mv`` (float32 [C, T], mV) in place, signal by signal."""
        for signal, change in zip(signals, changes, strict=True):
            values = signal.values_mv
            values *= np.float32(change.get("scaling", 1.0))
            if "shift" in change:
                values[:] = np.roll(values, change["shift"], axis=1)
            if "noise" in change:
                snr_db, white = change["noise"]
                values[:] = add_noise(values, white, snr_db)
            if "warp" in change:
                values[:] = warp(values, change["warp"])


def _check_range(name: str, values: Any, lowest: float) -> None:
    """Refuse what is no pair of finite numbers in order."""
    pair = isinstance(values, list | tuple) and len(values) == 2
    if not pair or not all(np.isfinite(v) for v in values) or not lowest <= values[0] <= values[1]:
        wanted = f" from {lowest:g} on" if np.isfinite(lowest) else ""
        raise ValueError(f"{name} must be two finite numbers in order{wanted}, got {values!r}")
