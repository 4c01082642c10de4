"""``fairseq-ecg demo``: the whole way, from a folder of recordings to a scored diagnosis model.

Every step is a command that a user would type; each is printed before it runs. A step that is
finished is not run again, a step that was stopped goes on.
"""

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from fairseq_ecg.cli.evaluate import write_evaluation
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.data.store import Store
from fairseq_ecg.evaluation import Evaluation, evaluate
from fairseq_ecg.plots.curves import plot_curves
from fairseq_ecg.plots.ecg_paper import plot_ecg
from fairseq_ecg.training_log import read_log

# Threads that wait without spinning: on a shared machine spinning costs several times the work.
_ENVIRONMENT = {"PYTHONWARNINGS": "ignore", "OMP_WAIT_POLICY": "PASSIVE"}
LABEL_SET = "cinc2021"
_PRETRAINING_CURVES = {
    "num_updates": "update",
    "loss_0": "InfoNCE of frames (bits)",
    "loss_3": "CMSC of segments (bits)",
    "accuracy": "accuracy on frames",
}
SCORES = ("cinc_score", "auroc", "auprc", "f1")


@dataclass(frozen=True)
class DemoSize:
    """How much the demo does.

    Args:
        patients: Patients to make up, two recordings each, if no data are given.
        pretraining: Updates of pretraining.
        finetuning: Updates of each fine-tuning.
        workers: Processes that build the store.
    """

    patients: int = 400
    pretraining: int = 300
    finetuning: int = 210
    workers: int = 2


def add_parser(subparsers: argparse._SubParsersAction) -> None:
    """Add the verb to the command."""
    default = DemoSize()
    parser = subparsers.add_parser("demo", help="the whole way, on made-up or on your own data")
    parser.add_argument("--dest", type=Path, default=Path("demo"), help="folder for everything")
    parser.add_argument(
        "--data", type=Path, help="folder of PTB-XL or PhysioNet 2021; made-up ECG if not given"
    )
    parser.add_argument("--patients", type=int, default=default.patients, help="made-up patients")
    parser.add_argument("--pretraining", type=int, default=default.pretraining, help="updates")
    parser.add_argument("--finetuning", type=int, default=default.finetuning, help="updates")
    parser.add_argument("--workers", type=int, default=default.workers, help="builder processes")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Run the demo with the size that was asked for."""
    size = DemoSize(args.patients, args.pretraining, args.finetuning, args.workers)
    run_demo(args.dest, args.data, size)
    return 0


def run_demo(dest: Path, data: Path | None = None, size: DemoSize | None = None) -> None:
    """Build manifests, pretrain, fine-tune twice, evaluate, draw.

    Args:
        dest: Folder for everything that is made.
        data: Folder of PTB-XL or PhysioNet 2021; None makes recordings up.
        size: How much to do.

    Raises:
        ValueError: If a step fails; its own message stands above.
    """
    size = size or DemoSize()
    started = time.monotonic()
    dest.mkdir(parents=True, exist_ok=True)
    if data is None:
        data = dest / "recordings"
        if not data.exists():
            _step("made-up recordings", "synthesize", str(data), "--patients", str(size.patients))
    manifests = dest / "manifests"
    corpus = "ptb-xl" if (data / "ptbxl_database.csv").is_file() else "physionet2021"
    _step(
        "manifests", "manifest", corpus, str(data), "--dest", str(manifests),
        "--workers", str(size.workers),
    )  # fmt: skip
    _pretrain(dest, manifests, size)
    checkpoint = dest / "pretraining/checkpoints/checkpoint_last.pt"
    _finetune(dest / "finetuned", manifests, size, f"model.model_path={_quoted(checkpoint)}")
    scratch = ("model.no_pretrained_weights=true", "model.feature_grad_mult=1.0")
    _finetune(dest / "from_scratch", manifests, size, "model.model_path=null", *scratch)
    results = {name: _evaluate(dest / name, manifests) for name in ("finetuned", "from_scratch")}
    _draw(dest, manifests, results["finetuned"])
    _report(dest, results, time.monotonic() - started)


def _pretrain(dest: Path, manifests: Path, size: DemoSize) -> None:
    _train(
        "pretraining",
        "w2v_cmsc_rlm_small",
        dest / "pretraining",
        manifests,
        size.pretraining,
        "dataset.disable_validation=true",
    )


def _finetune(folder: Path, manifests: Path, size: DemoSize, *overrides: str) -> None:
    _train(
        f"fine-tuning, {folder.name.replace('_', ' ')}",
        "diagnosis_small",
        folder,
        manifests / LABEL_SET,
        size.finetuning,
        "criterion.report_cinc_score=true",
        f"dataset.validate_interval_updates={max(size.finetuning // 6, 1)}",
        "dataset.validate_interval=100000",
        *overrides,
    )


def _train(title: str, preset: str, folder: Path, data: Path, updates: int, *more: str) -> None:
    if _updates_done(folder) >= updates:
        print(f"\n== {title}: done already, in {folder}", flush=True)
        return
    _step(
        title,
        "train",
        "--config-name",
        preset,
        f"task.data={_quoted(data)}",
        f"hydra.run.dir={_quoted(folder)}",
        f"optimization.max_update={updates}",
        "optimization.max_epoch=100000",
        f"common.log_interval={min(max(updates // 10, 1), 10)}",  # a few lines for the curves
        f"checkpoint.save_interval_updates={max(updates // 6, 1)}",
        "checkpoint.keep_interval_updates=1",
        "checkpoint.save_interval=100000",
        *more,
    )


def _updates_done(folder: Path) -> int:
    finished = folder / "checkpoints" / "checkpoint_last.pt"
    if not finished.is_file() or not (folder / "hydra_train.log").is_file():
        return 0
    epochs = read_log(folder, "train")
    return int(epochs[-1]["train_num_updates"]) if epochs else 0


def _evaluate(folder: Path, manifests: Path) -> Evaluation:
    checkpoint = folder / "checkpoints/checkpoint_best.pt"
    print(f"\n== evaluation, {folder.name.replace('_', ' ')}")
    print(f"$ fairseq-ecg evaluate {checkpoint} {manifests / LABEL_SET} --out {folder}", flush=True)
    result = evaluate(str(checkpoint), str(manifests / LABEL_SET), "test")
    write_evaluation(result, folder)
    return result


def _draw(dest: Path, manifests: Path, result: Evaluation) -> None:
    pretraining = [
        {name: row[key] for key, name in _PRETRAINING_CURVES.items()}
        for row in read_log(dest / "pretraining")
    ]
    plot_curves(
        {"pretraining": pretraining},
        dest / "pretraining.png",
        y=list(_PRETRAINING_CURVES.values())[1:],
        x="update",
        title="Pretraining on unlabelled recordings",
    )
    runs = {name: _named(dest / name) for name in ("finetuned", "from_scratch")}
    plot_curves(
        runs,
        dest / "finetuning.png",
        y=["loss", "auroc", "cinc_score"],
        title="Fine-tuning: validation loss (bits), AUROC, challenge score",
    )
    row = _interesting_row(result)
    store = Store(manifests / "store")
    values = store.read(store.row_of(result.names[row]))
    signal = EcgSignal(values, float(store.rate_hz), STANDARD_LEADS)
    order = sorted(range(len(result.labels)), key=lambda k: -result.probability[row, k])
    order = [k for place, k in enumerate(order) if place < 6 or result.truth[row, k]]
    labels = [
        (result.labels[k], float(result.probability[row, k]), bool(result.truth[row, k]))
        for k in order
    ]
    plot_ecg(signal, dest / "prediction.png", title=f"{result.names[row]} (test)", labels=labels)


def _named(folder: Path) -> list[dict[str, float]]:
    rows = read_log(folder, "valid")
    return [{key.removeprefix("valid_"): value for key, value in row.items()} for row in rows]


def _interesting_row(result: Evaluation) -> int:
    """Return a recording with several true labels, so that the picture has something to say."""
    return int(result.truth.sum(axis=1).argmax())


def _report(dest: Path, results: dict[str, Evaluation], seconds: float) -> None:
    rows = {name: {s: result.metrics[s] for s in SCORES} for name, result in results.items()}
    count = len(next(iter(results.values())).names)
    print(f"\n{count} recordings of the test split, none of whose patients was trained on:\n")
    print(" " * 14 + "".join(f"{name:>12}" for name in SCORES))
    for name, scores in rows.items():
        print(f"{name.replace('_', ' '):<14}" + "".join(f"{v:12.3f}" for v in scores.values()))
    pictures = ("pretraining.png", "finetuning.png", "prediction.png")
    print("\npictures: " + ", ".join(str(dest / name) for name in pictures))
    print(f"{seconds / 60:.1f} minutes")
    known = {name: {s: None if v != v else v for s, v in r.items()} for name, r in rows.items()}
    (dest / "results.json").write_text(json.dumps(known, indent=2) + "\n")


def _step(title: str, *words: str) -> None:
    """Print a command, run it in a process of its own, and fail if it fails.

    Training talks much; of its lines only the logged numbers are shown, all is in its run folder.
    """
    print(f"\n== {title}\n$ fairseq-ecg {shlex.join(words)}", flush=True)
    process = subprocess.Popen(
        [sys.executable, "-m", "fairseq_ecg_launch", *words],
        env={**os.environ, **_ENVIRONMENT},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
    last: deque[str] = deque(maxlen=30)
    for line in process.stdout or ():
        last.append(line)
        shown = _progress(line) if words[0] == "train" else line.rstrip()
        if shown is not None:
            print(shown, flush=True)
    if process.wait():
        print("".join(last), file=sys.stderr)
        raise ValueError(f"the step {title!r} failed with exit status {process.returncode}")


def _progress(line: str) -> str | None:
    """Return one short line for the logged numbers of training and validation, else None."""
    found = re.search(r"\[(train_inner|valid)\]\[INFO\] - (\{.*\})", line)
    if found is None:
        return None
    values = {k.removeprefix("valid_"): v for k, v in json.loads(found[2]).items()}
    names = ("loss", "accuracy", "auroc", "cinc_score")
    numbers = "  ".join(f"{n} {float(values[n]):.3f}" for n in names if n in values)
    label = "valid" if found[1] == "valid" else "     "
    return f"  {label}  update {int(float(values['num_updates'])):>5}  {numbers}"


def _quoted(path: Path) -> str:
    text = str(path.absolute())
    if re.fullmatch(r"[\w./-]+", text, re.ASCII):
        return text
    return "'" + text.replace("'", "\\'") + "'"
