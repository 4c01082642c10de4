"""The scripts of ``examples/``: what they would run is understood, and one of them is run."""

import argparse
import importlib.util
import math
import sys
from pathlib import Path

import pandas as pd
import pytest

import fairseq_ecg_launch as launch
from fairseq_ecg.corpora._build import build_manifest
from fairseq_ecg.data.manifest import write_manifest
from fairseq_ecg.resources import examples_dir
from tests.challenge import reference_of, write_corpus
from tests.patients import write_release
from tests.recordings import write_tone_store
from tests.test_docs import check_training


def script(name: str):
    """Import a script as the user's Python would run it."""
    path = next(examples_dir().rglob(f"{name}.py"))
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def tables():
    return script("masked_tables")


def runs_of(trials):
    for trial in trials:
        yield trial.run
        if trial.run.start is not None:
            yield trial.run.start


class Recorder:
    """A study that notes its runs and trains nothing."""

    def __init__(self) -> None:
        self.runs = []

    def table(self, trials, score):
        self.runs += runs_of(trials)
        raise StopIteration

    def train(self, runs):
        runs = list(runs)
        self.runs += [*runs, *(run.start for run in runs if run.start is not None)]
        raise StopIteration


OF_URESNET = ["reconstruction", "classification", "diversity"]


@pytest.mark.parametrize(
    ("family", "table"),
    [*(("uresnet", t) for t in OF_URESNET), *(("mae", t) for t in [*OF_URESNET, "ablation"])],
)
def test_every_run_of_every_table_is_understood(tables, family, table):
    words = ["--family", family, "--pretraining", "data", "--labelled", "data/set", "--dest", "x"]
    args = tables.parse([table, *words, "--on", "a=data:test", "--seeds", "2"])
    study = Recorder()
    with pytest.raises(StopIteration):
        tables.TABLES[table](args, study)
    names = {}
    for run in study.runs:
        check_training(list(run.words))
        launch.check_preset_exists(launch.CommandLine(list(run.words)))
        assert names.setdefault(run.name, run) == run, "two runs of one folder"
    assert {run.words[3] for run in study.runs} == {"common.seed=1", "common.seed=2"}


@pytest.mark.parametrize(("network", "from_scratch"), [("transformer", 2), ("cnn", 3)])
def test_the_runs_of_the_table_of_methods_are_understood(network, from_scratch):
    methods = script("method_table")
    args = argparse.Namespace(
        pretraining=Path("data"), labelled=Path("data/set"), updates=10, epochs=2, seeds=2
    )
    trials = methods.trials(methods.METHODS[network], args)
    names = {}
    for run in runs_of(trials):
        check_training(list(run.words))
        assert names.setdefault(run.name, run) == run, "two runs of one folder"
    assert {t.labels["protocol"] for t in trials} == set(methods.PROTOCOLS)
    assert len(trials) == 2 * (2 * len(methods.METHODS[network]) - from_scratch)


@pytest.mark.parametrize(
    ("table", "missing"),
    [
        ("reconstruction", "--on"),
        ("classification", "--labelled"),
        ("diversity", "--labelled"),
        ("ablation", "--on"),
    ],
)
def test_a_table_without_its_data_is_refused(tables, capsys, table, missing):
    options = {"--pretraining": "data", "--labelled": "data/set", "--on": "a=data:test"}
    words = [word for pair in options.items() if pair[0] != missing for word in pair]
    with pytest.raises(SystemExit):
        tables.parse([table, "--family", "mae", "--dest", "x", *words])
    assert f"the table {table} needs {missing}" in capsys.readouterr().err


def test_overrides_may_stand_anywhere(tables):
    words = ["a.b=1", "--family", "mae", "--pretraining", "data", "--on", "a=data:test"]
    args = tables.parse(["reconstruction", *words, "--dest", "x", "c.d=2"])
    assert args.overrides == ["a.b=1", "c.d=2"]


def test_two_label_sets_are_two_tables_and_runs_of_two_folders(tables):
    words = ["classification", "--family", "mae", "--pretraining", "data", "--dest", "x"]
    first, second = (tables.parse([*words, "--labelled", f"data/{name}"]) for name in "ab")
    assert tables.table_name(first) == "mae_classification_data_a"
    assert tables.table_name(second) == "mae_classification_data_b"
    runs = [tables.training(args, tables.SCRATCH, 1, None).name for args in (first, second)]
    assert runs[0] != runs[1]


def test_a_family_of_one_part_has_no_ablation(tables, capsys):
    words = ["--pretraining", "data", "--labelled", "data/set", "--on", "a=data:test"]
    with pytest.raises(SystemExit):
        tables.parse(["ablation", "--family", "uresnet", "--dest", "x", *words])
    assert "uresnet has no parts that can be taken away" in capsys.readouterr().err


@pytest.mark.parametrize("text", ["data:test", "a=data", "=data:test", "a=:test"])
def test_a_data_set_that_cannot_be_read_is_refused(tables, text):
    with pytest.raises(argparse.ArgumentTypeError, match="is not NAME=FOLDER:SPLIT"):
        tables.DataSet.parse(text)
    read = tables.DataSet.parse("CPSC 2018, test=a=b/c:test")
    assert (read.name, read.folder, read.split) == ("CPSC 2018, test=a", Path("b/c"), "test")


@pytest.mark.slow
def test_two_tables_share_their_pretraining_and_are_written(tables, monkeypatch, tmp_path, capsys):
    data = write_tone_store(tmp_path / "data")
    common = [
        *("--family", "mae", "--pretraining", str(data), "--dest", str(tmp_path / "out")),
        *("--seeds", "1", "--jobs", "1", "--in-pretraining", "optimization.max_update=2"),
        *("checkpoint.save_interval=1", "dataset.batch_size=8"),
    ]
    more = ["--labelled", str(data), "--take", "last", "--in-training", "optimization.max_update=2"]
    on = ["--on", f"tones={data}:test"]
    for words in (["reconstruction", *on, *common], ["classification", *more, *common]):
        monkeypatch.setattr(sys, "argv", ["masked_tables.py", *words])
        tables.main()
    printed = capsys.readouterr().out
    assert "| tones |" in printed
    rows = pd.read_csv(tmp_path / f"out/mae_classification_{tmp_path.name}_data.csv")
    assert set(rows.arm) == {"linear probe", "fine-tuned", "from scratch"}
    assert set(tables.METRICS) <= set(rows.metric)
    assert len(list((tmp_path / "out").rglob("pretraining_1/study.json"))) == 1


# --- shortcuts ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shortcuts():
    return script("residual_study")


@pytest.mark.parametrize(("study", "networks"), [("shortcuts", 4), ("depth", 6)])
def test_every_run_of_the_study_of_shortcuts_is_understood(shortcuts, study, networks):
    words = ["--pretraining", "data", "--labelled", "a=data/set", "b=data/other", "--dest", "x"]
    args = shortcuts.parse([study, *words, "--seeds", "2"])
    recorder = Recorder()
    with pytest.raises(StopIteration):
        shortcuts.measure(shortcuts.networks_of(args), args, recorder)
    names = {}
    for run in recorder.runs:
        check_training(list(run.words))
        launch.check_preset_exists(launch.CommandLine(list(run.words)))
        assert names.setdefault(run.name, run) == run, "two runs of one folder"
    assert len(names) == 2 * networks * (1 + 2 * 2)


def test_differences_are_taken_seed_by_seed(shortcuts):
    rows = pd.DataFrame(
        [
            {"network": s, "shortcuts": s, "pairs": 1, "seed": k, "metric": "F1", "value": v}
            for s, values in (("none", (0.5, 0.7)), ("all", (0.6, 0.65)))
            for k, v in enumerate(values)
        ]
    )
    found = shortcuts.differences(rows)
    assert found.network.tolist() == ["all", "all"]
    assert found.value.tolist() == pytest.approx([0.1, -0.05])


def test_what_a_pretraining_logged_becomes_numbers(shortcuts, tmp_path):
    lines = [
        *((10, 2.0, 0.4, 0.1), (20, 4.0, 0.2, 0.2)),
    ]
    text = "".join(
        f'[x][train_inner][INFO] - {{"num_updates": "{n}", "ups": "{ups}", "gradient_norm_1": '
        f'"{first}", "gradient_norm_2": "{last}"}}\n'
        for n, ups, first, last in lines
    )
    text += "".join(
        f'[x][valid][INFO] - {{"valid_num_updates": "{n}", "valid_f1": "{f1}", '
        f'"valid_accuracy": "{f1}"}}\n'
        for n, f1 in ((5, 0.5), (10, 0.77), (15, 0.7), (20, 0.8))
    )
    (tmp_path / "hydra_train.log").write_text(text)
    assert shortcuts.pretext_scores(tmp_path) == {
        "pretext accuracy": 0.8,
        "pretext F1": 0.8,
        "updates to 95 %": 10,
        "F1 over training": pytest.approx(0.6925),
        "s per update": pytest.approx(1 / 3),
        "gradient, first over last": pytest.approx(2.0),
        "smallest gradient of the first": 0.2,
    }


def test_a_network_that_learnt_nothing_did_not_reach_its_last_f1_early(shortcuts, tmp_path):
    (tmp_path / "hydra_train.log").write_text(
        '[x][train_inner][INFO] - {"num_updates": "10", "gradient_norm_1": "0"}\n'
        '[x][valid][INFO] - {"valid_num_updates": "10", "valid_f1": "0", "valid_accuracy": "0.1"}\n'
    )
    assert math.isnan(shortcuts.pretext_scores(tmp_path)["updates to 95 %"])


@pytest.mark.slow
def test_the_study_of_shortcuts_is_written(shortcuts, monkeypatch, tmp_path, capsys):
    data = write_tone_store(tmp_path / "data")
    words = [
        *("depth", "--depths", "2", "--pretraining", str(data), "--labelled", f"tones={data}"),
        *("--dest", str(tmp_path / "out"), "--seeds", "1", "--jobs", "1", "--updates", "2"),
        *("--validations", "2", "--epochs", "1", "task.segment_s=2", "model.kernels=[4,3,2]"),
        *("--in-pretraining", "common.log_interval=1 task.leads_to_load=[II]"),
    ]
    monkeypatch.setattr(sys, "argv", ["residual_study.py", *words])
    shortcuts.main()
    printed = capsys.readouterr().out
    assert "| all_2_pairs |" in printed
    rows = pd.read_csv(tmp_path / "out/depth.csv")
    assert set(rows.network) == {"none_2_pairs", "all_2_pairs"}
    assert {"pretext F1", "s per update", "tones, frozen, auroc"} <= set(rows.metric)
    assert rows[rows.metric != "updates to 95 %"].value.notna().all()
    pictures = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert pictures == {"depth_gradients_2_pairs.png", "depth_f1_2_pairs.png"}


# --- transfer learning ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def transfer():
    return script("transfer_study")


def write_sizes(folder: Path, sizes: dict[str, int]) -> Path:
    """Write manifests of two segments for each patient."""
    for name, patients in sizes.items():
        rows = [(f"{p}_{s}", 5000, p) for p in range(patients) for s in range(2)]
        write_manifest(folder / f"{name}.tsv", "release", rows)
    return folder


@pytest.fixture(scope="module")
def icentia(tmp_path_factory):
    """Return manifests with as many patients as Icentia11k's subsets have."""
    sizes = {"train_001": 105, "train_010": 1045, "train_020": 2090, "train_050": 5225}
    return write_sizes(tmp_path_factory.mktemp("icentia"), {**sizes, "train": 10450})


def transfer_args(transfer, study, folder, *more):
    words = ["--pretraining", str(folder), "--labelled", "cinc", "--dest", "x"]
    return transfer.parse([study, *words, *more])


@pytest.mark.parametrize("scale", ["small", "paper"])
@pytest.mark.parametrize(
    ("study", "more", "pretrainings", "tunings"),
    [
        ("pretraining", ["--rates", "125=low", "300=high"], 4, 3 * (1 + 4)),
        ("spectrogram", [], 2, 4),
        ("size", ["--networks", "1-D,2-D"], 2 * (5 + 4), 2 * (1 + 5 + 4)),
    ],
)
def test_every_run_of_transfer_learning_is_understood(
    transfer, icentia, scale, study, more, pretrainings, tunings
):
    words = ["--scale", scale, "--seeds", "2", "--split-seeds", "10,20", *more]
    args = transfer_args(transfer, study, icentia, *words)
    recorder = Recorder()
    with pytest.raises(StopIteration):
        transfer.measure(args, recorder)
    names = {}
    for run in recorder.runs:
        check_training(list(run.words))
        launch.check_preset_exists(launch.CommandLine(list(run.words)))
        assert names.setdefault(run.name, run) == run, "two runs of one folder"
    starts = {run.name for run in names.values() if run.name.rpartition("/")[2][:3] == "pre"}
    assert len(starts) == 2 * pretrainings
    scratch = [name for name in names if name.startswith("scratch")]
    assert len(names) - len(starts) == len(scratch) + 2 * 2 * (tunings - len(scratch) // 2)


@pytest.mark.parametrize(
    ("subset", "frames", "updates"),
    [
        ("train_001", 430_080, 840),
        ("train_010", 4_280_320, 8_360),
        ("train_020", 8_560_640, 16_720),
        ("train_050", 21_401_600, 41_800),
        ("train", 42_803_200, 83_600),
    ],
)
def test_a_pass_over_the_patients_has_the_updates_and_frames_of_the_paper(
    transfer, icentia, subset, frames, updates
):
    args = transfer_args(transfer, "size", icentia, "--scale", "paper")
    assert transfer.passes(transfer.Arm(subset=subset), args) == (updates, frames)
    equal = transfer.Arm(subset=subset, protocol="B")
    assert transfer.passes(equal, args) == (83_600, 42_803_200)
    future = transfer.Arm(task="future_prediction", subset=subset)
    assert transfer.passes(future, args) == (updates, frames // 8)


def test_given_updates_are_those_of_the_largest_set(transfer, tmp_path):
    write_sizes(tmp_path, {"one": 1, "three": 3})
    words = ["--sizes", "one,three", "--updates", "100"]
    words += ["--in-pretraining", "task.samples_per_patient=40 dataset.batch_size=32"]
    args = transfer_args(transfer, "size", tmp_path, *words)
    found = {
        (subset, protocol): transfer.passes(transfer.Arm("1-D", "beat", subset, protocol), args)
        for subset in ("one", "three")
        for protocol in "AB"
    }
    assert found == {
        ("one", "A"): (34, 17 * 40),
        ("one", "B"): (100, 50 * 40),
        ("three", "A"): (100, 25 * 120),
        ("three", "B"): (100, 25 * 120),
    }
    assert list(transfer.arms_of(args)) == [
        *("1-D, random", "1-D, A, 33.3 %", "1-D, A, 100 %", "1-D, B, 33.3 %", "1-D, B, 100 %")
    ]


@pytest.mark.parametrize(
    ("rate_hz", "more", "seconds"),
    [(125, [], "65.536"), (300, [], "65.6"), (300, ["task.segment_s=20.48"], "20.48")],
)
def test_another_rate_keeps_the_seconds_and_whole_strides(
    transfer, icentia, rate_hz, more, seconds
):
    words = ["--rates", f"{rate_hz}=other", "--in-training", " ".join(more)]
    args = transfer_args(transfer, "pretraining", icentia, *words)
    run = transfer.finetuning(transfer.Arm(rate_hz=rate_hz), 10, None, args)
    assert f"task.sample_rate={rate_hz}" in run.words
    assert f"task.segment_s={seconds}" in run.words
    assert f"task.data={Path.cwd() / 'other/af_s010'}" in run.words


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--rates", "fast=x"], "'fast=x' is not RATE=FOLDER"),
        (["--tasks", "beat,sleep"], "'beat,sleep' is not some of beat, rhythm"),
        (["--validations", "0"], "--validations must be at least 1"),
        (["--valid", "train"], "--valid train is a training set"),
    ],
)
def test_mistakes_in_the_options_of_transfer_learning_are_named(
    transfer, icentia, capsys, words, message
):
    with pytest.raises(SystemExit):
        transfer_args(transfer, "size", icentia, *words)
    assert message in capsys.readouterr().err


SAME = {"f1_cinc": 0.5, "epochs": 7}


def test_sizes_are_compared_with_random_weights_and_with_the_largest(transfer, tmp_path):
    write_sizes(tmp_path, {"one": 1, "three": 3})
    words = ["--sizes", "one,three", "--networks", "1-D,2-D", "--protocols", "A"]
    args = transfer_args(transfer, "size", tmp_path, *words)
    rows = [
        {
            **{"line": name, "network": arm.network, "task": arm.task or "random"},
            **{"subset": arm.subset if arm.task else "", "protocol": arm.protocol},
            **{"pretraining_seed": 0, "split_seed": split, "metric": metric, "value": value},
        }
        for number, (name, arm) in enumerate(transfer.arms_of(args).items())
        for split, metric, value in (
            *((split, "f1", number / 10 + split / 100) for split in range(1, 7)),
            *((split, key, value) for split in range(1, 7) for key, value in SAME.items()),
            *([(0, "patients", 3.0)] if arm.task else []),
        )
    ]
    rows = pd.DataFrame(rows)
    text = transfer.as_text(rows, args)
    assert "| 1-D, A, 33.3 % | 3 | 0.235 ± 0.019 | 0.500 ± 0.000 | 7 |" in text
    by_first = {part.split("`")[1]: part for part in text.split("Minus ")[1:]}
    assert list(by_first) == ["1-D, random", "2-D, random", "1-D, A, 100 %", "2-D, A, 100 %"]
    assert "| 1-D, A, 33.3 % | 6 | +0.200 ± 0.000 | 0.0312 |" in by_first["1-D, random"]
    assert "| 2-D" not in by_first["1-D, random"]
    assert "| 2-D, A, 33.3 % | 6 | -0.100 ± 0.000 |" in by_first["2-D, A, 100 %"]
    assert transfer.draw_sizes(rows, tmp_path / "sizes.png").is_file()


@pytest.mark.slow
def test_the_study_of_sizes_goes_on_and_is_written(transfer, monkeypatch, tmp_path, capsys):
    patients = write_release(tmp_path / "holter")
    header, *lines = (patients / "train.tsv").read_text().splitlines(keepends=True)
    (patients / "train_050.tsv").write_text(header + "".join(lines[:4]))
    source = write_corpus(tmp_path / "source", reference_of({"A": 10, "N": 16, "O": 12, "~": 10}))
    options = {"split_seeds": "10,20", "subsets": ""}
    build_manifest("challenge-2017", source, tmp_path / "cinc", corpus_options=options, rate_hz=250)
    words = [
        *("size", "--pretraining", str(patients), "--labelled", str(tmp_path / "cinc")),
        *("--dest", str(tmp_path / "out"), "--sizes", "train_050,train", "--protocols", "A"),
        *("--updates", "6", "--validations", "2", "--jobs", "2", "model.widths=[4,4,4,4]"),
        *("--in-pretraining", "task.frame_size=256 task.samples_per_patient=32"),
        *("--in-training", "task.segment_s=2.048 optimization.max_epoch=2"),
    ]
    for divisions in ("10", "10,20"):
        monkeypatch.setattr(sys, "argv", ["transfer_study.py", *words, "--split-seeds", divisions])
        transfer.main()
    assert "| 1-D, A, 50 % | 2 | " in capsys.readouterr().out
    rows = pd.read_csv(tmp_path / "out/size_holter.csv")
    assert set(rows.line) == {"1-D, random", "1-D, A, 50 %", "1-D, A, 100 %"}
    assert set(rows.split_seed[rows.metric == "f1"]) == {10, 20}
    of_largest = rows[rows.line == "1-D, A, 100 %"].groupby("metric").value.mean()
    assert of_largest[["patients", "updates", "frames", "epochs"]].tolist() == [4, 6, 192, 2]
    assert {"f1", "f1_cinc", "f1_A", "pretraining loss", "s of training"} <= set(rows.metric)
    assert len(list((tmp_path / "out").rglob("study.json"))) == 2 + 3 * 2
    pictures = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert pictures == {"size_holter_epochs.png", "size_holter_patients.png"}
