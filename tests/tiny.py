"""Networks cut down to sizes at which a test takes no time, and checkpoints of them."""

import torch
from torch import nn

TINY_TRANSFORMER = {
    "encoder_layers": 1,
    "encoder_embed_dim": 16,
    "encoder_ffn_embed_dim": 24,
    "encoder_attention_heads": 4,
    "conv_feature_layers": "[(8, 2, 2)] * 4",
    "conv_pos": 6,
    "conv_pos_groups": 2,
}
TINY_WAV2VEC2 = {
    **TINY_TRANSFORMER,
    "apply_mask": True,
    "mask_prob": 0.65,
    "quantize_targets": True,
    "final_dim": 8,
    "latent_vars": 10,
}
TINY_MAE = {
    "patch": 5,
    "stem_blocks": 2,
    "stem_channels": 16,
    "stem_kernels": [3, 5, 9],
    "embed_dim": 16,
    "depth": 2,
    "heads": 2,
    "decoder_embed_dim": 8,
    "decoder_depth": 1,
    "decoder_heads": 2,
}
TINY_RESNET = {"in_d": 12, "widths": [4, 4, 6, 8], "kernel_sizes": [3, 3, 3, 3]}
TINY_SPECTROGRAM = {"n_fft": 16, "win_length": 16, "hop": 4, "n_freqs": 8}


def shaken(model):
    """Give batch norms statistics that a trained network could have."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            module.running_mean.normal_(std=0.3)
            module.running_var.uniform_(0.5, 2)
            nn.init.normal_(module.bias, std=0.3)
    return model


def save_checkpoint(path, model_cfg, model, **contract):
    """Write what training writes of a model; return the path."""
    content = {"cfg": {"task": {}, "model": model_cfg}, "model": model.state_dict()}
    torch.save({**content, "task_state": {"input_contract": contract}}, path)
    return str(path)
