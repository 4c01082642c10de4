"""The experiments of transfer learning: which task, which input, how much data to pretrain on.

    python examples/transfer/transfer_study.py pretraining --pretraining DATA \
        --labelled CINC --dest study
    python examples/transfer/transfer_study.py spectrogram --pretraining DATA \
        --labelled CINC --dest study
    python examples/transfer/transfer_study.py size --pretraining DATA \
        --labelled CINC --dest study

``pretraining``: atrial fibrillation from random weights and from each pretraining task, and with
``--rates`` from stores of other sampling rates. ``spectrogram``: networks on spectrograms and over
time, each with and without pretraining. ``size``: pretraining on growing sets of patients, as a
single pass (A) and with as many updates as the largest set gets (B). Each line of a table is
trained on every ``--split-seeds`` division of the labelled recordings, and scored on the one test
set; lines are compared division by division. The experiments share what they have in common if
they share ``--dest``, and a run that is finished is not repeated.
"""

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
from omegaconf import DictConfig, OmegaConf

from fairseq_ecg.data.manifest import read_manifest
from fairseq_ecg.evaluation import evaluate
from fairseq_ecg.plots.spread import plot_spread
from fairseq_ecg.resources import examples_dir
from fairseq_ecg.studies import (
    Run,
    Study,
    add_options,
    as_markdown,
    differences_as_markdown,
    paired_differences,
    quoted,
    study_of,
    write_table,
)
from fairseq_ecg.training_log import read_log

TASKS = ("beat", "rhythm", "heart_rate", "future_prediction")
FUTURE = "future_prediction"
LABEL_SET = "af_s{:03d}"
NEVER = 1000000
STRIDE = 32  # samples of an input over time are a multiple of it
COUNTS = ("patients", "frames", "updates", "epochs", "s of pretraining", "s of training")
OF_PRETRAINING = (
    *("patients", "frames", "updates", "pretraining loss", "pretraining accuracy"),
    *("pretraining f1", "s of pretraining"),
)
OF_LABELS = ("f1", "f1_N", "f1_A", "f1_O", "f1_~", "f1_cinc", "epochs", "s of training")
COMPARED = ("f1", "f1_cinc")


@dataclass(frozen=True)
class Network:
    """The presets of a kind of input: pretraining on beats, fine-tuning, from random weights."""

    beat: str
    tuned: str
    scratch: str


SCALES = {
    "paper": {
        "1-D": Network("beat_resnet18_f4096", "af_resnet18", "af_resnet18_scratch"),
        "2-D": Network("spectrogram_resnet18", "af_spectrogram", "af_spectrogram_scratch"),
    },
    "small": {
        "1-D": Network("beat_resnet18_small", "af_resnet18_small", "af_resnet18_scratch_small"),
        "2-D": Network(
            "spectrogram_resnet18_small", "af_spectrogram_small", "af_spectrogram_scratch_small"
        ),
    },
}
FUTURE_PRESETS = {
    "paper": "future_prediction_resnet18",
    "small": "future_prediction_resnet18_small",
}


@dataclass(frozen=True)
class Arm:
    """A line of a table.

    Args:
        network: Key of ``SCALES[scale]``.
        task: What is pretrained; None: random weights.
        subset: Manifest that it is pretrained on, without ``.tsv``.
        protocol: A, a single pass; B, the updates of a single pass over the largest set.
        rate_hz: Of the labelled recordings; None: that of the preset.
    """

    network: str = "1-D"
    task: str | None = "beat"
    subset: str = "train"
    protocol: str = "A"
    rate_hz: int | None = None


@cache
def preset(name: str, words: tuple[str, ...] = ()) -> DictConfig:
    """Return a preset with overrides."""
    path = next((examples_dir() / "transfer/config").rglob(f"{name}.yaml"))
    return OmegaConf.merge(OmegaConf.load(path), OmegaConf.from_dotlist(list(words)))


def patients(args: argparse.Namespace, subset: str) -> int:
    """Return the number of patients of a manifest."""
    return _patients(args.pretraining / f"{subset}.tsv")


@cache
def _patients(path: Path) -> int:
    manifest = read_manifest(path)
    return len(set(manifest.labels or manifest.paths))


def pretraining_words(arm: Arm, args: argparse.Namespace) -> tuple[str, tuple[str, ...]]:
    """Return preset and overrides of what an arm starts from, apart from its data and length."""
    network: Network = SCALES[args.scale][arm.network]
    more = args.in_pretraining
    if arm.task == FUTURE:
        return FUTURE_PRESETS[args.scale], (*more, *args.in_future_prediction)
    if arm.network == "2-D":
        more = [*more, *args.in_spectrogram]
    return network.beat, (f"task.label_type={arm.task}", *more)


def passes(arm: Arm, args: argparse.Namespace) -> tuple[int, int]:
    """Return updates and frames (of future prediction: contexts) of a pretraining."""
    cfg = preset(*pretraining_words(arm, args))
    world = cfg.distributed_training.distributed_world_size
    batch = cfg.dataset.batch_size * world * cfg.optimization.update_freq[0]
    of_epoch = patients(args, arm.subset) * cfg.task.samples_per_patient
    largest = patients(args, args.largest) * cfg.task.samples_per_patient
    updates = math.ceil((of_epoch if arm.protocol == "A" else largest) / batch)
    if args.updates is not None:
        share = 1 if arm.protocol == "B" else of_epoch / largest
        updates = math.ceil(args.updates * share)
    epochs, rest = divmod(updates, math.ceil(of_epoch / batch))
    return updates, epochs * of_epoch + min(rest * batch, of_epoch)


def pretraining(arm: Arm, seed: int, args: argparse.Namespace) -> Run:
    """Return the pretraining that an arm starts from."""
    name, more = pretraining_words(arm, args)
    updates, _ = passes(arm, args)
    every = max(updates // args.validations, 1)  # each save is validated first
    words = (
        *("--config-name", name, f"task.data={quoted(args.pretraining)}", f"common.seed={seed}"),
        *(f"dataset.train_subset={arm.subset}", f"dataset.valid_subset={args.valid}"),
        *(f"optimization.max_update={updates}", "optimization.max_epoch=0"),
        *(f"dataset.validate_interval={NEVER}", f"checkpoint.save_interval={NEVER}"),
        *(f"checkpoint.save_interval_updates={every}", "checkpoint.keep_interval_updates=1"),
        *more,
    )
    data = args.pretraining.resolve().name
    folder = f"{data}_{arm.subset}/{arm.task}_{arm.network}/{updates}_updates/pretraining_{seed}"
    return Run(folder, words, checkpoint=f"checkpoint_{args.take}.pt")


def finetuning(arm: Arm, split: int, start: Run | None, args: argparse.Namespace) -> Run:
    """Return the training on one division of the labelled recordings."""
    network: Network = SCALES[args.scale][arm.network]
    words = [
        *("--config-name", network.scratch if start is None else network.tuned),
        *(f"task.data={quoted(labelled(arm, split, args))}", f"common.seed={split}"),
        *at_rate(arm, network, args),
        *(args.in_spectrogram if arm.network == "2-D" and start is None else ()),
        *args.in_training,
    ]
    folder = f"scratch_{arm.network}" if start is None else start.name
    rate = "" if arm.rate_hz is None else f"_{arm.rate_hz}_Hz"
    name = f"{folder}/{args.labelled.resolve().name}{rate}/{LABEL_SET.format(split)}"
    return Run(name, tuple(words), start, "checkpoint_best.pt")


def labelled(arm: Arm, split: int, args: argparse.Namespace) -> Path:
    """Return the label set of a division, at the rate of an arm."""
    store = args.labelled if arm.rate_hz is None else args.rates[arm.rate_hz]
    return store / LABEL_SET.format(split)


def at_rate(arm: Arm, network: Network, args: argparse.Namespace) -> tuple[str, ...]:
    """Return the overrides for another rate: the same seconds, in whole strides of the network."""
    if arm.rate_hz is None:
        return ()
    seconds = preset(network.tuned, tuple(args.in_training)).task.segment_s
    samples = math.ceil(round(seconds * arm.rate_hz / STRIDE, 6)) * STRIDE
    return (
        f"task.sample_rate={arm.rate_hz}",
        f"task.segment_s={samples / arm.rate_hz:.9g}",
        "task.contract_ignores=[rate_hz]",
    )


# --- the experiments ------------------------------------------------------------------------------


def arms_of(args: argparse.Namespace) -> dict[str, Arm]:
    """Return the lines of the table by name; the first is what the others are compared with."""
    return {"pretraining": by_task, "spectrogram": by_input, "size": by_size}[args.study](args)


def by_task(args: argparse.Namespace) -> dict[str, Arm]:
    """Random weights and each pretraining task, at each rate."""
    found = {}
    for rate in (None, *args.rates):
        suffix = "" if rate is None else f", {rate} Hz"
        for task in (None, *args.tasks):
            name = "random" if task is None else task.replace("_", " ")
            found[name + suffix] = Arm(task=task, rate_hz=rate)
    return found


def by_input(args: argparse.Namespace) -> dict[str, Arm]:
    """Both kinds of input with and without pretraining on beats."""
    del args
    return {
        f"{network}, {'random' if task is None else task}": Arm(network, task)
        for network in SCALES["small"]
        for task in (None, "beat")
    }


def by_size(args: argparse.Namespace) -> dict[str, Arm]:
    """Random weights, and each size under each protocol; of the largest both are the same."""
    found = {f"{network}, random": Arm(network, None) for network in args.networks}
    for network in args.networks:
        for protocol in args.protocols:
            for subset in args.sizes:
                share = 100 * patients(args, subset) / patients(args, args.largest)
                found[f"{network}, {protocol}, {share:.3g} %"] = Arm(
                    network, "beat", subset, protocol
                )
    return found


@dataclass(frozen=True)
class Outcome:
    """A fine-tuned network: its line in the table, its run, and the seeds of both runs."""

    name: str
    arm: Arm
    run: Run
    seed: int | None
    split: int


def outcomes(args: argparse.Namespace) -> list[Outcome]:
    """Return every line of the table with every seed; random weights have none of pretraining."""
    return [
        Outcome(name, arm, finetuning(arm, split, start, args), seed, split)
        for name, arm in arms_of(args).items()
        for seed in ((None,) if arm.task is None else range(1, args.seeds + 1))
        for start in [None if seed is None else pretraining(arm, seed, args)]
        for split in args.split_seeds
    ]


def measure(args: argparse.Namespace, study: Study) -> pd.DataFrame:
    """Train whatever is missing; return one row per line, seed and metric.

    What a pretraining logged stands there once, with 0 as the seed of the division.
    """
    found = outcomes(args)
    study.train(outcome.run for outcome in found)
    rows = []
    for outcome in found:
        arm = outcome.arm
        labels = {"line": outcome.name, "network": arm.network, "task": arm.task or "random"}
        labels |= {"subset": arm.subset if arm.task else "", "protocol": arm.protocol}
        labels |= {"pretraining_seed": outcome.seed or 0}
        if outcome.seed is not None and outcome.split == args.split_seeds[0]:
            start = pretraining_scores(outcome, args, study)
            rows += [{**labels, "split_seed": 0, "metric": m, "value": v} for m, v in start.items()]
        for metric, value in tuning_scores(outcome, args, study).items():
            rows.append({**labels, "split_seed": outcome.split, "metric": metric, "value": value})
    return pd.DataFrame(rows)


def tuning_scores(outcome: Outcome, args: argparse.Namespace, study: Study) -> dict[str, float]:
    """Return the score of a network on test, and how long its fine-tuning took."""
    data = labelled(outcome.arm, outcome.split, args)
    metrics = evaluate(str(study.checkpoint(outcome.run)), str(data), "test").metrics
    epochs = read_log(study.dest / outcome.run.name, "train")
    seconds = sum(row["train_train_wall"] for row in epochs)
    return {**metrics, "epochs": epochs[-1]["epoch"], "s of training": seconds}


def pretraining_scores(
    outcome: Outcome, args: argparse.Namespace, study: Study
) -> dict[str, float]:
    """Return the length of a pretraining, and what the checkpoint that was taken validated as."""
    folder = study.dest / outcome.run.start.name
    updates, frames = passes(outcome.arm, args)
    epochs = read_log(folder, "train")
    rows = read_log(folder, args.valid)
    loss, f1 = f"{args.valid}_loss", f"{args.valid}_f1"
    row = rows[-1]
    if args.take == "best":
        row = max(rows, key=lambda r: r[f1]) if f1 in row else min(rows, key=lambda r: r[loss])
    return {
        "patients": patients(args, outcome.arm.subset),
        "frames": frames,
        "updates": updates,
        "s of pretraining": sum(row["train_train_wall"] for row in epochs),
        **{
            f"pretraining {name}": row[f"{args.valid}_{name}"]
            for name in ("loss", "accuracy", "f1")
            if f"{args.valid}_{name}" in row
        },
    }


# --- what is written ------------------------------------------------------------------------------


def table_name(args: argparse.Namespace) -> str:
    """Return how the files of a table begin; two sets to pretrain on are two tables."""
    return f"{args.study}_{args.pretraining.resolve().name}"


def as_text(rows: pd.DataFrame, args: argparse.Namespace) -> str:
    """Return the table, and the differences from its first line."""
    names = [n for n in (*OF_PRETRAINING, *OF_LABELS) if (rows.metric == n).any()]
    parts = [as_markdown(rows, "line", "metric", names, COUNTS)]
    for first in references(rows, args):
        found = paired_differences(of_reference(rows, first, args), "line", first, "split_seed")
        if len(found):
            table = differences_as_markdown(found, "line", COMPARED)
            parts.append(f"Minus `{first}`, division by division:\n\n{table}")
    return "\n\n".join(parts)


def references(rows: pd.DataFrame, args: argparse.Namespace) -> list[str]:
    """Return the lines that others are compared with: random weights; of sizes the largest too."""
    found = list(rows[rows.task == "random"].line.unique())
    if args.study == "size":
        largest = rows[(rows.subset == args.largest) & (rows.task != "random")]
        found += list(largest.drop_duplicates("network").line)
    return found


def of_reference(rows: pd.DataFrame, first: str, args: argparse.Namespace) -> pd.DataFrame:
    """Return the lines that are compared with one; across rates and kinds of input none is."""
    arms = arms_of(args)
    if args.study == "spectrogram":
        return rows
    alike = [
        name
        for name, arm in arms.items()
        if (arm.network, arm.rate_hz) == (arms[first].network, arms[first].rate_hz)
    ]
    return rows[rows.line.isin(alike)]


def draw(rows: pd.DataFrame, args: argparse.Namespace, study: Study) -> list[Path]:
    """Draw the validation over the epochs of fine-tuning and, of sizes, the score over patients."""
    logs: dict[str, list[Mapping[str, float]]] = {}
    for outcome in outcomes(args):
        log = read_log(study.dest / outcome.run.name, "valid")
        logs.setdefault(outcome.name, []).extend(log)
    path = study.dest / f"{table_name(args)}_epochs.png"
    pictures = [plot_spread(logs, path, "valid_f1", "epoch")]
    if args.study == "size":
        pictures.append(draw_sizes(rows, study.dest / f"{table_name(args)}_patients.png"))
    return pictures


def draw_sizes(rows: pd.DataFrame, path: Path) -> Path:
    """Draw the score on test over the number of patients."""
    scores = rows[rows.metric == "f1"].rename(columns={"value": "f1"})
    number = rows[rows.metric == "patients"].groupby("line").value.first()
    random = scores[scores.task == "random"]
    sizes = scores[scores.task != "random"].assign(patients=lambda rows: rows.line.map(number))
    return plot_spread(
        {
            f"{network}, {protocol}": group.to_dict("records")
            for (network, protocol), group in sizes.groupby(["network", "protocol"], sort=False)
        },
        path,
        "f1",
        "patients",
        "deviation",
        {f"{network}, random": group.f1.tolist() for network, group in random.groupby("network")},
        log_x=True,
    )


# --- the command line -----------------------------------------------------------------------------


def words_of(text: str) -> list[str]:
    """Split a list with commas."""
    return [word for word in text.split(",") if word]


def some_of(*known: str) -> Callable[[str], list[str]]:
    """Return the type of an option that takes some of these words, with commas."""

    def parse_some(text: str) -> list[str]:
        found = words_of(text)
        if not found or set(found) - set(known):
            raise argparse.ArgumentTypeError(f"{text!r} is not some of {', '.join(known)}")
        return found

    return parse_some


def rate_and_folder(text: str) -> tuple[int, Path]:
    """Read ``rate=folder``."""
    rate, _, folder = text.partition("=")
    if not (rate.isdecimal() and folder):
        raise argparse.ArgumentTypeError(f"{text!r} is not RATE=FOLDER")
    return int(rate), Path(folder)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; overrides may stand anywhere in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=("pretraining", "spectrogram", "size"))
    parser.add_argument("--pretraining", type=Path, required=True, help="folder of manifests")
    parser.add_argument(
        "--labelled", type=Path, required=True, help="folder with the label sets af_s010, ..."
    )
    parser.add_argument(
        "--scale", choices=SCALES, default="small", help="presets of the paper or for one CPU"
    )
    parser.add_argument(
        "--split-seeds", default="10,20,30,40,50,60,70,80,90,100", help="divisions, with commas"
    )
    parser.add_argument("--tasks", type=some_of(*TASKS), default=TASKS, help="of pretraining")
    parser.add_argument(
        "--rates", type=rate_and_folder, nargs="+", default=[], metavar="RATE=FOLDER",
        help="pretraining: other rates in Hz, and the folders of their label sets",
    )  # fmt: skip
    parser.add_argument(
        "--sizes", type=words_of, default="train_001,train_010,train_020,train_050,train",
        help="size: manifests with growing numbers of patients",
    )  # fmt: skip
    parser.add_argument("--protocols", type=some_of("A", "B"), default="A,B", help="size: which")
    parser.add_argument(
        "--networks", type=some_of("1-D", "2-D"), default="1-D", help="size: over time, or images"
    )
    parser.add_argument(
        "--updates", type=int, help="of a pretraining on the largest set (default: a single pass)"
    )
    parser.add_argument("--validations", type=int, default=10, help="of each pretraining")
    parser.add_argument("--valid", default="valid", help="manifest that pretraining validates on")
    parser.add_argument(
        "--take", choices=("best", "last"), default="best", help="checkpoint of pretraining"
    )
    for option, what in (
        ("--in-pretraining", "every pretraining"),
        ("--in-future-prediction", "that of future prediction, behind those"),
        ("--in-spectrogram", "every network on spectrograms"),
        ("--in-training", "every training on labels"),
    ):
        parser.add_argument(option, type=str.split, default=[], help=f"overrides of {what}")
    add_options(parser, seeds=1, of="each pretraining")
    args = parser.parse_intermixed_args(words)
    args.rates = dict(args.rates)
    args.split_seeds = [int(seed) for seed in words_of(args.split_seeds)]
    args.largest = args.sizes[-1] if args.study == "size" else "train"
    if args.validations < 1:
        parser.error("--validations must be at least 1")
    if args.valid in (args.largest, *args.sizes):
        parser.error(
            f"--valid {args.valid} is a training set, and fairseq would take its frames; to "
            "validate on the same patients give a copy of the manifest"
        )
    return args


def main() -> None:
    """Parse, run, print and write."""
    args = parse()
    study = study_of(args, *(["dataset.num_workers=0"] if args.scale == "small" else []))
    rows = measure(args, study)
    text = as_text(rows, args)
    write_table(rows, text, study.dest, table_name(args))
    pictures = draw(rows, args, study)
    print(text)
    print("\n".join(map(str, pictures)))


if __name__ == "__main__":
    main()
