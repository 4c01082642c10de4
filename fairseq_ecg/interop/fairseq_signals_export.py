"""Checkpoints that Jwoo5/fairseq-signals itself loads.

The layout is that of its own files: configuration as plain nested dictionaries with only the keys
that its dataclasses have, and today's keys in the state dict but for the weight norm, whose older
spelling every version of it reads.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

from fairseq_ecg.data.leads import STANDARD_LEADS, choose_leads
from fairseq_ecg.interop._fairseq_signals_keys import older_weight_norm

logger = logging.getLogger(__name__)

# By our name: its name, and the criterion and task that go with it.
_MODELS = {
    "ecg_wav2vec2": ("wav2vec2", "wav2vec2", "ecg_pretraining"),
    "wav2vec2_cmsc": ("wav2vec2_cmsc", "wav2vec2_with_cmsc", "ecg_pretraining"),
    "ecg_transformer": ("ecg_transformer", "cmsc", "ecg_pretraining"),
    "ecg_transformer_classifier": (
        "ecg_transformer_classifier",
        "binary_cross_entropy_with_logits",
        "ecg_classification",
    ),
    "arcface": ("arcface", "arcface", "ecg_identification"),
    "nejedly2021resnet": ("nejedly2021resnet", "cmsc", "ecg_pretraining"),
    "nejedly2021resnet_classifier": (
        "nejedly2021resnet_classifier",
        "binary_cross_entropy_with_logits",
        "ecg_classification",
    ),
    "se_wrn": ("se_wrn", "cmsc", "ecg_pretraining"),
    "se_wrn_classifier": (
        "se_wrn_classifier",
        "binary_cross_entropy_with_logits",
        "ecg_classification",
    ),
}
# Models around an encoder, and which encoder they have there.
_TUNED = {
    "ecg_transformer_classifier": "ecg_transformer",
    "arcface": "ecg_transformer",
    "nejedly2021resnet_classifier": "nejedly2021resnet",
    "se_wrn_classifier": "se_wrn",
}
_SECTIONS = (
    *("common", "common_eval", "distributed_training", "dataset", "optimization", "checkpoint"),
    *("lr_scheduler", "optimizer"),
)
_STRUCTURE_KEYS = (
    *("encoder_layers", "encoder_embed_dim", "encoder_ffn_embed_dim", "encoder_attention_heads"),
    *("layer_norm_first", "extractor_mode", "conv_feature_layers", "in_d", "conv_bias"),
    *("conv_pos", "conv_pos_groups"),
)
_ENCODER_KEYS = (
    *("all_gather", *_STRUCTURE_KEYS, "saliency", "feature_grad_mult"),
    *("dropout", "attention_dropout", "activation_dropout", "encoder_layerdrop"),
    *("dropout_input", "dropout_features"),
    *("apply_mask", "mask_length", "mask_prob", "mask_selection", "mask_other", "no_mask_overlap"),
    *("mask_min_space", "mask_channel_length", "mask_channel_prob", "mask_channel_selection"),
    *("mask_channel_other", "no_mask_channel_overlap", "mask_channel_min_space"),
)
_PRETRAINING_KEYS = (
    *("logit_temp", "quantize_targets", "quantize_input", "same_quantizer", "target_glu"),
    *("latent_vars", "latent_groups", "latent_dim", "latent_temp", "final_dim", "num_negatives"),
    *("negatives_from_everywhere", "cross_sample_negatives", "codebook_negatives"),
)
_TUNING_KEYS = (
    *("freeze_finetune_updates", "final_dropout", "num_labels"),
    *("indicate_leads", "use_mha"),
)
_RESIDUAL_KEYS = {
    "nejedly2021resnet": (
        *("num_blocks", "num_filters", "kernel_size", "stride"),
        *("in_d", "conv_bias", "leadwise"),
    ),
    "se_wrn": (
        *("num_blocks", "num_filters", "widening_factor", "kernel_size"),
        *("in_d", "conv_bias", "ratio", "leadwise"),
    ),
}
_WITHOUT_PRETRAINING = {"model_path": None, "no_pretrained_weights": True}
_TASK_KEYS = (*("enable_padding", "max_sample_size", "min_sample_size", "mean_path", "std_path"),)


def export(parts: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the parts of a checkpoint into a file of fairseq-signals.

    Args:
        parts: ``model_name``, ``model_cfg`` (complete and independent of other files),
            ``task_cfg``, ``state``, ``contract`` and ``num_updates``, as a ``Checkpoint`` has them.

    Returns:
        What ``torch.save`` shall write. The contract travels in ``extra_state``, where
        fairseq-signals does not look.

    Raises:
        ValueError: If the model is not among those that can be written, or fairseq-signals
            computes it in another way.
    """
    name = parts["model_name"]
    if name not in _MODELS:
        raise ValueError(
            f"the model {name} cannot be written for fairseq-signals; what can: "
            f"{', '.join(_MODELS)}"
        )
    _check_same_network(name, parts["model_cfg"])
    their_name, criterion, task = _MODELS[name]
    task_cfg = _task_cfg(task, parts)
    cfg = {
        "_name": None,
        **{section: {"_name": None} for section in _SECTIONS},
        "model": {"_name": their_name, **_model_cfg(name, parts["model_cfg"], task_cfg)},
        "task": task_cfg,
        "criterion": {"_name": criterion},
        "job_logging_cfg": None,
    }
    return {
        "args": None,
        "cfg": cfg,
        "model": older_weight_norm(parts["state"]),
        "criterion": None,
        "optimizer_history": [
            {
                "criterion_name": criterion,
                "optimizer_name": None,
                "lr_scheduler_state": {"best": None},
                "num_updates": parts["num_updates"],
            }
        ],
        "task_state": {},
        "extra_state": {
            "metrics": {},
            "previous_training_time": 0,
            "train_iterator": {
                "version": 2,
                "epoch": 1,
                "iterations_in_epoch": 0,
                "shuffle": True,
            },
            "val_loss": None,
            "input_contract": dict(parts["contract"]),
        },
        "last_optimizer_state": None,
    }


def _check_same_network(name: str, model_cfg: Mapping[str, Any]) -> None:
    encoder = (model_cfg.get("encoder_config") or {}).get("_name")
    if name in _TUNED and encoder not in (None, _TUNED[name]):
        raise ValueError(
            f"its encoder is {encoder}, but {name} of fairseq-signals is around {_TUNED[name]}; "
            "write the encoder alone with --encoder-only"
        )
    if model_cfg.get("indicate_leads"):
        _check_lead_bits(model_cfg["encoder_config"]["in_d"])
    eps = model_cfg.get("layer_norm_eps", 1e-5)
    if eps != 1e-5:
        raise ValueError(
            f"model.layer_norm_eps is {eps}, but fairseq-signals of today has 1e-05 and no key for "
            "it; the network would compute something else there"
        )


def _check_lead_bits(n_leads: int) -> None:
    if n_leads != len(STANDARD_LEADS):
        raise ValueError(
            f"model.indicate_leads tells it which of {n_leads} leads are present, but "
            f"fairseq-signals always appends {len(STANDARD_LEADS)} bits; the weights do not fit"
        )
    logger.warning(
        "model.indicate_leads: fairseq-signals takes a lead for absent if one of its samples is "
        "zero, not if all are; where a recorded lead has such a sample, its scores differ"
    )


def _model_cfg(
    name: str, model_cfg: Mapping[str, Any], task_cfg: Mapping[str, Any]
) -> dict[str, Any]:
    common = {key: task_cfg[key] for key in ("normalize", "filter", "data")} | {"args": None}
    if _TUNED.get(name, name) in _RESIDUAL_KEYS:
        return {**common, **_residual_cfg(name, model_cfg)}
    if name not in _TUNED:
        own = _PRETRAINING_KEYS if name != "ecg_transformer" else ()
        return {**common, **_taken(model_cfg, (*_ENCODER_KEYS, *own))}
    structure = _taken(model_cfg.get("encoder_config") or {}, _STRUCTURE_KEYS)
    return {
        **common,
        **_taken(model_cfg, (*_ENCODER_KEYS, *_TUNING_KEYS)),
        **structure,
        "apply_mask": False,
        **_WITHOUT_PRETRAINING,
    }


def _residual_cfg(name: str, model_cfg: Mapping[str, Any]) -> dict[str, Any]:
    keys = _RESIDUAL_KEYS[_TUNED.get(name, name)]
    encoder = {"all_gather": False, **_taken(model_cfg, keys)}
    if name not in _TUNED:
        return encoder
    structure = _taken(model_cfg.get("encoder_config") or {}, keys)
    return {**encoder, **structure, **_taken(model_cfg, _TUNING_KEYS), **_WITHOUT_PRETRAINING}


def _task_cfg(name: str, parts: Mapping[str, Any]) -> dict[str, Any]:
    task_cfg, rate_hz = parts["task_cfg"], parts["contract"].get("rate_hz")
    leads = choose_leads(task_cfg.get("leads_to_load"), bool(task_cfg.get("enable_padding_leads")))
    all_leads = tuple(leads.rows) == tuple(range(len(STANDARD_LEADS)))
    return {
        "_name": name,
        "data": str(task_cfg.get("data") or ""),
        "sample_rate": int(rate_hz) if rate_hz is not None and rate_hz == int(rate_hz) else None,
        "leads_to_load": None if all_leads else str(list(leads.rows)),
        "enable_padding_leads": leads.padded,
        "normalize": bool(task_cfg.get("normalize", False)),
        "filter": bool(task_cfg.get("filter", False)),
        **_taken(task_cfg, _TASK_KEYS),
    }


def _taken(values: Mapping[str, Any], keys: Iterable[str]) -> dict[str, Any]:
    return {key: values[key] for key in keys if key in values}
