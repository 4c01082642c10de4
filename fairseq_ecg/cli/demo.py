"""``fairseq-ecg demo``: the whole way, from a folder of recordings to a scored diagnosis model.

Every step is a command that a user would type; each is printed before it runs. A step that is
finished is not run again, a step that was stopped goes on.
"""

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

from fairseq_ecg.cli._demo_results import draw, report
from fairseq_ecg.cli._demo_steps import Step
from fairseq_ecg.evaluation import evaluate
from fairseq_ecg.evaluation_files import write_evaluation
from fairseq_ecg.evaluation_results import Evaluation
from fairseq_ecg.studies import quoted

LABEL_SET = "cinc2021"


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
    started = time.monotonic()
    dest.mkdir(parents=True, exist_ok=True)
    for step in steps(dest, data, size or DemoSize()):
        step.run()
    manifests = dest / "manifests"
    results = {name: _evaluate(dest / name, manifests) for name in ("finetuned", "from_scratch")}
    draw(dest, manifests, results["finetuned"])
    report(dest, results, time.monotonic() - started)


def steps(dest: Path, data: Path | None, size: DemoSize) -> list[Step]:
    """Return the commands from recordings to trained models.

    Args:
        dest: Folder for everything that is made.
        data: Folder of PTB-XL or PhysioNet 2021; None makes recordings up.
        size: How much to do.
    """
    manifests, pretraining = dest / "manifests", dest / "pretraining"
    checkpoint = pretraining / "checkpoints/checkpoint_last.pt"
    start = f"model.model_path={quoted(checkpoint)}"
    scratch = ("model.no_pretrained_weights=true", "model.feature_grad_mult=1.0")
    return [
        *_recordings(dest, data, size),
        _training(
            "pretraining",
            "w2v_cmsc_rlm_small",
            pretraining,
            manifests,
            size.pretraining,
            "dataset.disable_validation=true",
        ),
        _finetuning(dest / "finetuned", manifests, size, start),
        _finetuning(dest / "from_scratch", manifests, size, "model.model_path=null", *scratch),
    ]


def _recordings(dest: Path, data: Path | None, size: DemoSize) -> list[Step]:
    """Return the steps that make the store, and the recordings if there are none."""
    made = []
    if data is None:
        data = dest / "recordings"
        if not data.exists():
            words = ("synthesize", str(data), "--patients", str(size.patients))
            made = [Step("made-up recordings", words)]
    corpus = "ptb-xl" if (data / "ptbxl_database.csv").is_file() else "physionet2021"
    build = ("manifest", corpus, str(data), "--dest", str(dest / "manifests"))
    return [*made, Step("manifests", (*build, "--workers", str(size.workers)))]


def _finetuning(folder: Path, manifests: Path, size: DemoSize, *overrides: str) -> Step:
    return _training(
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


def _training(title: str, preset: str, folder: Path, data: Path, updates: int, *more: str) -> Step:
    words = (
        "train",
        "--config-name",
        preset,
        f"task.data={quoted(data)}",
        f"hydra.run.dir={quoted(folder)}",
        f"optimization.max_update={updates}",
        "optimization.max_epoch=100000",
        f"common.log_interval={min(max(updates // 10, 1), 10)}",  # a few lines for the curves
        f"checkpoint.save_interval_updates={max(updates // 6, 1)}",
        "checkpoint.keep_interval_updates=1",
        "checkpoint.save_interval=100000",
        *more,
    )
    return Step(title, words, folder, updates)


def _evaluate(folder: Path, manifests: Path) -> Evaluation:
    checkpoint = folder / "checkpoints/checkpoint_best.pt"
    print(f"\n== evaluation, {folder.name.replace('_', ' ')}")
    print(f"$ fairseq-ecg evaluate {checkpoint} {manifests / LABEL_SET} --out {folder}", flush=True)
    result = evaluate(str(checkpoint), str(manifests / LABEL_SET), "test", bootstrap=1000)
    write_evaluation(result, folder, pictures=True)
    return result
