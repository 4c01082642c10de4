"""What tasks with classes share: their criterion computes the metrics of a validation."""

from typing import Any, Dict

import numpy as np
from fairseq.dataclass import FairseqDataclass

from fairseq_ecg.tasks._base import EcgTask


class ClassifyingTask(EcgTask):
    """A task whose items have a ``label``, of one class or of several."""

    single_label = False
    """Whether the criterion takes exactly one class for true."""

    def build_criterion(self, cfg: FairseqDataclass, from_checkpoint: bool = False) -> Any:
        """Build the criterion and keep it: it computes the metrics of a validation."""
        self.criterion = super().build_criterion(cfg, from_checkpoint)
        self.single_label = getattr(self.criterion, "single_label", False)
        self._check_best_metric()
        return self.criterion

    def _check_best_metric(self) -> None:
        """Refuse a best metric that exists, but not of the classes of these data."""
        logged = getattr(self.criterion, "logged_metrics", list)()
        metric = self._of_run("checkpoint.best_checkpoint_metric")
        validates = not self._of_run("dataset.disable_validation")
        if logged and metric is not None and validates and metric not in logged:
            raise ValueError(
                f"checkpoint.best_checkpoint_metric={metric} is not defined for the classes of "
                f"task.data={self.cfg.data}; there are: {', '.join(logged)}"
            )

    def epoch_metrics(self, scores: Dict[str, np.ndarray]) -> Dict[str, float]:
        """Return the criterion's metrics over all items."""
        return self.criterion.epoch_metrics(scores["probability"], scores["label"])
