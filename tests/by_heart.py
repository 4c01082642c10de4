"""Over-fitting of a few real recordings: whether a network that rebuilds can learn at all."""

from pathlib import Path

import numpy as np
import torch

from fairseq_ecg.data.wfdb_reader import read_signal
from fairseq_ecg.modules.blocks import samples_of_blocks


def recordings(shared: Path, count: int, n_samples: int) -> torch.Tensor:
    """Return the middle of the first recordings of PTB-XL at 100 Hz, mV, [count, 12, n_samples]."""
    headers = sorted((shared / "data/ptb-xl/records100").rglob("*.hea"))[:count]
    first = (1000 - n_samples) // 2
    middle = slice(first, first + n_samples)
    return torch.from_numpy(
        np.stack([read_signal(path.with_suffix("")).values_mv[:, middle] for path in headers])
    )


def error_learned(
    model: torch.nn.Module, source: torch.Tensor, mask: torch.Tensor, lr: float, updates: int
) -> float:
    """Train on one batch and return the normalised error of what is hidden, as in evaluation.

    Args:
        model: Reconstructs.
        source: [B, C, T].
        mask: bool, [B, C, N], the same at every update.
        lr: After 50 updates, until it falls to 0 over the last quarter.
        updates: How many.
    """
    hidden = samples_of_blocks(mask, source.shape[-1])
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, betas=(0.9, 0.95))

    def error() -> torch.Tensor:
        return (model(source, mask=mask)["prediction"] - source)[hidden].square().mean()

    for update in range(updates):
        for group in optimizer.param_groups:
            group["lr"] = lr * min(update / 50, 1, 4 - 4 * update / updates)
        optimizer.zero_grad()
        loss = error()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    with torch.inference_mode():
        model.eval()
        return float(error() / source[hidden].square().mean())
