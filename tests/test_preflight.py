"""What is refused before a run begins because of the checkpoint it would continue."""

import pytest
import torch

import fairseq_ecg_launch as launch
from fairseq_ecg import preflight
from fairseq_ecg.data.manifest import write_manifest

KEYS = ("checkpoint.restore_file", "checkpoint.finetune_from_model", "checkpoint.save_dir")


def composed(folder, preset, name, key):
    """Compose a run that would continue a checkpoint of the model ``name``, named by a key."""
    for split in ("train", "valid"):
        write_manifest(folder / f"{split}.tsv", "store", [("r0", 5000)])
    path = folder / "checkpoint_last.pt"
    torch.save({"cfg": {"model": {"_name": name}}, "model": {}}, path)
    value = folder if key == "checkpoint.save_dir" else path.rename(folder / "other.pt")
    words = ["--config-name", preset, f"task.data={folder}", f"{key}={value}"]
    return launch.compose(launch.CommandLine(words))


@pytest.mark.parametrize(
    ("name", "key"),
    zip(("se_wrn", "wav2vec2_cmsc", "ecg_uresnet_classifier"), KEYS, strict=True),
)
def test_the_checkpoint_of_another_model_is_not_continued(name, key, tmp_path):
    message = (
        f"{key}: .* holds the model {name}, but model._name is ecg_uresnet.* model.model_path of a"
    )
    with pytest.raises(launch.LaunchError, match=message):
        composed(tmp_path, "uresnet_small", name, key)


@pytest.mark.parametrize(
    ("preset", "name", "key"),
    [
        ("uresnet_small", "ecg_uresnet", KEYS[0]),
        ("uresnet_small", "of_somebody_else", KEYS[1]),
        ("w2v_cmsc_rlm_small", "ecg_wav2vec2", KEYS[2]),  # the same network with another loss
    ],
)
def test_that_of_the_same_or_of_an_unknown_model_is(preset, name, key, tmp_path):
    preflight.check(composed(tmp_path, preset, name, key))


def test_heads_do_not_continue_each_other(tmp_path):
    with pytest.raises(launch.LaunchError, match="holds the model arcface, but"):
        composed(tmp_path, "uresnet_scratch_small", "arcface", KEYS[0])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["criterion.loss=softmax7"], "criterion.loss=softmax7 needs model.heads=softmax7, but it"),
        (["model.heads=none"], "needs model.heads=multi_binary, but it is none"),
        (["criterion.mode=joint"], "criterion.mode=joint needs a projector"),
    ],
)
def test_a_model_without_what_the_loss_needs_is_refused_before_data_are_opened(
    words, message, tmp_path
):
    for split in ("train", "valid"):
        write_manifest(tmp_path / f"{split}.tsv", "no store is here", [("r0", 1000)])
    common = ["--config-name", "transform_small", f"task.data={tmp_path}"]
    with pytest.raises(launch.LaunchError, match=message):
        launch.compose(launch.CommandLine([*common, *words]))
    preflight.check(launch.compose(launch.CommandLine(common)))


@pytest.mark.parametrize("subsets", [("train", "valid,train"), ("train_010", "train_010")])
def test_what_is_trained_on_does_not_validate_too(subsets, tmp_path):
    train, valid = subsets
    for split in {train, *valid.split(",")}:
        write_manifest(tmp_path / f"{split}.tsv", "store", [("r0", 5000)])
    words = ["--config-name", "uresnet_small", f"task.data={tmp_path}"]
    words += [f"dataset.train_subset={train}", f"dataset.valid_subset='{valid}'"]
    with pytest.raises(launch.LaunchError, match=rf"is trained on too .*{train}_again"):
        launch.compose(launch.CommandLine(words))
    preflight.check(launch.compose(launch.CommandLine([*words, "dataset.disable_validation=true"])))
