"""The scripts of ``examples/``: what they would run is understood, and one of them is run."""

import argparse
import importlib.util
import sys
from pathlib import Path

import pandas as pd
import pytest

import fairseq_ecg_launch as launch
from fairseq_ecg.resources import examples_dir
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
    }


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
    assert rows.value.notna().all()
    pictures = {path.name for path in (tmp_path / "out").glob("*.png")}
    assert pictures == {"depth_gradients_2_pairs.png", "depth_f1_2_pairs.png"}
