"""Do shortcuts help the network of transformation recognition? Four configurations, several seeds.

    python examples/transform/residual_study.py shortcuts --pretraining DATA \
        --labelled "PTB-XL=DATA/LABEL_SET" --dest study
    python examples/transform/residual_study.py depth --pretraining DATA --dest study

``shortcuts``: no block, the first, the first two, or all three with a shortcut. ``depth``: none or
all, with 1, 2, ... pairs of convolutions per block. Of each the pretext task is measured: accuracy
and mean F1 of the recordings to validate on, updates to 95 % of the last F1, the mean of F1 over
all validations (high where F1 rises early), seconds per update, the norm of the gradient in the
first pair of convolutions over that in the last, and the smallest one in the first, each a mean
over an interval of the log. ``--labelled`` adds what the frozen encoder and full fine-tuning reach
on labels, for each label set, so that two divisions into folds stand beside each other. Written are
all numbers, a table, the differences from the network without shortcuts seed by seed, and pictures
of the curves. A run that is finished is not repeated.
"""

import argparse
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fairseq_ecg.evaluation import evaluate_splits
from fairseq_ecg.plots.curves import plot_curves
from fairseq_ecg.studies import (
    Run,
    Study,
    add_options,
    as_markdown,
    quoted,
    study_of,
    write_table,
)
from fairseq_ecg.training_log import read_log

CONFIGURATIONS = {"none": "[]", "first": "[1]", "first_second": "[1,2]", "all": "[1,2,3]"}
PROTOCOLS = {
    "frozen": ("model.freeze_finetune_updates=1000000",),
    "fine-tuned": ("model.freeze_finetune_updates=0",),
}
PLAIN = "none"
SHARE_OF_LAST = 0.95
NEVER = 1000000


@dataclass(frozen=True)
class Labels:
    """A label set: what the table calls it, and its folder."""

    name: str
    folder: Path

    @classmethod
    def parse(cls, text: str) -> "Labels":
        """Read ``name=folder``."""
        name, _, folder = text.partition("=")
        if not (name and folder):
            raise argparse.ArgumentTypeError(f"{text!r} is not NAME=FOLDER")
        return cls(name, Path(folder))


@dataclass(frozen=True)
class Network:
    """A line of the table: which blocks have a shortcut, and pairs of convolutions per block."""

    configuration: str
    pairs: int = 1

    @property
    def name(self) -> str:
        """Name of its folder and, in the table, of its line."""
        return self.configuration + ("" if self.pairs == 1 else f"_{self.pairs}_pairs")


def pretraining(network: Network, seed: int, args: argparse.Namespace) -> Run:
    """Return the pretraining of a network, validated ``--validations`` times."""
    words = (
        *("--config-name", args.preset, f"task.data={quoted(args.pretraining)}"),
        *(f"common.seed={seed}", "task.log_gradient_norms=true"),
        *(f"optimization.max_update={args.updates}", "optimization.max_epoch=0"),
        f"dataset.validate_interval_updates={args.updates // args.validations}",
        *(f"dataset.validate_interval={NEVER}", f"checkpoint.save_interval={NEVER}"),
        f"model.residual_blocks={CONFIGURATIONS[network.configuration]}",
        *(f"model.units_per_block={network.pairs}", *args.in_pretraining),
    )
    return Run(f"{network.name}/pretraining_{seed}", words)


def training(labels: Labels, protocol: str, seed: int, start: Run, args: argparse.Namespace) -> Run:
    """Return the training on labels from a pretraining."""
    words = (
        *("--config-name", args.finetuning_preset, f"task.data={quoted(labels.folder)}"),
        *(f"common.seed={seed}", "dataset.disable_validation=true"),
        *(f"optimization.max_epoch={args.epochs}", *PROTOCOLS[protocol], *args.in_training),
    )
    return Run(f"{start.name}/{labels.name}_{protocol}".replace(" ", "_"), words, start)


def pretext_scores(folder: Path) -> dict[str, float]:
    """Return what a pretraining logged, in numbers of the table."""
    validations = read_log(folder, "valid")
    last = validations[-1]
    reached = SHARE_OF_LAST * last["valid_f1"]
    first = next(row for row in validations if row["valid_f1"] >= reached)
    learnt = last["valid_f1"] > 0
    lines = read_log(folder)
    speed = [row["ups"] for row in lines if row.get("ups", 0) > 0]
    return {
        "pretext accuracy": last["valid_accuracy"],
        "pretext F1": last["valid_f1"],
        "updates to 95 %": first["valid_num_updates"] if learnt else math.nan,
        "F1 over training": float(np.mean([row["valid_f1"] for row in validations])),
        "s per update": 1 / float(np.median(speed)) if speed else math.nan,
        "gradient, first over last": _gradient_ratio(lines),
        "smallest gradient of the first": min(row["gradient_norm_1"] for row in lines),
    }


def _gradient_ratio(lines: list[dict[str, float]]) -> float:
    """Return the first pair's norm over the last one's, the geometric mean over training."""
    depth = sum(key.startswith("gradient_norm_") for key in lines[0])
    pairs = [(row["gradient_norm_1"], row[f"gradient_norm_{depth}"]) for row in lines]
    logs = [math.log(a / b) for a, b in pairs if a > 0 and b > 0]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan


def label_scores(checkpoint: Path, labels: Labels, args: argparse.Namespace) -> dict[str, float]:
    """Return the metrics of ``--metrics`` that a label set has."""
    found = evaluate_splits(str(checkpoint), str(labels.folder), args.splits.split(",")).metrics
    return {name: found[name] for name in args.metrics.split(",") if name in found}


def measure(networks: list[Network], args: argparse.Namespace, study: Study) -> pd.DataFrame:
    """Train whatever is missing; return one row per network, seed and metric."""
    seeds = range(1, args.seeds + 1)
    runs = {(n, seed): pretraining(n, seed, args) for seed in seeds for n in networks}
    tuned = {
        (*key, labels, protocol): training(labels, protocol, key[1], run, args)
        for key, run in runs.items()
        for labels in args.labelled
        for protocol in PROTOCOLS
    }
    study.train([*runs.values(), *tuned.values()])
    rows = [
        (network, seed, name, value)
        for (network, seed), run in runs.items()
        for name, value in pretext_scores(study.dest / run.name).items()
    ]
    rows += [
        (network, seed, f"{labels.name}, {protocol}, {name}", value)
        for (network, seed, labels, protocol), run in tuned.items()
        for name, value in label_scores(study.checkpoint(run), labels, args).items()
    ]
    return pd.DataFrame(
        [
            {"network": n.name, "shortcuts": n.configuration, "pairs": n.pairs}
            | {"seed": seed, "metric": name, "value": value}
            for n, seed, name, value in rows
        ]
    )


def differences(rows: pd.DataFrame) -> pd.DataFrame:
    """Return each value minus that of the network without shortcuts, of equal seed and depth."""
    key = ["pairs", "seed", "metric"]
    plain = rows[rows.shortcuts == PLAIN].set_index(key).value
    others = rows[rows.shortcuts != PLAIN].copy()
    others["value"] -= plain.reindex(pd.MultiIndex.from_frame(others[key])).to_numpy()
    return others


def draw(networks: list[Network], args: argparse.Namespace, study: Study, name: str) -> list[Path]:
    """Draw F1 and the norms of the gradient over updates, as means over seeds, depth by depth."""
    pictures = []
    for pairs in sorted({network.pairs for network in networks}):
        gradients, f1 = {}, {}
        for network in (n for n in networks if n.pairs == pairs):
            folders = [
                study.dest / pretraining(network, seed, args).name
                for seed in range(1, args.seeds + 1)
            ]
            gradients[network.configuration] = _mean_over_runs(map(read_log, folders))
            f1[network.configuration] = _mean_over_runs(read_log(f, "valid") for f in folders)
        keys = [key for key in gradients[next(iter(gradients))][0] if key.startswith("gradient_")]
        suffix = "" if pairs == 1 else f"_{pairs}_pairs"
        path = study.dest / f"{name}_gradients{suffix}.png"
        pictures.append(plot_curves(gradients, path, keys, log_y=True))
        path = study.dest / f"{name}_f1{suffix}.png"
        pictures.append(plot_curves(f1, path, "valid_f1", "valid_num_updates"))
    return pictures


def _mean_over_runs(logs: Iterable[list[dict[str, float]]]) -> list[dict[str, float]]:
    """Average what several runs logged at the same time."""
    table = pd.concat([pd.DataFrame(rows) for rows in logs])
    key = "num_updates" if "num_updates" in table else "valid_num_updates"
    means = table.groupby(key).mean(numeric_only=True).reset_index()
    return means.to_dict("records")


def networks_of(args: argparse.Namespace) -> list[Network]:
    """Return the lines of the table."""
    if args.study == "shortcuts":
        return [Network(name) for name in CONFIGURATIONS]
    depths = [int(pairs) for pairs in args.depths.split(",")]
    return [Network(name, pairs) for pairs in depths for name in (PLAIN, "all")]


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; overrides may stand anywhere in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=("shortcuts", "depth"))
    parser.add_argument("--pretraining", type=Path, required=True, help="folder of manifests")
    parser.add_argument(
        "--labelled", type=Labels.parse, nargs="+", default=[], metavar="NAME=FOLDER",
        help="label sets",
    )  # fmt: skip
    parser.add_argument("--updates", type=int, default=1500, help="of each pretraining")
    parser.add_argument("--validations", type=int, default=15, help="of each pretraining")
    parser.add_argument("--epochs", type=int, default=20, help="over the labelled recordings")
    parser.add_argument("--depths", default="1,2,4", help="pairs per block, with commas")
    parser.add_argument("--splits", default="test", help="of the unseen recordings, with commas")
    parser.add_argument(
        "--metrics", default="accuracy,em_accuracy,f1,auroc", help="of label sets, with commas"
    )
    parser.add_argument("--preset", default="transform_small", help="of pretraining")
    parser.add_argument("--finetuning-preset", default="transform_finetune_small")
    parser.add_argument(
        "--in-pretraining", type=str.split, default=[], help="overrides, between spaces"
    )
    parser.add_argument(
        "--in-training", type=str.split, default=[], help="the same of runs on labels"
    )
    add_options(parser)
    args = parser.parse_intermixed_args(words)
    if not 1 <= args.validations <= args.updates:
        parser.error("--validations must be at least 1 and at most --updates")
    return args


def main() -> None:
    """Parse, run, print and write."""
    args = parse()
    study, networks = study_of(args, "dataset.num_workers=0"), networks_of(args)
    rows = measure(networks, args, study)
    text = as_markdown(rows, "network", "metric")
    text += f"\n\nMinus `{PLAIN}` of the same seed:\n\n"
    text += as_markdown(differences(rows), "network", "metric")
    write_table(rows, text, study.dest, args.study)
    pictures = draw(networks, args, study, args.study)
    print(text)
    print("\n".join(map(str, pictures)))


if __name__ == "__main__":
    main()
