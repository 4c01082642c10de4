"""The whole way on made-up recordings, as small as it can be."""

import json
import math

import pytest
from PIL import Image

from fairseq_ecg.cli import demo
from fairseq_ecg.cli._demo_results import SCORES, report
from fairseq_ecg.cli._demo_steps import Step, progress
from fairseq_ecg.cli.main import build_parser

SIZE = demo.DemoSize(patients=30, pretraining=2, finetuning=2, workers=1)


@pytest.mark.slow
def test_the_demo_goes_the_whole_way_and_a_second_call_finds_everything_done(tmp_path, capsys):
    dest = tmp_path / "a folder"
    demo.run_demo(dest, None, SIZE)
    text = capsys.readouterr().out
    for verb in ("synthesize", "manifest", "train", "evaluate"):
        assert f"$ fairseq-ecg {verb} " in text
    assert text.count("valid  update") == 4
    assert "6 recordings of the test split" in text
    for name in ("pretraining.png", "finetuning.png", "prediction.png"):
        with Image.open(dest / name) as picture:
            assert min(picture.size) >= 300
            assert len(set(picture.convert("L").resize((200, 200)).tobytes())) > 10, name
    results = json.loads((dest / "results.json").read_text())
    assert results.keys() == {"finetuned", "from_scratch"}
    assert all(scores.keys() == set(SCORES) for scores in results.values())
    assert results["finetuned"] != results["from_scratch"]
    for name, scores in results.items():
        metrics = json.loads((dest / name / "metrics.json").read_text())["metrics"]
        assert {key: metrics[key] for key in scores} == scores
        assert len((dest / name / "predictions.csv").read_text().splitlines()) == 1 + 6

    checkpoints = {path: path.stat().st_mtime_ns for path in dest.rglob("*.pt")}
    demo.run_demo(dest, None, SIZE)
    text = capsys.readouterr().out
    assert text.count("done already") == 3
    assert "was finished already" in text
    assert "$ fairseq-ecg train" not in text
    assert {path: path.stat().st_mtime_ns for path in dest.rglob("*.pt")} == checkpoints
    assert json.loads((dest / "results.json").read_text()) == results


def test_the_steps_are_those_that_the_data_need(tmp_path):
    titles = ["pretraining", "fine-tuning, finetuned", "fine-tuning, from scratch"]
    made_up = demo.steps(tmp_path, None, SIZE)
    assert [step.title for step in made_up] == ["made-up recordings", "manifests", *titles]
    (tmp_path / "recordings").mkdir()
    assert demo.steps(tmp_path, None, SIZE) == made_up[1:]
    (tmp_path / "own").mkdir()
    (tmp_path / "own/ptbxl_database.csv").touch()
    first, *others = demo.steps(tmp_path, tmp_path / "own", SIZE)
    assert first.words[:3] == ("manifest", "ptb-xl", str(tmp_path / "own"))
    assert others == made_up[2:]


def test_a_step_that_fails_ends_the_demo_with_its_last_words(capsys):
    with pytest.raises(ValueError, match="the step 'training' failed with exit status 2"):
        Step("training", ("train", "--config-name", "no_such_preset")).run()
    assert "no preset 'no_such_preset'" in capsys.readouterr().err


def test_of_a_training_only_the_numbers_are_shown():
    line = '[2024][train_inner][INFO] - {"loss": "1.5", "num_updates": "10", "wps": "3"}'
    assert progress(line).split() == ["update", "10", "loss", "1.500"]
    line = '[2024][valid][INFO] - {"valid_auroc": "nan", "valid_num_updates": "7", "epoch": 1}'
    assert progress(line).split() == ["valid", "update", "7", "auroc", "nan"]
    assert progress("[2024][fairseq.trainer][INFO] - begin training") is None


def test_a_number_without_meaning_is_null_in_the_results(tmp_path, capsys):
    from fairseq_ecg.evaluation import Evaluation

    metrics = dict.fromkeys(SCORES, math.nan)
    result = Evaluation(["r"], ["a"], None, None, metrics)
    report(tmp_path, {"finetuned": result}, 60.0)
    assert json.loads((tmp_path / "results.json").read_text())["finetuned"]["auroc"] is None
    assert "1.0 minutes" in capsys.readouterr().out


def test_the_options_say_how_much_to_do(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr(demo, "run_demo", lambda *arguments: seen.append(arguments))
    words = ["demo", "--dest", str(tmp_path), "--patients", "3", "--pretraining", "4"]
    args = build_parser().parse_args([*words, "--finetuning", "5", "--workers", "6"])
    assert args.run(args) == 0
    assert seen == [(tmp_path, None, demo.DemoSize(3, 4, 5, 6))]
