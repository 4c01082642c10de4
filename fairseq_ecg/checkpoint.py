"""Reading checkpoints, ours, exported and foreign ones, and making models of them.

Nothing in a checkpoint is ever executed: files are read with ``weights_only=True`` and a list of
harmless classes, and there is no other way in.
"""

from __future__ import annotations

import logging
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import fairseq.models
import torch
from fairseq.models import MODEL_DATACLASS_REGISTRY, MODEL_REGISTRY, BaseFairseqModel
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import Tensor, nn
from torch.serialization import get_unsafe_globals_in_checkpoint

from fairseq_ecg import interop
from fairseq_ecg._near_misses import did_you_mean
from fairseq_ecg.contract import CONTRACT_KEYS
from fairseq_ecg.engine import safe_globals
from fairseq_ecg.exported import ExportedError, read_exported
from fairseq_ecg.modules.layer_spec import parse_layers

logger = logging.getLogger(__name__)

FORMAT = "fairseq_ecg"


class CheckpointError(ValueError):
    """A file is no checkpoint that can be read, or its content does not fit."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint in our own terms, wherever it came from.

    Args:
        path: The file it was read from.
        model_name: Registered name of the model.
        model_cfg: Configuration of the model, plain values.
        task_cfg: Configuration of the task it was trained with, plain values; may be empty.
        state: State dict with today's keys, on the CPU.
        contract: What the network expects of its input: the keys of ``contract.InputContract``,
            each None where unknown, and perhaps more.
        format: Which layout the file had, ``"fairseq_ecg"`` or ``"fairseq_signals"``.
        num_updates: Updates it was trained for.
        remarks: What its user should know before relying on it.
        unbuildable: Why no model can be built of it, though its encoder can be used; None if one
            can.
        criterion_cfg: Configuration of the criterion it was trained with; may be empty.
    """

    path: str
    model_name: str
    model_cfg: dict[str, Any]
    task_cfg: dict[str, Any]
    state: dict[str, Tensor]
    contract: dict[str, Any]
    format: str
    num_updates: int = 0
    remarks: tuple[str, ...] = ()
    unbuildable: str | None = None
    criterion_cfg: dict[str, Any] = field(default_factory=dict)


def read_checkpoint(path: str | Path, kind: str | None = None) -> Checkpoint:
    """Read a checkpoint of this package or of fairseq-signals.

    Args:
        path: A file written by ``torch.save``, or a folder that ``fairseq-ecg export`` wrote.
        kind: How the data of a foreign checkpoint were prepared, one of ``interop.KINDS``, which
            the file itself seldom says; None: only what it says.

    Raises:
        CheckpointError: If the file is absent, damaged or foreign, holds objects that only running
            code could restore, names a model or layers that are not known, or is not of the kind.
    """
    parts = _exported(path, kind) if Path(path).is_dir() else _from_file(path, kind)
    checkpoint = Checkpoint(path=str(path), **parts)
    _check_model(checkpoint)
    for remark in checkpoint.remarks:
        logger.warning("%s: %s", path, remark)
    return checkpoint


def build_model(checkpoint: Checkpoint, **overrides: Any) -> BaseFairseqModel:
    """Build the model of a checkpoint and load its weights.

    Args:
        checkpoint: What ``read_checkpoint`` returned.
        **overrides: Keys of the model's configuration to replace, e.g. ``dropout=0.0``.

    Returns:
        The model, on the CPU, in training mode.

    Raises:
        CheckpointError: If a key is unknown, a value does not fit, or the weights do not match.
    """
    model = _built(checkpoint, overrides)
    load_weights(model, checkpoint.state, checkpoint.path)
    return model


def build_random(checkpoint: Checkpoint, seed: int) -> BaseFairseqModel:
    """Build the model of a checkpoint with random weights in place of its own, as training begins.

    Args:
        checkpoint: What ``read_checkpoint`` returned.
        seed: Of the weights; other random numbers of the process stay as they are.

    Returns:
        The model, on the CPU, in training mode.

    Raises:
        CheckpointError: As ``build_model``.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _built(checkpoint, {})


def _built(checkpoint: Checkpoint, overrides: Mapping[str, Any]) -> BaseFairseqModel:
    """Build the model without the weights of the checkpoint."""
    if checkpoint.unbuildable is not None:
        way_out = checkpoint.unbuildable.replace("FILE", checkpoint.path)
        raise CheckpointError(f"{checkpoint.path}: {way_out}")
    known = _model_keys(checkpoint)
    for key in overrides:
        if key not in known:
            raise CheckpointError(
                f"{key!r} cannot be overridden: {checkpoint.model_name} has no such key"
                f"{did_you_mean(key, known)}"
            )
    try:
        cfg = model_config(checkpoint) | overrides
        return fairseq.models.build_model(
            OmegaConf.create({**cfg, "_name": checkpoint.model_name}), None
        )
    except (ValueError, OmegaConfBaseException) as error:
        raise CheckpointError(f"{checkpoint.path}: its model cannot be built: {error}") from error


def model_config(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the model's configuration: the keys it knows, independent of other files.

    Args:
        checkpoint: What ``read_checkpoint`` returned.

    Raises:
        CheckpointError: If its tensors are not those of its model.
    """
    known = _model_keys(checkpoint)
    model_class = MODEL_REGISTRY[checkpoint.model_name]
    cfg = checkpoint.model_cfg
    if hasattr(model_class, "config_from_checkpoint"):
        cfg = model_class.config_from_checkpoint(cfg, checkpoint.state)
    return {key: value for key, value in cfg.items() if key in known}


def file_content(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what ``torch.save`` shall write for a checkpoint of our own layout, as fairseq does.

    Args:
        checkpoint: What ``read_checkpoint`` returned, of any layout; a model can be built of it.
    """
    iterator = {"version": 2, "epoch": 1, "iterations_in_epoch": 0, "shuffle": True}
    last = {
        "criterion_name": None,
        "optimizer_name": None,
        "lr_scheduler_state": {"best": None},
        "num_updates": checkpoint.num_updates,
    }
    return {
        "args": None,
        "cfg": {
            "model": {**model_config(checkpoint), "_name": checkpoint.model_name},
            "task": checkpoint.task_cfg,
            "criterion": checkpoint.criterion_cfg,
        },
        "model": checkpoint.state,
        "criterion": None,
        "optimizer_history": [last],
        "task_state": {"input_contract": checkpoint.contract},
        "extra_state": {"metrics": {}, "train_iterator": iterator, "val_loss": None},
        "last_optimizer_state": None,
    }


def load_pretrained(
    path: str | Path, kind: str | None = None
) -> tuple[BaseFairseqModel, dict[str, Any]]:
    """Open a checkpoint for use.

    Args:
        path: A checkpoint of this package or of fairseq-signals, or an exported folder.
        kind: As for ``read_checkpoint``.

    Returns:
        The model in evaluation mode, on the CPU, and its input contract.

    Raises:
        CheckpointError: As ``read_checkpoint`` and ``build_model``.
    """
    checkpoint = read_checkpoint(path, kind)
    return build_model(checkpoint).eval(), checkpoint.contract


def load_weights(model: nn.Module, state: Mapping[str, Tensor], path: str) -> None:
    """Load a state dict whose keys and shapes must all fit.

    Args:
        model: The model to fill.
        state: Its parameters and buffers.
        path: Where they are from, for the message.

    Raises:
        CheckpointError: Naming missing and unexpected keys, or those of another shape.
    """
    expected = model.state_dict()
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    reshaped = [
        f"{key} {list(state[key].shape)} instead of {list(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    faults = [
        f"{len(names)} {fault} ({', '.join(names[:3])}{', ...' if len(names) > 3 else ''})"
        for fault, names in (
            ("missing", missing),
            ("unexpected", unexpected),
            ("of another shape", reshaped),
        )
        if names
    ]
    if faults:
        raise CheckpointError(
            f"{path}: the weights do not fit {type(model).__name__}: {'; '.join(faults)}"
        )
    model.load_state_dict(state)


@contextmanager
def _only_harmless_classes(path: str) -> Iterator[None]:
    """Allow plain values, and inert stand-ins for foreign classes that a converter knows."""
    with _allowed(safe_globals()):
        names = get_unsafe_globals_in_checkpoint(path)
    known = [pair for converter in interop.CONVERTERS for pair in converter.stand_ins(names)]
    refused = sorted(set(names) - {name for _, name in known})
    if refused:
        raise CheckpointError(
            f"{path} holds objects of {', '.join(refused)}, which only running code could restore. "
            "Nothing was executed. If you trust its author, let them save plain values and tensors"
        )
    with _allowed([*safe_globals(), *known]):
        yield


@contextmanager
def _allowed(classes: list[Any]) -> Iterator[None]:
    """Allow classes for a while; torch's own context takes away what was allowed before, too."""
    before = torch.serialization.get_safe_globals()
    with torch.serialization.safe_globals([c for c in classes if c not in before]):
        yield


def _load(path: str) -> Any:
    if not Path(path).is_file():
        raise CheckpointError(f"{path}: there is no such checkpoint file; check the path")
    if not zipfile.is_zipfile(path):
        with open(path, "rb") as file:
            is_pickle = file.read(1) == b"\x80"
        if is_pickle:
            raise CheckpointError(
                f"{path} is a bare pickle, or was written by torch before 1.6, which is one too. "
                "Nothing in it was executed; if you trust its author, let them save it again with "
                "a current torch.save"
            )
        raise CheckpointError(
            f"{path} is truncated or was not written by torch.save (it is no whole zip archive). "
            "Nothing in it was executed; fetch it again or use an older checkpoint"
        )
    try:
        _check_sums(path)
        with _only_harmless_classes(path):
            return torch.load(path, map_location="cpu", weights_only=True)
    except CheckpointError:
        raise
    except Exception as error:  # a damaged file can fail in any way
        first_line = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path} is damaged or was not written by torch.save ({first_line}). Nothing in it was "
            "executed; fetch it again or use an older checkpoint"
        ) from error


def _check_sums(path: str) -> None:
    """Compare the archive's checksums with its content, which ``torch.load`` does not."""
    with zipfile.ZipFile(path) as archive:
        member = archive.testzip()
    if member is not None:
        raise CheckpointError(
            f"{path} is damaged: {member} differs from its checksum; fetch the file again or use "
            "an older checkpoint"
        )


def _check_layout(path: str | Path, raw: Any) -> None:
    """Check the parts that every known layout has, and make the configuration plain."""
    if not isinstance(raw, dict):
        raise CheckpointError(f"{path} holds an object of type {type(raw).__name__}, no checkpoint")
    if OmegaConf.is_config(raw.get("cfg")):
        raw["cfg"] = OmegaConf.to_container(raw["cfg"], resolve=False)
    cfg, state = raw.get("cfg"), raw.get("model")
    for name, part in (("model", state), ("cfg", cfg)):
        if not isinstance(part, dict):
            found = ", ".join(sorted(map(str, raw))[:8]) or "nothing"
            bare = all(map(torch.is_tensor, raw.values())) and bool(raw)
            hint = "; it looks like a bare state dict, without the configuration" if bare else ""
            raise CheckpointError(
                f"{path} is no checkpoint of a model: it has no {name!r} (found: {found}){hint}"
            )
    if not isinstance(cfg.get("model"), dict):
        raise CheckpointError(f"{path} is no checkpoint of a model: its cfg has no model section")
    if not all(isinstance(k, str) and torch.is_tensor(v) for k, v in state.items()):
        raise CheckpointError(f"{path}: its 'model' is not a dictionary of tensors")


def _from_file(path: str | Path, kind: str | None) -> dict[str, Any]:
    raw = _load(str(path))
    _check_layout(path, raw)
    parts = _ours(path, raw, kind) or _converted(path, raw, kind)
    return {**parts, "num_updates": _num_updates(raw)}


def _exported(path: str | Path, kind: str | None) -> dict[str, Any]:
    _check_no_kind(path, kind)
    try:
        parts = read_exported(path)
    except ExportedError as error:
        raise CheckpointError(str(error)) from None
    contract = {**dict.fromkeys(CONTRACT_KEYS), "source_format": FORMAT, **parts["contract"]}
    return {**parts, "contract": contract, "format": FORMAT}


def _ours(path: str | Path, raw: Mapping[str, Any], kind: str | None) -> dict[str, Any] | None:
    task_state = raw.get("task_state") or {}
    contract = task_state.get("input_contract")
    if not isinstance(contract, dict):
        return None
    _check_no_kind(path, kind)
    return _parts(raw, contract)


def _check_no_kind(path: str | Path, kind: str | None) -> None:
    if kind is not None:
        raise CheckpointError(
            f"{path} says itself what its input is; kind={kind} is for files of other programs"
        )


def _converted(path: str | Path, raw: Mapping[str, Any], kind: str | None) -> dict[str, Any]:
    for converter in interop.CONVERTERS:
        try:
            parts = converter.convert(raw, kind)
        except (KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: its configuration is not usable: {error}") from error
        if parts is not None:
            contract = {**dict.fromkeys(CONTRACT_KEYS), "trained_on": {}, **parts["contract"]}
            return {**parts, "contract": contract}
    if kind is not None:
        raise CheckpointError(
            f"{path} was written by none of the programs whose files have a kind; leave kind out"
        )
    return _parts(raw, {})


def _num_updates(raw: Mapping[str, Any]) -> int:
    history = raw.get("optimizer_history")
    last = history[-1] if isinstance(history, list) and history else None
    count = last.get("num_updates") if isinstance(last, dict) else None
    return count if isinstance(count, int) else 0


def _parts(raw: Mapping[str, Any], contract: Mapping[str, Any]) -> dict[str, Any]:
    criterion_cfg = raw["cfg"].get("criterion")
    return {
        "model_name": raw["cfg"]["model"].get("_name"),
        "model_cfg": dict(raw["cfg"]["model"]),
        "task_cfg": dict(raw["cfg"].get("task") or {}),
        "criterion_cfg": dict(criterion_cfg) if isinstance(criterion_cfg, dict) else {},
        "state": dict(raw["model"]),
        "contract": {**dict.fromkeys(CONTRACT_KEYS), "source_format": FORMAT, **contract},
        "format": FORMAT,
    }


def _model_keys(checkpoint: Checkpoint) -> set[str]:
    _register_models()
    return {field.name for field in fields(MODEL_DATACLASS_REGISTRY[checkpoint.model_name])}


def _register_models() -> None:
    # Not at the top: models read checkpoints themselves.
    import fairseq_ecg.models  # noqa: F401


def _check_model(checkpoint: Checkpoint) -> None:
    _register_models()
    name = checkpoint.model_name
    ours = {n for n, model in MODEL_REGISTRY.items() if model.__module__.startswith("fairseq_ecg.")}
    if name not in ours:
        raise CheckpointError(
            f"{checkpoint.path}: its model {name!r} is not known{did_you_mean(name, ours)}; "
            f"known models: {', '.join(sorted(ours))}"
        )
    layers = checkpoint.model_cfg.get("conv_feature_layers")
    if layers is not None:
        try:
            parse_layers(layers)
        except ValueError as error:
            raise CheckpointError(
                f"{checkpoint.path}: conv_feature_layers: {error}. Nothing was executed"
            ) from error
