"""Pages about runs that really took place, whole and with parts missing."""

import base64
import errno
import io
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest
from matplotlib.image import imread

from fairseq_ecg import report as module
from fairseq_ecg.cli.main import main
from fairseq_ecg.evaluation_files import METRICS_FILE
from fairseq_ecg.report import report, write_report
from tests.recordings import write_tone_store
from tests.runs import CLASSIFICATION, PRETRAINING, train
from tests.test_html_page import Reader

EVIL = "<img src=x onerror=alert(1)>"
SECTIONS = ["Results", "Training", "Data", "Examples", "Configuration", "Repeating it"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Return data with a class whose name wants to be HTML."""
    folder = write_tone_store(tmp_path_factory.mktemp("tones") / "data")
    for path in folder.glob("*.tsv"):
        lines = path.read_text().splitlines()
        rows = [line.split("\t") for line in lines[1:]]
        rows = ["\t".join([*row[:2], row[2].replace("a", EVIL)]) for row in rows]
        path.write_text("\n".join([lines[0], *rows]) + "\n")
    (folder / "labels.txt").write_text(f"{EVIL}\nb\nc\n")
    return folder


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    words = [*CLASSIFICATION, f"task.data={data}", "optimization.max_update=12"]
    return train(tmp_path_factory.mktemp("run"), [*words, "dataset.validate_interval_updates=4"])


@pytest.fixture
def run(trained, tmp_path):
    """Return a copy of the folder of the run, without evaluations."""
    return shutil.copytree(trained.cwd / "run", tmp_path / "run")


@pytest.fixture(scope="module")
def evaluated(trained, data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("scores") / "held out"
    checkpoint = str(trained.checkpoints / "checkpoint_last.pt")
    words = ["evaluate", checkpoint, str(data), "--bootstrap", "20", "--out", str(folder)]
    assert main(words) == 0
    return folder


def pictures(text):
    """Return the pictures of a page, decoded."""
    found = re.findall(r'src="data:image/(png|svg\+xml);base64,([^"]+)"', text)
    return [(kind, base64.b64decode(content)) for kind, content in found]


def check(text):
    """Require a page that is whole, fetches nothing and runs nothing; return what it says."""
    read = Reader(text)
    assert read.open == []
    assert not {name for name, _ in read.found} & {"script", "link", "iframe", "object", "base"}
    for _, attributes in read.found:
        assert not [key for key in attributes if key.startswith("on")]
        for key in ("src", "href"):
            assert attributes.get(key, "#").startswith(("#", "data:image/"))
    assert len(text) < 3_000_000
    assert [name for name in SECTIONS if f">{name}</h2>" in text] == SECTIONS
    return read.text


def test_the_page_has_everything_of_an_evaluated_run(run, evaluated, data):
    text = report(run, [evaluated])
    said = check(text)
    content = json.loads((evaluated / METRICS_FILE).read_text())
    interval = content["intervals"]["auroc"]
    shown = f"{interval['value']:.3f} ({interval['low']:.3f}-{interval['high']:.3f})"
    assert shown in said
    assert "test (held out)" in said
    assert said.count(EVIL) >= 3  # as text
    for remark in content["remarks"]:
        assert remark in said
    assert "binary_cross_entropy_with_logits" in said
    assert "--config-name diagnosis_small" in said
    assert f"task.data={data}" in said
    assert "torch" in said
    assert "Python" in said
    kinds = [kind for kind, _ in pictures(text)]
    assert kinds.count("svg+xml") == 1
    assert kinds.count("png") == 3 + len([*evaluated.glob("*.png")])
    for kind, content in pictures(text):
        if kind == "png":
            assert imread(io.BytesIO(content)).std() > 0.01
        else:
            assert b"</svg>" in content
            assert b"<script" not in content


def test_counts_of_splits_and_labels_are_those_of_the_manifests(run, data):
    text = report(run)
    lines = (data / "train.tsv").read_text().splitlines()[1:]
    positives = sum("b" in line.split("\t")[2].split(";") for line in lines)
    cells = re.findall(r"<tr>(.*?)</tr>", text)
    plain = [re.sub(r"<[^>]+>", "|", row) for row in cells]
    rows = [[cell for cell in row.split("|") if cell] for row in plain]
    assert ["train", "trained on", "18", "18", "0.01"] in rows
    assert ["test", "7", "7", "0.00389"] in rows
    (of_b,) = [row for row in rows if row[0] == "b" and len(row) == 4]
    assert str(positives) in of_b
    assert "The ledger has no remark." in text


def test_curves_are_of_what_was_logged(run, monkeypatch):
    drawn = {}
    real = module.draw_curves

    def note(runs, y, x):
        drawn.update(rows=runs[""], panels=y)
        return real(runs, y, x)

    monkeypatch.setattr(module, "draw_curves", note)
    report(run)
    assert drawn["panels"][0] == ("train_loss", "valid_loss")
    metric = module.read_run(run).of("checkpoint.best_checkpoint_metric")
    assert drawn["panels"][1] == (f"valid_{metric}",)
    updates = [row["num_updates"] for row in drawn["rows"] if "train_loss" in row]
    assert updates == list(range(1, 13))
    assert {4, 8, 12} <= {row["num_updates"] for row in drawn["rows"] if "valid_loss" in row}


def test_a_run_that_was_not_evaluated_says_how_and_shows_what_the_network_says(run):
    text = report(run, examples=2)
    said = check(text)
    assert "fairseq-ecg evaluate" in said
    assert said.count("not trained on") >= 2
    assert [kind for kind, _ in pictures(text)].count("png") == 2


def test_evaluations_inside_the_run_are_found(run, evaluated):
    shutil.copytree(evaluated, run / "test")
    text = report(run)
    assert "test</h3>" in text
    check(text)


def test_old_evaluations_without_intervals_are_shown(run):
    (run / METRICS_FILE).write_text(json.dumps({"metrics": {"auroc": 0.75, "f1": None}, "rows": 3}))
    said = check(report(run))
    assert "0.750" in said
    assert "3 rows" in said


def test_a_pretraining_is_shown_without_predictions(data, tmp_path):
    words = [*PRETRAINING, f"task.data={data}", "optimization.max_update=3"]
    done = train(tmp_path / "pretraining", words)
    text = report(done.cwd / "run")
    said = check(text)
    assert "as it is in the data" in said
    assert [kind for kind, _ in pictures(text)].count("png") == 3


@pytest.mark.parametrize(
    ("gone", "note"),
    [
        ("hydra_train.log", "no hydra_train.log"),
        (".hydra", "no .hydra/config.yaml"),
        ("checkpoints", "has no checkpoints"),
    ],
)
def test_what_is_missing_is_said_and_the_rest_is_shown(run, gone, note):
    path = run / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    said = check(report(run))
    assert note in said


def test_damaged_parts_are_said_and_the_rest_is_shown(run, data):
    (run / ".hydra/config.yaml").write_text("task: [")
    (run / "checkpoints/checkpoint_best.pt").write_bytes(b"PK")
    (run / "test").mkdir()
    (run / f"test/{METRICS_FILE}").write_text("{")
    with open(run / "hydra_train.log", "a") as file:
        file.write('[2026-01-01 00:00:00,000][train_inner][INFO] - {"loss": "1')
    said = check(report(run))
    assert "config.yaml cannot be read" in said
    assert "checkpoint_best.pt cannot be read" in said
    assert "is no JSON" in said


def test_data_that_moved_away_are_said(run, data, tmp_path):
    config = run / ".hydra/config.yaml"
    config.write_text(config.read_text().replace(str(data), str(tmp_path / "gone")))
    said = check(report(run))
    assert f"The data ({tmp_path / 'gone'}) are not here." in said


def test_a_page_stays_small_however_large_the_pictures(run, evaluated, monkeypatch):
    monkeypatch.setattr(module, "_MOST_BYTES", 60_000)
    text = report(run, [evaluated])
    said = check(text)
    assert "Left out, to keep the page small" in said
    assert sum(len(content) for _, content in pictures(text)) <= 60_000


def test_a_long_log_makes_no_long_page(run):
    line = '[2026-11-21 10:00:00,000][train_inner][INFO] - {{"loss": "1.5", "num_updates": "{}"}}\n'
    (run / "hydra_train.log").write_text("".join(line.format(n) for n in range(50_000)))
    assert len(report(run, examples=0)) < 300_000


def test_folders_of_something_else_are_refused(run, tmp_path):
    with pytest.raises(ValueError, match="no folder of a run"):
        report(tmp_path)
    with pytest.raises(ValueError, match="evaluate CHECKPOINT DATA"):
        report(run, [tmp_path])


def test_the_command_writes_the_page_whole_or_not_at_all(run, tmp_path, monkeypatch, capsys):
    out = tmp_path / "page.html"
    assert main(["report", str(run), "--out", str(out), "--examples", "1", "--title", EVIL]) == 0
    assert capsys.readouterr().out.strip() == str(out)
    text = out.read_text(encoding="utf-8")
    assert "<h1>&lt;img src=x" in text
    assert main(["report", str(run), "--out", str(tmp_path)]) == 2

    def full(path, text):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, "write_text", full)
    assert main(["report", str(run), "--out", str(out), "--examples", "0"]) == 2
    assert out.read_text(encoding="utf-8") == text


@pytest.mark.parametrize("width", [400, 1200])
def test_a_browser_shows_it_from_the_disk(run, evaluated, tmp_path, width):
    browsers = ("chromium", "chromium-browser", "google-chrome", "chrome")
    browser = next(filter(None, map(shutil.which, browsers)), None)
    if browser is None or not sys.platform.startswith("linux"):
        pytest.skip("there is no Chromium here, which would open the page")
    page = write_report(run, tmp_path / "page.html", [evaluated])
    shot = tmp_path / "page.png"
    words = ["--headless", "--no-sandbox", "--disable-gpu", f"--window-size={width},9000"]
    words += [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}", page.as_uri()]
    done = subprocess.run([browser, *words], capture_output=True, timeout=120, check=False)
    assert shot.is_file(), done.stderr[-2000:]
    image = imread(shot)[..., :3]
    filled = (np.ptp(image, axis=(1, 2)) > 0.1).mean()
    assert filled > 0.3  # rows of the page that are not empty
