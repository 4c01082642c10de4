"""The keys that every task shares, and what is built of them."""

from dataclasses import dataclass, field
from typing import Any, List, Optional

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II, MISSING, OmegaConf

from fairseq_ecg.transforms.normalize import Standardize
from fairseq_ecg.transforms.perturbation import (
    Perturbation,
    build_perturbation,
    config_of_perturbations,
    perturbation_keys,
)


@dataclass
class EcgTaskConfig(config_of_perturbations(FairseqDataclass)):
    """Keys of every task; those of fairseq-signals keep their names and meaning.

    The options of the perturbations stand with them, in ``transforms/``.
    """

    data: str = field(default=MISSING, metadata={"help": "folder with train.tsv, valid.tsv, ..."})
    leads_to_load: Any = field(
        default=None,
        metadata={
            "help": "leads to use: numbers 0..11 or names ('[0, 1]', [I, II]), a set (3-lead), or "
            "a set with the other rows silent (P-3); null: all"
        },
    )
    enable_padding_leads: bool = field(
        default=False,
        metadata={"help": "keep all 12 rows and silence the leads that are not loaded"},
    )
    sample_rate: Optional[float] = field(
        default=None, metadata={"help": "rate the recordings must have, in Hz; null: any"}
    )
    segment_s: Optional[float] = field(
        default=None,
        metadata={
            "help": "cut recordings into windows of this many seconds; null: keep them whole"
        },
    )
    enable_padding: bool = field(
        default=True,
        metadata={"help": "pad a batch to its longest item; otherwise crop it to its shortest"},
    )
    max_sample_size: Optional[int] = field(
        default=None, metadata={"help": "crop longer items to this many samples"}
    )
    min_sample_size: Optional[int] = field(
        default=None, metadata={"help": "leave out recordings with fewer samples (training only)"}
    )
    filter: bool = field(
        default=False, metadata={"help": "remove baseline wander and mains hum from each lead"}
    )
    standardize: ChoiceEnum(["none", "record"]) = field(  # type: ignore[valid-type]
        default="none",
        metadata={
            "help": "record: scale each lead by mean and deviation of the whole recording (ECG-FM)"
        },
    )
    normalize: bool = field(
        default=False, metadata={"help": "scale each lead by the statistics of mean_path, std_path"}
    )
    mean_path: Optional[str] = field(
        default=None, metadata={"help": "text file with the mean of each of the 12 leads, in mV"}
    )
    std_path: Optional[str] = field(
        default=None,
        metadata={"help": "text file with the deviation of each of the 12 leads, in mV"},
    )
    perturbation_mode: Any = field(
        default=None, metadata={"help": "list of perturbations of training segments, in this order"}
    )
    p: Any = field(
        default=1.0, metadata={"help": "probability of each perturbation, one for all or one each"}
    )
    rebuild_batches: bool = field(
        default=False,
        metadata={"help": "cut new batches each epoch; false: once, as fairseq-signals does"},
    )
    autocast_bf16: bool = field(
        default=False, metadata={"help": "run forward passes in bfloat16 where that is safe"}
    )
    compile: bool = field(default=False, metadata={"help": "compile the model with torch.compile"})
    seed: int = II("common.seed")

    leads_bucket: Any = field(
        default=None, metadata={"help": "accepted for old presets; only null is supported"}
    )
    bucket_selection: str = field(
        default="uniform", metadata={"help": "accepted for old presets; unused"}
    )
    num_batch_buckets: int = field(
        default=0, metadata={"help": "accepted for old presets; only 0 is supported"}
    )
    precompute_mask_indices: bool = field(
        default=False, metadata={"help": "accepted for old presets; only false is supported"}
    )
    inferred_w2v_config: Any = field(
        default=None, metadata={"help": "accepted for old presets; unused"}
    )


def plain(value: Any) -> Any:
    """Return a value of the configuration as lists, dictionaries and numbers."""
    return OmegaConf.to_container(value) if OmegaConf.is_config(value) else value


def word(choice: Any) -> str:
    """Return the word of a choice, which fairseq keeps as an enumeration."""
    return str(getattr(choice, "value", choice))


def check_supported(cfg: EcgTaskConfig) -> None:
    """Refuse what keys of old presets ask for, if it is more than nothing.

    Raises:
        ValueError: Naming the key, its value and the way out.
    """
    reasons = {
        "leads_bucket": "choose leads with task.leads_to_load, or mask them at random with "
        "task.perturbation_mode=[random_leads_masking]",
        "num_batch_buckets": "batches are cut from recordings in the order of their length anyway",
        "precompute_mask_indices": "the model draws its masks itself",
    }
    for key, way_out in reasons.items():
        if cfg.get(key):
            raise ValueError(f"task.{key}={cfg[key]} is not supported; leave it out: {way_out}")


def standardizes_records(cfg: EcgTaskConfig) -> bool:
    """Return whether each recording is scaled by its own statistics."""
    return word(cfg.standardize) == "record"


def build_standardize(cfg: EcgTaskConfig) -> Optional[Standardize]:
    """Return the scaling by fixed statistics, if ``task.normalize`` asks for it.

    Raises:
        ValueError: If the statistics are missing, or recordings are scaled by their own as well.
    """
    if not cfg.normalize:
        return None
    if standardizes_records(cfg):
        raise ValueError(
            "task.normalize=true scales millivolts, but task.standardize=record leaves none; "
            "give one of them"
        )
    if not cfg.mean_path or not cfg.std_path:
        raise ValueError("task.normalize=true needs task.mean_path and task.std_path")
    return Standardize.from_files(cfg.mean_path, cfg.std_path)


def build_perturbations(cfg: EcgTaskConfig) -> List[Perturbation]:
    """Return the perturbations of ``task.perturbation_mode``, in this order.

    Raises:
        ValueError: If there is none of a name, or a value is out of range; names the key.
    """
    names = plain(cfg.perturbation_mode) or []
    names = [names] if isinstance(names, str) else names
    p = plain(cfg.p)
    each = [float(v) for v in (p if isinstance(p, list) else [p])]
    if len(each) == 1:
        each = each * len(names)
    if len(each) != len(names):
        raise ValueError(f"task.p has {len(each)} values for {len(names)} perturbations: {names}")
    options = {key: plain(cfg[key]) for key in perturbation_keys() if key in cfg}
    return [build_perturbation(name, q, options) for name, q in zip(names, each, strict=True)]
