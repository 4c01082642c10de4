"""What a network that was really trained rebuilds, as numbers and as a picture."""

import numpy as np
import pytest
import torch

from fairseq_ecg.checkpoint import load_pretrained
from fairseq_ecg.cli.main import main
from fairseq_ecg.cli.reconstruct import describe
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import MILLIVOLTS
from fairseq_ecg.data.wfdb_reader import read_signal
from fairseq_ecg.evaluation import ReconstructionErrors, evaluate
from fairseq_ecg.reconstruction import reconstruct
from tests.holter import write_signal
from tests.recordings import write_tone_store
from tests.runs import CLASSIFICATION, MASKED, logged, train


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tone_store(tmp_path_factory.mktemp("tones") / "data")


@pytest.fixture(scope="module")
def run(data, tmp_path_factory):
    words = [*MASKED, f"task.data={data}", "optimization.max_update=6"]
    return train(tmp_path_factory.mktemp("run"), words)


@pytest.fixture(scope="module")
def checkpoint(run):
    return str(run.checkpoints / "checkpoint_last.pt")


@pytest.fixture(scope="module")
def patchwise(data, tmp_path_factory):
    """A network whose targets were scaled block by block, on standardised recordings."""
    words = [*MASKED, f"task.data={data}", "optimization.max_update=2"]
    words += ["criterion.norm_target=patch_lead", "task.standardize=record"]
    done = train(tmp_path_factory.mktemp("patchwise"), words)
    return str(done.checkpoints / "checkpoint_last.pt")


# --- numbers ------------------------------------------------------------------------------------


def test_the_last_validation_of_the_run_is_repeated_exactly(run, checkpoint, data):
    result = evaluate(checkpoint, str(data), "valid", batch_size=5)
    assert isinstance(result, ReconstructionErrors)
    last = logged(run.cwd, "valid")[-1]
    assert set(result.metrics) == {"mse", "nmse", "mse_masked_uv2", "mse_all_uv2"}
    for name, value in result.metrics.items():
        assert value == pytest.approx(last[f"valid_{name}"], rel=2e-5), name


def test_the_error_of_a_record_is_that_of_its_hidden_samples(checkpoint, data):
    result = evaluate(checkpoint, str(data))
    assert result.names == [f"r{i:03d}" for i in range(15, 22)]
    for row, name in enumerate(result.names):
        one = reconstruct(checkpoint, name, data)
        error = (one.made - one.original.values_mv)[one.hidden].astype(np.float64)
        power = np.square(one.original.values_mv[one.hidden].astype(np.float64))
        # The blocks at either end are partly padding, which is not scored.
        assert result.errors["mse"][row] == pytest.approx(np.square(error).mean(), rel=1e-4)
        expected = np.square(error).mean() / power.mean()
        assert result.errors["nmse"][row] == pytest.approx(expected, rel=1e-4)
        assert one.metrics == pytest.approx({k: v[row] for k, v in result.errors.items()})
    table = result.table()
    assert table.columns.tolist() == ["record", "mse", "nmse", "mse_masked_uv2", "mse_all_uv2"]
    assert table.record.tolist() == result.names


def test_all_records_together_are_weighted_by_what_was_hidden(checkpoint, data):
    result = evaluate(checkpoint, str(data))
    counts = [reconstruct(checkpoint, name, data).hidden.sum() for name in result.names]
    assert len(set(counts)) > 1
    mse = np.average(result.errors["mse"], weights=counts)
    power = np.average(result.errors["mse"] / result.errors["nmse"], weights=counts)
    assert result.metrics["mse"] == pytest.approx(mse, rel=1e-5)
    assert result.metrics["nmse"] == pytest.approx(mse / power, rel=1e-5)
    assert result.metrics["mse_masked_uv2"] == pytest.approx(1e6 * result.metrics["mse"], rel=1e-5)


def test_records_trained_on_are_counted_and_segments_can_be_kept_apart(checkpoint, data):
    assert evaluate(checkpoint, str(data)).overlap == 3
    segments = evaluate(checkpoint, str(data), "train", score_per="segment")
    assert (segments.overlap, segments.unit, segments.num_segments) == (18, "segment", 18)


def test_errors_have_intervals_drawn_by_patient(checkpoint, data):
    result = evaluate(checkpoint, str(data), bootstrap=40)
    assert set(result.intervals) == set(result.metrics)
    for name, interval in result.intervals.items():
        assert interval.value == pytest.approx(result.metrics[name], rel=1e-9)
        assert interval.low < interval.value < interval.high
        assert interval.valid == 40
    least, most = (reduce(result.errors["mse"]) for reduce in (np.min, np.max))
    assert least <= result.intervals["mse"].low <= result.intervals["mse"].high <= most


def test_scaled_targets_have_no_error_in_microvolts(patchwise, data):
    assert set(evaluate(patchwise, str(data)).metrics) == {"mse", "nmse"}


def test_the_command_prints_and_writes_the_errors(checkpoint, data, tmp_path, capsys):
    assert main(["evaluate", checkpoint, str(data), "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr()
    assert "nmse" in printed.out
    assert "7 records of test, 7 segments" in printed.out
    assert "trained on 3 of these recordings" in printed.err
    lines = (tmp_path / "predictions.csv").read_text().splitlines()
    assert lines[0] == "record,mse,nmse,mse_masked_uv2,mse_all_uv2"
    assert len(lines) == 8


def test_a_threshold_is_refused(checkpoint, data, capsys):
    assert main(["evaluate", checkpoint, str(data), "--threshold", "0.5"]) == 2
    assert "decides no classes, so it takes no threshold" in capsys.readouterr().err


# --- one recording ------------------------------------------------------------------------------


def test_what_the_network_sees_and_makes_is_what_the_picture_shows(checkpoint, data):
    one = reconstruct(checkpoint, "r015", data, seed=4)
    original = read_signal(data / "wfdb/r015")
    np.testing.assert_allclose(one.original.values_mv, original.values_mv, atol=1e-3)
    assert (one.original.rate_hz, one.unit, one.block_s) == (100.0, MILLIVOLTS, 0.08)
    # By hand: centred in 256 samples, hidden by zeros.
    source = torch.zeros(1, 12, 256)
    source[0, :, 28:228] = torch.from_numpy(one.original.values_mv)
    hidden = torch.zeros(1, 12, 256, dtype=torch.bool)
    hidden[0, :, 28:228] = torch.from_numpy(one.hidden)
    padding_mask = torch.ones(1, 256, dtype=torch.bool)
    padding_mask[:, 28:228] = False
    model, _ = load_pretrained(checkpoint)
    with torch.inference_mode():
        made = model(source.masked_fill(hidden, 0.0), padding_mask)["prediction"]
    np.testing.assert_allclose(one.made, made[0, :, 28:228].numpy(), atol=1e-6)


def test_what_is_hidden_is_asked_for_or_that_of_a_validation(checkpoint, data):
    usual = reconstruct(checkpoint, "r015", data)
    np.testing.assert_array_equal(usual.hidden, reconstruct(checkpoint, "r015", data).hidden)
    assert usual.share == pytest.approx(0.25, abs=0.03)
    assert (usual.hidden == usual.hidden[0]).all()
    seeds = [reconstruct(checkpoint, "r015", data, seed=seed).hidden for seed in (1, 1, 2)]
    assert (seeds[0] == seeds[1]).all()
    assert (seeds[0] != seeds[2]).any()
    leads = reconstruct(checkpoint, "r015", data, mask_mode="lead", mask_ratio=0.75)
    assert leads.hidden.all(axis=1).sum() == 9
    assert leads.hidden.any(axis=1).sum() == 9


def test_a_file_is_rebuilt_as_the_same_recording_of_a_store(checkpoint, data):
    one = reconstruct(checkpoint, "r015", data, seed=3)
    for name in ("r015", "r015.hea"):
        file = reconstruct(checkpoint, data / "wfdb" / name, seed=3)
        assert file.record == "r015"
        np.testing.assert_array_equal(file.original.values_mv, one.original.values_mv)
        np.testing.assert_array_equal(file.made, one.made)


def test_a_window_in_the_middle_knows_when_it_starts(checkpoint, tmp_path):
    adu = np.random.default_rng(0).integers(-500, 500, (12, 600))
    write_signal(tmp_path / "long", adu, rate_hz=100, leads=STANDARD_LEADS)
    one = reconstruct(checkpoint, tmp_path / "long")
    assert one.start_s == 1.72  # 256 samples in the middle of 600
    whole = read_signal(tmp_path / "long").values_mv
    np.testing.assert_allclose(one.original.values_mv, whole[:, 172:428], atol=1e-3)


def test_scaling_is_undone(patchwise, checkpoint, data):
    one = reconstruct(patchwise, "r015", data)
    plain = reconstruct(checkpoint, "r015", data)
    assert one.unit == MILLIVOLTS
    assert one.norm_target == "patch_lead"
    centred = plain.original.values_mv - plain.original.values_mv.mean(axis=1, keepdims=True)
    np.testing.assert_allclose(one.original.values_mv, centred, atol=1e-4)
    # The error in the space of the target, block by block of each lead, by hand.
    deviation = plain.original.values_mv.std(axis=1)
    edges = range(4, 200, 8)  # 28 samples of padding are three blocks and a half
    errors = []
    for lead in range(12):
        courses = (one.original.values_mv, one.made, one.hidden)
        blocks = zip(*(np.split(course[lead], edges) for course in courses), strict=True)
        for original, made, hidden in blocks:
            if hidden.all():
                spread = np.sqrt((original / deviation[lead]).var(ddof=1) + 0.01)
                errors.append((made - original) / (deviation[lead] * spread))
    mse = np.square(np.concatenate(errors)).mean()
    assert one.metrics["mse"] == pytest.approx(mse, rel=1e-3)


# --- the command --------------------------------------------------------------------------------


def test_the_command_draws_and_prints(checkpoint, data, tmp_path, capsys):
    words = ["reconstruct", "--checkpoint", checkpoint, "--record", "r015", "--data", str(data)]
    assert main([*words, "--out", str(tmp_path / "a.png"), "--dpi", "50"]) == 0
    assert (tmp_path / "a.png").stat().st_size > 3000
    nmse = reconstruct(checkpoint, "r015", data).metrics["nmse"]
    assert f"nmse  {nmse:.4f}" in capsys.readouterr().out


def test_the_note_says_what_was_hidden_and_whose_the_level_of_a_block_is(
    checkpoint, patchwise, data
):
    note = describe(reconstruct(checkpoint, "r015", data))
    assert "ecg_uresnet" in note
    assert "hidden in blocks of 80 ms" in note
    assert "root mean square error" in note
    assert "original's" not in note
    scaled = describe(reconstruct(patchwise, "r015", data))
    assert "level and size of each block are the original's" in scaled
    assert "root mean square error" not in scaled


@pytest.mark.parametrize("share", ["0", "1", "-0.5", "nan", "half"])
def test_a_share_that_hides_nothing_or_all_is_refused_by_the_name_of_its_flag(share, capsys):
    words = ["--checkpoint", "a.pt", "--record", "r", "--out", "a.png", f"--mask-ratio={share}"]
    with pytest.raises(SystemExit):
        main(["reconstruct", *words])
    error = capsys.readouterr().err
    assert "--mask-ratio: must be above 0 (nothing would be hidden) and below 1" in error
    assert f"but is {share}" in error


@pytest.mark.parametrize(
    ("record", "options", "message"),
    [
        ("r0015", {"data": True}, "has no recording 'r0015'; did you mean r015"),
        ("r015", {"data": True, "window": 1}, "r015 has no window 1 .* windows are 0 to 0"),
        ("r015", {"data": True, "mask_ratio": 1.0}, "task.mask_ratio must be .* below 1"),
        ("r015", {"data": True, "mask_ratio": 0.0}, "task.mask_ratio must be above 0"),
        ("nowhere/r015", {}, "there is no WFDB record of this name"),
    ],
)
def test_what_cannot_be_rebuilt_is_refused(checkpoint, data, record, options, message):
    options = {**options, **({"data": data} if options.pop("data", False) else {})}
    with pytest.raises(ValueError, match=message):
        reconstruct(checkpoint, record, **options)


def test_a_network_that_rebuilds_nothing_is_refused(data, tmp_path):
    words = [*CLASSIFICATION, f"task.data={data}", "optimization.max_update=1"]
    path = train(tmp_path, words).checkpoints / "checkpoint_last.pt"
    with pytest.raises(ValueError, match="ecg_transformer_classifier.* that rebuilds nothing"):
        reconstruct(path, "r015", data)
