"""Studies with a stand-in for training, so that kills and failures can be placed; one real run."""

import os
import signal
import subprocess
import sys
import time
from argparse import ArgumentParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fairseq_ecg import studies
from fairseq_ecg.checkpoint import read_checkpoint
from fairseq_ecg.engine import STOPPED
from fairseq_ecg.evaluation import evaluate
from fairseq_ecg.studies import Run, Study, Trial, as_markdown, quoted
from tests.recordings import write_tone_store
from tests.runs import CLASSIFICATION

# Appends its words to a log; what it does besides, the words say.
STAND_IN = """
import os, sys, time, pathlib
words = dict(w.partition("=")[::2] for w in sys.argv[1:])
folder = pathlib.Path(words["hydra.run.dir"])
log = folder.parent / "log.txt"
with open(log, "a") as file:
    file.write("begin " + folder.name + "\\n")
while "wait" in words and not pathlib.Path(words["wait"]).exists():
    time.sleep(0.02)
if "say" in words:
    print(words["say"], flush=True)
status = int(words.get("status", 0))
if not status and "nothing" not in words:
    path = folder / "checkpoints" / "checkpoint_last.pt"
    path.parent.mkdir(exist_ok=True)
    path.write_text(words.get("value", "0") + " " + words.get("model.model_path", ""))
with open(log, "a") as file:
    file.write("end " + folder.name + "\\n")
sys.exit(status)
"""


@pytest.fixture
def stand_in(tmp_path, monkeypatch):
    script = tmp_path / "stand_in.py"
    script.write_text(STAND_IN)
    monkeypatch.setattr(studies, "_TRAIN", (sys.executable, str(script)))
    return script


def log_of(folder: Path) -> list[str]:
    return (folder / "log.txt").read_text().splitlines()


def value(path: Path) -> dict[str, float]:
    return {"value": float(path.read_text().split()[0])}


def test_every_run_is_trained_once_after_what_it_starts_from(stand_in, tmp_path):
    start = Run("start", ("value=1",))
    trials = [
        Trial(Run(f"r{i}", (f"value={i}",), start), {"name": f"n{i}", "seed": i}) for i in (1, 2)
    ]
    study = Study(tmp_path / "study", jobs=2)
    rows = study.table([*trials, Trial(start, {"name": "alone", "seed": 1})], value)
    assert rows.to_dict("list") == {
        "name": ["n1", "n2", "alone"],
        "seed": [1, 2, 1],
        "metric": ["value"] * 3,
        "value": [1.0, 2.0, 1.0],
    }
    log = log_of(study.dest)
    assert log[:2] == ["begin start", "end start"]
    assert sorted(log[2:]) == ["begin r1", "begin r2", "end r1", "end r2"]
    assert study.checkpoint(trials[0].run).read_text().split()[1] == str(study.checkpoint(start))


def test_runs_go_side_by_side_as_many_as_asked_for(stand_in, tmp_path):
    gate = tmp_path / "gate"
    runs = [Run("a", (f"wait={gate}",)), Run("b", (f"wait={gate}",)), Run("c", ())]
    study = Study(tmp_path / "study", jobs=2)
    process = in_process(stand_in, study, runs)
    wait_for(lambda: log_there(study, "begin a", "begin b"))
    assert not log_there(study, "begin c")
    gate.touch()
    assert process.wait(20) == 0
    assert len(log_of(study.dest)) == 6


def test_what_is_done_is_not_repeated_and_overrides_reach_every_run(stand_in, tmp_path):
    study = Study(tmp_path / "study", ("value=7",))
    rows = study.table([Trial(Run("a", ()))], value)
    assert rows.value.tolist() == [7.0]
    before = (study.dest / "a/checkpoints/checkpoint_last.pt").stat().st_mtime_ns
    study.train([Run("a", ()), Run("b", ())])
    assert log_of(study.dest) == ["begin a", "end a", "begin b", "end b"]
    assert (study.dest / "a/checkpoints/checkpoint_last.pt").stat().st_mtime_ns == before


def test_a_folder_with_a_run_of_other_words_is_refused(stand_in, tmp_path):
    Study(tmp_path / "study").train([Run("a", ("value=1",), Run("s", ("value=1",)))])
    for study, run in (
        (Study(tmp_path / "study"), Run("a", ("value=2",))),
        (Study(tmp_path / "study", ("more=1",)), Run("s", ("value=1",))),
    ):
        with pytest.raises(ValueError, match="holds a run of other words .* another folder"):
            study.train([run])
    assert len(log_of(tmp_path / "study")) == 4


def test_a_run_that_fails_ends_the_study_with_its_last_words(stand_in, tmp_path):
    runs = [Run("a", ("status=3", "say=because")), Run("b", ()), Run("c", (), Run("b", ()))]
    study = Study(tmp_path / "study", jobs=1)
    with pytest.raises(ValueError, match="(?s)a failed with status 3; see .*output.txt.*because"):
        study.train(runs)
    assert "begin c" not in log_of(study.dest)
    assert log_of(study.dest).count("begin a") == 1


def test_a_run_that_was_asked_to_stop_is_not_taken_for_done(stand_in, tmp_path):
    study = Study(tmp_path / "study")
    with pytest.raises(ValueError, match="a was stopped"):
        study.train([Run("a", (f"say=[engine] - {STOPPED}",))])
    with pytest.raises(ValueError, match="a was stopped"):  # it is tried again
        study.train([Run("a", (f"say=[engine] - {STOPPED}",))])
    assert log_of(study.dest).count("begin a") == 2


def test_a_run_without_the_checkpoint_it_is_made_for_is_not_done(stand_in, tmp_path):
    with pytest.raises(ValueError, match="is done, but has no checkpoint_last.pt"):
        Study(tmp_path / "study").train([Run("a", ("nothing=1",))])


def in_process(stand_in, study, runs) -> subprocess.Popen:
    """Start a study in a process of its own, which can be killed."""
    code = f"""
import sys
from pathlib import PosixPath
from fairseq_ecg import studies
from fairseq_ecg.studies import Run, Study
studies._TRAIN = (sys.executable, {str(stand_in)!r})
{study!r}.train({runs!r})
"""
    return subprocess.Popen([sys.executable, "-c", code], cwd=Path(__file__).parents[1])


def log_there(study, *lines: str) -> bool:
    return (study.dest / "log.txt").is_file() and set(lines) <= set(log_of(study.dest))


def wait_for(condition, seconds: float = 30.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def test_a_training_that_outlived_a_killed_study_is_waited_for_and_not_doubled(stand_in, tmp_path):
    gate = tmp_path / "gate"
    runs = [Run("a", (f"wait={gate}",))]
    study = Study(tmp_path / "study")
    first = in_process(stand_in, study, runs)
    wait_for(lambda: log_there(study, "begin a"))
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    second = in_process(stand_in, study, runs)
    time.sleep(3.0)  # it imports fairseq in this time, and then waits
    assert log_of(study.dest) == ["begin a"]
    gate.touch()
    assert second.wait(30) == 0
    # The study that was killed could not note that the run is done: it is begun once more.
    assert log_of(study.dest) == ["begin a", "end a"] * 2


@pytest.mark.parametrize("name", ["plain", "with space", "it's", "a=b,c", "Größe"])
def test_any_folder_reaches_hydra_as_it_is(name, tmp_path):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    path = tmp_path / name
    (override,) = OverridesParser.create().parse_overrides([f"task.data={quoted(path)}"])
    assert override.value() == str(path)


def rows_of(*rows) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=["method", "metric", "seed", "value"])


def test_the_table_has_mean_and_deviation_over_the_seeds():
    rows = rows_of(
        ("b", "auroc", 1, 0.5), ("b", "auroc", 2, 0.6), ("a", "auroc", 1, 0.7),
        ("a", "error", 1, 1234.6), ("b", "error", 1, np.nan), ("a", "error", 2, 1236.6),
    )  # fmt: skip
    deviation = np.std([0.5, 0.6], ddof=1)
    assert as_markdown(rows, "method", "metric").splitlines() == [
        "|  | auroc | error |",
        "|---|---|---|",
        f"| b | 0.550 ± {deviation:.3f} |  |",
        "| a | 0.700 | 1,236 ± 1 |",
    ]
    assert as_markdown(rows, "method", "metric", ["error"]).splitlines()[2] == "| b |  |"


def test_the_options_make_the_study(tmp_path):
    parser = ArgumentParser()
    studies.add_options(parser)
    args = parser.parse_args(["--dest", str(tmp_path), "--jobs", "3", "a.b=1", "c.d=2"])
    study = studies.study_of(args, "e.f=0")
    assert (args.seeds, study.jobs, study.dest) == (3, 3, tmp_path)
    assert study.overrides == ("e.f=0", "a.b=1", "c.d=2")


def test_scores_and_table_are_written(tmp_path):
    rows = rows_of(("a", "auroc", 1, 0.123456789))
    studies.write_table(rows, "text", tmp_path / "new", "name")
    assert (tmp_path / "new/name.md").read_text() == "text\n"
    assert pd.read_csv(tmp_path / "new/name.csv").value.tolist() == [0.123457]


@pytest.mark.slow
def test_a_real_study_trains_from_its_start_and_scores(tmp_path):
    data = write_tone_store(tmp_path / "data")
    common = (*CLASSIFICATION, f"task.data={data}", "optimization.max_update=2")
    start = Run("scratch", common)
    words = tuple(w for w in common if w != "model.no_pretrained_weights=true")
    words = tuple(w for w in words if not w.startswith(("model.model_path", "model.enc")))
    words = tuple(w for w in words if not w.startswith("model.conv"))
    study = Study(tmp_path / "a study")
    trial = Trial(Run("finetuned", words, start), {"seed": 1})
    rows = study.table([trial], lambda path: evaluate(str(path), str(data)).metrics)
    assert {"auroc", "f1"} <= set(rows.metric)
    contract = read_checkpoint(study.checkpoint(trial.run)).contract
    assert "pretraining" in contract["trained_on"]


def test_columns_that_count_are_whole_and_have_a_spread_only_where_they_differ():
    rows = rows_of(
        ("a", "patients", 1, 10450), ("a", "patients", 2, 10450), ("a", "epochs", 1, 60),
        ("a", "epochs", 2, 61),
    )  # fmt: skip
    line = as_markdown(rows, "method", "metric", counts=("patients", "epochs")).splitlines()[2]
    assert line == "| a | 10,450 | 60.5 ± 0.7 |"


def test_differences_are_taken_seed_by_seed_over_the_means_of_a_seed():
    rows = rows_of(
        *(("scratch", "f1", seed, 0.5) for seed in range(3)),
        ("beat", "f1", 0, 0.6), ("beat", "f1", 0, 0.8), ("beat", "f1", 1, 0.5),
        ("beat", "f1", 7, 0.9), ("beat", "pretraining", 0, 1.0),
    )  # fmt: skip
    (found,) = studies.paired_differences(rows, "method", "scratch").to_dict("records")
    assert (found["method"], found["metric"], found["n"]) == ("beat", "f1", 2)
    assert found["difference"] == pytest.approx(0.1)
    assert found["deviation"] == pytest.approx(np.std([0.2, 0.0], ddof=1))
    assert np.isnan(found["p"])


def test_the_signed_rank_test_needs_six_pairs_and_counts_the_signs_of_the_ranks():
    def p_of(differences):
        rows = [("a", "f1", seed, 0.0) for seed in range(len(differences))]
        rows += [("b", "f1", seed, value) for seed, value in enumerate(differences)]
        return studies.paired_differences(rows_of(*rows), "method", "a").p.item()

    def by_hand(differences):
        ranks = np.argsort(np.argsort(np.abs(differences))) + 1
        signs = np.array(list(np.ndindex(*[2] * len(ranks))))
        sums = signs @ ranks
        observed = ranks[np.array(differences) > 0].sum()
        tail = min((sums <= observed).mean(), (sums >= observed).mean())
        return min(1.0, 2 * tail)

    mixed = [0.3, -0.1, 0.2, 0.5, 0.4, -0.6, 0.7]
    assert p_of(mixed) == pytest.approx(by_hand(mixed))
    assert p_of(mixed[:6]) == pytest.approx(by_hand(mixed[:6]))
    assert np.isnan(p_of(mixed[:5]))
    assert p_of([0.0] * 8) == 1


def test_differences_become_a_table():
    rows = rows_of(
        *(("scratch", "f1", seed, 0.5) for seed in range(6)),
        *(("beat", "f1", seed, 0.6 + seed / 100) for seed in range(6)),
        ("rhythm", "f1", 0, 0.4),
    )  # fmt: skip
    found = studies.paired_differences(rows, "method", "scratch")
    assert studies.differences_as_markdown(found, "method", ["f1", "absent"]).splitlines() == [
        "|  | pairs | f1 | p |",
        "|---|---|---|---|",
        "| beat | 6 | +0.125 ± 0.019 | 0.0312 |",
        "| rhythm | 1 | -0.100 |  |",
    ]
