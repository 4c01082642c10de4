"""What comes after training, for every classifier of the registry: one interface, no names."""

import numpy as np
import pytest

from fairseq_ecg.data.builder import build_store
from fairseq_ecg.data.ingest import BuildOptions, RecordEntry
from fairseq_ecg.data.manifest import write_manifest
from fairseq_ecg.evaluation import evaluate
from fairseq_ecg.evaluation_files import read_evaluation, write_evaluation
from fairseq_ecg.prediction import predict
from fairseq_ecg.report import write_report
from tests.exports import N_SAMPLES, write_model
from tests.models.test_encoder import HEADS
from tests.runs import write_segments

# Of patients, who are no classes of recordings: tests/test_evaluation.py.
CLASSIFIERS = [name for name in HEADS if name != "arcface"]
RATE_HZ = N_SAMPLES / 2  # recordings last 2 s, and some heads are for one length


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tones") / "data"
    write_segments(folder, count=22)
    entries = [RecordEntry(f"r{i:03d}", f"r{i:03d}", f"p{i}", "train") for i in range(22)]
    build_store(entries, folder / "wfdb", folder, BuildOptions(rate_hz=RATE_HZ), corpus="tones")
    lines = (folder / "test.tsv").read_text().splitlines()[1:]
    rows = [(line.split("\t")[0], N_SAMPLES, line.split("\t")[2]) for line in lines]
    write_manifest(folder / "test.tsv", "store", rows)
    return folder


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_it_is_evaluated_predicts_the_same_and_has_a_report(name, data, tmp_path):
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    path = write_model(
        run / "checkpoints" / "checkpoint_last.pt", name, rate_hz=RATE_HZ, segment_s=2.0
    )
    result = evaluate(str(path), str(data), bootstrap=20)
    assert result.probability.shape == (6, 3)
    assert np.isfinite(result.metrics["macro_auprc"])
    assert result.intervals["macro_auprc"].low <= result.metrics["macro_auprc"]

    predicted = predict(path, [data / "store" / record for record in result.names]).table()
    np.testing.assert_allclose(
        predicted[list(result.labels)].to_numpy(), result.probability, rtol=0, atol=1e-6
    )

    write_evaluation(result, tmp_path / "scores")
    np.testing.assert_allclose(
        read_evaluation(tmp_path / "scores").probability, result.probability, atol=1e-8
    )
    page = write_report(run, tmp_path / "report.html", [tmp_path / "scores"]).read_text()
    assert name in page
    assert f"{result.metrics['macro_auprc']:.3f}" in page
