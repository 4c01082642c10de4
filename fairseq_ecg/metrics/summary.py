"""The numbers of a multi-label classifier on one set of recordings, under their logged names."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fairseq_ecg.metrics import cinc2021, multilabel, ptbxl

RANKING = (
    "auroc",
    "auprc",
    "macro_auroc",
    "micro_auroc",
    "macro_auprc",
    "micro_auprc",
)
ACCURACY = ("accuracy", "em_accuracy")
BETA = ("f_beta", "g_beta")


@dataclass(frozen=True)
class Summary:
    """Which numbers to compute.

    Args:
        threshold: A class is decided where its probability is above this; one for all, or [K].
        average: Which average ``auroc`` and ``auprc`` are, "macro" or "micro".
        ranking: Compute the areas under the curves.
        f_max: Compute PTB-XL's F_max, which needs no threshold.
        f_beta: Compute the F_beta and G_beta of CinC 2020 and CPSC 2018, with beta 2; a recording
            for which no class is decided gets its most likely one.
        accuracy: Compute the share of right decisions, and of records with all of them right; a
            criterion counts them by itself.
        cinc_weights: The challenge's table [K, K], or None for no challenge score.
        sinus_index: Which class is sinus rhythm; needed with ``cinc_weights``.
    """

    threshold: float | NDArray[np.float64] = 0.5
    average: multilabel.Average = "macro"
    ranking: bool = True
    f_max: bool = False
    f_beta: bool = False
    accuracy: bool = False
    cinc_weights: NDArray[np.float64] | None = None
    sinus_index: int = 0

    @property
    def names(self) -> list[str]:
        """Names of the numbers, in the order of ``__call__``."""
        asked = {
            RANKING: self.ranking,
            ("f1",): True,
            ACCURACY: self.accuracy,
            BETA: self.f_beta,
            ("f_max",): self.f_max,
            ("cinc_score",): self.cinc_weights is not None,
        }
        return [name for names, wanted in asked.items() if wanted for name in names]

    def __call__(
        self, probability: NDArray[np.floating], labels: NDArray[np.floating]
    ) -> dict[str, float]:
        """Return the numbers.

        Args:
            probability: In [0, 1], float [N, K].
            labels: 0 or 1, [N, K].

        Returns:
            By name; NaN where a number has no meaning, e.g. with no positive of any class.
        """
        decisions = probability > self.threshold
        values: dict[str, float] = {}
        if self.ranking:
            for name, function in (
                ("auroc", multilabel.auroc),
                ("auprc", multilabel.average_precision),
            ):
                for average in ("macro", "micro"):
                    values[f"{average}_{name}"] = function(probability, labels, average)
                values[name] = values[f"{self.average}_{name}"]
        values["f1"] = multilabel.f_measure(labels, decisions)
        if self.accuracy:
            values["accuracy"] = multilabel.accuracy(labels, decisions)
            values["em_accuracy"] = multilabel.accuracy_exact(labels, decisions)
        if self.f_beta:
            complete = multilabel.decide(probability, self.threshold, fallback=True)
            values.update(zip(BETA, multilabel.f_beta_g_beta(labels, complete), strict=True))
        if self.f_max:
            values["f_max"] = ptbxl.f_max(probability, labels)
        if self.cinc_weights is not None:
            values["cinc_score"] = cinc2021.challenge_score(
                labels, decisions, self.cinc_weights, self.sinus_index
            )
        return {name: float(values[name]) for name in self.names}
