"""What the tests of contrastive criterions share: a network, batches, a second process."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from fairseq.criterions import build_criterion
from omegaconf import OmegaConf
from torch import nn

import fairseq_ecg  # noqa: F401


class Given(nn.Module):
    """Gives the features it was asked to give; ``source`` chooses the rows."""

    def __init__(self, features, padding_mask=None):
        super().__init__()
        self.features = nn.Parameter(features)
        self.padding_mask = padding_mask

    def forward(self, source):
        mask = None if self.padding_mask is None else self.padding_mask[source]
        features = self.features[source]
        return {"features": features, "projection": features[:, 0], "padding_mask": mask}


def criterion(name: str, **keys):
    """Build a criterion by its name."""
    return build_criterion(OmegaConf.create({"_name": name, **keys}), None)


def vectors(rows: int, width: int, seed: int = 0) -> torch.Tensor:
    """Draw features of one frame each, float32 [B, 1, D]."""
    return torch.randn(rows, 1, width, generator=torch.Generator().manual_seed(seed))


def sample(rows: int, **keys: Any) -> dict:
    """Return a batch of rows 0..B-1 of ``Given``, integers as tensors, ``n_views`` as it is."""
    tensors = {k: v if k == "n_views" else torch.tensor(v) for k, v in keys.items()}
    return {"net_input": {"source": torch.arange(rows)}, **tensors}


def unit(features: torch.Tensor):
    """Return unit vectors, float64 NumPy [B, D]."""
    values = features.detach()[:, 0].double().numpy()
    return values / (values**2).sum(1, keepdims=True) ** 0.5


def _worker(
    rank: int, file: str, name: str, keys: dict, features, batch: dict, split: int, second, queue
) -> None:
    dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
    rows = slice(0, split) if rank == 0 else slice(split, None)
    batch = batch if rank == 0 or second is None else second
    mine = {k: v[rows] if torch.is_tensor(v) else v for k, v in batch.items() if k != "net_input"}
    model = Given(features[rows])
    mine["net_input"] = {"source": torch.arange(len(features[rows]))}
    loss, size, log = criterion(name, all_gather=True, **keys)(model, mine)
    if mine.get("dummy"):
        loss *= 0  # as the task does
    loss.backward()
    queue.put((rank, loss.item(), size, int(log["correct"]), model.features.grad.tolist()))
    dist.barrier()
    dist.destroy_process_group()


def check_dummy_takes_no_part(
    folder: Path, name: str, features, batch: dict, split: int, **keys
) -> None:
    """What the second process repeats must not change the first one's loss and gradient."""
    dummy = {**batch, "dummy": True}
    results = on_two_processes(folder, name, features, batch, split, dummy, **keys)
    rows = slice(0, split)
    model = Given(features[rows].clone())
    alone = {k: v[rows] if torch.is_tensor(v) else v for k, v in batch.items() if k != "net_input"}
    alone["net_input"] = {"source": torch.arange(split)}
    loss, _, log = criterion(name, **keys)(model, alone)
    loss.backward()
    assert results[0][1] == pytest.approx(loss.item(), rel=1e-5)
    assert results[0][3] == int(log["correct"])
    assert torch.allclose(torch.tensor(results[0][4]), model.features.grad, atol=1e-6)
    assert not torch.tensor(results[1][4]).any()


def on_two_processes(
    folder: Path, name: str, features, batch: dict, split: int, second: dict | None = None, **keys
) -> list:
    """Run a criterion on rows up to ``split`` and from there on; (rank, loss, size, ...) each.

    The second process takes its rows of ``second``, if that is given.
    """
    context = mp.get_context("forkserver")  # a fork would inherit autograd's threads
    queue = context.Queue()
    arguments = (os.fspath(folder / "meet"), name, keys, features, batch, split, second, queue)
    processes = [context.Process(target=_worker, args=(rank, *arguments)) for rank in range(2)]
    for process in processes:
        process.start()
    results = sorted(queue.get(timeout=60) for _ in processes)
    for process in processes:
        process.join(60)
    return results


def check_gathering(folder: Path, name: str, features, batch: dict, split: int, **keys) -> None:
    """Two processes that gather must add up to one with the whole batch, gradients included.

    The engine divides the sum of all gradients by the sum of the sample sizes.
    """
    results = on_two_processes(folder, name, features, batch, split, **keys)
    model = Given(features.clone())
    loss, size, log = criterion(name, **keys)(model, batch)
    loss.backward()
    share = split / len(features)
    assert [r[2] / size for r in results] == pytest.approx([share, 1 - share])
    assert torch.allclose(torch.tensor(sum(r[1] for r in results)), loss.detach(), rtol=1e-5)
    assert [r[3] for r in results] == [int(log["correct"])] * 2
    gradient = torch.tensor(results[0][4] + results[1][4])
    assert torch.allclose(gradient, model.features.grad, atol=1e-6)
