"""Checkpoints of Jwoo5/fairseq-signals and its forks: names, keys, what they say of their input.

Known are those of Oh et al. (CHIL 2022), ECG-FM (McKeen et al., JAMIA Open 2025) and DeepECG
(HeartWise-AI/fairseq-signals), pretrained and fine-tuned.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor

from fairseq_ecg.data.leads import STANDARD_LEADS, parse_leads
from fairseq_ecg.interop._fairseq_signals_keys import of_2022, rename_keys

FORMAT = "fairseq_signals"
# How the data of each public family of checkpoints were prepared; the files do not say it.
KINDS: dict[str, dict[str, Any]] = {
    "chil": {"rate_hz": 500.0, "unit": "mV", "standardize": "none", "segment_s": 5.0},
    "ecg-fm": {
        "rate_hz": 500.0,
        "unit": "standard deviations",
        "standardize": "record",
        "segment_s": 5.0,
    },
    "deepecg": {"rate_hz": 250.0, "unit": "mV", "standardize": "none"},
}

_MODEL_NAMES = {
    "wav2vec2": "ecg_wav2vec2",
    "wav2vec2_cmsc": "wav2vec2_cmsc",
    "wav2vec2_clocs": "wav2vec2_cmsc",
    "ecg_transformer": "ecg_transformer",
    "conv_transformer": "ecg_transformer",
    "clocs": "ecg_transformer",
    "ecg_transformer_classifier": "ecg_transformer_classifier",
    "ecg_transformer_attn_classifier": "ecg_transformer_classifier",
    "ecg_transformer_aux_classifier": "ecg_transformer_classifier",
    "linear_projection": "ecg_transformer_classifier",
    "arcface": "arcface",
    "nejedly2021resnet": "nejedly2021resnet",
    "nejedly2021resnet_classifier": "nejedly2021resnet_classifier",
    "se_wrn": "se_wrn",
    "se_wrn_classifier": "se_wrn_classifier",
}
_TUNED = frozenset(("ecg_transformer_classifier", "arcface"))
# Heads of DeepECG's forks that are not rebuilt: model, how the keys begin, and what is special.
_UNKNOWN_HEADS = (
    ("ecg_transformer_attn_classifier", "proj.pooler.", "attentive pooling of DeepECG"),
    ("ecg_transformer_aux_classifier", "aux_proj.", "age and sex besides the signal"),
)
# Sections that every checkpoint of stock fairseq has and none of fairseq-signals.
_STOCK_SECTIONS = frozenset(("bmuf", "ema", "eval_lm", "generation", "interactive"))
# Options that only DeepECG's fork has.
_OF_DEEPECG = (("task", "npy_dataset"), ("task", "df_dataset"), ("model", "linear_evaluation"))
# What a fine-tuned model keeps of its pretraining but never uses.
_UNUSED_WHEN_TUNED = tuple(
    f"encoder.{name}"
    for name in ("mask_emb", "quantizer.", "project_q.", "target_glu.", "final_proj.")
)
_REMARK_2022 = (
    "it has the layer keys of 2022. The public code of that layout ran attention over the "
    "recordings of a batch instead of the frames of a recording; the weights are taken over as "
    "they are, but the outputs are not those of the run that trained them. Fine-tune before use"
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


def convert(raw: Mapping[str, Any], kind: str | None = None) -> dict[str, Any] | None:
    """Translate a loaded file.

    Args:
        raw: What ``torch.load`` returned, with ``cfg`` as plain dictionaries.
        kind: Which of ``KINDS`` it is; None: what the file itself says.

    Returns:
        ``model_name``, ``model_cfg``, ``task_cfg``, ``criterion_cfg``, ``state``, ``contract``,
        ``format``, ``remarks`` and ``unbuildable``, as a ``Checkpoint`` has them, or None if the
        file is not of this layout.

    Raises:
        ValueError: If ``kind`` is not known or contradicts the file.
    """
    cfg = raw["cfg"]
    name = cfg["model"].get("_name")
    if name not in _MODEL_NAMES or _STOCK_SECTIONS & cfg.keys():
        return None
    model_cfg, task_cfg = _plain(cfg["model"]), _plain(cfg.get("task") or {})
    criterion_cfg = _plain(cfg.get("criterion"))
    pretraining = _pretraining_of(model_cfg)
    kind = _kind(kind, {"model": model_cfg, "task": task_cfg}, pretraining)
    state = rename_keys(raw["model"])
    remarks = [_REMARK_2022] if of_2022(raw["model"]) else []
    contract = _own_contract(raw) or _contract(task_cfg, model_cfg, kind)
    unknown = [key for key in ("rate_hz", "unit") if contract.get(key) is None]
    if unknown:
        remarks.append(_remark_unknown(unknown))
    return {
        "model_name": _MODEL_NAMES[name],
        "model_cfg": _model_cfg(_MODEL_NAMES[name], model_cfg, pretraining, state, raw),
        "task_cfg": task_cfg,
        "criterion_cfg": criterion_cfg if isinstance(criterion_cfg, dict) else {},
        "state": _used(_MODEL_NAMES[name], state),
        "contract": contract,
        "format": FORMAT,
        "remarks": tuple(remarks),
        "unbuildable": _unknown_head(name, state),
    }


def _kind(kind: str | None, *cfgs: Mapping[str, Any]) -> str | None:
    if kind is not None and kind not in KINDS:
        raise ValueError(f"kind is {kind!r}; known kinds: {', '.join(KINDS)}")
    marks = [
        f"{section}.{key}"
        for cfg in cfgs
        for section, key in _OF_DEEPECG
        if key in (cfg.get(section) or {})
    ]
    if marks and kind not in (None, "deepecg"):
        raise ValueError(f"it has {marks[0]}, an option of DeepECG, so it is not of kind {kind}")
    return "deepecg" if marks else kind


def _remark_unknown(keys: list[str]) -> str:
    names = " and ".join({"rate_hz": "rate", "unit": "unit"}[key] for key in keys)
    return (
        f"it does not say the {names} of its input, so recordings are not compared in that. Settle "
        f"it with `fairseq-ecg convert IN OUT --kind {'|'.join(KINDS)}`, or with "
        "read_checkpoint(path, kind=...)"
    )


def _pretraining_of(model_cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return the configuration of the pretraining, which a fine-tuned model keeps in ``args``."""
    args = model_cfg.get("args")
    return args if isinstance(args, dict) else {}


def _model_cfg(
    name: str,
    model_cfg: Mapping[str, Any],
    pretraining: Mapping[str, Any],
    state: Mapping[str, Tensor],
    raw: Mapping[str, Any],
) -> dict[str, Any]:
    """Return the model's configuration, completed by what the tensors show."""
    found = {**model_cfg, "args": None}
    if of_2022(raw["model"]):
        found["layer_norm_eps"] = 1e-6
    if name in _TUNED:
        encoder = pretraining.get("model")
        if isinstance(encoder, dict) and "encoder_config" not in found:
            found["encoder_config"] = {**encoder, "args": None}
    else:
        found["apply_mask"] = "mask_emb" in state
    if "final_proj.weight" in state:
        found["final_dim"] = state["final_proj.weight"].shape[0]
    return found


def _used(name: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    if name not in _TUNED:
        return state
    return {key: value for key, value in state.items() if not key.startswith(_UNUSED_WHEN_TUNED)}


def _unknown_head(name: str, state: Mapping[str, Tensor]) -> str | None:
    """Return why no model can be built of a file, or None.

    Args:
        name: What its model is called there.
        state: Its state dict.
    """
    for model, prefix, what in _UNKNOWN_HEADS:
        if name == model or any(key.startswith(prefix) for key in state):
            return (
                f"its head ({model}, {prefix}*: {what}) is not known here. Its encoder is: "
                "fine-tune it with model.model_path=FILE, or write it alone with "
                "`fairseq-ecg convert FILE OUT --encoder-only`"
            )
    return None


def _own_contract(raw: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the contract that ``export`` left in a file, if it is one of ours."""
    extra_state = raw.get("extra_state")
    contract = extra_state.get("input_contract") if isinstance(extra_state, dict) else None
    return contract if isinstance(contract, dict) else None


def _contract(
    task_cfg: Mapping[str, Any], model_cfg: Mapping[str, Any], kind: str | None
) -> dict[str, Any]:
    """Join what the file says with what its kind says; the file's own values count more."""
    of_kind = KINDS.get(kind, {})
    rate_hz, samples = task_cfg.get("sample_rate"), task_cfg.get("max_sample_size")
    rate_hz = of_kind.get("rate_hz") if rate_hz is None or rate_hz <= 0 else float(rate_hz)
    normalize = task_cfg.get("normalize")
    return {
        "rate_hz": rate_hz,
        "leads": _leads(task_cfg, model_cfg),
        "present_leads": _present_leads(task_cfg),
        "unit": "standard deviations" if normalize else of_kind.get("unit"),
        "standardize": of_kind.get("standardize"),
        "normalize": normalize,
        "filter": task_cfg.get("filter", False),
        "segment_s": samples / rate_hz if rate_hz and samples else of_kind.get("segment_s"),
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


def _present_leads(task_cfg: Mapping[str, Any]) -> list[str] | None:
    asked = task_cfg.get("leads_to_load")
    if asked is None:
        return None  # its recordings may have had fewer than all
    return [STANDARD_LEADS[row] for row in parse_leads(asked)]


def _plain(value: Any) -> Any:
    """Turn enumerations that were read as stand-ins into the values they were made of."""
    if isinstance(value, ForeignObject):
        return _plain(value.args[0]) if value.args else None
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
