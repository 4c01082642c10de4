"""Keys in the state dicts of Jwoo5/fairseq-signals, from 2022 on, and what they are today."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor

# Inside the transformer's layers, 2022.
_PARTS_OF_2022 = (
    (".self_attn.W_Q.", ".self_attn.q_proj."),
    (".self_attn.W_K.", ".self_attn.k_proj."),
    (".self_attn.W_V.", ".self_attn.v_proj."),
    (".self_attn.linear.", ".self_attn.out_proj."),
    (".norm_layer1.", ".self_attn_layer_norm."),
    (".norm_layer2.", ".final_layer_norm."),
    (".pos_ffn.fc", ".fc"),
)
# The positional convolution: in 2022 inside the encoder, until January 2025 with PyTorch's old
# weight norm.
_POSITION_PARTS = (
    ("encoder.pos_conv.0.", "conv_pos.pos_conv.0."),
    ("pos_conv.0.weight_g", "pos_conv.0.parametrizations.weight.original0"),
    ("pos_conv.0.weight_v", "pos_conv.0.parametrizations.weight.original1"),
)


def of_2022(state: Mapping[str, Tensor]) -> bool:
    """Return whether a state dict has the transformer layers of 2022."""
    return any(".self_attn.W_Q." in key for key in state)


def rename_keys(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring older spellings of keys to today's.

    Args:
        state: A state dict of any age, or of a classifier, whose keys begin with ``encoder.``.
    """
    tuned = any(key.startswith("encoder.feature_extractor.") for key in state)
    prefix = "encoder." if tuned else ""
    parts = _POSITION_PARTS
    if of_2022(state):
        parts += (*_PARTS_OF_2022, (f"{prefix}encoder.encoder.layers.", f"{prefix}encoder.layers."))
    return {_renamed(key, parts): value for key, value in state.items()}


def older_weight_norm(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Spell the positional convolution's weight norm as before 2025, which every version reads.

    Args:
        state: A state dict with today's keys.
    """
    parts = [(new, old) for old, new in _POSITION_PARTS[1:]]
    return {_renamed(key, parts): value for key, value in state.items()}


def _renamed(key: str, parts: Iterable[tuple[str, str]]) -> str:
    for old, new in parts:
        key = key.replace(old, new)
    return key
