"""Each pretraining method with its small preset, on a network cut down further: it trains."""

import math
import re

import pytest
import torch
from fairseq.optim.lr_scheduler.fixed_schedule import FixedLRSchedule
from omegaconf import OmegaConf

import fairseq_ecg
from fairseq_ecg.checkpoint import read_checkpoint
from tests.runs import PRETRAINING, logged, train, write_segments
from tests.test_docs import PRESETS

ENCODER = [word for word in PRETRAINING if re.match(r"model\.(encoder|conv)", word)]
COMMON = [word for word in PRETRAINING if re.match(r"(common|dataset|task)\.", word)]
TARGETS = [word for word in PRETRAINING if re.match(r"model\.(latent|final|num)", word)]
# Preset and number of items in 22 recordings of two segments: pairs, or segments.
CONTRASTS = {
    **dict.fromkeys(("cmsc_small", "cmsc_rlm_small", "cmsmlc_small"), 22),
    **dict.fromkeys(("cmlc_small", "simclr_rlm_small", "simclr_augs_small", "3kg_small"), 44),
}


@pytest.fixture(scope="module")
def segments(tmp_path_factory):
    return write_segments(tmp_path_factory.mktemp("methods") / "data")


def words(preset, segments, *more):
    return ["--config-name", preset, *COMMON, *ENCODER, f"task.data={segments}", *more]


@pytest.mark.parametrize(("preset", "n_items"), CONTRASTS.items())
def test_a_contrastive_method_trains_and_its_checkpoint_opens(preset, n_items, segments, tmp_path):
    more = ["task.powerline_hz=[20]"] if "augs" in preset else []  # of 100 Hz recordings
    run = train(tmp_path, words(preset, segments, "optimization.max_epoch=1", *more))
    losses = [line["loss"] for line in logged(run.cwd)]
    assert len(losses) == math.ceil(n_items / 4)
    assert all(math.isfinite(loss) and loss > 0 for loss in losses)
    valid = logged(run.cwd, "valid")[-1]
    assert math.isfinite(valid["valid_loss"])
    assert 0 <= valid["valid_accuracy"] <= 1
    model, contract = fairseq_ecg.load_pretrained(run.checkpoints / "checkpoint_best.pt")
    assert model.embed(torch.randn(2, len(contract["leads"] or "1"), 100)).shape == (2, 16)


@pytest.mark.parametrize(
    ("preset", "leads"),
    [("3kg_small", ()), ("cmlc_small", ("task.leads_to_load=[II]", "model.in_d=1"))],
)
def test_a_contrastive_checkpoint_is_fine_tuned(preset, leads, segments, tmp_path):
    """A network of single leads on one lead."""
    run = train(tmp_path / "a", words(preset, segments, "optimization.max_update=1"))
    path = run.checkpoints / "checkpoint_last.pt"
    more = [f"model.model_path={path}", "optimization.max_update=1", *leads]
    tuned = train(
        tmp_path / "b",
        ["--config-name", "diagnosis_small", *COMMON, f"task.data={segments}", *more],
    )
    assert "encoder of" in tuned.output
    assert 0 <= logged(tuned.cwd, "valid")[-1]["valid_auroc"] <= 1


@pytest.mark.parametrize("preset", ["w2v_rlm_small", "ecg_fm_small"])
def test_a_method_of_masked_frames_trains(preset, segments, tmp_path):
    more = [*TARGETS, "optimization.max_update=3", "model.mask_count=fixed"]
    run = train(tmp_path, words(preset, segments, *more))
    assert all(math.isfinite(line["loss"]) for line in logged(run.cwd))


def test_contrast_tells_recordings_apart(segments, tmp_path):
    """The loss of pairs falls, and below that of a guess among the pairs of a batch."""
    more = ["optimization.max_epoch=20", "dataset.batch_size=11", "optimizer.weight_decay=0"]
    run = train(tmp_path, words("cmsc_small", segments, *more, "dataset.disable_validation=true"))
    losses = [line["loss"] for line in logged(run.cwd)]
    assert losses[0] < math.log2(11)
    assert sum(losses[-5:]) / 5 < 0.85 * losses[0]


def test_the_angle_of_3kg_may_be_given_in_the_model_section(segments, tmp_path):
    run = train(
        tmp_path,
        words("3kg_small", segments, "optimization.max_update=1", "model.angle=30"),
    )
    task = read_checkpoint(run.checkpoints / "checkpoint_last.pt").task_cfg
    assert (task["angle"], task["scale"], task["mask_ratio"]) == (30, 1.5, 0.5)


def test_ecg_fm_has_its_published_rate_in_every_epoch():
    cfg = OmegaConf.load(PRESETS["ecg_fm"])
    schedule = FixedLRSchedule.__new__(FixedLRSchedule)
    schedule.cfg = OmegaConf.create(
        {"lr": cfg.optimization.lr, "force_anneal": None, **cfg.lr_scheduler}
    )
    rates = {epoch: schedule.get_next_lr(epoch) for epoch in range(1, 241)}
    assert {rates[e] for e in range(1, 6)} == {1e-4}
    assert {rates[e] for e in range(6, 201)} == {8e-5}
    assert {rates[e] for e in range(201, 241)} == {5e-5}
    assert cfg.optimization.max_epoch == 240
