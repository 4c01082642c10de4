"""Every preset has only known keys, builds what it names and learns from real segments.

A new preset is covered by being there.
"""

from pathlib import Path

import pytest
import torch
from fairseq import optim, tasks
from fairseq.logging import metrics
from fairseq.optim import lr_scheduler
from omegaconf import OmegaConf

import fairseq_ecg_launch as launch
from fairseq_ecg.corpora._build import build_manifest
from fairseq_ecg.data.manifest import read_manifest, write_manifest
from fairseq_ecg.data.sources import open_source
from fairseq_ecg.resources import examples_dir
from tests.conftest import SHARED
from tests.holter import write_patients
from tests.recordings import write_tone_store

PRESETS = sorted(examples_dir().rglob("*.yaml"))
# Presets that stand in several folders are one text, as tests/test_launch.py makes sure.
DIFFERENT = sorted({path.read_text(): path for path in reversed(PRESETS)}.values())
FRAME_TASKS = ("ecg_frame_classification", "ecg_future_prediction")


@pytest.fixture(scope="session")
def corpus(tmp_path_factory) -> dict[str, Path]:
    """Folders of manifests by task: real recordings, or synthetic ones where ../shared is absent.

    Real are 186 recordings of PhysioNet/CinC 2021 with their 26 classes.
    """
    folder = tmp_path_factory.mktemp("corpus")
    if (SHARED / "data").is_dir():
        build_manifest("physionet2021", SHARED / "data" / "challenge-2021", folder, workers=1)
        labelled = folder / "cinc2021"
    else:
        labelled = write_tone_store(folder)
    persons = folder / "identification"
    manifest = read_manifest(folder / "train.tsv")
    rows = [
        (p, int(n), i)
        for i, (p, n) in enumerate(zip(manifest.paths, manifest.n_samples, strict=True))
    ]
    for split in ("train", "valid_gallery", "valid_probe", "test_gallery", "test_probe"):
        write_manifest(persons / f"{split}.tsv", manifest.root, rows)
    return {
        "ecg_pretraining": folder,
        "ecg_classification": labelled,
        "ecg_identification": persons,
        "ecg_classification by ecg_cross_entropy": single_label(labelled, folder / "single_label"),
        **dict.fromkeys(FRAME_TASKS, annotated(folder / "annotated")),
    }


def single_label(labelled: Path, folder: Path) -> Path:
    """Write the manifests of a label set again, one of two classes for each recording."""
    folder.mkdir()
    (folder / "labels.txt").write_text("low\nhigh\n")
    for split in ("train", "valid"):
        manifest = read_manifest(labelled / f"{split}.tsv")
        lengths = zip(manifest.paths, manifest.n_samples, strict=True)
        rows = [(p, int(n), ("low", "high")[i % 2]) for i, (p, n) in enumerate(lengths)]
        write_manifest(folder / f"{split}.tsv", manifest.root, rows)
    return folder


def annotated(folder: Path) -> Path:
    """Write long recordings of two patients, longer than a context of future prediction."""
    write_patients(folder / "release", 2, segments=1, seconds=80.0)
    build_manifest("icentia11k", folder / "release", folder / "data", workers=1)
    return folder / "data"


def composed(preset: Path, data: dict[str, Path]):
    """Compose a preset for one process, without a pretrained checkpoint, and check it."""
    plain = OmegaConf.load(preset)
    spelt = set(plain.model.keys())  # also those whose value is ???
    name = plain.task._name
    folder = data.get(f"{name} by {plain.criterion._name}", data[name])
    words = ["--config-dir", str(preset.parent), "--config-name", preset.stem]
    words += [f"task.data={folder}"]
    words += ["distributed_training.distributed_world_size=1", "dataset.batch_size=2"]
    rate = plain.task.get("sample_rate")
    if (
        rate is not None and name not in FRAME_TASKS
    ):  # as many samples of recordings that have another one
        there = open_source(read_manifest(folder / "train.tsv"), None).rate_hz
        words += ["task.sample_rate=null"]
        if plain.task.segment_s is not None:
            words += [f"task.segment_s={plain.task.segment_s * rate / there}"]
    if "model_path" in spelt:
        words += ["model.model_path=null"]
        if "feature_grad_mult" in spelt:
            words += ["model.feature_grad_mult=1.0"]
        if "no_pretrained_weights" in spelt:
            words += ["model.no_pretrained_weights=true"]
    if plain.task.get("views") in ("cmlc", "cmsmlc"):
        words += ["task.leads_to_load=3-lead"]  # each lead is a row: a quarter of the time
    if plain.criterion.get("report_cinc_score") and not (SHARED / "data").is_dir():
        words += ["criterion.report_cinc_score=false", "criterion.score_weight=0"]
        words += ["checkpoint.best_checkpoint_metric=auroc"]  # other classes than the challenge's
    return launch.compose(launch.CommandLine(words))


def is_small(preset: Path) -> bool:
    """Return whether a preset is for one CPU; ``mae_small`` is a size beside tiny and base."""
    return preset.stem.endswith(("_small", "_debug")) and preset.stem != "mae_small"


def ids(path: Path) -> str:
    return path.relative_to(examples_dir()).with_suffix("").as_posix()


@pytest.mark.parametrize("preset", DIFFERENT, ids=ids)
def test_a_preset_takes_one_step_on_recordings_and_the_loss_is_finite(preset, corpus):
    torch.manual_seed(0)
    cfg = composed(preset, corpus)
    task = tasks.setup_task(cfg.task)
    model = task.build_model(cfg.model)
    criterion = task.build_criterion(cfg.criterion)
    task.load_dataset(cfg.dataset.train_subset)
    dataset = task.dataset(cfg.dataset.train_subset)
    indices = dataset.batch_by_size(dataset.ordered_indices(), None, cfg.dataset.batch_size)[0]
    sample = dataset.collater(dataset.__getitems__(indices))

    frozen = cfg.model.get("freeze_finetune_updates", 0) > 0
    parameters = [
        p
        for name, p in model.named_parameters()
        if p.requires_grad and not (frozen and name.startswith("encoder."))
    ]
    optimizer = optim.build_optimizer(cfg.optimizer, parameters)
    scheduler = lr_scheduler.build_lr_scheduler(cfg.lr_scheduler, optimizer)
    scheduler.step_begin_epoch(1)
    scheduler.step_update(1000)  # past the first step of a warm-up, whose rate may be 0
    before = [p.detach().clone() for p in parameters]
    loss, sample_size, log = task.train_step(sample, model, criterion, optimizer, update_num=0)
    optimizer.step()

    assert torch.isfinite(loss)
    assert sample_size > 0
    assert all(torch.isfinite(p).all() for p in parameters)
    moved = [not torch.equal(a, b) for a, b in zip(before, parameters, strict=True)]
    assert sum(moved) > 0.8 * len(moved)
    with metrics.aggregate(new_root=True):  # criterions share names, not the kinds of their meters
        criterion.reduce_metrics([log])


@pytest.mark.parametrize("method", ["uresnet", "ecg_mae"])
def test_classifiers_of_masked_pretraining_report_the_metrics_of_the_published_tables(method):
    presets = sorted((examples_dir() / method / "config" / "finetuning").glob("*.yaml"))
    assert presets
    for preset in presets:
        criterion = OmegaConf.load(preset).criterion
        asked = [criterion[f"report_{name}"] for name in ("auc", "f_max", "f_beta")]
        assert all(asked), preset


def test_the_small_presets_are_small_and_for_one_process():
    small = [path for path in PRESETS if is_small(path)]
    assert len(small) >= 2
    for path in small:
        cfg = OmegaConf.load(path)
        assert cfg.distributed_training.distributed_world_size == 1, path
        assert cfg.dataset.num_workers <= 1, path
