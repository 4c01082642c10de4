"""Checkpoints of Jwoo5/fairseq-signals: names, keys and what they say about their input."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from fairseq_ecg.data.leads import STANDARD_LEADS, parse_leads

FORMAT = "fairseq_signals"

_MODEL_NAMES = {
    "wav2vec2": "ecg_wav2vec2",
    "wav2vec2_cmsc": "wav2vec2_cmsc",
    "ecg_transformer": "ecg_transformer",
    "ecg_transformer_classifier": "ecg_transformer_classifier",
}
# Sections that every checkpoint of stock fairseq has and none of fairseq-signals.
_STOCK_SECTIONS = frozenset(("bmuf", "ema", "eval_lm", "generation", "interactive"))
# Until January 2025 with PyTorch's old weight norm; in 2022 inside the encoder.
_KEY_PARTS = (
    ("encoder.pos_conv.0.", "conv_pos.pos_conv.0."),
    ("pos_conv.0.weight_g", "pos_conv.0.parametrizations.weight.original0"),
    ("pos_conv.0.weight_v", "pos_conv.0.parametrizations.weight.original1"),
)


class ForeignObject:
    """Takes the place of an object of a class that is not installed; does nothing but exist."""

    def __init__(self, *args: object) -> None:
        self.args = args

    def __setstate__(self, state: object) -> None:
        """Forget the state."""


def stand_ins(names: Iterable[str]) -> list[tuple[type, str]]:
    """Return an inert class for each name of fairseq-signals' own classes.

    Its checkpoints may hold its enumerations; nothing of them is needed, and none is imported.

    Args:
        names: Full names of classes found in a file.
    """
    return [(ForeignObject, name) for name in names if name.startswith("fairseq_signals.")]


def convert(raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """Translate a loaded file.

    Args:
        raw: What ``torch.load`` returned, with ``cfg`` as plain dictionaries.

    Returns:
        ``model_name``, ``model_cfg``, ``task_cfg``, ``state``, ``contract`` and ``format``, or None
        if the file is not of this layout.
    """
    cfg = raw["cfg"]
    model_cfg = dict(cfg["model"])
    name = model_cfg.get("_name")
    if name not in _MODEL_NAMES or _STOCK_SECTIONS & cfg.keys():
        return None
    task_cfg = _plain(cfg.get("task") or {})
    return {
        "model_name": _MODEL_NAMES[name],
        "model_cfg": _plain(model_cfg),
        "task_cfg": task_cfg,
        "state": rename_keys(raw["model"]),
        "contract": _contract(task_cfg, model_cfg),
        "format": FORMAT,
    }


def rename_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring older spellings of the positional convolution's keys to today's.

    Args:
        state: A state dict of any age, or of a classifier, whose keys begin with ``encoder.``.
    """
    return {_renamed(key): value for key, value in state.items()}


def _renamed(key: str) -> str:
    for old, new in _KEY_PARTS:
        key = key.replace(old, new)
    return key


def _contract(task_cfg: Mapping[str, Any], model_cfg: Mapping[str, Any]) -> dict[str, Any]:
    rate_hz, samples = task_cfg.get("sample_rate"), task_cfg.get("max_sample_size")
    return {
        "rate_hz": None if rate_hz is None else float(rate_hz),
        "leads": _leads(task_cfg, model_cfg),
        "unit": None,
        "normalize": task_cfg.get("normalize"),
        "filter": task_cfg.get("filter", False),
        "segment_s": samples / rate_hz if rate_hz and samples else None,
        "labels": None,
        "source_format": FORMAT,
    }


def _leads(task_cfg: Mapping[str, Any], model_cfg: Mapping[str, Any]) -> list[str] | None:
    asked, n_leads = task_cfg.get("leads_to_load"), model_cfg.get("in_d", 12)
    if n_leads == len(STANDARD_LEADS) and (asked is None or task_cfg.get("enable_padding_leads")):
        return list(STANDARD_LEADS)
    if asked is None:
        return None
    leads = [STANDARD_LEADS[row] for row in parse_leads(asked)]
    return leads if len(leads) == n_leads else None


def _plain(value: Any) -> Any:
    """Turn enumerations that were read as stand-ins into the values they were made of."""
    if isinstance(value, ForeignObject):
        return _plain(value.args[0]) if value.args else None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
