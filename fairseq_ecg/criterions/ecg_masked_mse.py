"""Masked reconstruction: squared error of the samples that were hidden from the network.

Sub-sequences are completed in millivolts in Gedon et al., 2021, "First Steps Towards
Self-Supervised Pretraining of the 12-Lead ECG", Computing in Cardiology 48; a masked autoencoder
predicts standardised patches in He et al., 2022, "Masked Autoencoders Are Scalable Vision
Learners", CVPR, Section 3.

A sample is scored if its block is hidden and whole, and it is not padded. Every scored sample
counts alike, so that gradients add up over micro-batches and processes. Everything is computed in
float32, whatever autocast says, and no shape depends on the data: the device is not waited for.
Shapes: B batch, C leads, T samples, N whole blocks, P samples per block.
"""

import functools
import math
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Tuple

import torch
from fairseq.criterions import FairseqCriterion, register_criterion
from fairseq.dataclass import ChoiceEnum, FairseqDataclass
from fairseq.logging import metrics
from torch import Tensor, nn

from fairseq_ecg.criterions._logging import sum_logs

# What the statistics of a target are taken over, as dimensions of [B, C, N, P].
STATISTICS = {"none": (), "patch": (1, 3), "patch_lead": (3,)}
_MICROVOLTS_PER_MV = 1000.0
_COUNTS = ("ntokens", "nsentences", "nsignals")
# What is logged, and the two sums that it is the ratio of.
_RATIOS = {"mse": ("error", "scored"), "nmse": ("error", "power")}
_RATIOS_UV2 = {
    "mse_masked_uv2": ("error_uv2", "scored_mv"),
    "mse_all_uv2": ("error_uv2", "present_mv"),
}


def cut_blocks(values: Tensor, n_blocks: int, block: int) -> Tensor:
    """Cut the last dimension into blocks and drop what is left: [..., T] to [..., N, P]."""
    return values[..., : n_blocks * block].unflatten(-1, (n_blocks, block))


def block_statistics(
    blocks: Tensor, present: Tensor, over: Tuple[int, ...], eps: float
) -> Tuple[Tensor, Tensor]:
    """Return mean and deviation of each block; padding takes no part.

    The variance is unbiased and raised by ``eps``, so that a flat block, divided by its deviation,
    stays near zero.

    Args:
        blocks: float32, [B, C, N, P].
        present: bool, [B, 1, N, P], False = padded.
        over: Dimensions that have one mean and one deviation, at least one.
        eps: Added to the variance.

    Returns:
        Both float32, [B, C, N, P] with 1 in place of the dimensions in ``over``.
    """
    weight = present.expand_as(blocks).float()
    count = weight.sum(over, keepdim=True)
    mean = (blocks * weight).sum(over, keepdim=True) / count.clamp_min(1)
    spread = ((blocks - mean).square() * weight).sum(over, keepdim=True)
    return mean, (spread / (count - 1).clamp_min(1) + eps).sqrt()


def normalise_blocks(blocks: Tensor, present: Tensor, over: Tuple[int, ...], eps: float) -> Tensor:
    """Subtract from each block its mean and divide by its deviation.

    Args:
        blocks: float32, [B, C, N, P].
        present: bool, [B, 1, N, P], False = padded.
        over: As for ``block_statistics``; none: nothing is changed.
        eps: Added to the variance.

    Returns:
        float32, [B, C, N, P]; without meaning where padded.
    """
    if not over:
        return blocks
    mean, deviation = block_statistics(blocks, present, over, eps)
    return (blocks - mean) / deviation


def error_sums(
    prediction: Tensor,
    target: Tensor,
    hidden: Tensor,
    present: Tensor,
    visible_weight: float,
    to_mv: Optional[Tensor] = None,
) -> Dict[str, Tensor]:
    """Add up the squared errors of one prediction.

    Args:
        prediction: float32, [B, C, N, P].
        target: float32, [B, C, N, P].
        hidden: bool, [B, C, N].
        present: bool, [B, 1, N, P], False = padded.
        visible_weight: What a sample that was not hidden counts, compared with a hidden one.
        to_mv: Millivolts per unit of the target, float32 [B, C], NaN = unknown; None leaves out
            the sums in microvolts.

    Returns:
        Scalars: ``loss``, the weighted sum of squared errors, with gradient; ``sample_size``, the
        sum of weights; over the scored samples ``error``, ``power`` (of the target) and their
        number ``scored``. With ``to_mv``, of the leads of known scale, ``error_uv2`` in microvolt
        squared, ``scored_mv`` and ``present_mv``, the number of scored and of un-padded samples.
    """
    square = (prediction - target).square()
    scored = hidden[..., None] & present
    per_lead = _sum_where(square, scored)
    count = scored.sum((2, 3))
    loss, size = per_lead.sum(), count.sum()
    sums = {
        "error": loss.detach(),
        "power": _sum_where(target.square(), scored).sum(),
        "scored": size,
    }
    if visible_weight:
        visible = ~hidden[..., None] & present
        loss = loss + visible_weight * _sum_where(square, visible).sum()
        size = size + visible_weight * visible.sum()
    if to_mv is not None:
        known = to_mv.isfinite()
        factor = torch.where(known, to_mv * _MICROVOLTS_PER_MV, 0.0).square()
        sums["error_uv2"] = (per_lead.detach() * factor).sum()
        sums["scored_mv"] = (count * known).sum()
    return {"loss": loss, "sample_size": size, **sums}


@dataclass
class EcgMaskedMseConfig(FairseqDataclass):
    """Keys of ``ecg_masked_mse``."""

    norm_target: ChoiceEnum(list(STATISTICS)) = field(  # type: ignore[valid-type]
        default="none",
        metadata={
            "help": "scale each target block by its own mean and deviation, over all leads "
            "(patch) or for each lead (patch_lead)"
        },
    )
    norm_eps: float = field(
        default=0.01, metadata={"help": "added to the variance of a block, in units of the input"}
    )
    visible_weight: float = field(
        default=0.0, metadata={"help": "what a sample that was not hidden counts in the loss"}
    )


@register_criterion("ecg_masked_mse", dataclass=EcgMaskedMseConfig)
class EcgMaskedMse(FairseqCriterion):
    """Squared error summed over the scored samples; the sample size is their number.

    Args:
        task: It must hide blocks: ``ecg_pretraining`` with ``task.views=masked``.
        norm_target: "none", "patch" or "patch_lead"; see ``normalise_blocks``.
        norm_eps: Added to the variance of a block.
        visible_weight: What a sample that was not hidden counts in the loss.

    Raises:
        ValueError: If the task hides nothing, or an option is out of its range.
    """

    def __init__(
        self,
        task: Any,
        norm_target: str = "none",
        norm_eps: float = 0.01,
        visible_weight: float = 0.0,
    ) -> None:
        super().__init__(task)
        self.norm_target = _word(norm_target)
        if self.norm_target not in STATISTICS:
            raise ValueError(
                f"criterion.norm_target is {self.norm_target!r}; give {', '.join(STATISTICS)}"
            )
        if not 0 < norm_eps < math.inf:
            raise ValueError(f"criterion.norm_eps is {norm_eps}; give more than 0")
        if not 0 <= visible_weight < math.inf:
            raise ValueError(f"criterion.visible_weight is {visible_weight}; give 0 or more")
        self.norm_eps = norm_eps
        self.visible_weight = visible_weight
        self.block = _block_of(task)

    @classmethod
    def validation_metrics(cls, cfg: Any) -> List[str]:
        """Return the names a validation logs, for ``checkpoint.best_checkpoint_metric``."""
        scaled = _word(cfg.get("norm_target") or "none") != "none"
        return ["loss", *_RATIOS, *(() if scaled else _RATIOS_UV2)]

    def forward(
        self, model: nn.Module, sample: Dict[str, Any], reduce: bool = True
    ) -> Tuple[Tensor, Tensor, Dict[str, Any]]:
        """Compute the loss of one batch; of two masks, every sample of either counts alike.

        Args:
            model: Its output has ``prediction`` [B, C, T], and ``lead_prediction`` where the batch
                has a second mask.
            sample: A batch whose ``net_input`` has ``source`` [B, C, T] and ``mask``, bool
                [B, C, N], True = hidden; perhaps ``padding_mask`` [B, T] and ``lead_mask``
                [B, C, N]. ``scale_mv`` [B, C] has millivolts per unit of ``source``.
            reduce: Unused; the loss is always summed.

        Returns:
            The loss, float32, []; the sum of the weights of its samples, []; what to log, as sums.

        Raises:
            ValueError: If the batch has no mask, or another block length than the task says, or
                the model reconstructs nothing.
        """
        net_input = sample["net_input"]
        self._check_mask(net_input)
        output = model(**net_input)
        source = net_input["source"]
        with torch.autocast(source.device.type, enabled=False):
            sums = self.sums(net_input, output, sample.get("scale_mv"))
        log: Dict[str, Any] = {key: value.detach() for key, value in sums.items()}
        log.update(dict.fromkeys(("nsentences", "nsignals"), len(source)))
        log["ntokens"] = len(source) * source.shape[-1]
        return sums["loss"], sums["sample_size"], log

    def sums(
        self,
        net_input: Dict[str, Tensor],
        output: Dict[str, Any],
        scale_mv: Optional[Tensor] = None,
    ) -> Dict[str, Tensor]:
        """Return the sums of ``error_sums``; of both predictions together where there are two.

        Args:
            net_input: As in ``forward``.
            output: What the model makes of it.
            scale_mv: Millivolts per unit of the source, [B, C]; None = unknown.
        """
        source, padding_mask = net_input["source"], net_input.get("padding_mask")
        n_blocks = net_input["mask"].shape[-1]
        blocks, present = self._cut(net_input)
        if padding_mask is None:
            length = torch.full((len(source), 1), source.shape[-1], device=source.device)
        else:
            length = (~padding_mask).sum(1, keepdim=True)
        target = normalise_blocks(blocks, present, STATISTICS[self.norm_target], self.norm_eps)
        to_mv = None
        if self.norm_target == "none":
            unknown = source.new_full(source.shape[:2], math.nan, dtype=torch.float32)
            to_mv = unknown if scale_mv is None else scale_mv.float()
        total: Dict[str, Tensor] = {}
        for prefix in ("", "lead_") if "lead_mask" in net_input else ("",):
            prediction = _prediction_of(output, f"{prefix}prediction", source)
            prediction = cut_blocks(prediction.float(), n_blocks, self.block)
            hidden = net_input[f"{prefix}mask"]
            sums = error_sums(prediction, target, hidden, present, self.visible_weight, to_mv)
            if to_mv is not None:
                sums["present_mv"] = (length * to_mv.isfinite()).sum()
            total = {key: value + total.get(key, 0) for key, value in sums.items()}
        return total

    def reconstruction(
        self, net_input: Dict[str, Tensor], output: Dict[str, Any], key: str = "prediction"
    ) -> Tensor:
        """Return a prediction in the unit of the source, float32 [B, C, T].

        Where targets are scaled by their own statistics, those of the source undo it: they are not
        the network's work. Samples behind the last whole block are the source's.

        Args:
            net_input: As in ``forward``.
            output: What the model makes of it.
            key: Which prediction.
        """
        source = net_input["source"]
        blocks, present = self._cut(net_input)
        made = cut_blocks(_prediction_of(output, key, source).float(), blocks.shape[2], self.block)
        over = STATISTICS[self.norm_target]
        if over:
            mean, deviation = block_statistics(blocks, present, over, self.norm_eps)
            made = made * deviation + mean
        made = made.flatten(2)
        return torch.cat([made, source[..., made.shape[-1] :].float()], dim=-1)

    def _cut(self, net_input: Dict[str, Tensor]) -> Tuple[Tensor, Tensor]:
        """Return the whole blocks of the source and which of their samples are not padded."""
        n_blocks = net_input["mask"].shape[-1]
        blocks = cut_blocks(net_input["source"].float(), n_blocks, self.block)
        padding_mask = net_input.get("padding_mask")
        if padding_mask is None:
            return blocks, torch.ones_like(blocks[:, :1], dtype=torch.bool)
        return blocks, ~cut_blocks(padding_mask, n_blocks, self.block)[:, None]

    def _check_mask(self, net_input: Dict[str, Tensor]) -> None:
        if net_input.get("mask") is None:
            raise ValueError(
                "the batch has no mask, which ecg_masked_mse needs; give task.views=masked"
            )
        samples, n_blocks = net_input["source"].shape[-1], net_input["mask"].shape[-1]
        if n_blocks != samples // self.block:
            raise ValueError(
                f"the mask has {n_blocks} blocks, but {samples} samples are "
                f"{samples // self.block} whole blocks of task.mask_block={self.block}"
            )

    @staticmethod
    def ratios(sums: Mapping[str, float]) -> Dict[str, float]:
        """Return the errors by name, as ``reduce_metrics`` logs them.

        Args:
            sums: What ``sums`` returned, added up over whatever the errors are to be of.
        """
        known = {**_RATIOS, **(_RATIOS_UV2 if "error_uv2" in sums else {})}
        return {
            name: float(sums[above] / sums[below]) if sums[below] > 0 else math.nan
            for name, (above, below) in known.items()
        }

    @staticmethod
    def logging_outputs_can_be_summed() -> bool:
        """Return True: logs of micro-batches and processes are added up."""
        return True

    @staticmethod
    def reduce_metrics(logging_outputs: List[Dict[str, Any]]) -> None:
        """Log ratios of sums over the whole interval or validation, never means of ratios.

        ``mse`` is the error per scored sample and ``nmse`` its share of the mean square of the
        target, both in the space of the target. ``mse_masked_uv2`` is the first in microvolt
        squared, ``mse_all_uv2`` the same sum over all un-padded samples; NaN where the scale of
        the recordings is not known.

        Args:
            logging_outputs: What ``forward`` returned, of all micro-batches and processes.
        """
        ratios = dict(_RATIOS)
        if "error_uv2" in logging_outputs[0]:
            ratios.update(_RATIOS_UV2)
        parts = list(dict.fromkeys(part for ratio in ratios.values() for part in ratio))
        total = sum_logs(logging_outputs, ("loss", "sample_size", *parts, *_COUNTS))
        size = total["sample_size"]
        metrics.log_scalar("loss", total["loss"] / (size or 1.0), size, round=6)
        for part in parts:
            metrics.log_scalar_sum(f"_{part}", total[part])
        for name, ratio in ratios.items():
            metrics.log_derived(name, functools.partial(_ratio, *ratio))
        for key in _COUNTS:
            metrics.log_scalar(key, total[key])


def _ratio(above: str, below: str, meters: Dict[str, Any]) -> float:
    """Return a ratio of sums to six significant digits; NaN where the second is 0."""
    value, count = float(meters[f"_{above}"].sum), float(meters[f"_{below}"].sum)
    return float(f"{value / count:.6g}") if count > 0 else math.nan


def _sum_where(values: Tensor, where: Tensor) -> Tensor:
    """Add up the values of each lead that are asked for: [B, C, N, P] twice to [B, C]."""
    return values.masked_fill(~where, 0.0).sum((2, 3))


def _word(value: Any) -> str:
    return str(getattr(value, "value", value))


def _block_of(task: Any) -> int:
    """Return the samples per block of a task that hides blocks."""
    cfg = getattr(task, "cfg", None)
    block, views = getattr(cfg, "mask_block", None), _word(getattr(cfg, "views", "masked"))
    if block is None or views not in ("auto", "masked"):
        raise ValueError(
            "criterion ecg_masked_mse needs blocks that are hidden from the network, and this "
            "task hides none; give task._name=ecg_pretraining and task.views=masked"
        )
    return int(block)


def _prediction_of(output: Dict[str, Any], key: str, source: Tensor) -> Tensor:
    prediction = output.get(key)
    if prediction is None:
        raise ValueError(
            f"the model's output has no {key}, which ecg_masked_mse needs; give a model that "
            "reconstructs recordings: model._name=ecg_uresnet or ecg_mae"
        )
    if prediction.shape != source.shape:
        raise ValueError(
            f"the model's {key} has the shape {list(prediction.shape)}, the recordings have "
            f"{list(source.shape)}"
        )
    return prediction
