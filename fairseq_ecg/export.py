"""A checkpoint as a folder that others can use: weights, graphs that run by themselves, a card.

The folder is a repository of the Hugging Face hub as it stands (``exported.py`` names its files).
Nothing of the machine of the training is in it: no paths, no optimizer, no data.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fairseq.models import MODEL_REGISTRY, BaseFairseqModel
from torch import Tensor

from fairseq_ecg import exported, portable
from fairseq_ecg._near_misses import did_you_mean
from fairseq_ecg.checkpoint import (
    Checkpoint,
    CheckpointError,
    build_model,
    file_content,
    model_config,
    read_checkpoint,
)
from fairseq_ecg.contract import CONTRACT_KEYS, ContractError, InputContract
from fairseq_ecg.corpora.synthetic import simulate
from fairseq_ecg.data.atomic import replacing_files, write_json, write_text
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import MILLIVOLTS
from fairseq_ecg.evaluation import is_single_label
from fairseq_ecg.export_readme import Card, readme
from fairseq_ecg.models._finetuning import FinetunedModel, encoder_of
from fairseq_ecg.portable import Traced

SAFETENSORS, ONNX, TORCH_EXPORT = FORMATS = ("safetensors", "onnx", "torch-export")
USE, FINETUNING = PURPOSES = ("use", "finetuning")
# What a stranger must know to prepare a recording.
NEEDED = ("rate_hz", "leads", "unit")
DEFAULT_SEGMENT_S = 10.0  # where the checkpoint does not say how long its windows were
_SLOWEST_HZ, _SHORTEST_S = 50.0, 2.0  # of made-up recordings


class ExportError(ValueError):
    """A checkpoint cannot be exported as asked; the message says why and what to do."""


@dataclass(frozen=True)
class Export:
    """What was written.

    Args:
        folder: Where.
        model_name: Registered name of the model in it.
        files: Names of the files.
        parameters: How many the network has.
        outputs: Names of what the graphs give; empty if there is none.
        n_samples: Length of the recordings the graphs were made with; 0 if there is none.
        step: They take that length plus or minus any multiple of this; 0: that length alone.
        differences: Largest difference to eager PyTorch, by format.
    """

    folder: Path
    model_name: str
    files: tuple[str, ...]
    parameters: int
    outputs: tuple[str, ...] = ()
    n_samples: int = 0
    step: int = 0
    differences: Mapping[str, float] = field(default_factory=dict)


def export_checkpoint(
    source: str | Path,
    dest: str | Path,
    formats: Sequence[str] | None = None,
    *,
    purpose: str = USE,
    kind: str | None = None,
    contract: Mapping[str, Any] | None = None,
    recordings: Tensor | None = None,
) -> Export:
    """Write a checkpoint as a folder for use elsewhere, whole or not at all.

    Of a pretraining model the encoder alone is exported; a fine-tuned model as it is, unless it is
    for fine-tuning again. Graphs (ONNX, ``torch.export``) are compared with eager PyTorch on
    made-up recordings, at several lengths and batch sizes, before anything is published.

    Args:
        source: Checkpoint of any layout that ``read_checkpoint`` knows.
        dest: Folder to make; it must not exist.
        formats: Some of ``FORMATS``; None: all of them, for fine-tuning safetensors alone.
        purpose: "use", or "finetuning": the encoder alone, as a checkpoint too.
        kind: How the data of a foreign checkpoint were prepared, as for ``read_checkpoint``.
        contract: Values for those keys of the input contract that the checkpoint does not know.
        recordings: Graphs are compared on these too, float32 [B, C, T], prepared as the network
            expects them; they are not written.

    Raises:
        CheckpointError: If the checkpoint cannot be read, or its weights do not fit its model.
        ContractError: If nobody says what the network expects, or two say different things.
        ExportError: If a format is unknown or its packages are missing, the destination exists, or
            there is no encoder.
        PortableError: If the network cannot be traced, or a graph computes something else.
    """
    formats = _checked_formats(formats, purpose)
    dest = Path(dest)
    if dest.exists():
        raise ExportError(f"{dest} exists; give the name of a folder that does not, as --dest")
    checkpoint = _part_for(read_checkpoint(source, kind), purpose)
    checkpoint = replace(checkpoint, contract=_completed(checkpoint, contract))
    model = build_model(checkpoint).eval()
    with replacing_files(dest) as folder:
        _write_plain(folder, checkpoint, model, formats, purpose)
        found = _write_graphs(folder, checkpoint, model, formats, recordings)
        write_json(folder / exported.CONFIG_FILE, _config(checkpoint, found))
        card = _card(dest.name, checkpoint, model, found, {path.name for path in folder.iterdir()})
        write_text(folder / exported.README_FILE, readme(card))
    return Export(
        folder=dest,
        model_name=checkpoint.model_name,
        files=tuple(sorted(path.name for path in dest.iterdir())),
        parameters=card.parameters,
        outputs=card.outputs,
        n_samples=card.n_samples,
        step=card.step,
        differences=found.differences,
    )


def made_up_recordings(contract: InputContract, leads: int, n_samples: int, count: int) -> Tensor:
    """Return made-up recordings as a network expects them.

    Args:
        contract: Gives rate, leads and unit.
        leads: C.
        n_samples: T.
        count: B.

    Returns:
        float32 [B, C, T], in the contract's unit; filters of the contract are not applied.
    """
    rate_hz = max(contract.rate_hz, _SLOWEST_HZ)
    duration_s = max(n_samples / rate_hz + 1, _SHORTEST_S)
    names = [lead for lead in contract.leads if lead in STANDARD_LEADS] or STANDARD_LEADS
    rows = [STANDARD_LEADS.index(names[i % len(names)]) for i in range(leads)]
    signals = (simulate(0, patient, 0, rate_hz, duration_s).signal for patient in range(count))
    values = np.stack([signal.values_mv[rows, :n_samples] for signal in signals])
    if contract.unit != MILLIVOLTS:
        deviation = values.std(-1, keepdims=True).clip(1e-3)
        values = (values - values.mean(-1, keepdims=True)) / deviation
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


# --- what is asked for ----------------------------------------------------------------------------


def _checked_formats(formats: Sequence[str] | None, purpose: str) -> tuple[str, ...]:
    if purpose not in PURPOSES:
        raise ExportError(f"an export is for {' or '.join(PURPOSES)}, not for {purpose!r}")
    if formats is None:
        formats = FORMATS if purpose == USE else (SAFETENSORS,)
    for name in formats:
        if name not in FORMATS:
            raise ExportError(
                f"no format is called {name!r}{did_you_mean(name, FORMATS)}; known: "
                f"{', '.join(FORMATS)}"
            )
    if not formats:
        raise ExportError(f"no format is given; known: {', '.join(FORMATS)}")
    missing = portable.missing_packages() if ONNX in formats else []
    if missing:
        others = ",".join(name for name in formats if name != ONNX) or SAFETENSORS
        raise ExportError(
            f"the format {ONNX} needs {', '.join(missing)}, which is not installed: "
            f"pip install 'fairseq-ecg[export]', or leave it out with --format {others}"
        )
    return tuple(formats)


def _part_for(checkpoint: Checkpoint, purpose: str) -> Checkpoint:
    """Return what of a checkpoint is exported."""
    model_class = MODEL_REGISTRY[checkpoint.model_name]
    if purpose == USE and issubclass(model_class, FinetunedModel):
        return checkpoint
    try:
        return encoder_of(checkpoint)
    except CheckpointError as error:
        raise ExportError(
            f"{checkpoint.path} holds the model {checkpoint.model_name}: {error}; give the "
            "checkpoint of an encoder, of its pretraining, or of a model fine-tuned from it"
        ) from None


def _completed(checkpoint: Checkpoint, given: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return the contract with what the checkpoint does not know filled in."""
    contract = dict(checkpoint.contract)
    for key, value in (given or {}).items():
        if key not in CONTRACT_KEYS:
            raise ContractError(
                f"the input contract has no key {key!r}{did_you_mean(key, CONTRACT_KEYS)}"
            )
        known = contract.get(key)
        if known is not None and exported.plain(known) != exported.plain(value):
            raise ContractError(
                f"{checkpoint.path} says {key}: {known}, but {value} was given; leave it out"
            )
        contract[key] = value
    unknown = [key for key in NEEDED if contract.get(key) is None]
    if unknown:
        raise ContractError(
            f"{checkpoint.path} does not say what the network expects ({', '.join(unknown)}), "
            "without which nobody can use it: name how its data were prepared with --kind, if "
            "another program wrote it, or give a JSON file with these keys as --contract"
        )
    return contract


# --- the parts ------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class _Graphs:
    """What was found out about the graphs of an export."""

    traced: Traced | None = None
    rows: int = 0
    differences: Mapping[str, float] = field(default_factory=dict)


def _write_plain(
    folder: Path,
    checkpoint: Checkpoint,
    model: BaseFairseqModel,
    formats: Sequence[str],
    purpose: str,
) -> None:
    """Write the contract, statistics that the preparation needs, and the weights."""
    exported.write_contract(folder, checkpoint.contract)
    for key, name in exported.STATISTICS_FILES.items():
        path = checkpoint.task_cfg.get(key)
        if path and checkpoint.contract.get("normalize"):
            write_text(folder / name, _statistics(key, path))
    if SAFETENSORS in formats:
        exported.write_weights(folder / exported.WEIGHTS_FILE, model.state_dict())
    if purpose == FINETUNING:
        nowhere = replace(checkpoint, task_cfg=_without_paths(checkpoint.task_cfg))
        content = io.BytesIO()
        torch.save(file_content(nowhere), content)
        exported.write_bytes(folder / exported.ENCODER_FILE, content.getbuffer())


def _write_graphs(
    folder: Path,
    checkpoint: Checkpoint,
    model: BaseFairseqModel,
    formats: Sequence[str],
    recordings: Tensor | None,
) -> _Graphs:
    """Write the graphs and an example to run them on; compare what they compute."""
    if not {ONNX, TORCH_EXPORT} & set(formats):
        return _Graphs()
    contract = InputContract.from_dict(checkpoint.contract)
    n_samples = round(contract.rate_hz * (contract.segment_s or DEFAULT_SEGMENT_S))
    rows = _number_of_rows(model, contract)
    n_samples = portable.accepted_length(model, rows, n_samples)
    traced = portable.trace(build_model(checkpoint), rows, n_samples)
    examples = made_up_recordings(contract, rows, max(n_samples, *traced.others, 0), 3)
    sources = [examples[..., :n_samples], *(examples[:1, :, :n] for n in traced.others)]
    sources += [] if recordings is None else [recordings]
    differences = {}
    for name, file, write, open_graph in _GRAPHS:
        if name in formats:
            write(traced, folder / file)
            run = open_graph(folder / file)
            differences[name] = portable.largest_difference(model, run, sources)
    np.save(folder / exported.EXAMPLE_FILE, sources[0].numpy(), allow_pickle=False)
    return _Graphs(traced, rows, differences)


_Writer = Callable[[Traced, Path], None]
_Opener = Callable[[Path], Callable[[Tensor], dict[str, Tensor]]]
_GRAPHS: tuple[tuple[str, str, _Writer, _Opener], ...] = (
    (ONNX, exported.ONNX_FILE, portable.write_onnx, portable.open_onnx),
    (TORCH_EXPORT, exported.PT2_FILE, portable.write_pt2, portable.open_pt2),
)


def _number_of_rows(model: BaseFairseqModel, contract: InputContract) -> int:
    """Return the leads of a batch: the encoder's, unless it gets those of a recording in turn."""
    if not isinstance(model, FinetunedModel):
        return model.in_d
    return len(contract.leads) if model.encoder.in_d == 1 else model.encoder.in_d


def _config(checkpoint: Checkpoint, found: _Graphs) -> dict[str, Any]:
    labels = checkpoint.contract.get("labels") or []
    config = {
        "library_name": exported.LIBRARY,
        "format_version": exported.VERSION,
        "model_type": checkpoint.model_name,
        "model": {**_without_paths(model_config(checkpoint)), "_name": checkpoint.model_name},
        "task": _without_paths(checkpoint.task_cfg),
        "criterion": _without_paths(checkpoint.criterion_cfg),
        "num_updates": checkpoint.num_updates,
        "id2label": {str(number): label for number, label in enumerate(labels)},
        "label2id": {label: number for number, label in enumerate(labels)},
    }
    if found.traced is not None:
        traced = found.traced
        config["graph"] = {
            "input": {
                "source": ["batch", found.rows, "samples" if traced.step else traced.n_samples]
            },
            "outputs": list(traced.outputs),
            "samples": traced.n_samples,
            "samples_step": traced.step,
            "compared_at": sorted({traced.n_samples, *traced.others}),
            "largest_difference": dict(found.differences),
        }
    return exported.plain(config)


def _card(
    name: str,
    checkpoint: Checkpoint,
    model: BaseFairseqModel,
    found: _Graphs,
    files: set[str],
) -> Card:
    model_class = MODEL_REGISTRY[checkpoint.model_name]
    traced = found.traced
    return Card(
        name=name,
        model_name=checkpoint.model_name,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        updates=checkpoint.num_updates,
        contract=InputContract.from_dict(checkpoint.contract),
        task_cfg=checkpoint.task_cfg,
        files=frozenset(files),
        num_labels=model.num_labels if isinstance(model, FinetunedModel) else 0,
        single_label=is_single_label(checkpoint),
        identifies=getattr(model_class, "evaluated_by", None) == "ecg_identification",
        rows=found.rows,
        outputs=traced.outputs if traced else (),
        n_samples=traced.n_samples if traced else 0,
        step=traced.step if traced else 0,
        compared_at=tuple(sorted({traced.n_samples, *traced.others})) if traced else (),
        differences=found.differences,
    )


def _without_paths(cfg: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without the names of files and folders of the training's machine."""
    kept: dict[str, Any] = {}
    for key, value in cfg.items():
        if isinstance(value, Mapping):
            kept[key] = _without_paths(value)
        else:
            names_a_file = key == "data" or key.endswith(("_path", "_file"))
            kept[key] = None if names_a_file else value
    return kept


def _statistics(key: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        raise ContractError(
            f"the network expects leads that are scaled by the numbers in {path} (task.{key}), "
            "which is not here; put the file in its place"
        ) from None
