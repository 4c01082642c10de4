"""What the demo shows at its end: pictures, and the scores of its two models."""

import json
from pathlib import Path

from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.data.store import Store
from fairseq_ecg.evaluation import Evaluation
from fairseq_ecg.plots.curves import plot_curves
from fairseq_ecg.plots.ecg_paper import plot_ecg
from fairseq_ecg.training_log import read_log

SCORES = ("cinc_score", "auroc", "auprc", "f1")
_PRETRAINING_CURVES = {
    "num_updates": "update",
    "loss_0": "InfoNCE of frames (bits)",
    "loss_3": "CMSC of segments (bits)",
    "accuracy": "accuracy on frames",
}


def draw(dest: Path, manifests: Path, result: Evaluation) -> None:
    """Draw the curves of all trainings, and one recording with what is predicted of it.

    Args:
        dest: Folder of the demo.
        manifests: Folder with the store.
        result: What the fine-tuned model says of the test split.
    """
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


def report(dest: Path, results: dict[str, Evaluation], seconds: float) -> None:
    """Print the scores of both models, and write them to ``results.json``.

    Args:
        dest: Folder of the demo.
        results: By the name of the model.
        seconds: How long all took.
    """
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


def _named(folder: Path) -> list[dict[str, float]]:
    rows = read_log(folder, "valid")
    return [{key.removeprefix("valid_"): value for key, value in row.items()} for row in rows]


def _interesting_row(result: Evaluation) -> int:
    """Return a recording with several true labels, so that the picture has something to say."""
    return int(result.truth.sum(axis=1).argmax())
