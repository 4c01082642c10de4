"""Checks of a whole configuration before any work starts.

The engine notices many mistakes late (a metric that is never logged: after the first validation),
in words that hide them, or never (``+common.typo=1``, a restore file that does not exist). Here
every key, type, name and path is checked against the registered dataclasses, and each refusal
names the key, the value and the near misses. The launcher calls ``check`` on the composed
configuration, the tasks call it again for runs that were started by the stock script.
"""

import dataclasses
import re
from pathlib import Path
from typing import Any

import torch
from fairseq import tasks
from fairseq.dataclass.configs import FairseqConfig
from fairseq.models import ARCH_MODEL_NAME_REGISTRY, MODEL_DATACLASS_REGISTRY, MODEL_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fairseq_ecg import engine
from fairseq_ecg._near_misses import did_you_mean
from fairseq_ecg.exported import is_exported

# Names of fairseq-signals that are taken by, or mean something else in, stock fairseq.
RENAMED = {
    "model": {"wav2vec2": "ecg_wav2vec2"},
    "criterion": {
        "wav2vec2": "ecg_wav2vec2",
        "clocs": "cmsc",
        "binary_cross_entropy": "binary_cross_entropy_with_logits",
    },
}
# Keys that may stand in a section besides those of its dataclass.
_ALWAYS_KNOWN = {"_name"}
_EXTRA_SECTIONS = {"job_logging_cfg", "hydra"}
# Presets of fairseq-signals write ??? here although the file is needed for the score only.
_MAY_BE_OPEN = {"criterion.weights_file"}
_DEFAULT_RESTORE_FILE = "checkpoint_last.pt"


class ConfigError(ValueError):
    """A configuration that cannot run; the message names the key, the value and the way out."""


def check(cfg: DictConfig) -> None:
    """Check a composed configuration.

    Args:
        cfg: The whole tree, as hydra composed it or as a task finds it around its own section.

    Raises:
        ConfigError: For the first mistake found, in the order names, keys, types, values.
    """
    _check_sections(cfg)
    dataclass_of = {section: _dataclass(cfg, section) for section in cfg if section in _sections()}
    for section, dataclass in dataclass_of.items():
        if dataclass is not None and cfg[section] is not None:
            _check_keys(section, cfg[section], dataclass)
            _check_types(section, cfg[section], dataclass)
    _check_missing(cfg, dataclass_of)
    _check_data(cfg)
    _check_subsets_differ(cfg)
    _check_files(cfg)
    _check_best_metric(cfg)
    _check_model_of_criterion(cfg, dataclass_of)
    _check_world_size(cfg)


def check_parts(cfg: DictConfig) -> None:
    """Let model, task and criterion of a checked configuration check their own values.

    The model is not built: that may take long. It checks in ``check(cfg)``, if it has that.

    Raises:
        ConfigError: What they refuse, e.g. a perturbation that does not exist.
    """
    if not str(_name(cfg, "task")).startswith("ecg_"):
        return
    model = MODEL_REGISTRY.get(_name(cfg, "model"))
    try:
        if hasattr(model, "check"):
            schema = OmegaConf.structured(MODEL_DATACLASS_REGISTRY[_name(cfg, "model")])
            model.check(OmegaConf.merge(schema, cfg.model))
        task = tasks.setup_task(cfg.task)
        if hasattr(task, "check_data"):
            task.check_data()
        task.build_criterion(cfg.criterion)
    except (ValueError, OSError) as error:
        raise ConfigError(str(error)) from None


def explain_composition(error: Exception) -> str:
    """Put a refusal of hydra's into one line with the near misses of the key it names."""
    text = " ".join(str(part) for part in (error, error.__cause__) if part)
    text = re.sub(r"\s+", " ", text)
    unknown = re.search(r"Key '([^']+)' (?:is )?not in '([^']+)'", text)
    override = re.search(r"Could not override '([^']+)'", text)
    if override:
        section, _, key = override[1].rpartition(".")
        known = _known_keys(section) if section in _sections() else _sections()
        wrong = key if section in _sections() else section.partition(".")[0]
        return f"unknown key {override[1]}{did_you_mean(wrong, known)}"
    if unknown:
        known = [key for section in _sections() for key in [section, *_known_keys(section)]]
        return f"unknown key {unknown[1]!r} in {unknown[2]}{did_you_mean(unknown[1], known)}"
    return text


# --- sections, names, keys, types ---------------------------------------------------------------


def _sections() -> dict[str, Any]:
    return {field.name: field for field in dataclasses.fields(FairseqConfig)}


def _known_keys(section: str) -> list[str]:
    field = _sections().get(section)
    if field is None or not dataclasses.is_dataclass(field.default):
        return []
    return [f.name for f in dataclasses.fields(field.default)]


def _check_sections(cfg: DictConfig) -> None:
    known = _sections().keys() | _EXTRA_SECTIONS
    for section in cfg:
        if section not in known:
            raise ConfigError(f"unknown section {section!r}{did_you_mean(section, known)}")


def _registry(section: str) -> tuple[dict, dict] | None:
    """Return (classes, dataclasses) by name of a section whose class is chosen by ``_name``."""
    if section == "task":
        return TASK_REGISTRY, TASK_DATACLASS_REGISTRY
    if section == "model":
        return MODEL_REGISTRY, MODEL_DATACLASS_REGISTRY
    if section in REGISTRIES:
        return REGISTRIES[section]["registry"], REGISTRIES[section]["dataclass_registry"]
    return None


def _name(cfg: DictConfig, section: str) -> str | None:
    chosen = cfg.get(section)
    return chosen if isinstance(chosen, str) or chosen is None else chosen.get("_name")


def _dataclass(cfg: DictConfig, section: str) -> type | None:
    """Return the dataclass of a section, refusing a ``_name`` that nothing registers."""
    registry = _registry(section)
    if registry is None:
        default = _sections()[section].default
        return default if dataclasses.is_dataclass(default) else None
    name = _name(cfg, section)
    if name is None:
        if section in ("task", "model", "criterion"):
            raise ConfigError(f"the preset chooses no {section}: give {section}._name")
        return None
    ours = str(_name(cfg, "task")).startswith("ecg_")
    renamed = RENAMED.get(section, {}).get(name)
    if ours and renamed is not None:
        raise ConfigError(
            f"{section}._name={name} is stock fairseq's or no longer exists; "
            f"the ECG one is called {renamed}: {section}._name={renamed}"
        )
    classes, dataclass_of = registry
    if section == "model":
        name = ARCH_MODEL_NAME_REGISTRY.get(name, name)
    if name not in classes:
        raise ConfigError(f"no {section} is called {name!r}{did_you_mean(name, classes)}")
    return dataclass_of.get(name)


def _check_keys(section: str, chosen: DictConfig, dataclass: type) -> None:
    if isinstance(chosen, str):
        return
    known = {field.name for field in dataclasses.fields(dataclass)} | _ALWAYS_KNOWN
    for key in chosen:
        if key not in known:
            label = f" of {chosen['_name']}" if chosen.get("_name") else ""
            raise ConfigError(f"unknown key {section}.{key}{label}{did_you_mean(key, known)}")


def _check_types(section: str, chosen: DictConfig, dataclass: type) -> None:
    if isinstance(chosen, str):
        return
    schema = OmegaConf.structured(dataclass)
    for key in chosen:
        if key not in schema or OmegaConf.is_interpolation(chosen, key):
            continue
        if OmegaConf.is_missing(chosen, key):
            continue
        try:
            OmegaConf.update(schema, key, chosen[key], force_add=False)
        except (OmegaConfBaseException, ValueError) as error:
            reason = str(error).splitlines()[0]
            raise ConfigError(f"{section}.{key}={chosen[key]!r}: {reason}") from None


def _check_missing(cfg: DictConfig, dataclass_of: dict[str, type | None]) -> None:
    for section, dataclass in dataclass_of.items():
        if dataclass is None or cfg[section] is None or isinstance(cfg[section], str):
            continue
        full = OmegaConf.merge(OmegaConf.structured(dataclass), cfg[section])
        asked = [
            key
            for key in cfg[section]
            if OmegaConf.is_missing(cfg[section], key) and f"{section}.{key}" not in _MAY_BE_OPEN
        ]
        missing = asked + [key for key in full if OmegaConf.is_missing(full, key)]
        if missing:
            raise ConfigError(
                f"{section}.{missing[0]} has no value: give {section}.{missing[0]}=..."
            )


# --- values ---------------------------------------------------------------------------------------


def _value(cfg: DictConfig, key: str) -> Any:
    """Return a value, or None where it is absent or depends on the running job."""
    section, _, leaf = key.partition(".")
    chosen = cfg.get(section)
    if not isinstance(chosen, DictConfig) or leaf not in chosen:
        return None
    if OmegaConf.is_interpolation(chosen, leaf) or OmegaConf.is_missing(chosen, leaf):
        try:
            return OmegaConf.select(cfg, key)
        except (OmegaConfBaseException, ValueError):
            return None
    return chosen[leaf]


def _check_data(cfg: DictConfig) -> None:
    data = _value(cfg, "task.data")
    if data is None or not str(_name(cfg, "task")).startswith("ecg_"):
        return
    folder = Path(data)
    if not folder.is_dir():
        there = [path.parent.name for path in sorted(folder.parent.glob("*/train.tsv"))]
        raise ConfigError(
            f"task.data={data} is not a folder; it must hold the manifests "
            "(train.tsv, valid.tsv) that `fairseq-ecg manifest` writes"
            + (f"; {folder.parent} has: {', '.join(there)}" if there else "")
        )
    for manifest in _manifests(cfg):
        if not (folder / f"{manifest}.tsv").is_file():
            there = [path.stem for path in sorted(folder.glob("*.tsv"))]
            below = sorted(folder.glob(f"*/{manifest}.tsv"))
            hint = f"; give task.data={below[0].parent}" if below else did_you_mean(manifest, there)
            raise ConfigError(
                f"task.data={data} has no {manifest}.tsv"
                f"{hint} (there are: {', '.join(there) or 'no manifests'})"
            )


def _check_subsets_differ(cfg: DictConfig) -> None:
    """Refuse to validate on the manifest that is trained on.

    fairseq keeps one data set and one iterator per name; a validation would use up the epoch.
    """
    train = _value(cfg, "dataset.train_subset") or "train"
    valid = _value(cfg, "dataset.valid_subset") or "valid"
    both = sorted({*train.split(",")} & {*valid.split(",")})
    if both and not _value(cfg, "dataset.disable_validation"):
        name = both[0]
        raise ConfigError(
            f"dataset.valid_subset={valid} is trained on too (dataset.train_subset={train}), but "
            "the engine goes through a manifest for one purpose only; give another one, which may "
            f"be a copy ({name}.tsv as {name}_again.tsv, dataset.valid_subset={name}_again), or "
            "dataset.disable_validation=true"
        )


def _manifests(cfg: DictConfig) -> list[str]:
    """Return what the task reads of the subsets that the run trains and validates on."""
    manifests_of = TASK_REGISTRY[_name(cfg, "task")].manifests_of
    found = manifests_of(_value(cfg, "dataset.train_subset") or "train", training=True)
    if not _value(cfg, "dataset.disable_validation"):
        for subset in str(_value(cfg, "dataset.valid_subset") or "valid").split(","):
            found += manifests_of(subset, training=False) if subset else []
    return found


def _check_files(cfg: DictConfig) -> None:
    restore = _value(cfg, "checkpoint.restore_file")
    if restore not in (None, _DEFAULT_RESTORE_FILE):
        _check_file("checkpoint.restore_file", restore)
    for key in ("checkpoint.finetune_from_model", "model.model_path", "criterion.weights_file"):
        if _value(cfg, key):
            _check_file(key, _value(cfg, key))
    save_dir = _value(cfg, "checkpoint.save_dir")
    last = Path(save_dir or "") / _DEFAULT_RESTORE_FILE
    if save_dir and restore in (None, _DEFAULT_RESTORE_FILE) and last.is_file():
        try:
            engine.check_checkpoint_is_whole(str(last))
        except ValueError as error:
            raise ConfigError(str(error)) from None
        _check_same_model(cfg, "checkpoint.save_dir", str(last))
    for key in ("checkpoint.restore_file", "checkpoint.finetune_from_model"):
        if _value(cfg, key) not in (None, _DEFAULT_RESTORE_FILE):
            _check_same_model(cfg, key, _value(cfg, key))


def _check_same_model(cfg: DictConfig, key: str, path: str) -> None:
    """Refuse to continue a checkpoint of one of our models with another one.

    Pretraining models around one encoder may continue each other, if their weights fit.
    """
    name = engine.model_in_checkpoint(path)
    there, here = MODEL_REGISTRY.get(name), MODEL_REGISTRY.get(_name(cfg, "model"))
    family = getattr(here, "encoder_class", None)
    if there is here or family is None or not hasattr(there, "encoder_class"):
        return
    if issubclass(there, family) and issubclass(here, family):
        return
    other = "hydra.run.dir" if key == "checkpoint.save_dir" else key
    raise ConfigError(
        f"{key}: {path} holds the model {name}, but model._name is {_name(cfg, 'model')}, and only "
        f"the same model can continue it; give model._name={name}, or another {other}. To start "
        "from its encoder alone, give it as model.model_path of a classifier"
    )


def _check_file(key: str, value: str) -> None:
    path = Path(value)
    if path.is_file() or (key == "model.model_path" and is_exported(path)):
        return
    if path.is_dir():
        inside = sorted(path.rglob("checkpoint_*.pt"))
        raise ConfigError(
            f"{key}={value} is a folder, not a file"
            + (f"; did you mean {inside[0]}?" if inside else "")
        )
    there = [p.name for p in path.parent.glob(f"*{path.suffix}")] if path.parent.is_dir() else []
    near = did_you_mean(path.name, there)
    raise ConfigError(f"{key}={value} does not exist (working directory {Path.cwd()}){near}")


def _check_best_metric(cfg: DictConfig) -> None:
    if _value(cfg, "dataset.disable_validation"):
        return
    metric = _value(cfg, "checkpoint.best_checkpoint_metric")
    criterion = _registry("criterion")[0].get(_name(cfg, "criterion"))
    names_of = getattr(criterion, "validation_metrics", None)
    if metric is None or names_of is None:
        return
    names = names_of(cfg.criterion)
    if metric not in names:
        raise ConfigError(
            f"checkpoint.best_checkpoint_metric={metric} is never logged by this criterion"
            f"{did_you_mean(metric, names)} (it logs: {', '.join(names)})"
        )


def _check_model_of_criterion(cfg: DictConfig, dataclass_of: dict[str, type | None]) -> None:
    """Let the criterion refuse a model without what its loss needs, if it has ``check_model``."""
    check_model = getattr(
        _registry("criterion")[0].get(_name(cfg, "criterion")), "check_model", None
    )
    if check_model is None or dataclass_of.get("model") is None:
        return
    sections = (
        OmegaConf.merge(OmegaConf.structured(dataclass_of[name]), cfg[name])
        for name in ("criterion", "model")
    )
    try:
        check_model(*sections)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _check_world_size(cfg: DictConfig) -> None:
    size = _value(cfg, "distributed_training.distributed_world_size")
    started_by_launcher = _value(cfg, "distributed_training.distributed_no_spawn")
    if not size or size == 1 or started_by_launcher or size <= torch.cuda.device_count():
        return
    import os

    if "RANK" in os.environ or "SLURM_JOB_ID" in os.environ:
        return
    raise ConfigError(
        f"distributed_training.distributed_world_size={size}, but this machine has "
        f"{torch.cuda.device_count()} GPUs; give distributed_training.distributed_world_size=1 "
        "(optimization.update_freq keeps the effective batch), or start processes yourself: "
        f"torchrun --nproc_per_node {size} -m fairseq_ecg_launch train ..."
    )
