"""Early stopping by the accuracy on the training data (Weimann & Conrad 2021).

It ends a run when the network no longer gets better at what it is trained on, whatever validation
says; which checkpoint is best is decided apart from it.
"""

import logging
from typing import Any, Dict, List

logger = logging.getLogger(__name__)


class TrainingAccuracy:
    """Counts epochs in which the share of right answers was not above that of all epochs before.

    Args:
        patience: Number of such epochs in a row after which the run ends; 0: it never does.

    Raises:
        ValueError: If the number is negative.
    """

    def __init__(self, patience: int) -> None:
        if patience < 0:
            raise ValueError(f"task.patience_train_accuracy must be 0 or more, got {patience}")
        self.patience = patience
        self.best = -1.0
        self.epochs_without_gain = 0
        self._right: Any = 0.0
        self._seen: Any = 0.0

    def add(self, logging_outputs: List[Dict[str, Any]]) -> None:
        """Count the answers of an update, of all its batches and processes.

        Args:
            logging_outputs: With the sums ``correct`` and ``sample_size``; a tensor stays on its
                device.
        """
        if self.patience:
            self._right += sum(log.get("correct", 0) for log in logging_outputs)
            self._seen += sum(log.get("sample_size", 0) for log in logging_outputs)

    def end_epoch(self) -> bool:
        """Compare the epoch with those before; return whether the run shall end."""
        if not self.patience or not float(self._seen):
            return False
        accuracy = float(self._right) / float(self._seen)
        self._right = self._seen = 0.0
        self.epochs_without_gain = 0 if accuracy > self.best else self.epochs_without_gain + 1
        self.best = max(self.best, accuracy)
        if self.epochs_without_gain < self.patience:
            return False
        logger.info(
            "early stop since the training accuracy has not exceeded %.6f for the last %d epochs",
            self.best,
            self.epochs_without_gain,
        )
        return True

    def state(self) -> Dict[str, float]:
        """Return what a checkpoint must hold, so that a resumed run counts on."""
        return {
            "best": self.best,
            "epochs_without_gain": self.epochs_without_gain,
            "right": float(self._right),
            "seen": float(self._seen),
        }

    def restore(self, state: Dict[str, float]) -> None:
        """Count on from the state of a checkpoint; an empty one changes nothing."""
        if state:
            self.best, self.epochs_without_gain = state["best"], int(state["epochs_without_gain"])
            self._right, self._seen = state["right"], state["seen"]
