"""SimCLR (Chen et al., ICML 2020, Section 2.1) on perturbed copies of segments.

Each copy is to be told its partner among all other copies of the batch.
"""

from dataclasses import dataclass
from typing import Any, Dict, Tuple

from fairseq.criterions import register_criterion
from torch import Tensor

from fairseq_ecg.criterions._contrast import (
    ContrastiveConfig,
    ContrastiveCriterion,
    partner_masks,
)


@dataclass
class SimClrConfig(ContrastiveConfig):
    """Keys of ``simclr``."""


@register_criterion("simclr", dataclass=SimClrConfig)
class SimClrCriterion(ContrastiveCriterion):
    """Cross-entropy of each copy's partner among all other copies, summed."""

    needs = ("view", "n_views")
    task_views = "task.views=two"

    def masks(self, keys: Dict[str, Any]) -> Tuple[Tensor, Tensor]:
        """See ``partner_masks``."""
        return partner_masks(keys["view"], keys["n_views"])
