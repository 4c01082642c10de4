"""Every kind of preset trains, validates and is evaluated on another device than the CPU.

The device is a pretended one, see ``tests/devices.py``.
"""

from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import torch
from fairseq import optim, tasks, utils
from fairseq.logging import metrics
from omegaconf import OmegaConf

from fairseq_ecg.evaluation import evaluate
from fairseq_ecg.models import ecg_wav2vec2
from fairseq_ecg.modules.negatives import sample_negatives
from tests.devices import DEVICE, pretending
from tests.test_presets import DIFFERENT, composed, corpus, ids, is_small  # noqa: F401


def kind(preset: Path) -> tuple:
    """Return what decides which code a preset runs."""
    cfg = OmegaConf.load(preset)
    names = [cfg[section]._name for section in ("task", "model", "criterion")]
    return (*names, cfg.task.get("views"), cfg.criterion.get("score_weight", 0) > 0)


# One preset of each kind, a small one where there is one.
KINDS = {kind(p): p for p in sorted(DIFFERENT, key=is_small)}
TUNED = [
    next(preset for (task, *_), preset in KINDS.items() if task == wanted)
    for wanted in ("ecg_classification", "ecg_identification")
]


@pytest.fixture(scope="module")
def call():
    with pretending() as call:
        yield call


def step(preset: Path, data: dict[str, Path], device: str, dest: Path | None = None) -> dict:
    """Train a step and validate some recordings on a device.

    Args:
        preset: The preset.
        data: Folders of manifests by task.
        device: Where to compute.
        dest: Checkpoint to write.

    Returns:
        Loss of the training, loss and metrics of the validation; numbers by name.
    """
    torch.manual_seed(0)
    cfg = composed(preset, data)
    task = tasks.setup_task(cfg.task)
    task.autocast_bf16 = False  # what is cast differs between devices
    model = task.build_model(cfg.model).to(device)
    criterion = task.build_criterion(cfg.criterion).to(device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = optim.build_optimizer(cfg.optimizer, parameters)
    for split in ("train", "valid"):
        task.load_dataset(split)

    batch = _batch(task, "train", device)
    loss, size, log = task.train_step(batch, model, criterion, optimizer, update_num=0)
    assert any(p.grad is not None for p in parameters)
    for tensor in [loss, *(p.grad for p in parameters if p.grad is not None)]:
        assert tensor.device.type == device
    with metrics.aggregate(new_root=True):  # criterions share names, not the kinds of their meters
        task.reduce_metrics([log], criterion)

    criterion.eval()
    stats: dict[str, float] = {}
    valid_loss, _, log = task.valid_step(_batch(task, "valid", device), model, criterion)
    with metrics.aggregate(new_root=True):
        task.reduce_metrics([log], criterion)
    task.post_validate(model, stats, None)

    optimizer.multiply_grads(1.0 / size)
    optimizer.step()
    assert all(torch.isfinite(p).all() for p in parameters)
    if dest is not None:
        _save(dest, cfg, task, model)
    return {"loss": loss.item(), "valid_loss": float(valid_loss), **stats}


def _batch(task, split: str, device: str) -> dict:
    """Return two items of each half of a split: probes and their gallery."""
    dataset = task.dataset(split)
    items = [first + i for first in (0, len(dataset) // 2) for i in range(2)]
    return utils.move_to_cuda(dataset.collater(dataset.__getitems__(items)), device=device)


def _save(dest: Path, cfg, task, model) -> None:
    torch.save(
        {
            "args": None,
            "cfg": OmegaConf.to_container(cfg, enum_to_str=True),
            "model": {key: value.cpu() for key, value in model.state_dict().items()},
            "task_state": {"input_contract": task.state.input_contract},
        },
        dest,
    )


def with_negatives_drawn_on_the_cpu(*args) -> None:
    """Do as ``step``, with a mistake."""

    def draw(batch, n_masked, n_negatives, device):
        return sample_negatives(batch, n_masked, n_negatives)

    with mock.patch.object(ecg_wav2vec2, "sample_negatives", draw):
        step(*args)


def mistakes() -> list[str]:
    """Return the messages of mistakes, and "none" where there was none."""
    x, index = torch.arange(6.0).to(DEVICE).view(2, 3), torch.tensor([0])
    return [
        _message(attempt)
        for attempt in (
            lambda: x + torch.ones(3),
            lambda: torch.ones(3) + x,
            lambda: torch.nn.Linear(3, 2)(x),
            lambda: torch.zeros(2, 3).add_(x),
            lambda: x.gather(0, index.expand(1, 3)),
            lambda: torch.zeros(2, 3)[x[:, 0] == 0],
            lambda: torch.stack([x, torch.ones(2, 3)]),
            x.numpy,
            lambda: np.asarray(x),
        )
    ]


def right() -> None:
    """Compute what an accelerator computes, and compare with the CPU."""
    x = torch.arange(6.0, device=DEVICE, requires_grad=True)
    assert x.device == torch.device(DEVICE, 0)
    made = torch.zeros(2, 3, device=x.device)
    made[1].add_(2 * x[:3])
    made[made == 4] = torch.tensor(9.0)  # a number may be on either device
    assert made.tolist() == [[0, 0, 0], [0, 2, 9]]
    (x.square() * torch.ones(6).to(DEVICE)).sum().backward()
    assert x.grad.device == x.device
    assert x.grad.cpu().numpy().tolist() == [0, 2, 4, 6, 8, 10]
    assert x.sum().item() == 15
    with pytest.raises(NotImplementedError, match="resize"):
        torch.zeros(2, device=DEVICE).resize_(5)


def _message(attempt) -> str:
    try:
        attempt()
    except (RuntimeError, TypeError) as error:
        return str(error)
    return "none"


@pytest.mark.parametrize("preset", KINDS.values(), ids=ids)
def test_a_preset_trains_and_validates_there_as_on_the_cpu(preset, corpus, call):  # noqa: F811
    there = call(step, preset, corpus, DEVICE)
    assert np.isfinite([there["loss"], there["valid_loss"]]).all()
    assert there == pytest.approx(call(step, preset, corpus, "cpu"), nan_ok=True)


@pytest.mark.parametrize("preset", TUNED, ids=ids)
def test_an_evaluation_there_is_that_of_the_cpu(preset, corpus, call, tmp_path):  # noqa: F811
    path, task = tmp_path / "checkpoint.pt", OmegaConf.load(preset).task._name
    metric = {"ecg_classification": "auroc", "ecg_identification": "accuracy"}[task]
    assert metric in call(step, preset, corpus, DEVICE, path)
    options = {"batch_size": 32, "score_per": "segment"}
    there = call(evaluate_there, path, corpus[task], options)
    here = evaluate(str(path), str(corpus[task]), "valid", **options)
    assert there == pytest.approx(here.metrics, abs=1e-3, nan_ok=True)  # ranks of near ties


def evaluate_there(path: Path, data: Path, options: dict) -> dict[str, float]:
    """Return the metrics of an evaluation on the device."""
    return evaluate(str(path), str(data), "valid", device=DEVICE, **options).metrics


def test_a_tensor_left_on_the_cpu_is_noticed(corpus, call):  # noqa: F811
    preset = next(path for (_, model, *_), path in KINDS.items() if model == "ecg_wav2vec2")
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        call(with_negatives_drawn_on_the_cpu, preset, corpus, DEVICE)


def test_the_device_refuses_what_an_accelerator_refuses_and_computes_the_rest(call):
    call(right)
    messages = call(mistakes)
    assert len(messages) == 9
    assert all("same device" in message for message in messages[:-2])
    assert all("numpy" in message for message in messages[-2:])
