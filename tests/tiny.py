"""Networks cut down to sizes at which a test takes no time."""

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
