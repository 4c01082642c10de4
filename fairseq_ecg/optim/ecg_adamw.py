"""AdamW (Loshchilov and Hutter, 2019, ICLR) with a learning rate per layer, no decay of vectors.

The parameters say what they need by fairseq's own marks, set by the model:
``optim_overrides["optimizer"]["lr_scale"]`` is a factor of the learning rate, and ``param_group =
"no_decay"`` excludes from weight decay what has two dimensions but is no matrix, such as a table
of positions. Everything with fewer than two dimensions is excluded by itself.

fairseq's ``composite`` optimizer reads these marks too, but scales the top of a schedule only (not
its end and its warm-up), needs the whole recipe once per group, ignores ``optimization.lr``, and
keeps its groups on the class, so that runs of one process share them.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Dict, Iterable, List, Tuple

import torch
from fairseq.dataclass import FairseqDataclass
from fairseq.optim import FairseqOptimizer, register_optimizer
from omegaconf import II


@dataclass
class EcgAdamWConfig(FairseqDataclass):
    """Names of fairseq's ``adam``."""

    adam_betas: List[float] = field(
        default_factory=lambda: [0.9, 0.999], metadata={"help": "decay of both running means"}
    )
    adam_eps: float = field(default=1e-08, metadata={"help": "added to the denominator"})
    weight_decay: float = field(
        default=0.0, metadata={"help": "decoupled weight decay of matrices and kernels"}
    )
    lr: List[float] = II("optimization.lr")


@register_optimizer("ecg_adamw", dataclass=EcgAdamWConfig)
class EcgAdamW(FairseqOptimizer):
    """Groups of equal scale and decay; every schedule moves all of them in proportion.

    Args:
        cfg: The optimizer's configuration.
        params: The parameters that are trained.
    """

    def __init__(self, cfg: EcgAdamWConfig, params: Iterable[torch.nn.Parameter]) -> None:
        super().__init__(cfg)
        self._optimizer = torch.optim.AdamW(
            parameter_groups(params, cfg.weight_decay), **self.optimizer_config
        )
        self.set_lr(self.optimizer_config["lr"])

    @property
    def optimizer_config(self) -> Dict[str, Any]:
        """Values that all groups share unless a group has its own."""
        lr = self.cfg.lr[0] if isinstance(self.cfg.lr, Collection) else self.cfg.lr
        return {
            "lr": float(lr),
            "betas": tuple(self.cfg.adam_betas),
            "eps": self.cfg.adam_eps,
            "weight_decay": self.cfg.weight_decay,
        }

    def get_lr(self) -> float:
        """Return the learning rate of a parameter without a scale."""
        group = self.param_groups[0]
        return group["lr"] / group["lr_scale"]

    def set_lr(self, lr: float) -> None:
        """Set the learning rate; each group takes its share of it."""
        for group in self.param_groups:
            group["lr"] = lr * group["lr_scale"]


def parameter_groups(
    params: Iterable[torch.nn.Parameter], weight_decay: float
) -> List[Dict[str, Any]]:
    """Sort parameters by what they ask for, the largest learning rate first.

    Args:
        params: Parameters, in any order.
        weight_decay: Of those that are decayed.

    Returns:
        Groups with ``params``, ``lr_scale`` and ``weight_decay``.
    """
    groups: Dict[Tuple[float, bool], List[torch.nn.Parameter]] = {}
    for parameter in params:
        overrides = getattr(parameter, "optim_overrides", {}).get("optimizer", {})
        decayed = parameter.dim() > 1 and getattr(parameter, "param_group", None) != "no_decay"
        groups.setdefault((overrides.get("lr_scale", 1.0), decayed), []).append(parameter)
    return [
        {"params": members, "lr_scale": scale, "weight_decay": weight_decay if decayed else 0.0}
        for (scale, decayed), members in sorted(
            groups.items(), key=lambda item: item[0], reverse=True
        )
    ]
