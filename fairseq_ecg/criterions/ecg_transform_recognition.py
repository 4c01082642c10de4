"""Recognition of transformations: which of seven forms of a window is this one?

Sarkar and Etemad, IEEE Transactions on Affective Computing 13(3), 2022: seven heads answer yes or
no each, with the weights and the penalty of the authors' program. Beside it, or instead of it, the
contrast of two copies of each window (NT-Xent, Chen et al., ICML 2020, Section 2.1), which Dhruv's
course report EE798R, 2024, adds.

Shapes: N windows, V views of each, B = N V rows of a batch, D width of a projection.
"""

import math
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Dict, List, Optional, Tuple

import torch
import torch.nn.functional as F
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor, nn

from fairseq_ecg.criterions._contrast import count_nearest, mean_contrast, partner_masks
from fairseq_ecg.criterions._gather import gather_rows, keys_of_rows
from fairseq_ecg.criterions._logging import sum_logs
from fairseq_ecg.criterions._penalty import kernel_penalty

FORMS = ("original", "noise", "scaling", "negation", "inversion", "permutation", "time_warp")
COEFFICIENTS = (0.195, 0.195, 0.195, 0.0125, 0.0125, 0.195, 0.195)
# Rows of each window by mode, and what makes the task give them.
_VIEWS = {
    "transforms": (len(FORMS), "transforms"),
    "contrastive": (2, "two"),
    "joint": (len(FORMS) + 2, "transforms_and_pair"),
}
_LOSSES = {
    "transforms": ("loss_transforms", "loss_l2"),
    "contrastive": ("loss_ntxent", "loss_l2"),
    "joint": ("loss_transforms", "loss_ntxent", "loss_l2"),
}
_ANSWERS = ("multi_binary", "softmax7")
_HEADS = (*_ANSWERS, "none")  # what model.heads can be; other models call other things heads
_COUNTS = ("ntokens", "nsentences")


@dataclass
class EcgTransformRecognitionConfig(FairseqDataclass):
    """Keys of ``ecg_transform_recognition``."""

    mode: ChoiceEnum(list(_VIEWS)) = field(  # type: ignore[valid-type]
        default="transforms",
        metadata={
            "help": "transforms: tell the forms apart; contrastive: find the other copy of a "
            "window; joint: both"
        },
    )
    loss: ChoiceEnum(list(_ANSWERS)) = field(  # type: ignore[valid-type]
        default="multi_binary",
        metadata={
            "help": "multi_binary: yes or no by each of seven heads; softmax7: one answer of seven"
        },
    )
    coefficients: List[float] = field(
        default_factory=lambda: list(COEFFICIENTS),
        metadata={"help": "multi_binary: weight of each head, in the order of the forms"},
    )
    l2: float = field(
        default=1e-4,
        metadata={
            "help": "weight of half the squared norm of all kernels, biases left out; part of the "
            "loss, unlike optimizer.weight_decay"
        },
    )
    lambda_ntxent: float = field(
        default=0.1, metadata={"help": "joint: weight of the contrastive loss"}
    )
    temp: float = field(default=0.1, metadata={"help": "divisor of the similarities of copies"})
    mask_same_patient: bool = field(
        default=False,
        metadata={"help": "do not tell a copy apart from those of other windows of its patient"},
    )
    all_gather: bool = field(
        default=True,
        metadata={"help": "compare with the copies of all processes, with exact gradients"},
    )


def multi_binary_loss(logits: Tensor, form: Tensor, coefficients: Tensor) -> Tensor:
    """Sum over heads of c_t times the mean binary cross-entropy of head t over all rows.

    Args:
        logits: Of the heads, float [B, 7].
        form: Which form each row is, int64 [B].
        coefficients: c, float32 [7].

    Returns:
        float32 [], in nats.
    """
    target = F.one_hot(form, len(FORMS)).float()
    each = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none")
    return (each.mean(0) * coefficients).sum()


def nt_xent(
    projection: Tensor,
    view: Tensor,
    n_views: int,
    temp: float,
    patient_id: Optional[Tensor] = None,
) -> Tuple[Tensor, Tensor, Tensor]:
    """Find the other copies of a window among all copies, by cosine similarity.

    Args:
        projection: float, [B, D].
        view: int, [B], item by item; -1 does not take part.
        n_views: Copies of each window.
        temp: Divisor of the similarities.
        patient_id: int, [B]; other windows of the same patient are not compared. None: they are.

    Returns:
        Mean over all copies of -log softmax, float32 [], in nats; for how many copies another one
        of the same window is the nearest, and how many there are, int64 [] each.
    """
    vectors = F.normalize(projection.float(), dim=1)
    similarity = vectors @ vectors.T / temp
    positive, compared = partner_masks(view, n_views)
    if patient_id is not None:
        compared = compared & (positive | (patient_id[:, None] != patient_id[None]))
    loss = mean_contrast(similarity, positive, compared)
    return loss, *count_nearest(similarity.detach(), positive, compared)


def count_forms(logits: Tensor, form: Tensor, exclusive: bool) -> Dict[str, Tensor]:
    """Count right and wrong answers.

    Args:
        logits: float [B, 7].
        form: int64 [B].
        exclusive: The largest logit is the answer to all; otherwise each head says yes above 0.

    Returns:
        Integers [] by name: ``right``, rows whose largest logit is that of their form; for each
        form its ``tp_``, ``fp_`` and ``fn_``.
    """
    truth = F.one_hot(form, len(FORMS)).bool()
    answer = logits.argmax(1)
    decided = F.one_hot(answer, len(FORMS)).bool() if exclusive else logits > 0
    counts = {"right": (answer == form).sum()}
    for name, where in (
        ("tp", truth & decided),
        ("fp", ~truth & decided),
        ("fn", truth & ~decided),
    ):
        sums = where.sum(0).unbind()
        counts.update({f"{name}_{form}": n for form, n in zip(FORMS, sums, strict=True)})
    return counts


@register_criterion("ecg_transform_recognition", dataclass=EcgTransformRecognitionConfig)
class EcgTransformRecognition(FairseqCriterion):
    """The sample size is the number of windows N, and the loss N times a mean over the batch.

    So the engine's division by the sum of sample sizes gives the mean over micro-batches and
    processes, each as heavy as its windows are many, and the penalty once.

    Args:
        task: Its views must be those of the mode.
        mode: Which losses: "transforms", "contrastive" or "joint".
        loss: "multi_binary" or "softmax7".
        coefficients: Weight of each head.
        l2: Weight of the penalty.
        lambda_ntxent: Weight of the contrastive loss beside the other one.
        temp: Divisor of the similarities.
        mask_same_patient: Leave other windows of a patient out of the contrast.
        all_gather: Compare with the copies of all processes.

    Raises:
        ValueError: If a value cannot work, or the task gives other views.
    """

    def __init__(
        self,
        task: Any,
        mode: str = "transforms",
        loss: str = "multi_binary",
        coefficients: Optional[List[float]] = None,
        l2: float = 1e-4,
        lambda_ntxent: float = 0.1,
        temp: float = 0.1,
        mask_same_patient: bool = False,
        all_gather: bool = True,
    ) -> None:
        super().__init__(task)
        self.mode = _word(mode)
        self.n_views, self.task_views = _VIEWS[self.mode]
        self.exclusive = _word(loss) == "softmax7"
        self.l2, self.lambda_ntxent, self.temp = l2, lambda_ntxent, temp
        self.mask_same_patient, self.all_gather = mask_same_patient, all_gather
        weights = list(COEFFICIENTS if coefficients is None else coefficients)
        self._check(weights)
        _check_task(task, self.mode, mask_same_patient)
        self.register_buffer("coefficients", torch.tensor(weights).float(), persistent=False)

    @classmethod
    def check_model(cls, cfg: Any, model: Any) -> None:
        """Refuse a model that lacks what the loss needs, before it is built.

        Args:
            cfg: The criterion's section of the configuration, complete.
            model: The model's; what it has no keys for is seen at the first batch.

        Raises:
            ValueError: If it has heads of the other loss or none, or no projector.
        """
        mode, loss, heads = (_word(key) for key in (cfg.mode, cfg.loss, model.get("heads")))
        if mode != "contrastive" and heads in _HEADS and heads != loss:
            raise ValueError(f"criterion.loss={loss} needs model.heads={loss}, but it is {heads}")
        if mode != "transforms" and model.get("projection_dim") == 0:
            raise ValueError(
                f"criterion.mode={mode} needs a projector, but model.projection_dim is 0; give "
                "e.g. model.projection_dim=64"
            )

    @classmethod
    def validation_metrics(cls, cfg: Any) -> List[str]:
        """Return the names a validation logs, for ``checkpoint.best_checkpoint_metric``."""
        mode = _word(cfg.get("mode") or "transforms")
        names = ["loss", *_LOSSES[mode]]
        if not cfg.get("l2", 1.0):
            names.remove("loss_l2")
        if mode != "contrastive":
            names += ["accuracy", "f1", *_of_forms("accuracy"), *_of_forms("f1")]
        return names if mode == "transforms" else [*names, "pair_accuracy"]

    def forward(
        self, model: nn.Module, sample: Dict[str, Any], reduce: bool = True
    ) -> Tuple[Tensor, int, Dict[str, Any]]:
        """Compute the loss of one batch.

        Args:
            model: Its output has ``logits`` [B, 7] if forms are told apart, ``projection`` [B, D]
                if copies are contrasted; ``channel_weights`` [B, D], if it has any, are logged
                as a mean for each form. Its ``heads``, if it has any: one for each form, or one
                for all with ``softmax7``.
            sample: A batch with ``view`` and ``n_views``, rows item by item.
            reduce: Not used; the loss is always summed.

        Returns:
            The loss, float32 []; the number of windows; what to log, as sums.

        Raises:
            ValueError: If the batch has not the views, or the model not the heads or the values,
                that mode and loss need.
        """
        self._check_views(sample)
        self._check_heads(model)
        output = model(**sample["net_input"])
        rows = len(sample["view"])
        windows = rows // self.n_views
        counts: Dict[str, Any] = {}
        with torch.autocast(sample["view"].device.type, enabled=False):
            losses = {"loss_l2": self.l2 * kernel_penalty(model)} if self.l2 else {}
            if self.mode != "contrastive":
                losses["loss_transforms"], counts = self._recognise(output, sample)
            if self.mode != "transforms":
                contrast, correct, count = self._contrast(output, sample)
                weight = self.lambda_ntxent if self.mode == "joint" else 1.0
                losses["loss_ntxent"] = weight * contrast
                counts.update(correct=correct, count=count)
            loss = windows * sum(losses.values())
        log = {name: windows * value.detach() for name, value in losses.items()}
        log.update(counts, loss=loss.detach(), sample_size=windows)
        log.update(ntokens=rows, nsentences=windows)
        return loss, windows, log

    def _recognise(
        self, output: Dict[str, Any], sample: Dict[str, Any]
    ) -> Tuple[Tensor, Dict[str, Tensor]]:
        """Return the loss of the forms, and what was answered."""
        logits = _needed(output, "logits", "a head for each form: model._name=ecg_transform_cnn")
        if logits.shape[-1] != len(FORMS):
            raise ValueError(
                f"the model gives {logits.shape[-1]} logits, but there are {len(FORMS)} forms; "
                "give it a head for each"
            )
        logits, form = (self._rows(values, 0, len(FORMS)) for values in (logits, sample["view"]))
        if self.exclusive:
            loss = F.cross_entropy(logits.float(), form)
        else:
            loss = multi_binary_loss(logits, form, self.coefficients)
        counts = count_forms(logits.detach(), form, self.exclusive)
        if output.get("channel_weights") is not None:
            each = output["channel_weights"].detach().float().mean(1)
            sums = each.unflatten(0, (-1, self.n_views)).sum(0)
            counts.update({f"weight_{name}": sums[k] for k, name in enumerate(FORMS)})
        return loss, {**counts, "rows": len(form)}

    def _contrast(
        self, output: Dict[str, Any], sample: Dict[str, Any]
    ) -> Tuple[Tensor, Tensor, Tensor]:
        """See ``nt_xent``, of the copies of all processes if they are gathered."""
        projection = _needed(output, "projection", "a projector: model.projection_dim=64")
        names = ("view", "patient_id") if self.mask_same_patient else ("view",)
        keys = keys_of_rows(sample, names)
        rows = [projection, *(keys[name] for name in names)]
        vectors, *numbers = (self._rows(part, self.n_views - 2, self.n_views) for part in rows)
        if self.all_gather:
            vectors, *numbers = (
                gather_rows(vectors),
                *(gather_rows(part, fill=-1) for part in numbers),
            )
        view, patient = numbers if self.mask_same_patient else (*numbers, None)
        return nt_xent(vectors, view, 2, self.temp, patient)

    def _rows(self, values: Tensor, first: int, stop: int) -> Tensor:
        """Return the rows of some views of each window."""
        return values.unflatten(0, (-1, self.n_views))[:, first:stop].flatten(0, 1)

    def _check_views(self, sample: Dict[str, Any]) -> None:
        given = sample.get("n_views") if "view" in sample else None
        if given != self.n_views:
            has = "no views" if given is None else f"{given} views of each window"
            raise ValueError(
                f"the batch has {has}, but criterion.mode={self.mode} needs {self.n_views}; "
                f"give task.views={self.task_views}"
            )

    def _check_heads(self, model: nn.Module) -> None:
        """Refuse heads of the other loss, whose logits have the same shape."""
        n_heads = len(getattr(model, "heads", ()))
        if self.mode != "contrastive" and n_heads and (n_heads == 1) != self.exclusive:
            loss = "softmax7" if self.exclusive else "multi_binary"
            raise ValueError(
                f"criterion.loss={loss} needs model.heads={loss}, but the model has {n_heads}, "
                "of the other kind"
            )

    def _check(self, coefficients: List[float]) -> None:
        """Refuse values that have no meaning."""
        for key in ("l2", "lambda_ntxent"):
            if not 0 <= getattr(self, key) < math.inf:
                raise ValueError(f"criterion.{key} is {getattr(self, key)}; give 0 or more")
        if not 0 < self.temp < math.inf:
            raise ValueError(f"criterion.temp is {self.temp}; give a number above 0")
        if len(coefficients) != len(FORMS) or not all(0 <= c < math.inf for c in coefficients):
            raise ValueError(
                f"criterion.coefficients must be {len(FORMS)} numbers of 0 or more, one for each "
                f"of {', '.join(FORMS)}, got {coefficients}"
            )
        if not any(coefficients):
            raise ValueError(
                "criterion.coefficients are all 0, so nothing is learnt of the forms; give "
                "criterion.mode=contrastive to leave them out"
            )
        if self.exclusive and coefficients != list(COEFFICIENTS):
            raise ValueError(
                "criterion.coefficients weigh the heads of loss=multi_binary and have no effect "
                "with loss=softmax7; leave them out"
            )

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        """Log the losses per window, in nats, and ratios of sums over a whole interval.

        ``accuracy`` is the share of rows whose largest logit is that of their form, ``f1`` the
        mean over the forms of ``f1_<form>``; ``accuracy_<form>`` and ``f1_<form>`` are of the
        answers to "is it this form?". ``pair_accuracy`` is the share of copies to which the other
        copy of their window is the nearest. ``channel_weight_<form>`` is the mean weight of all
        channels, of a model that weighs them (squeeze and excitation).

        Args:
            logging_outputs: What ``forward`` returned, of all micro-batches and processes.
        """
        known = {key for log in logging_outputs for key in log}
        losses = [key for key in ("loss", *_LOSSES["joint"]) if key in known]
        parts = [f"{part}_{form}" for part in ("tp", "fp", "fn") for form in FORMS]
        parts += [f"weight_{form}" for form in FORMS]
        sums = [key for key in ("rows", "right", *parts, "correct", "count") if key in known]
        total = sum_logs(logging_outputs, (*losses, *sums, "sample_size", *_COUNTS))
        size = total["sample_size"]
        for key in losses:
            metrics.log_scalar(key, total[key] / (size or 1.0), size, round=5)
        for key in sums:
            metrics.log_scalar_sum(f"_{key}", total[key])
        if "rows" in known:
            metrics.log_derived("accuracy", partial(_ratio, "right", "rows"))
            metrics.log_derived("f1", _mean_f1)
            for form in FORMS:
                metrics.log_derived(f"accuracy_{form}", partial(_accuracy, form))
                metrics.log_derived(f"f1_{form}", partial(_f1, form))
                if f"weight_{form}" in known:
                    metrics.log_derived(f"channel_weight_{form}", partial(_mean_weight, form))
        if "count" in known:
            metrics.log_derived("pair_accuracy", partial(_ratio, "correct", "count"))
        for key in _COUNTS:
            metrics.log_scalar(key, total[key])

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Return True: logs of micro-batches and processes are added up."""
        return True


def _of_forms(metric: str) -> List[str]:
    return [f"{metric}_{form}" for form in FORMS]


def _sum(meters: Dict[str, Any], key: str) -> float:
    return float(meters[f"_{key}"].sum)


def _share(part: float, whole: float) -> float:
    return round(part / whole, 5) if whole > 0 else math.nan


def _ratio(part: str, whole: str, meters: Dict[str, Any]) -> float:
    return _share(_sum(meters, part), _sum(meters, whole))


def _accuracy(form: str, meters: Dict[str, Any]) -> float:
    rows = _sum(meters, "rows")
    return _share(rows - _sum(meters, f"fp_{form}") - _sum(meters, f"fn_{form}"), rows)


def _f1(form: str, meters: Dict[str, Any]) -> float:
    gain = 2 * _sum(meters, f"tp_{form}")
    return _share(gain, gain + _sum(meters, f"fp_{form}") + _sum(meters, f"fn_{form}"))


def _mean_weight(form: str, meters: Dict[str, Any]) -> float:
    return _share(len(FORMS) * _sum(meters, f"weight_{form}"), _sum(meters, "rows"))


def _mean_f1(meters: Dict[str, Any]) -> float:
    return round(sum(_f1(form, meters) for form in FORMS) / len(FORMS), 5)


def _word(value: Any) -> str:
    return str(getattr(value, "value", value))


def _needed(output: Dict[str, Any], key: str, way_out: str) -> Tensor:
    value = output.get(key)
    if value is None:
        raise ValueError(
            f"the model's output has no {key}, which ecg_transform_recognition needs; give a model "
            f"with {way_out}"
        )
    return value


def _check_task(task: Any, mode: str, mask_same_patient: bool) -> None:
    """Refuse a task that is known to give other views, or other patients, than are needed."""
    cfg = getattr(task, "cfg", None)
    views, positives = (_word(getattr(cfg, key, None)) for key in ("views", "positives"))
    wanted = _VIEWS[mode][1]
    automatic = mode == "transforms" and views == "auto"
    if views != "None" and views != wanted and not automatic:
        raise ValueError(f"criterion.mode={mode} needs task.views={wanted}, but it is {views}")
    if mask_same_patient and mode == "transforms":
        raise ValueError(
            "criterion.mask_same_patient=true is for copies that are contrasted, and "
            "criterion.mode=transforms contrasts none; leave it out"
        )
    if mask_same_patient and positives == "record":
        raise ValueError(
            "criterion.mask_same_patient=true needs to know patients, but task.positives=record "
            "tells recordings apart; give task.positives=patient"
        )
