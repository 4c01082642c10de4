"""Seven forms of a window that a network learns to tell apart: itself and six transformed copies.

Sarkar and Etemad, IEEE Transactions on Affective Computing 13(3), 2022, with the arithmetic of the
authors' program. Pieces are counted, not measured, so that nothing depends on the
rate. Shapes: N windows, C leads, T samples, P pieces of floor(T / P) samples.

What is drawn for a window holds for all of its leads. A batch is one array, into which the forms
are computed window by window: a window stays in the processor's cache while its seven forms are
made, which is faster than one form of all windows after the other.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.transforms.perturbation import Perturbation

FORMS = ("original", "noise", "scaling", "negation", "inversion", "permutation", "time_warp")
_NOISE, _PERMUTATION, _WARP = (FORMS.index(name) for name in ("noise", "permutation", "time_warp"))

Generators = Callable[[int], np.random.Generator]
"""Gives the generator of a view of one window."""


def add_noise(
    values: np.ndarray, white: np.ndarray, snr_db: float, out: np.ndarray | None = None
) -> np.ndarray:
    """Add noise of the power mean(x^2) / 10^(SNR / 10) to each lead.

    Args:
        values: float32 [C, T].
        white: Standard normal, float32 [T]; the leads share it.
        snr_db: Ratio of the powers, in dB.
        out: Where the result goes, float32 [C, T], not ``values``; None: a new array.
    """
    power = np.einsum("ct,ct->c", values, values) / values.shape[1]
    deviation = np.sqrt(power / 10 ** (snr_db / 10)).astype(np.float32)
    noisy = np.multiply(deviation[:, None], white, out=out)
    noisy += values
    return noisy


def permute_pieces(
    values: np.ndarray, order: np.ndarray, out: np.ndarray | None = None
) -> np.ndarray:
    """Cut a window into P equal pieces and put them into another order.

    What remains behind the last piece stays there.

    Args:
        values: float32 [C, T].
        order: Piece that comes to each place, int64 [P].
        out: Where the result goes, float32 [C, T], not ``values``; None: a new array.
    """
    piece = values.shape[1] // len(order)
    samples = np.arange(values.shape[1])
    samples[: len(order) * piece] = (order[:, None] * piece + np.arange(piece)).ravel()
    return values.take(samples, axis=1, out=out, mode="clip")


def draw_warp(n_samples: int, n_pieces: int, factor: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a warp: where each sample of the result is taken from.

    ceil(P / 2) pieces, chosen at random, become ceil(L factor) samples long and the others
    ceil(L / factor), with L = floor(T / P); they are joined, and the result is cut out of that. Of
    a surplus of S samples the first one is uniform in 0..S - 1; if the joined pieces are too short,
    which those of a window of few samples can be, what remained behind the last piece follows them.
    So a window of fewer samples than pieces stays as it is.

    Draws, in order: the pieces; the start, if there is a surplus.

    Args:
        n_samples: T.
        n_pieces: P.
        factor: At least 1.
        rng: Draws.

    Returns:
        Positions within the window, in samples, float64 [T].
    """
    piece = n_samples // n_pieces
    stretched = np.zeros(n_pieces, dtype=bool)
    stretched[rng.permutation(n_pieces)[: math.ceil(n_pieces / 2)]] = True
    longer, shorter = (math.ceil(round(n, 9)) for n in (piece * factor, piece / factor))
    within = {True: _grid(piece, longer), False: _grid(piece, shorter)}
    parts = [k * piece + within[long] for k, long in enumerate(stretched.tolist())]
    positions = np.concatenate([*parts, np.arange(n_pieces * piece, n_samples)])
    surplus = sum(map(len, parts)) - n_samples
    start = int(rng.integers(surplus)) if surplus > 0 else 0
    return positions[start : start + n_samples]


def warp(values: np.ndarray, positions: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Interpolate a window linearly at other positions.

    Args:
        values: float32 [C, T].
        positions: In samples, within 0..T - 1, float64 [M].
        out: Where the result goes, float32 [C, M], not ``values``; None: a new array.
    """
    left = positions.astype(np.int64)
    right = np.minimum(left + 1, values.shape[1] - 1)
    warped = values.take(left, axis=1, out=out, mode="clip")
    step = values.take(right, axis=1)
    step -= warped
    step *= (positions - left).astype(np.float32)
    warped += step
    return warped


def kept_samples(window: np.ndarray) -> int:
    """Return the length of a window, [C, T], without the samples at its end where all are zero."""
    if window[:, -1].any():
        return window.shape[1]
    nonzero = np.flatnonzero(window.any(axis=0))
    return int(nonzero[-1]) + 1 if nonzero.size else 0


@dataclass(frozen=True)
class TransformedForms:
    """A window as it is, then with noise, scaled, negated, reversed, permuted and warped: `FORMS`.

    Zeros at the end of a window, as padding is, are cut off before and stand there again after.

    Args:
        snr_db: Ratio of the power of a window to that of its noise.
        scaling: What the samples are multiplied with.
        permutation_pieces: Pieces that change their places.
        warp_pieces: Pieces that become longer or shorter.
        warp_factor: How much longer; the others become shorter by the same factor.

    Raises:
        ValueError: If a value leaves a form equal to another one, or cannot work; names the field.
    """

    snr_db: float = 15.0
    scaling: float = 1.1
    permutation_pieces: int = 20
    warp_pieces: int = 9
    warp_factor: float = 1.05

    n_views = len(FORMS)

    def __post_init__(self) -> None:
        if not math.isfinite(self.snr_db):
            raise ValueError(f"snr_db must be finite, got {self.snr_db}")
        if not math.isfinite(self.scaling) or self.scaling in (0, 1, -1):
            raise ValueError(
                f"scaling must be a number other than 0, 1 and -1, got {self.scaling:g}"
            )
        for name in ("permutation_pieces", "warp_pieces"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} must be at least 2, got {getattr(self, name)}")
        if not 1 < self.warp_factor < math.inf:
            raise ValueError(f"warp_factor must be above 1, got {self.warp_factor:g}")

    @property
    def least_samples(self) -> int:
        """Fewest samples of a window: one in each piece."""
        return max(self.permutation_pieces, self.warp_pieces)

    def __call__(self, window: np.ndarray, generators: Generators) -> np.ndarray:
        """Return the forms of one window, float32 [C, T], as [7, C, T]; see ``batch``."""
        return self.batch(window[None], [generators], ["the window"])[0]

    def batch(
        self, windows: np.ndarray, generators: Sequence[Generators], names: Sequence[str]
    ) -> np.ndarray:
        """Return the forms of a batch.

        Args:
            windows: float32 [N, C, T].
            generators: Of each window; asked for those of the views that draw.
            names: Of each window, for messages.

        Returns:
            float32 [N, 7, C, T]; a view of an array [N * 7, C, T], which is a batch as it stands.

        Raises:
            ValueError: If a window is constant in all leads, or has fewer samples than pieces.
        """
        n, n_leads, n_samples = windows.shape
        rows = np.empty((n * self.n_views, n_leads, n_samples), dtype=np.float32)
        forms = rows.reshape(n, self.n_views, n_leads, n_samples)
        for out, window, of_view, name in zip(forms, windows, generators, names, strict=True):
            self.write(out, window, of_view, name)
        return forms

    def write(self, out: np.ndarray, window: np.ndarray, generators: Generators, name: str) -> None:
        """Write the forms of one window, float32 [C, T], into ``out``, float32 [7, C, T]."""
        kept = kept_samples(window)
        self._check(window[:, :kept], name)
        out[..., kept:] = 0.0
        out, window = out[..., :kept], window[:, :kept]
        white = generators(_NOISE).standard_normal(kept, dtype=np.float32)
        order = generators(_PERMUTATION).permutation(self.permutation_pieces)
        positions = draw_warp(kept, self.warp_pieces, self.warp_factor, generators(_WARP))
        out[0] = window
        add_noise(window, white, self.snr_db, out=out[1])
        np.multiply(window, np.float32(self.scaling), out=out[2])
        np.negative(window, out=out[3])
        out[4] = window[:, ::-1]
        permute_pieces(window, order, out=out[5])
        warp(window, positions, out=out[6])

    def _check(self, window: np.ndarray, name: str) -> None:
        if (window == window[:, :1]).all():
            raise ValueError(
                f"{name} is constant, so its forms cannot be told apart; leave such a recording "
                "out of the manifest (`fairseq-ecg manifest ... --flat-leads exclude` leaves out "
                "those of which a whole lead is constant)"
            )
        if window.shape[1] < self.least_samples:
            raise ValueError(
                f"{name} has {window.shape[1]} samples, zeros at its end not counted, too few for "
                f"{self.least_samples} pieces; leave such a recording out of the manifest, or give "
                "fewer pieces"
            )


@dataclass(frozen=True, kw_only=True)
class FormsAndPair(TransformedForms):
    """The seven forms, and two perturbed copies for a contrastive loss: views 7 and 8.

    Args:
        pair: Perturbs the copies.
        rate_hz: Of the windows.
        leads: Names of their rows.
        **forms: As for ``TransformedForms``.
    """

    pair: Perturbation
    rate_hz: float
    leads: tuple[str, ...]

    n_views = len(FORMS) + 2

    def write(self, out: np.ndarray, window: np.ndarray, generators: Generators, name: str) -> None:
        """Write all views of one window, float32 [C, T], into ``out``, float32 [9, C, T]."""
        super().write(out[: len(FORMS)], window, generators, name)
        kept = kept_samples(window)
        for view in range(len(FORMS), self.n_views):
            out[view] = window
            copy = EcgSignal(out[view, :, :kept], self.rate_hz, self.leads)
            self.pair(copy, generators(view))


@lru_cache(maxsize=256)
def _grid(length: int, new_length: int) -> np.ndarray:
    """Return where a piece is sampled anew: the middles of equal parts of it, float64 [M].

    So its time runs by the same factor from end to end; in the outer halves of its first and last
    sample it is constant.
    """
    middles = (np.arange(new_length) + 0.5) * (length / max(new_length, 1)) - 0.5
    grid = middles.clip(0, max(length - 1, 0))
    grid.flags.writeable = False
    return grid
