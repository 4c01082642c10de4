"""The whole way on real recordings: folder, store, pretraining, fine-tuning, evaluation."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

import fairseq_ecg
from fairseq_ecg.corpora._build import build_manifest
from fairseq_ecg.data.leads import to_standard
from fairseq_ecg.data.manifest import read_manifest, write_manifest
from fairseq_ecg.data.sources import open_source
from fairseq_ecg.data.store import Store
from fairseq_ecg.data.wfdb_reader import read_signal
from fairseq_ecg.evaluation import evaluate
from fairseq_ecg.resources import challenge_labels
from tests.golden import FOLDERS
from tests.recordings import batch, load, make_task
from tests.runs import CLASSIFICATION, PRETRAINING, logged, train

CORPORA = {"ptb_xl": "ptb-xl", "physionet2021": "challenge-2021"}
SHORT = ["task.segment_s=5.0", "dataset.batch_size=16", "optimization.max_update=3"]


@pytest.fixture(scope="module", params=CORPORA)
def corpus(shared, request, tmp_path_factory):
    """(folder of the recordings, folder of the store and its manifests)."""
    folder = shared / "data" / CORPORA[request.param]
    if not folder.is_dir():
        pytest.skip(f"../shared/data/{folder.name} is not here")
    dest = tmp_path_factory.mktemp(request.param)
    build_manifest(request.param, folder, dest)
    return folder, dest


def test_from_a_folder_to_a_scored_diagnosis_model(corpus, tmp_path):
    _, dest = corpus
    data = dest / "cinc2021"
    counts = {split: len(read_manifest(data / f"{split}.tsv")) for split in ("valid", "test")}
    pretrained = train(
        tmp_path / "pretraining",
        [*PRETRAINING, *SHORT, f"task.data={dest}", "dataset.disable_validation=true"],
    )
    assert [row["num_updates"] for row in logged(pretrained.cwd)] == [1, 2, 3]
    assert all(np.isfinite(row["loss"]) for row in logged(pretrained.cwd))
    tuned = train(
        tmp_path / "finetuning",
        [
            *CLASSIFICATION,
            *SHORT,
            f"task.data={data}",
            f"model.model_path={pretrained.checkpoints}/checkpoint_last.pt",
            "model.no_pretrained_weights=false",
            "criterion.report_cinc_score=true",
            "checkpoint.best_checkpoint_metric=cinc_score",
            "task.score_per=record",
        ],
    )
    valid = logged(tuned.cwd, "valid")[-1]
    best = str(tuned.checkpoints / "checkpoint_best.pt")
    again = evaluate(best, str(data), "valid")
    assert len(again.names) == counts["valid"]
    assert again.metrics["cinc_score"] == pytest.approx(valid["valid_cinc_score"], abs=1e-3)
    saved = torch.load(best, weights_only=True)
    assert saved["extra_state"]["val_loss"] == pytest.approx(valid["valid_cinc_score"], abs=1e-3)
    assert saved["task_state"]["input_contract"]["labels"] == challenge_labels()

    result = evaluate(best, str(data), "test")
    assert result.names == read_manifest(data / "test.tsv").paths
    assert len(result.names) == counts["test"]
    assert result.num_segments >= 2 * counts["test"]
    assert result.overlap == 0
    assert evaluate(best, str(data), "train").overlap > counts["test"]
    both = (result.truth.any(axis=0)) & (~result.truth.astype(bool)).any(axis=0)
    expected = roc_auc_score(result.truth[:, both], result.probability[:, both], average="macro")
    assert result.metrics["auroc"] == pytest.approx(expected)


def test_files_read_directly_give_the_samples_of_the_store(corpus, tmp_path):
    folder, dest = corpus
    store = Store(dest / "store")
    known = store.index[store.index.source_rate_hz == store.rate_hz].set_index("record")[::9]
    assert len(known) >= 15
    files_of = {path.stem: path.relative_to(folder) for path in folder.rglob("*.hea")}
    paths = [files_of[record].with_suffix("").as_posix() for record in known.index]
    write_manifest(tmp_path / "train.tsv", folder, zip(paths, known.n_samples, strict=True))
    write_manifest(
        tmp_path / "store.tsv", dest / "store", zip(known.index, known.n_samples, strict=True)
    )
    files, stored = (
        open_source(read_manifest(tmp_path / f"{name}.tsv"), 500.0) for name in ("train", "store")
    )
    for row, (record, n) in enumerate(known.n_samples.items()):
        difference = np.abs(files.read(row, 100, n) - stored.read(row, 100, n)).max(axis=1)
        half_a_step = 0.5 / np.array(known.loc[record].gain)
        assert (difference <= half_a_step + 1e-5).all(), record
    sample = batch(load(make_task("ecg_pretraining", tmp_path, segment_s=5.0)), [0, 1])
    assert sample["net_input"]["source"].shape == (2, 12, 2500)
    assert 0.01 < float(sample["net_input"]["source"].std()) < 2  # millivolts


@pytest.mark.parametrize("golden", FOLDERS)
def test_the_references_checkpoint_embeds_a_real_recording(shared, golden):
    headers = sorted((shared / "data/ptb-xl/records500").rglob("*_hr.hea"))[:3]
    if not headers:
        pytest.skip("../shared/data/ptb-xl is not here")
    model, contract = fairseq_ecg.load_pretrained(shared / "golden" / golden / "checkpoint.pt")
    assert not model.training
    assert contract["source_format"] == "fairseq_signals"
    assert contract["leads"] == list(to_standard(read_signal(headers[0].with_suffix("")))[0].leads)
    source = torch.from_numpy(
        np.stack([to_standard(read_signal(h.with_suffix("")))[0].values_mv for h in headers])
    )
    with torch.no_grad():
        features, embedding = model.extract_features(source), model.embed(source)
        alone = model.embed(source[1:2])
        short = model.extract_features(source[:, :, :2500])
    width = features.shape[-1]
    assert features.shape == (3, 5000 // 16, width)
    assert short.shape == (3, 2500 // 16, width)
    assert embedding.shape == (3, width)
    assert bool(torch.isfinite(features).all())
    torch.testing.assert_close(embedding[1:2], alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(embedding[0], embedding[1], atol=1e-3)
