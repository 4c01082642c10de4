import argparse

import numpy as np
import pytest
import scipy.io

from fairseq_ecg.cli import perturb
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.transforms.noise import BaselineWander, EmgNoise, PowerlineNoise
from fairseq_ecg.transforms.perturbation import available_perturbations
from fairseq_ecg.transforms.recognition import FORMS
from tests.builds import write_record


def parse(arguments):
    parser = argparse.ArgumentParser()
    perturb.add_parser(parser.add_subparsers())
    return parser.parse_args(["perturb", *map(str, arguments)])


@pytest.fixture
def pictures(monkeypatch):
    """Catch what would be drawn: name -> (before, after, values)."""
    caught = {}

    def plot(before, after, path, title, values, dpi):
        caught[title] = (before, after, values)
        return path

    monkeypatch.setattr(perturb, "plot_perturbation", plot)
    return caught


def test_without_a_record_a_made_up_one_is_drawn_with_every_perturbation(tmp_path, capsys):
    args = parse(["--out", tmp_path / "pictures", "--segment-s", 2, "--dpi", 30])
    assert args.run(args) == 0
    names = [f"{name}.png" for name in available_perturbations()]
    assert sorted(p.name for p in (tmp_path / "pictures").iterdir()) == names
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / "pictures" / n) for n in names]


def test_names_seed_length_and_keys_are_those_that_were_given(tmp_path, pictures):
    words = ["--out", tmp_path, "--perturbations", "emg_noise,powerline_noise", "--seed", 7]
    words += [
        "--segment-s",
        1.5,
        "--max-amplitude",
        0.4,
        "--no-dependency",
        "--powerline-hz",
        30,
        40,
    ]
    args = parse(words)
    args.run(args)
    assert list(pictures) == ["emg_noise", "powerline_noise"]
    before, after, values = pictures["emg_noise"]
    assert before.n_samples == 750
    assert values == "max_amplitude 0.4 mV,  min_amplitude 0 mV,  dependency False"
    noise = EmgNoise(0.4, dependency=False)
    expected = noise(perturb.first_seconds(perturb.made_up(2.0), 1.5), np.random.default_rng(7))
    np.testing.assert_array_equal(after.values_mv, expected.values_mv)
    assert pictures["powerline_noise"][2].endswith("powerline_hz 30/40 Hz")


def test_the_recording_that_is_drawn_as_before_is_not_changed(tmp_path, pictures):
    args = parse(["--out", tmp_path])
    args.run(args)
    for before, after, _ in pictures.values():
        np.testing.assert_array_equal(before.values_mv, perturb.made_up(5.0).values_mv)
        assert not np.array_equal(before.values_mv, after.values_mv)


def test_a_wfdb_record_and_a_segment_of_fairseq_signals_can_be_drawn(tmp_path, pictures):
    adu = np.arange(12 * 800).reshape(12, 800) % 900
    write_record(tmp_path, "r0", adu, rate=200)
    feats = np.linspace(0, 1, 12 * 600, dtype=np.float32).reshape(12, 600)
    scipy.io.savemat(tmp_path / "s_0.mat", {"feats": feats, "curr_sample_rate": 300})
    for name, rate_hz, n, first in (("r0", 200, 200, 0.0), ("s_0.mat", 300, 300, feats[1, 0])):
        args = parse([tmp_path / name, "--out", tmp_path, "--segment-s", 1])
        args.run(args)
        before, *_ = pictures["emg_noise"]
        assert before.leads == STANDARD_LEADS
        assert (before.rate_hz, before.n_samples) == (rate_hz, n)
        if first:
            assert before.values_mv[1, 0] == first


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--perturbations", "emg"], "no 'emg'; near: emg_noise"),
        (["--max-amplitude", "-1"], "task.max_amplitude must be finite and at least 0"),
        (["--segment-s", "0"], "--segment-s must be at least one sample, but is 0"),
        (["--powerline-hz", "400"], "task.powerline_hz must be below 250 Hz"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(tmp_path, words, message):
    args = parse(["--out", tmp_path / "out", *words])
    with pytest.raises(ValueError, match=message):
        args.run(args)


def test_the_forms_of_a_lead_are_drawn_instead(tmp_path, capsys, monkeypatch):
    caught = []
    drawn = perturb.plot_perturbation
    monkeypatch.setattr(
        perturb, "plot_perturbation", lambda *a, **k: caught.append(a) or drawn(*a, **k)
    )
    args = parse(["--out", tmp_path, "--transforms", "V2", "--segment-s", 4, "--dpi", 30])
    assert args.run(args) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'transforms.png'}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["transforms.png"]
    ((before, after, _),) = caught
    assert before.leads == after.leads == FORMS
    lead = perturb.made_up(4.0).values_mv[STANDARD_LEADS.index("V2")]
    np.testing.assert_array_equal(before.values_mv, np.tile(lead, (7, 1)))
    np.testing.assert_array_equal(after.values_mv[3], -lead)
    assert len({row.tobytes() for row in after.values_mv}) == 7


def test_forms_of_a_lead_that_is_not_there_are_refused(tmp_path):
    args = parse(["--out", tmp_path, "--transforms", "V9"])
    with pytest.raises(ValueError, match="--transforms must be one of I, II, .*, but is V9"):
        args.run(args)


def test_values_are_described_with_their_units():
    assert perturb.describe(BaselineWander(k=5)).endswith(
        "max_freq 0.2 Hz,  min_freq 0.01 Hz,  k 5"
    )
    assert perturb.describe(PowerlineNoise(powerline_hz=50)).endswith("powerline_hz 50 Hz")
