"""Future prediction: which of several frames follows a context, learnt by contrast.

Source: Weimann and Conrad, 2021, "Transfer learning for ECG classification", Scientific Reports 11,
5251, Methods; sizes are those of their published code, after Oord et al., 2018 (arXiv:1807.03748).
Shapes: B batch, C leads, T samples, N frames of a context or candidates, F samples of a frame,
D width.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Dict, Mapping, Optional

import torch
from fairseq.models import register_model
from torch import Tensor, nn
from torch.nn import functional

from fairseq_ecg.models._finetuning import note_in_run
from fairseq_ecg.models._resnet_parts import EXPANSION
from fairseq_ecg.models.ecg_resnet1d import EcgResnet1d, EcgResnet1dConfig
from fairseq_ecg.modules.padding import of_time
from fairseq_ecg.modules.positions import sine_cosine
from fairseq_ecg.modules.transformer import TransformerLayer, TransformerSizes

NORM_EPS = 1e-3  # of the published code's layer norms
MAX_FRAMES = 511  # of a context; its positions are 512, the first one the token's


@dataclass
class EcgResnetCpcConfig(EcgResnet1dConfig):
    """Keys of ``ecg_resnet_cpc``."""

    context_layers: int = field(
        default=3, metadata={"help": "transformer layers that sum up the frames of a context"}
    )
    context_heads: int = field(default=8, metadata={"help": "their attention heads"})
    scale_by_width: bool = field(
        default=True,
        metadata={
            "help": "divide attention scores by sqrt(width), as the published code does, instead "
            "of sqrt(width / heads)"
        },
    )
    context_overlap: Optional[int] = field(
        default=None,
        metadata={"help": "samples that neighbouring frames of a context share; null: the task's"},
    )


@register_model("ecg_resnet_cpc", dataclass=EcgResnetCpcConfig)
class EcgResnetCpc(EcgResnet1d):
    """``ecg_resnet1d`` for every frame, a transformer for the context, products as scores.

    Only the convolutions are kept for fine-tuning. Context frames and candidates go through them
    one after the other, so that batch norms see each by themselves.

    Raises:
        ValueError: If the configuration cannot work.
    """

    def __init__(self, cfg: EcgResnetCpcConfig) -> None:
        super().__init__(cfg)
        self.context_overlap = cfg.context_overlap or 0
        self.context = FrameContext(
            self.width, cfg.context_layers, cfg.context_heads, cfg.scale_by_width
        )

    @classmethod
    def build_model(cls, cfg: EcgResnetCpcConfig, task: Any = None) -> "EcgResnetCpc":
        """Build the model; the task says how context frames overlap. See the base class.

        Raises:
            ValueError: If the overlap differs from the task's.
        """
        of_task = getattr(getattr(task, "cfg", None), "context_overlap", None)
        if cfg.context_overlap is None:
            cfg.context_overlap = of_task or 0
            note_in_run(cfg, "context_overlap", cfg.context_overlap)
        if of_task not in (None, cfg.context_overlap):
            raise ValueError(
                f"model.context_overlap is {cfg.context_overlap}, but task.context_overlap is "
                f"{of_task}; give model.context_overlap=null to take the task's"
            )
        return super().build_model(cfg, task)

    @classmethod
    def check(cls, cfg: EcgResnetCpcConfig) -> None:
        """Refuse a configuration that cannot work; see the base class."""
        super().check(cfg)
        width = cfg.widths[cfg.stages - 1] * (EXPANSION if cfg.arch == "resnet50" else 1)
        if cfg.context_heads < 1 or width % cfg.context_heads or width % 2:
            raise ValueError(
                f"model.context_heads is {cfg.context_heads}, which does not divide the width "
                f"{width} of a frame (model.widths) into equal parts; give a divisor, and an even "
                "width"
            )
        if cfg.context_layers < 1:
            raise ValueError(f"model.context_layers is {cfg.context_layers}; give 1 or more")
        if (cfg.context_overlap or 0) < 0:
            raise ValueError(f"model.context_overlap is {cfg.context_overlap}; give 0 or more")

    @classmethod
    def config_from_checkpoint(
        cls, model_cfg: Mapping[str, Any], state: Mapping[str, Tensor]
    ) -> Dict[str, Any]:
        """Complete the configuration by the sizes in the tensors; see the base class."""
        config = super().config_from_checkpoint(model_cfg, state)
        layers = {key.split(".")[2] for key in state if key.startswith("context.layers.")}
        return {**config, "context_layers": len(layers)}

    def forward(
        self, source: Tensor, candidates: Tensor, padding_mask: Optional[Tensor] = None
    ) -> Dict[str, Tensor]:
        """Score candidates for the frame that follows a context.

        Args:
            source: Contexts, float32, [B, C, T]: frames of F samples, each beginning F minus
                ``context_overlap`` behind the one before; T is what they cover.
            candidates: Frames, float32, [B, N, C, F].
            padding_mask: bool, True = padded, [B, T] or [B, C, T]; None = nothing is padded. The
                network sees padding as zeros.

        Returns:
            ``out`` scores, float32, [B, N].

        Raises:
            ValueError: If the shapes do not fit.
        """
        self._check_shapes(source, candidates)
        if padding_mask is not None:
            source = source.masked_fill(of_time(padding_mask)[:, None], 0.0)
        samples = candidates.shape[-1]
        frames = source.unfold(2, samples, samples - self.context_overlap).transpose(1, 2)
        context = self.context(self._embedded(frames))
        future = self._embedded(candidates)
        # Products of sums over the width: not in bfloat16.
        return {"out": (context[:, None].float() * future.float()).sum(-1)}

    def _embedded(self, frames: Tensor) -> Tensor:
        """Encode frames [B, N, C, F] by themselves, float [B, N, D]."""
        return self.embed(frames.flatten(0, 1)).unflatten(0, frames.shape[:2])

    def _check_shapes(self, source: Tensor, candidates: Tensor) -> None:
        self.check_source(source)
        batch, leads, n_samples = source.shape
        if candidates.dim() != 4 or candidates.shape[::2] != (batch, leads):
            raise ValueError(
                f"candidates are expected as [{batch}, candidates, {leads} leads, samples], but "
                f"have the shape {list(candidates.shape)}"
            )
        frame = candidates.shape[-1]
        step = frame - self.context_overlap
        if step < 1 or n_samples < frame or (n_samples - frame) % step:
            raise ValueError(
                f"a context of {n_samples} samples is no whole number of frames of {frame} samples "
                f"with model.context_overlap={self.context_overlap}; give the task's value, or null"
            )
        if (n_samples - frame) // step >= MAX_FRAMES:
            raise ValueError(
                f"a context has {(n_samples - frame) // step + 1} frames; give "
                f"task.context_size up to {MAX_FRAMES}"
            )


class FrameContext(nn.Module):
    """From frames to one vector: a learned token in front of them, transformer layers, the token.

    Args:
        width: Width D of a frame, even.
        layers: Number of layers.
        heads: Attention heads, a divisor of the width.
        scale_by_width: As ``TransformerSizes``.
    """

    def __init__(self, width: int, layers: int, heads: int, scale_by_width: bool) -> None:
        super().__init__()
        sizes = TransformerSizes(
            width=width,
            ffn_width=2 * width,
            heads=heads,
            dropout=0.0,
            attention_dropout=0.0,
            norm_eps=NORM_EPS,
            activation=functional.relu,
            scale_by_width=scale_by_width,
        )
        self.factor = math.sqrt(width)
        self.token = nn.Parameter(torch.empty(width))
        self.layers = nn.ModuleList(TransformerLayer(sizes) for _ in range(layers))
        self.register_buffer("positions", _interleaved(MAX_FRAMES + 1, width), persistent=False)
        nn.init.trunc_normal_(self.token)
        for layer in self.layers.modules():
            if isinstance(layer, nn.Linear):
                nn.init.xavier_uniform_(layer.weight)
                nn.init.zeros_(layer.bias)

    def forward(self, frames: Tensor) -> Tensor:
        """Sum up frames, float [B, N, D] to [B, D]."""
        token = self.token.to(frames.dtype).expand(len(frames), 1, -1)
        x = torch.cat([token, frames], dim=1) * self.factor
        x = x + self.positions[: x.shape[1]].to(x.dtype)
        for layer in self.layers:
            x = layer(x)
        return x[:, 0]


def _interleaved(count: int, width: int) -> Tensor:
    """Return positions whose sines and cosines take turns, float32, [count, D]."""
    return sine_cosine(count, width).unflatten(1, (2, -1)).transpose(1, 2).flatten(1)
