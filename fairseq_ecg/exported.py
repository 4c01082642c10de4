"""A folder that ``fairseq-ecg export`` wrote: what is in it, writing and reading its plain part.

The layout is that of a repository of the Hugging Face hub. Weights are a safetensors file and all
else is JSON, so that nothing in the plain part can be executed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from fairseq_ecg.data.atomic import replacing, write_json

CONFIG_FILE = "config.json"
CONTRACT_FILE = "input_contract.json"
WEIGHTS_FILE = "model.safetensors"
TRAINED_ON_FILE = "trained_on.safetensors"  # fingerprints of the training recordings
ENCODER_FILE = "encoder.pt"  # the encoder as a checkpoint, for fine-tuning
ONNX_FILE = "model.onnx"
ONNX_DATA_FILE = "model.onnx.data"  # its weights, where they are too large for it
PT2_FILE = "model.pt2"  # what torch.export.save wrote
EXAMPLE_FILE = "example.npy"
README_FILE = "README.md"
# Statistics of the training data, by the task's key that names them.
STATISTICS_FILES = {"mean_path": "mean.txt", "std_path": "std.txt"}
FILES = (
    *(CONFIG_FILE, CONTRACT_FILE, WEIGHTS_FILE, TRAINED_ON_FILE, ENCODER_FILE, ONNX_FILE),
    *(ONNX_DATA_FILE, PT2_FILE, EXAMPLE_FILE, README_FILE, *STATISTICS_FILES.values()),
)
LIBRARY = "fairseq_ecg"
VERSION = 1


class ExportedError(ValueError):
    """A folder is not what ``fairseq-ecg export`` writes, or is damaged."""


def is_exported(path: str | Path) -> bool:
    """Return whether a path is a folder with the configuration of an exported network."""
    return (Path(path) / CONFIG_FILE).is_file()


def write_weights(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors.

    Args:
        path: File to write.
        tensors: By name; what shares memory is written for each name.
    """
    separate = {key: tensor.detach().clone().contiguous() for key, tensor in tensors.items()}
    write_bytes(path, save(separate, metadata={"format": "pt"}))


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write what a library has made in memory.

    Libraries that write to disk themselves do not all survive a full one, and give files to their
    owner alone.

    Args:
        path: File to write.
        content: Its bytes.
    """
    with replacing(path) as file:
        file.write(content)


def write_contract(folder: Path, contract: Mapping[str, Any]) -> None:
    """Write an input contract: plain values as JSON, fingerprints of recordings as tensors.

    Args:
        folder: The exported folder.
        contract: As a checkpoint holds it.
    """
    arrays: dict[str, Tensor] = {}
    trained_on = _without_arrays(contract.get("trained_on") or {}, "", arrays)
    write_json(folder / CONTRACT_FILE, plain({**contract, "trained_on": trained_on}))
    if arrays:
        write_weights(folder / TRAINED_ON_FILE, arrays)


def read_exported(folder: str | Path) -> dict[str, Any]:
    """Read the plain part of an exported folder.

    Args:
        folder: What ``fairseq-ecg export`` wrote, or ``fairseq-ecg pull`` fetched.

    Returns:
        The parts of a ``checkpoint.Checkpoint``: ``model_name``, ``model_cfg``, ``task_cfg``,
        ``criterion_cfg``, ``state``, ``contract``, ``num_updates``.

    Raises:
        ExportedError: If the folder is another one, incomplete or damaged.
    """
    folder = Path(folder)
    config = read_config(folder)
    contract = _read_json(folder, CONTRACT_FILE)
    state = _read_weights(folder, WEIGHTS_FILE)
    task_cfg = _section(folder, config, "task")
    for key, name in STATISTICS_FILES.items():
        if (folder / name).is_file():
            task_cfg[key] = str(folder / name)
    trained_on = dict(contract.get("trained_on") or {})
    if (folder / TRAINED_ON_FILE).is_file():
        _put_arrays(trained_on, _read_weights(folder, TRAINED_ON_FILE))
    model_cfg = _section(folder, config, "model")
    return {
        "model_name": model_cfg.get("_name"),
        "model_cfg": model_cfg,
        "task_cfg": task_cfg,
        "criterion_cfg": _section(folder, config, "criterion"),
        "state": state,
        "contract": {**contract, "trained_on": trained_on},
        "num_updates": config.get("num_updates") or 0,
    }


def read_config(folder: str | Path) -> dict[str, Any]:
    """Read ``config.json`` of an exported folder.

    Args:
        folder: The folder.

    Raises:
        ExportedError: If it is absent, damaged, or that of another program or of a later version.
    """
    folder = Path(folder)
    if not is_exported(folder):
        raise ExportedError(
            f"{folder} is a folder without {CONFIG_FILE}; give a checkpoint file, or a folder that "
            "`fairseq-ecg export` wrote"
        )
    config = _read_json(folder, CONFIG_FILE)
    if config.get("library_name") != LIBRARY:
        raise ExportedError(
            f"{folder / CONFIG_FILE} was not written by `fairseq-ecg export`: its library_name is "
            f"{config.get('library_name')!r}, not {LIBRARY!r}"
        )
    if config.get("format_version") != VERSION:
        raise ExportedError(
            f"{folder / CONFIG_FILE} has the format_version {config.get('format_version')!r}, but "
            f"{VERSION} is known here; install the fairseq_ecg that wrote it"
        )
    return config


def plain(value: Any) -> Any:
    """Return a value of a configuration or contract in the form that JSON has.

    Args:
        value: Numbers, text, words of a choice, lists and dictionaries of them.
    """
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in value]
    if isinstance(value, Enum):
        return plain(value.value)
    if torch.is_tensor(value):
        return value.tolist()
    return value if value is None or isinstance(value, bool | int | float | str) else str(value)


def _without_arrays(
    stage: Mapping[str, Any], prefix: str, arrays: dict[str, Tensor]
) -> dict[str, Any]:
    """Return a stage of training without its arrays, which go to ``arrays``."""
    kept = {}
    for key, value in stage.items():
        if isinstance(value, Mapping):
            kept[key] = _without_arrays(value, f"{prefix}{key}.", arrays)
        elif torch.is_tensor(value) or hasattr(value, "__array__"):
            arrays[prefix + key] = torch.as_tensor(value)
        else:
            kept[key] = value
    return kept


def _put_arrays(trained_on: dict[str, Any], arrays: Mapping[str, Tensor]) -> None:
    for name, values in arrays.items():
        *stages, key = name.split(".")
        stage = trained_on
        for part in stages:
            stage = stage.setdefault(part, {})
        stage[key] = values


def _section(folder: Path, config: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = config.get(name)
    if not isinstance(section, dict):
        raise ExportedError(f"{folder / CONFIG_FILE} has no section {name!r}; export it again")
    return dict(section)


def _read_json(folder: Path, name: str) -> dict[str, Any]:
    path = folder / name
    if not path.is_file():
        raise ExportedError(f"{folder} has no {name}, so it is no whole export; export it again")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ExportedError(f"{path} is damaged: {error}; export it again") from None
    if not isinstance(content, dict):
        raise ExportedError(f"{path} is damaged: it holds no dictionary; export it again")
    return content


def _read_weights(folder: Path, name: str) -> dict[str, Tensor]:
    path = folder / name
    if not path.is_file():
        raise ExportedError(
            f"{folder} has no {name}: it was exported without; give `--format safetensors`, which "
            "can be opened with fairseq_ecg, beside the formats that run without it"
        )
    try:
        return load_file(path)
    except (SafetensorError, ValueError, RuntimeError) as error:
        raise ExportedError(f"{path} is damaged: {error}; fetch or export it again") from None
