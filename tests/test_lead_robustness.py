"""The table of a checkpoint over the sets of leads, on a network that was really trained."""

import numpy as np
import pandas as pd
import pytest
import torch

from fairseq_ecg.checkpoint import load_pretrained
from fairseq_ecg.cli.main import main
from fairseq_ecg.data.builder import build_store
from fairseq_ecg.data.ingest import BuildOptions, RecordEntry
from fairseq_ecg.data.leads import LEAD_SETS, STANDARD_LEADS
from fairseq_ecg.data.manifest import read_manifest, write_manifest
from fairseq_ecg.data.sources import open_source
from fairseq_ecg.evaluation import evaluate
from fairseq_ecg.lead_robustness import lead_robustness
from tests.builds import write_record
from tests.recordings import write_tone_store
from tests.runs import CLASSIFICATION, train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tone_store(tmp_path_factory.mktemp("tones") / "data")


def trained(folder, data, *words):
    words = [*CLASSIFICATION, f"task.data={data}", "optimization.max_update=3", *words]
    return str(train(folder, words).checkpoints / "checkpoint_last.pt")


@pytest.fixture(scope="module")
def checkpoint(data, tmp_path_factory):
    return trained(tmp_path_factory.mktemp("run"), data, "optimization.lr=[0.05]")


def silenced(path, data, leads):
    """Return the mean probabilities of each recording, the plain way."""
    model, _ = load_pretrained(path)
    source = open_source(read_manifest(data / "test.tsv"))
    off = [row for row, lead in enumerate(STANDARD_LEADS) if lead not in leads]
    rows = []
    for record, n in enumerate(source.n_samples):
        values = source.read(record, 0, int(n))
        values[off] = 0
        windows = torch.from_numpy(values.reshape(12, 2, -1).transpose(1, 0, 2).copy())
        with torch.no_grad():
            rows.append(torch.sigmoid(model(windows)["out"]).mean(0).numpy())
    return np.stack(rows)


@pytest.mark.parametrize("name", LEAD_SETS)
def test_a_set_is_the_recording_with_the_other_rows_silent(checkpoint, data, name):
    found = evaluate(checkpoint, str(data), leads=name).probability
    np.testing.assert_allclose(found, silenced(checkpoint, data, LEAD_SETS[name]), atol=1e-6)


def test_the_table_has_one_row_per_set(checkpoint, data, tmp_path, capsys):
    table = lead_robustness(checkpoint, str(data))
    assert table.index.tolist() == list(LEAD_SETS)
    assert table["leads"].tolist() == [12, 6, 4, 3, 2, 1]
    assert table["remark"].tolist() == ["trained on these", "", "", "", "", ""]
    for name, row in table.iterrows():
        metrics = evaluate(checkpoint, str(data), leads=name).metrics
        assert row.drop(["leads", "remark"]).to_dict() == pytest.approx(metrics, nan_ok=True)
    out = tmp_path / "new" / "leads.csv"
    assert (
        main(["leads", checkpoint, str(data), "--sets", "1-lead,12-lead", "--out", str(out)]) == 0
    )
    assert "1-lead" in capsys.readouterr().out
    written = pd.read_csv(out, index_col="set")
    assert written.index.tolist() == ["1-lead", "12-lead"]
    np.testing.assert_allclose(
        written["auroc"], table.loc[["1-lead", "12-lead"], "auroc"], atol=1e-6
    )


def test_one_override_trains_on_a_set_of_leads(data, tmp_path):
    path = trained(tmp_path, data, "task.leads_to_load=3-lead", "model.in_d=null")
    model, contract = load_pretrained(path)
    assert contract["leads"] == ["I", "II", "V2"]
    assert model(torch.zeros(1, 3, 100))["out"].shape == (1, 3)
    with pytest.raises(ValueError, match="takes the rows I, II, V2 and none that could be silent"):
        lead_robustness(path, str(data))


def test_a_padded_set_trains_a_network_with_twelve_rows(data, tmp_path):
    path = trained(tmp_path, data, "task.leads_to_load=P-3")
    model, contract = load_pretrained(path)
    assert contract["leads"] == list(STANDARD_LEADS)
    assert model(torch.zeros(1, 12, 100))["out"].shape == (1, 3)
    assert contract["present_leads"] == ["I", "II", "V2"]
    table = lead_robustness(path, str(data), sets=["2-lead", "3-lead"])
    assert table["remark"].tolist() == ["", "trained on these"]


def test_an_evaluation_warns_where_other_rows_carry_signal_than_in_training(
    data, tmp_path, caplog, checkpoint
):
    path = trained(tmp_path, data, "task.leads_to_load=P-1")
    evaluate(path, str(data))
    evaluate(checkpoint, str(data))
    assert "carry signal" not in caplog.text
    evaluate(path, str(data), leads="2-lead")
    assert "with signal in 1 of its rows (I), but gets it in 2: II carry signal now" in caplog.text
    evaluate(checkpoint, str(data), leads="2-lead")
    assert "III, aVR, aVL, aVF, V1, V2, V3, V4, V5, V6 are silent now" in caplog.text


def test_sets_of_which_the_recordings_have_no_more_are_the_same_input(checkpoint, tmp_path):
    folder = tmp_path / "limbs"
    values = np.random.default_rng(0).integers(-900, 900, (2, 200))
    for name in ("r0", "r1"):
        write_record(folder / "wfdb", name, values, 100, leads=("I", "II"))
    build_store([RecordEntry(n, n, n, "test") for n in ("r0", "r1")], folder / "wfdb", folder,
                BuildOptions(rate_hz=100))  # fmt: skip
    (folder / "labels.txt").write_text("a\nb\nc\n")
    write_manifest(folder / "test.tsv", "store", [("r0", 200, "a"), ("r1", 200, "b;c")])
    write_manifest(folder / "files.tsv", "wfdb", [("r0", 200, "a"), ("r1", 200, "b;c")])
    for split in ("test", "files"):
        table = lead_robustness(checkpoint, str(folder), split)
        same = ["same input as 12-lead"] * 4
        assert table["remark"].tolist() == ["", *same, ""]
        assert table["auroc"].nunique() <= 2
        assert (table["f1"][:5] == table["f1"].iloc[0]).all()


def test_unknown_sets_are_refused(checkpoint, data, capsys):
    assert main(["leads", checkpoint, str(data), "--sets", "5-lead"]) == 2
    assert "no set of leads is called '5-lead'; sets: 12-lead, 6-lead" in capsys.readouterr().err
