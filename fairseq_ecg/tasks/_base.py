"""What every task of the package shares.

Data: manifests to datasets (``EcgTask.load_dataset``). Training: bf16 autocast and
``torch.compile`` as keys, a graceful stop on SIGTERM. Validation: exact metrics over all scores of
all processes, once per epoch. Checkpoints: the input contract and the early-stopping counter.
"""

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Set

import numpy as np
import torch
import torch.distributed as dist
from fairseq import checkpoint_utils
from fairseq.dataclass import FairseqDataclass
from fairseq.logging import metrics
from fairseq.tasks import FairseqTask
from omegaconf import DictConfig, OmegaConf

from fairseq_ecg import engine, preflight
from fairseq_ecg.contract import INPUT_KEYS, InputContract, check, differences, name_prints
from fairseq_ecg.data.dataset import BaseEcgDataset, EcgDataset
from fairseq_ecg.data.leads import STANDARD_LEADS, choose_leads
from fairseq_ecg.data.manifest import Manifest, read_manifest
from fairseq_ecg.data.signal import MILLIVOLTS, STANDARD_DEVIATIONS
from fairseq_ecg.data.sources import (
    PersonStandardizedSource,
    Source,
    StandardizedSource,
    check_not_standardized,
    open_source,
)
from fairseq_ecg.data.windows import (
    Windows,
    balanced_windows,
    cut_windows,
    last_windows,
    random_windows,
    spread_windows,
)
from fairseq_ecg.tasks._config import (
    EcgTaskConfig,
    build_band,
    build_padding,
    build_perturbations,
    build_standardize,
    check_band,
    check_supported,
    check_windowing,
    compared_keys,
    plain,
    standardization,
    word,
)
from fairseq_ecg.tasks._gradients import GradientNorms
from fairseq_ecg.transforms.pipeline import Pipeline, build_pipeline

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Expectation:
    contract: InputContract
    of: str
    keys: Sequence[str]
    ignored: Sequence[str]


class EcgTask(FairseqTask):
    """Base of all tasks.

    Args:
        cfg: The task's section of the configuration.

    Raises:
        ValueError: If a key has a value that cannot work; the message names it.
    """

    def __init__(self, cfg: EcgTaskConfig) -> None:
        super().__init__(cfg)
        check_supported(cfg)
        check_windowing(cfg)
        self.leads = choose_leads(plain(cfg.leads_to_load), cfg.enable_padding_leads)
        self.band = build_band(cfg)
        self.standardize = build_standardize(cfg)
        self.perturbations = build_perturbations(cfg)
        self.compared = compared_keys(cfg)
        self.autocast_bf16 = cfg.autocast_bf16
        self.stop = engine.GracefulStop(self.end_epoch)
        self._scores: List[Dict[str, np.ndarray]] = []
        self._gradients: Optional[GradientNorms] = None
        self._gradient_norms: Dict[str, torch.Tensor] = {}
        self._updates_started = False
        self._remarks: Set[str] = set()
        self._seeded_update: Optional[int] = None
        self._expected: Optional[_Expectation] = None
        self.state.add_factory("input_contract", self._input_contract)

    @classmethod
    def setup_task(cls, cfg: DictConfig, **kwargs: Any) -> "EcgTask":
        """Check the whole configuration (unless it comes from a checkpoint) and build the task."""
        engine.forget_earlier_jobs()
        root = cfg._get_root() if isinstance(cfg, DictConfig) else None
        if root is not None and "task" in root and not kwargs.get("from_checkpoint"):
            preflight.check(root)
        return cls(cfg)

    # --- data -----------------------------------------------------------------------------------

    @classmethod
    def manifests_of(cls, split: str, training: bool) -> List[str]:
        """Return the manifests that a split consists of, without the suffix ``.tsv``.

        Args:
            split: As in ``dataset.train_subset`` or ``dataset.valid_subset``.
            training: Whether it is trained on.
        """
        return [split]

    @property
    def num_leads(self) -> int:
        """Number of leads C of a batch."""
        return len(self.leads.leads)

    def load_dataset(
        self,
        split: str,
        combine: bool = False,
        task_cfg: Optional[FairseqDataclass] = None,
        training: Optional[bool] = None,
        **kwargs: Any,
    ) -> None:
        """Open the manifest ``<data>/<split>.tsv`` and build the dataset of the split.

        Args:
            split: Name of the manifest.
            combine: Not used, as ``task_cfg``; the engine passes them.
            task_cfg: Not used.
            training: Whether to shuffle and perturb; None: if it is ``dataset.train_subset``, or,
                outside a run, if the name contains "train".
            **kwargs: Not used.

        Raises:
            ContractError: If the recordings are not what the network expects (``expect``).
            ValueError: If the manifest lists nothing, its recordings have none of the leads, or a
                perturbation or a filter cannot work at their rate or on these leads.
        """
        if training is None:
            training = self._is_training(split)
        path = Path(self.cfg.data) / f"{split}.tsv"
        manifest = read_manifest(path)
        self._check_not_empty(manifest, path, training)
        source = self.open_source(manifest)
        self._check_leads(source, path)
        self._check_expectation(source)
        rate_hz = self.input_rate(source)
        check_band(self.band, rate_hz)
        for perturbation in self.perturbations if training else ():
            perturbation.check(rate_hz, self.leads.leads)
            self._pass_on(perturbation.remark(self._unit(source.unit)))
        self.datasets[split] = self.build_dataset(manifest, source, training)
        if training:
            self._remember_training_data(source)
        logger.info(
            "%s: %d recordings, %d items, %g Hz",
            path,
            len(source.names),
            len(self.datasets[split]),
            rate_hz,
        )

    def _check_not_empty(self, manifest: Manifest, path: Path, training: bool) -> None:
        if len(manifest):
            return
        validates = not training and self._of_run("dataset.valid_subset") is not None
        or_else = "; or train without validation: dataset.disable_validation=true"
        raise ValueError(
            f"{path} lists no recordings: add patients, give `fairseq-ecg manifest` other shares, "
            f"or see in its ledger.csv why it left them out{or_else if validates else ''}"
        )

    def _check_leads(self, source: Source, path: Path) -> None:
        there = [STANDARD_LEADS[row] for row in np.flatnonzero(source.recorded_leads())]
        if there and not self.present_leads(source):
            wanted = ", ".join(STANDARD_LEADS[row] for row in self.leads.rows)
            raise ValueError(
                f"the recordings of {path} have none of the leads {wanted}, only "
                f"{', '.join(there)}; choose among those with task.leads_to_load"
            )

    def _pass_on(self, remark: Optional[str]) -> None:
        """Log a remark, if there is one, the first time that it is made."""
        if remark is not None and remark not in self._remarks:
            self._remarks.add(remark)
            logger.warning("%s", remark)

    def _is_training(self, split: str) -> bool:
        subset = self._of_run("dataset.train_subset")
        return "train" in split if subset is None else split in subset.split(",")

    def open_source(self, manifest: Manifest) -> Source:
        """Return the recordings of a manifest, standardised if ``task.standardize`` asks for it.

        Raises:
            ValueError: If they have another rate than ``task.sample_rate``, or are standardised
                already.
        """
        source = open_source(manifest, self.cfg.sample_rate)
        standardize = word(self.cfg.standardize)
        if standardize != "none":
            check_not_standardized(source, standardize)
        scaling = {"record": StandardizedSource, "person": PersonStandardizedSource}
        return scaling[standardize](source) if standardize in scaling else source

    def input_rate(self, source: Source) -> float:
        """Return the rate of the samples that reach the network."""
        return source.rate_hz

    def build_dataset(self, manifest: Manifest, source: Source, training: bool) -> BaseEcgDataset:
        """Return the dataset of a split; tasks add labels or views around ``segments``."""
        return self.segments(source, training)

    def segments(self, source: Source, training: bool, **options: Any) -> EcgDataset:
        """Return the windows of all recordings of a source, transformed.

        Args:
            source: The recordings.
            training: Whether they are trained on.
            **options: Further keywords of ``EcgDataset``.
        """
        window = self.window(source.rate_hz)
        windows = self.cut(source.n_samples, window, training)
        if training and self.cfg.min_sample_size:
            windows = windows.select(windows.length >= self.cfg.min_sample_size)
        return EcgDataset(
            source,
            windows,
            self.pipeline(training),
            seed=self.cfg.seed,
            training=training,
            rebuild_batches=self.cfg.rebuild_batches,
            pad=self.cfg.enable_padding,
            max_samples=self.cfg.max_sample_size,
            padding=build_padding(self.cfg, window),
            **options,
        )

    def window(self, rate_hz: float) -> Optional[int]:
        """Return the samples of a window of ``task.segment_s``; None: recordings stay whole."""
        return None if self.cfg.segment_s is None else round(self.cfg.segment_s * rate_hz)

    def cut(self, n_samples: np.ndarray, window: Optional[int], training: bool) -> Windows:
        """Return the pieces of all recordings; tasks that do not take all of them override this.

        Args:
            n_samples: Length of each recording, int64 [N].
            window: Samples per piece; None keeps recordings whole.
            training: Whether they are trained on.
        """
        windowing = word(self.cfg.windowing)
        if windowing == "balanced":
            return balanced_windows(n_samples, window)
        if windowing == "last":
            return last_windows(n_samples, window)
        if windowing == "random" and training:
            return random_windows(n_samples, window)
        if windowing == "random":
            return spread_windows(n_samples, window, self.cfg.eval_windows)
        return cut_windows(n_samples, window)

    def pipeline(self, training: bool) -> Pipeline:
        """Return the transforms of a split; perturbations only in training."""
        return build_pipeline(
            rows=self.leads.rows,
            pad_leads=self.leads.padded,
            filter_signal=self.cfg.filter,
            band=self.band,
            standardize=self.standardize,
            perturbations=self.perturbations if training else (),
        )

    # --- training -------------------------------------------------------------------------------

    def build_model(self, cfg: FairseqDataclass, from_checkpoint: bool = False) -> torch.nn.Module:
        """Build the model and compile it in place if ``task.compile`` asks for it.

        If its encoder was pretrained, every dataset opened after it must fit that, except for what
        ``task.contract_ignores`` names.
        """
        model = super().build_model(cfg, from_checkpoint)
        pretrained = getattr(model, "pretrained_contract", None)
        if pretrained is not None:
            self.expect(pretrained, f"the encoder in {cfg.model_path}", *self.compared)
        if self.cfg.log_gradient_norms:
            self._gradients = GradientNorms(model)
        if self.cfg.compile:
            model.compile()
        return model

    def begin_epoch(self, epoch: int, model: torch.nn.Module) -> None:
        """Catch SIGTERM from the first epoch of this process on."""
        if not self._updates_started:
            self.stop.install()
            self._updates_started = True

    def end_epoch(self) -> bool:
        """Return whether the run shall end after an epoch; tasks with a reason override this."""
        return False

    def train_step(
        self,
        sample: Dict[str, Any],
        model: torch.nn.Module,
        criterion: torch.nn.Module,
        optimizer: Any,
        update_num: int,
        ignore_grad: bool = False,
    ) -> tuple:
        """Run forward and backward; bf16 autocast if ``task.autocast_bf16``.

        fairseq's own ``common.bf16`` casts weights and targets, ``common.amp`` divides gradients by
        the loss scale twice; autocast keeps float32 weights and needs no scale.
        """
        model.train()
        model.set_num_updates(update_num)
        if update_num != self._seeded_update:
            engine.seed_apart(self.cfg.seed, update_num)
            self._seeded_update = update_num
        with self._autocast(sample):
            loss, sample_size, logging_output = criterion(model, sample)
        if ignore_grad:
            loss *= 0
        optimizer.backward(loss)
        logging_output["stop"] = int(self.stop.requested)
        return loss, sample_size, logging_output

    def optimizer_step(self, optimizer: Any, model: torch.nn.Module, update_num: int) -> None:
        """Take a step; note the norms of the gradient if ``task.log_gradient_norms`` asks."""
        if self._gradients is not None:
            self._gradient_norms = self._gradients.measure()
        super().optimizer_step(optimizer, model, update_num)

    def valid_step(
        self, sample: Dict[str, Any], model: torch.nn.Module, criterion: torch.nn.Module
    ) -> tuple:
        """Run forward only; scores that the criterion hands over are kept for ``post_validate``."""
        model.eval()
        with torch.no_grad(), self._autocast(sample):
            loss, sample_size, logging_output = criterion(model, sample)
        scores = logging_output.pop("scores", None)
        if scores is not None:
            kept = {"id": sample["id"], "record": sample["record"], **scores}
            self._scores.append({key: value.cpu().numpy() for key, value in kept.items()})
        return loss, sample_size, logging_output

    def reduce_metrics(self, logging_outputs: List[Dict[str, Any]], criterion: Any) -> None:
        """Log what the criterion summed, and agree on a stop over all processes."""
        self.stop.agree(sum(float(log.pop("stop", 0)) for log in logging_outputs))
        super().reduce_metrics(logging_outputs, criterion)
        if criterion.training:
            for name, value in self._gradient_norms.items():
                metrics.log_scalar(name, value, round=6)
        else:
            for name in getattr(criterion, "epoch_metric_names", list)():
                metrics.log_scalar(name, math.nan)  # the engine wants the key; set below

    def _autocast(self, sample: Dict[str, Any]) -> torch.autocast:
        device = sample["net_input"]["source"].device.type
        return torch.autocast(device, dtype=torch.bfloat16, enabled=self.autocast_bf16)

    # --- validation -----------------------------------------------------------------------------

    def begin_valid_epoch(self, epoch: int, model: torch.nn.Module) -> None:
        """Forget the scores of an earlier validation; validate the network that is saved."""
        self._scores.clear()
        engine.share_buffers(model)

    def post_validate(self, model: torch.nn.Module, stats: Dict[str, Any], agg: Any) -> None:
        """Compute the metrics that need all scores, over all processes, into ``stats``."""
        scores = gather_scores(self._scores)
        self._scores.clear()
        if scores is None:
            return
        values = self.epoch_metrics(scores)
        stats.update(values)
        self._warn_if_nothing_is_best(values)
        for name, value in values.items():
            best = getattr(checkpoint_utils.save_checkpoint, "best", None)
            if f"best_{name}" in stats and best is not None:
                better = max if self._maximizes() else min
                stats[f"best_{name}"] = better(best, value)

    def epoch_metrics(self, scores: Dict[str, np.ndarray]) -> Dict[str, float]:
        """Return the metrics of one validation; tasks with scores override this.

        Args:
            scores: What the criterion handed over, with ``id`` and ``record``, one row per item.
        """
        return {}

    def _warn_if_nothing_is_best(self, values: Dict[str, float]) -> None:
        metric = self._of_run("checkpoint.best_checkpoint_metric")
        if math.isnan(values.get(metric, 0.0)):
            logger.warning(
                "checkpoint.best_checkpoint_metric=%s has no value on these data (a class needs "
                "recordings with it and without it), so checkpoint_best.pt is not written; take "
                "more validation data or another metric",
                metric,
            )

    def _maximizes(self) -> bool:
        return bool(self._of_run("checkpoint.maximize_best_checkpoint_metric"))

    def _of_run(self, key: str) -> Any:
        """Return a value from another section of the run's configuration; None outside a run."""
        root = self.cfg._get_root() if isinstance(self.cfg, DictConfig) else None
        return None if root is None else OmegaConf.select(root, key)

    # --- checkpoints ----------------------------------------------------------------------------

    def get_checkpoint_dict(self) -> Dict[str, Any]:
        """Return what fairseq forgets: the early-stopping counter, under the name of the class."""
        _ = self.state.input_contract  # the factory runs at the first look
        return {type(self).__name__: {"patience": engine.patience_state()}}

    def set_checkpoint_dict(self, state: Dict[str, Any]) -> None:
        """Take up the early-stopping counter of a checkpoint."""
        engine.restore_patience_state(state.get("patience", {}))

    def _input_contract(self) -> Dict[str, Any]:
        """Return what the network expects of its input, stored with every checkpoint."""
        return {
            "rate_hz": self.cfg.sample_rate,
            "leads": list(self.leads.leads),
            "present_leads": [STANDARD_LEADS[row] for row in self.leads.rows],
            "unit": self._unit(MILLIVOLTS),
            "standardize": standardization(self.cfg, self._unit(MILLIVOLTS)),
            "normalize": self.cfg.normalize,
            "filter": self.cfg.filter,
            "highpass_hz": self.cfg.highpass_hz or 0.0,
            "lowpass_hz": self.cfg.lowpass_hz or 0.0,
            "segment_s": self.cfg.segment_s,
            "labels": None,
            "source_format": "fairseq_ecg",
            "trained_on": {},
        }

    def expect(
        self,
        contract: InputContract,
        of: str,
        keys: Sequence[str] = INPUT_KEYS,
        ignored: Sequence[str] = (),
    ) -> None:
        """Compare every dataset that is opened from now on with what a network expects.

        Args:
            contract: What it expects.
            of: Whose expectation it is, for the message.
            keys: What of the contract must be equal.
            ignored: What of it may differ, with a remark.
        """
        self._expected = _Expectation(contract, of, keys, ignored)

    def _check_expectation(self, source: Source) -> None:
        if self._expected is None:
            return
        expected, of = self._expected.contract, self._expected.of
        given = InputContract.from_dict({**self._input_contract(), **self._contract_of(source)})
        check(expected, given, of, self._expected.keys)
        for key in differences(expected, given, self._expected.ignored):
            self._pass_on(
                f"{of} expects {key}: {getattr(expected, key)}, but gets {getattr(given, key)}; "
                "task.contract_ignores lets it pass"
            )

    def _contract_of(self, source: Source) -> Dict[str, Any]:
        """Return what of the contract depends on the recordings."""
        unit = self._unit(source.unit)
        return {
            "rate_hz": self.input_rate(source),
            "present_leads": self.present_leads(source),
            "unit": unit,
            "standardize": standardization(self.cfg, unit),
        }

    def present_leads(self, source: Source) -> List[str]:
        """Return the leads of a batch that carry signal in some recording of a source."""
        recorded = source.recorded_leads()
        return [STANDARD_LEADS[row] for row in self.leads.rows if recorded[row]]

    def _unit(self, of_source: str) -> str:
        """Return the unit of what the network sees, given that of the recordings."""
        if self.cfg.normalize or word(self.cfg.standardize) != "none":
            return STANDARD_DEVIATIONS
        return of_source

    def _remember_training_data(self, source: Source) -> None:
        """Note rate, corpus and content of the training recordings in the contract."""
        contract = self.state.input_contract
        contract.update(self._contract_of(source))
        fingerprints = torch.from_numpy(np.sort(source.fingerprints()).view(np.int64))
        pretraining = contract["trained_on"].get("pretraining")  # of a resumed run
        if self._expected is not None:
            pretraining = dict(self._expected.contract.trained_on)
        names = torch.from_numpy(np.unique(name_prints(source.names)).view(np.int64))
        contract["trained_on"] = {
            "corpus": source.corpus,
            "records": fingerprints,
            "names": names,
        }
        if pretraining:
            contract["trained_on"]["pretraining"] = pretraining


def gather_scores(parts: List[Dict[str, np.ndarray]]) -> Optional[Dict[str, np.ndarray]]:
    """Join the scores of all batches and processes, each item once, in the order of ``id``.

    A process that runs out of batches repeats its first one; such rows are dropped here.

    Args:
        parts: One dictionary of arrays per batch of this process, ``id`` among them.

    Returns:
        The joined arrays, or None if no process has any.
    """
    if dist.is_available() and dist.is_initialized():
        everywhere: List[Any] = [None] * dist.get_world_size()
        dist.all_gather_object(everywhere, parts)
        parts = [part for process in everywhere for part in process]
    if not parts:
        return None
    joined = {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
    _, first = np.unique(joined["id"], return_index=True)
    return {key: values[first] for key, values in joined.items()}
