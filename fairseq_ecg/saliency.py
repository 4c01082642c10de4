"""Which samples of a recording a network's answer rests on.

Gradient times input; integrated gradients (Sundararajan et al., "Axiomatic Attribution for Deep
Networks", ICML 2017, section 3) from a flat line, whose sum is the difference of the two logits;
and attention rollout (Abnar & Zuidema, "Quantifying Attention Flow in Transformers", ACL 2020,
section 3), which knows no leads where frames hold all of them. None of them proves a cause.
Shapes: B batch, C leads, T samples, N tokens.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import gaussian_filter1d
from torch import Tensor, nn
from torch.nn import functional

from fairseq_ecg.modules.transformer import TransformerLayer

METHODS = ("gradient", "integrated", "attention")
TOLERANCE = 0.01
"""How far integrated gradients may be from adding up to the difference of logits, as its share."""

_SMALL = 0.1  # of smaller differences of logits the gap is a share of this
# Of integrated gradients: pieces of the way at first, gradients in each, gradients at most; and the
# power by which pieces of equal length become shorter towards the flat line.
_PIECES, _NODES, _MOST_GRADIENTS, _BEND = 8, 4, 512, 3
# A network may scale gradients, or compute none, for the training of its parts.
_NEUTRAL = {"feature_grad_mult": 1.0, "freeze_updates": 0}


@dataclass(frozen=True)
class Saliency:
    """What each sample has to do with one class.

    Attributes:
        values: float32 [B, C, T]. Above 0 speaks for the class, below 0 against it. Of attention:
            0 or more; the shares of tokens, spread over their samples.
        gap: Of integrated gradients: distance between their sum and the difference of logits, as a
            share of it, float64 [B]. None for the others.
    """

    values: np.ndarray
    gap: np.ndarray | None = None


def explain(
    model: nn.Module, net_input: Mapping[str, Tensor], label: int, method: str = "gradient"
) -> Saliency:
    """Compute the saliency of one class.

    Args:
        model: Any classifier, in evaluation mode.
        net_input: What it is called with: ``source`` float [B, C, T], perhaps ``padding_mask``.
        label: Which class.
        method: One of ``METHODS``.

    Raises:
        ValueError: If there is no such method, or the network has no attention.
    """
    if method not in METHODS:
        raise ValueError(f"the method must be one of {', '.join(METHODS)}, but is {method!r}")
    with _differentiable(model):
        if method == "attention":
            return Saliency(_numbers(attention_rollout(model, net_input, label)))
        if method == "gradient":
            return Saliency(_numbers(gradient_times_input(model, net_input, label)))
        values, gap = integrated_gradients(model, net_input, label)
        return Saliency(_numbers(values), gap.double().cpu().numpy())


def gradient_times_input(model: nn.Module, net_input: Mapping[str, Tensor], label: int) -> Tensor:
    """Return the gradient of a class's logit times the input, [B, C, T]; args as ``explain``."""
    source = net_input["source"]
    return _gradient(model, net_input, source, label) * source


def integrated_gradients(
    model: nn.Module,
    net_input: Mapping[str, Tensor],
    label: int,
    tolerance: float = TOLERANCE,
) -> tuple[Tensor, Tensor]:
    """Integrate gradients from a flat line to the recording.

    The way is cut into pieces. What the gradients of a piece must add up to is known: the
    difference of the logits at its ends. So the piece that is furthest from it is halved, until the
    whole is as close as the tolerance asks, or 512 gradients were computed. The pieces are shortest
    near the flat line, where norms of a network change fastest.

    Args:
        model: As ``explain``.
        net_input: As ``explain``.
        label: As ``explain``.
        tolerance: Largest gap wanted.

    Returns:
        Attributions [B, C, T], and their gaps (``Saliency.gap``), [B].
    """
    source = net_input["source"]

    def piece(begin: _End, end: _End) -> _Piece:
        total = torch.zeros_like(source)
        for place, weight in _nodes(begin.at, end.at):
            total += weight * _gradient(model, net_input, source * place, label)
        values = total * source
        error = values.double().sum((1, 2)) - (end.logit - begin.logit)
        return _Piece(begin, end, values, error)

    def end(at: float) -> _End:
        with torch.no_grad():
            return _End(at, _logit(model, net_input, source * at**_BEND, label).double())

    ends = [end(number / _PIECES) for number in range(_PIECES + 1)]
    scale = (ends[-1].logit - ends[0].logit).abs().clamp(min=_SMALL)
    pieces = [piece(*pair) for pair in itertools.pairwise(ends)]
    count = _PIECES * _NODES
    while count < _MOST_GRADIENTS:
        errors = torch.stack([one.error / scale for one in pieces])
        if max(float(errors.norm(dim=0).max()), float(errors.sum(0).abs().max())) <= tolerance:
            break
        worst = pieces.pop(int(errors.abs().amax(1).argmax()))
        middle = end((worst.begin.at + worst.end.at) / 2)
        pieces += [piece(worst.begin, middle), piece(middle, worst.end)]
        count += 2 * _NODES
    values = torch.stack([one.values for one in pieces]).sum(0)
    return values, torch.stack([one.error for one in pieces]).sum(0).abs() / scale


def attention_rollout(model: nn.Module, net_input: Mapping[str, Tensor], label: int) -> Tensor:
    """Follow attention from the tokens that the head reads back to the recording.

    Each layer mixes half of what it is given with what it attends to, heads averaged. All leads of
    a token get its share.

    Args:
        model: A classifier with transformer layers.
        net_input: As ``explain``.
        label: Which class; it decides only which tokens the head reads.

    Returns:
        Shares [B, C, T].

    Raises:
        ValueError: If it has no such layers.
    """
    source = net_input["source"]
    rows = []
    for row in range(len(source)):  # each alone: encoders leave out the padded tokens of a batch
        one = {name: values[row : row + 1] for name, values in net_input.items()}
        calls, read = _attended(model, one, label)
        with torch.no_grad():
            share = (read.abs().sum(-1) > 0).double()  # [1, N]
            share = share / share.sum(-1, keepdim=True).clamp(min=1)
            for layer, inputs in reversed(calls):
                weights = layer.attention_weights(*inputs).double()
                share = (share + (share[:, None] @ weights)[:, 0]) / 2
            rows.append(_of_samples(model, one, share[0]))
    return torch.stack(rows).to(source.dtype)


def smoothed(values: np.ndarray, rate_hz: float, width_s: float = 0.04) -> np.ndarray:
    """Blur along time with a bell curve.

    Args:
        values: [..., T].
        rate_hz: Rate of the samples.
        width_s: Its standard deviation.
    """
    return gaussian_filter1d(values, width_s * rate_hz, axis=-1, mode="constant")


@dataclass(frozen=True)
class _End:
    """A place on the way from the flat line (0) to the recording (1), and the logits there, [B]."""

    at: float
    logit: Tensor


@dataclass(frozen=True)
class _Piece:
    """A part of the way, its attributions [B, C, T], and what their sum is off by, [B]."""

    begin: _End
    end: _End
    values: Tensor
    error: Tensor


def _nodes(begin: float, end: float) -> Iterator[tuple[float, float]]:
    """Yield factors of the recording and their weights, by Gauss and Legendre."""
    nodes, weights = np.polynomial.legendre.leggauss(_NODES)
    for node, weight in zip(nodes.tolist(), weights.tolist(), strict=True):
        at = begin + (end - begin) * (node + 1) / 2
        yield at**_BEND, weight / 2 * (end - begin) * _BEND * at ** (_BEND - 1)


def _gradient(
    model: nn.Module, net_input: Mapping[str, Tensor], source: Tensor, label: int
) -> Tensor:
    """Return the gradient of a logit, [B, C, T]."""
    with torch.enable_grad():
        source = source.detach().clone().requires_grad_()
        logit = _logit(model, net_input, source, label)
        (gradient,) = torch.autograd.grad(logit.sum(), source)
    return gradient


def _logit(model: nn.Module, net_input: Mapping[str, Tensor], source: Tensor, label: int) -> Tensor:
    return model(**{**net_input, "source": source})["out"][:, label]


@contextmanager
def _differentiable(model: nn.Module) -> Iterator[None]:
    """Let gradients through parts that a training keeps frozen, or slows down."""
    before = [
        (module, name, getattr(module, name))
        for module in model.modules()
        for name in _NEUTRAL
        if hasattr(module, name)
    ]
    try:
        for module, name, _ in before:
            setattr(module, name, _NEUTRAL[name])
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def _attended(
    model: nn.Module, net_input: Mapping[str, Tensor], label: int
) -> tuple[list[tuple[TransformerLayer, tuple[Tensor, ...]]], Tensor]:
    """Return the layers with their inputs, and the gradient of a logit at the end, [B, N, D]."""
    calls: list[tuple[TransformerLayer, tuple[Tensor, ...], Tensor]] = []
    hooks = [
        layer.register_forward_hook(lambda *call: calls.append((call[0], call[1], call[2])))
        for layer in model.modules()
        if isinstance(layer, TransformerLayer)
    ]
    try:
        with torch.enable_grad():
            source = net_input["source"].detach().clone().requires_grad_()
            logit = _logit(model, net_input, source, label).sum()
    finally:
        for hook in hooks:
            hook.remove()
    if not calls:
        raise ValueError(
            f"{type(model).__name__} has no transformer layers, so it attends to nothing; take "
            "gradient or integrated"
        )
    (read,) = torch.autograd.grad(logit, calls[-1][2])
    return [(layer, inputs) for layer, inputs, _ in calls], read


def _of_samples(model: nn.Module, net_input: Mapping[str, Tensor], share: Tensor) -> Tensor:
    """Give the shares of the tokens [N] of one recording to its samples, [C, T]."""
    source = net_input["source"]
    encoder = getattr(model, "encoder", model)
    with torch.no_grad():
        encoded = encoder.encode(source, net_input.get("padding_mask"))
    count = encoded["features"].shape[1]
    tokens = share.new_zeros(count)
    absent = encoded["padding_mask"]
    front = _tokens_in_front(model, net_input, share, count)
    if absent is None or len(share) == front + count:
        tokens += share[front:]
    else:
        kept = torch.nonzero(~absent[0])[:, 0]
        tokens[kept] = share[front : front + len(kept)]
    by_row = tokens.unflatten(0, (1, encoder.token_rows, -1))
    mode = "linear" if by_row.shape[-1] > 1 else "nearest"
    spread = functional.interpolate(by_row, size=source.shape[-1], mode=mode)[0]
    spread = spread * (by_row.shape[-1] / spread.shape[-1])
    return spread.expand(source.shape[1], -1)


def _tokens_in_front(
    model: nn.Module, net_input: Mapping[str, Tensor], share: Tensor, count: int
) -> int:
    """Return how many tokens, such as one of the class, stand before those of the recording."""
    if net_input.get("padding_mask") is None:
        return len(share) - count
    lengths = []
    layers = [layer for layer in model.modules() if isinstance(layer, TransformerLayer)]
    hook = layers[0].register_forward_pre_hook(lambda _, x: lengths.append(x[0].shape[1]))
    with torch.no_grad():
        model(net_input["source"])
    hook.remove()
    return lengths[0] - count


def _numbers(values: Tensor) -> np.ndarray:
    return values.detach().float().cpu().numpy()
