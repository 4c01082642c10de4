"""The keys that every task shares, and what is built of them."""

from dataclasses import dataclass, field
from typing import Any, Dict, List, Optional, Tuple, Union

from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from omegaconf import II, MISSING, OmegaConf

from fairseq_ecg._near_misses import did_you_mean
from fairseq_ecg.contract import INPUT_KEYS
from fairseq_ecg.data.collate import Padding
from fairseq_ecg.data.signal import STANDARD_DEVIATIONS
from fairseq_ecg.transforms.normalize import Standardize, StandardizeWindow
from fairseq_ecg.transforms.perturbation import (
    Perturbation,
    build_perturbation,
    config_of_perturbations,
    perturbation_keys,
)
from fairseq_ecg.transforms.pipeline import Band

STANDARDIZATIONS = ("none", "record", "person", "window", "window_lead")
WINDOWINGS = ("consecutive", "balanced", "random", "last")
PADDINGS = ("none", "end", "start", "centre")


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
    windowing: ChoiceEnum(WINDOWINGS) = field(  # type: ignore[valid-type]
        default="consecutive",
        metadata={
            "help": "where windows lie; consecutive: from the start, a remainder is dropped; "
            "balanced: one more if more than half a window would remain, else from the middle; "
            "random: one per recording and epoch in training, eval_windows else; last: the last "
            "one of each recording"
        },
    )
    eval_windows: int = field(
        default=1,
        metadata={
            "help": "windows of a recording outside training with windowing=random, spread evenly "
            "and overlapping if they must; 1: the middle"
        },
    )
    pad_segments: ChoiceEnum(PADDINGS) = field(  # type: ignore[valid-type]
        default="none",
        metadata={
            "help": "pad what is shorter than a window with zeros to its length, at the end, at "
            "the start or at both ends (centre); none: only to the longest of its batch"
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
    highpass_hz: Optional[float] = field(
        default=None, metadata={"help": "remove frequencies below, in Hz; null: keep them"}
    )
    lowpass_hz: Optional[float] = field(
        default=None, metadata={"help": "remove frequencies above, in Hz; null: keep them"}
    )
    standardize: ChoiceEnum(STANDARDIZATIONS) = field(  # type: ignore[valid-type]
        default="none",
        metadata={
            "help": "scale by mean and deviation; record: each lead by those of the whole "
            "recording (ECG-FM); person: each lead by those of all recordings of the person; "
            "window: all leads by those of the window; window_lead: each lead by those of it"
        },
    )
    normalize: bool = field(
        default=False,
        metadata={
            "help": "scale each lead by the statistics of mean_path, std_path, or all of them by "
            "mean_mv, std_mv"
        },
    )
    mean_path: Optional[str] = field(
        default=None, metadata={"help": "text file with the mean of each of the 12 leads, in mV"}
    )
    std_path: Optional[str] = field(
        default=None,
        metadata={"help": "text file with the deviation of each of the 12 leads, in mV"},
    )
    mean_mv: Optional[float] = field(
        default=None, metadata={"help": "mean of all leads, in mV, instead of mean_path"}
    )
    std_mv: Optional[float] = field(
        default=None, metadata={"help": "deviation of all leads, in mV, instead of std_path"}
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
    contract_ignores: Any = field(
        default=None,
        metadata={
            "help": "list of what a pretrained encoder expects of its input that the recordings "
            "need not be, such as [rate_hz]; each difference is logged"
        },
    )
    log_gradient_norms: bool = field(
        default=False,
        metadata={"help": "log the norm of the gradient in each block of the encoder"},
    )
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


def check_windowing(cfg: EcgTaskConfig) -> None:
    """Refuse keys about windows that do not fit together.

    Raises:
        ValueError: Naming the key, its value and the way out.
    """
    for key, without in (("windowing", "consecutive"), ("pad_segments", "none")):
        if word(cfg[key]) != without and cfg.segment_s is None:
            raise ValueError(
                f"task.{key}={word(cfg[key])} needs the length of a window; give task.segment_s in "
                f"seconds, or task.{key}={without}"
            )
    if cfg.eval_windows < 1:
        raise ValueError(f"task.eval_windows must be at least 1, got {cfg.eval_windows}")
    if cfg.eval_windows > 1 and word(cfg.windowing) != "random":
        raise ValueError(
            f"task.eval_windows={cfg.eval_windows} is for task.windowing=random, but that is "
            f"{word(cfg.windowing)}, which evaluates all windows; leave eval_windows out"
        )


def build_padding(cfg: EcgTaskConfig, window: Optional[int]) -> Optional[Padding]:
    """Return how items are brought to the length of a window, if ``task.pad_segments`` says so.

    Args:
        cfg: The task's section of the configuration.
        window: Samples of a window.
    """
    where = word(cfg.pad_segments)
    return None if where == "none" else Padding(window, where)


def build_band(cfg: EcgTaskConfig) -> Optional[Band]:
    """Return the frequencies to keep, if ``task.highpass_hz`` or ``task.lowpass_hz`` says so.

    Raises:
        ValueError: If they are not positive or not in order; names the key.
    """
    low, high = cfg.highpass_hz, cfg.lowpass_hz
    for key, value in (("highpass_hz", low), ("lowpass_hz", high)):
        if value is not None and value <= 0:
            raise ValueError(f"task.{key} must be above 0 Hz, got {value:g}; null: no such filter")
    if low is not None and high is not None and low >= high:
        raise ValueError(
            f"task.highpass_hz={low:g} must be below task.lowpass_hz={high:g}; what lies between "
            "is kept"
        )
    return None if low is None and high is None else Band(low, high)


def check_band(band: Optional[Band], rate_hz: float) -> None:
    """Refuse frequencies that recordings of this rate do not have.

    Raises:
        ValueError: Naming the key, the frequency and the limit.
    """
    edges = {} if band is None else {"highpass_hz": band.low_hz, "lowpass_hz": band.high_hz}
    for key, edge_hz in edges.items():
        if edge_hz is not None and edge_hz >= rate_hz / 2:
            raise ValueError(
                f"task.{key}={edge_hz:g} must be below half the rate of the recordings "
                f"({rate_hz:g} Hz); leave it out, or take recordings of a higher rate"
            )


def standardization(cfg: EcgTaskConfig, unit: str) -> str:
    """Return how samples came by their unit, as the input contract names it.

    Args:
        cfg: The task's section of the configuration.
        unit: Of the samples that reach the network.
    """
    if unit != STANDARD_DEVIATIONS or cfg.normalize:
        return "none"
    chosen = word(cfg.standardize)
    return "record" if chosen == "none" else chosen  # else they were scaled when prepared


def build_standardize(cfg: EcgTaskConfig) -> Union[Standardize, StandardizeWindow, None]:
    """Return the scaling of windows that ``task.normalize`` or ``task.standardize`` asks for.

    Raises:
        ValueError: If the statistics are missing, or both scale.
    """
    chosen = word(cfg.standardize)
    if not cfg.normalize:
        windows = {"window": StandardizeWindow(), "window_lead": StandardizeWindow(per_lead=True)}
        return windows.get(chosen)
    if chosen != "none":
        raise ValueError(
            f"task.normalize=true scales millivolts, but task.standardize={chosen} leaves none; "
            "give one of them"
        )
    files, numbers = (cfg.mean_path, cfg.std_path), (cfg.mean_mv, cfg.std_mv)
    if any(files) and any(number is not None for number in numbers):
        raise ValueError(
            "task.mean_path and task.std_path give each lead statistics of its own, task.mean_mv "
            "and task.std_mv one for all; leave one pair out"
        )
    if all(files):
        return Standardize.from_files(*files)
    if None in numbers:
        raise ValueError(
            "task.normalize=true needs task.mean_path and task.std_path, or task.mean_mv and "
            "task.std_mv"
        )
    try:
        return Standardize.from_numbers(*numbers)
    except ValueError as error:
        raise ValueError(f"task.mean_mv, task.std_mv: {error}") from None


def compared_keys(cfg: EcgTaskConfig) -> Tuple[List[str], List[str]]:
    """Divide what encoders expect of their input as ``task.contract_ignores`` says.

    Returns:
        What must be equal, and what may differ.

    Raises:
        ValueError: If something is named that is not compared; lists what is.
    """
    ignored = plain(cfg.contract_ignores) or []
    ignored = [ignored] if isinstance(ignored, str) else list(ignored)
    for key in ignored:
        if key not in INPUT_KEYS:
            raise ValueError(
                f"task.contract_ignores names {key!r}, which is not compared"
                f"{did_you_mean(str(key), INPUT_KEYS)} (there are: {', '.join(INPUT_KEYS)})"
            )
    return [key for key in INPUT_KEYS if key not in ignored], ignored


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
    options = perturbation_options(cfg)
    return [build_perturbation(name, q, options) for name, q in zip(names, each, strict=True)]


def perturbation_options(cfg: EcgTaskConfig) -> Dict[str, Any]:
    """Return the values of the keys of all perturbations."""
    return {key: plain(cfg[key]) for key in perturbation_keys() if key in cfg}
