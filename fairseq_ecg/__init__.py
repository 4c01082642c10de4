"""ECG tasks, models, criterions and an optimizer for fairseq.

Importing the package registers them, which is what ``--user-dir fairseq_ecg`` asks for.

    model, contract = fairseq_ecg.load_pretrained("checkpoint_best.pt")
    features = model.extract_features(source)  # [B, C, T] float32 mV -> [B, L, D]
    embedding = model.embed(source)  # -> [B, D]
"""

from fairseq_ecg._quiet_import import root_logger_kept

with root_logger_kept():
    from fairseq_ecg import criterions, engine, models, optim, tasks
    from fairseq_ecg.checkpoint import load_pretrained, read_checkpoint

engine.adjust()

__version__ = "0.1.0"
__all__ = [
    "criterions",
    "engine",
    "load_pretrained",
    "models",
    "optim",
    "read_checkpoint",
    "tasks",
]
