"""The tables of masked reconstruction: U-ResNet (Gedon et al.) and ECG-MAE (Yang et al.).

    python examples/masked_tables.py reconstruction --family uresnet --pretraining DATA \
        --on "PTB-XL, test=DATA:test" --dest table
    python examples/masked_tables.py classification --family uresnet --pretraining DATA \
        --labelled DATA/LABEL_SET --dest table
    python examples/masked_tables.py diversity --family uresnet --pretraining DATA \
        --labelled DATA/LABEL_SET --dest table
    python examples/masked_tables.py ablation --family mae --pretraining DATA \
        --labelled DATA/LABEL_SET --on "PTB-XL, test=DATA:test" --dest table

``reconstruction``: error on each data set. ``classification``: the same network fine-tuned, from
scratch, and as a linear probe. ``diversity``: how differently networks decide that differ in their
seed only, with and without pretraining. ``ablation``: the parts of the encoder, off one at a time.
The presets are those for one CPU unless others are given. Each table of one ``--dest`` uses the
pretrainings of the others; a run that is finished is not repeated.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from fairseq_ecg.cli.diversity import compare_models, format_comparison, write_comparison
from fairseq_ecg.cli.thresholds import SCORES, choose_thresholds
from fairseq_ecg.evaluation import evaluate, evaluate_splits
from fairseq_ecg.evaluation_files import write_evaluation
from fairseq_ecg.studies import (
    Run,
    Study,
    Trial,
    add_options,
    as_markdown,
    quoted,
    study_of,
    write_table,
)

METRICS = ("f_beta", "g_beta", "f_max", "auroc", "auprc")
SCRATCH = "from scratch"


@dataclass(frozen=True)
class Family:
    """The presets of a kind of network.

    Args:
        pretraining: Of pretraining; its best checkpoint is taken if it keeps one, else the last.
        finetuning: Of fine-tuning, and, its encoder frozen, of the linear probe.
        scratch: Of the same network from random weights.
        parts: Overrides that take a part of the encoder away, by what the table calls it.
        checkpoint: Which checkpoint of the pretraining.
    """

    pretraining: str
    finetuning: str
    scratch: str
    parts: tuple[tuple[str, tuple[str, ...]], ...] = ()
    checkpoint: str = "checkpoint_best.pt"


FAMILIES = {
    "uresnet": Family("uresnet_small", "uresnet_finetune_small", "uresnet_scratch_small"),
    "mae": Family(
        "mae_debug",
        "mae_finetune_debug",
        "mae_scratch_debug",
        (
            ("whole", ()),
            ("without convolution", ("model.multi_scale=false",)),
            ("without transformer", ("model.transformer=false",)),
        ),
        "checkpoint_last.pt",
    ),
}
ARMS = {
    "linear probe": ("model.freeze_finetune_updates=1000000",),
    "fine-tuned": (),
    SCRATCH: (),
}


@dataclass(frozen=True)
class DataSet:
    """Recordings to reconstruct: what the table calls them, their folder and their manifest."""

    name: str
    folder: Path
    split: str

    @classmethod
    def parse(cls, text: str) -> "DataSet":
        """Read ``name=folder:split``."""
        name, _, place = text.rpartition("=")
        folder, _, split = place.rpartition(":")
        if not (name and folder and split):
            raise argparse.ArgumentTypeError(
                f"{text!r} is not NAME=FOLDER:SPLIT; overrides of the runs go right behind the "
                "name of the table, before any option"
            )
        return cls(name, Path(folder), split)


def pretraining(args: argparse.Namespace, seed: int, part: str = "whole") -> Run:
    """Return a pretraining of the family, perhaps without a part of the encoder."""
    family: Family = args.family
    words = (
        *("--config-name", family.pretraining, f"task.data={quoted(args.pretraining)}"),
        *(f"common.seed={seed}", *dict(family.parts).get(part, ()), *args.in_pretraining),
    )
    folder = family.pretraining + ("" if part == "whole" else f"_{part.replace(' ', '_')}")
    return Run(f"{folder}/pretraining_{seed}", words, checkpoint=family.checkpoint)


def training(args: argparse.Namespace, arm: str, seed: int, start: Run | None) -> Run:
    """Return a training on the labelled recordings, from a pretraining or from scratch."""
    family: Family = args.family
    preset = family.scratch if start is None else family.finetuning
    words = (
        *("--config-name", preset, f"task.data={quoted(args.labelled)}", f"common.seed={seed}"),
        *(*ARMS[arm], *args.in_training),
    )
    folder = preset if start is None else start.name
    checkpoint = f"checkpoint_{args.take}.pt"
    name = f"{folder}/{label_set(args)}/{arm.replace(' ', '_')}_{seed}"
    return Run(name, words, start, checkpoint)


def label_set(args: argparse.Namespace) -> str:
    """Return what runs and tables call the labelled recordings."""
    labelled = args.labelled.resolve()
    return f"{labelled.parent.name}_{labelled.name}"


def table_name(args: argparse.Namespace) -> str:
    """Return how the files of the table begin; two label sets are two tables."""
    parts = [args.family_name, args.table]
    if args.table != "reconstruction":
        parts.append(label_set(args))
    return "_".join(parts)


def reconstruction(args: argparse.Namespace, study: Study) -> tuple[pd.DataFrame, str]:
    """Return the error of reconstruction on each data set."""
    if args.checkpoint is not None:
        table = pd.DataFrame(errors(args.checkpoint, args.on))
    else:
        runs = [pretraining(args, seed) for seed in seeds(args)]
        study.train(runs)
        table = pd.DataFrame(
            [
                {"seed": seed, **row}
                for seed, run in zip(seeds(args), runs, strict=True)
                for row in errors(study.checkpoint(run), args.on)
            ]
        )
    return table, as_markdown(table, "data", "metric")


def classification(args: argparse.Namespace, study: Study) -> tuple[pd.DataFrame, str]:
    """Return the scores with and without pretraining."""
    trials = []
    for arm in ARMS:
        for seed in seeds(args):
            start = None if arm == SCRATCH else pretraining(args, seed)
            trials.append(Trial(training(args, arm, seed, start), {"arm": arm, "seed": seed}))
    rows = study.table(trials, lambda path: scores(path, args))
    return rows, as_markdown(rows, "arm", "metric", METRICS)


def diversity(args: argparse.Namespace, study: Study) -> tuple[pd.DataFrame, str]:
    """Compare networks that differ in their seed; those pretrained start from one checkpoint."""
    start = pretraining(args, 1)
    runs = {
        arm: [training(args, arm, s, None if arm == SCRATCH else start) for s in seeds(args)]
        for arm in (SCRATCH, "fine-tuned")
    }
    study.train(run for of_arm in runs.values() for run in of_arm)
    folders = {
        arm: [predictions(study.checkpoint(run), args) for run in of_arm]
        for arm, of_arm in runs.items()
    }
    found = compare_models(folders, valid=f"../{args.valid}", score=args.score)
    write_comparison(found, study.dest / table_name(args))
    return found.summary(), f"```text\n{format_comparison(found)}\n```"


def ablation(args: argparse.Namespace, study: Study) -> tuple[pd.DataFrame, str]:
    """Return error and scores of the encoder without one of its parts."""
    trials = [
        Trial(training(args, arm, seed, start), {"encoder": part, "seed": seed, "arm": arm})
        for part, _ in args.family.parts
        for seed in seeds(args)
        for start in [pretraining(args, seed, part)]
        for arm in ARMS
        if arm != SCRATCH
    ]
    found = study.table(trials, lambda path: scores(path, args))
    found["metric"] = found.arm + ", " + found.metric
    rebuilt = [
        {**trial.labels, **row, "metric": f"{row['metric']}, {row['data']}"}
        for trial in trials
        if trial.labels["arm"] == "fine-tuned"
        for row in errors(study.checkpoint(trial.run.start), args.on)
    ]
    rows = pd.concat([found, pd.DataFrame(rebuilt)], ignore_index=True)
    shown = [f"nmse, {data.name}" for data in args.on]
    return rows, as_markdown(
        rows, "encoder", "metric", [*shown, "linear probe, auroc", "fine-tuned, auroc"]
    )


TABLES = {table.__name__: table for table in (reconstruction, classification, diversity, ablation)}


def seeds(args: argparse.Namespace) -> range:
    """Return the seeds of a study."""
    return range(1, args.seeds + 1)


def errors(checkpoint: Path, data: list[DataSet]) -> list[dict[str, object]]:
    """Return the errors of reconstruction of a checkpoint, one row per data set and metric."""
    return [
        {"data": of.name, "metric": name, "value": value}
        for of in data
        for name, value in evaluate(str(checkpoint), str(of.folder), of.split).metrics.items()
    ]


def scores(checkpoint: Path, args: argparse.Namespace) -> dict[str, float]:
    """Return the scores of a classifier, its thresholds chosen on other recordings."""
    chosen = choose_thresholds(str(checkpoint), str(args.labelled), args.valid, args.score)
    splits = args.splits.split(",")
    return evaluate_splits(
        str(checkpoint), str(args.labelled), splits, threshold=chosen.thresholds
    ).metrics


def predictions(checkpoint: Path, args: argparse.Namespace) -> str:
    """Write the predictions of a classifier beside its checkpoints and return their folder."""
    folder = checkpoint.parents[1] / "predictions"
    for splits in (args.valid, args.splits):
        found = evaluate_splits(str(checkpoint), str(args.labelled), splits.split(","))
        write_evaluation(found, folder / splits)
    return str(folder / args.splits)


def main() -> None:
    """Parse, run, print and write."""
    args = parse()
    study = study_of(args, "dataset.num_workers=0")
    rows, text = TABLES[args.table](args, study)
    write_table(rows, text, study.dest, table_name(args))
    print(text)


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options, and the presets of the family with those that were given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--family", choices=FAMILIES, required=True)
    parser.add_argument("--pretraining", type=Path, help="folder of manifests to pretrain on")
    parser.add_argument("--labelled", type=Path, help="folder of a label set")
    parser.add_argument(
        "--on", type=DataSet.parse, nargs="+", default=[], metavar="NAME=FOLDER:SPLIT",
        help="recordings to reconstruct",
    )  # fmt: skip
    parser.add_argument("--checkpoint", type=Path, help="reconstruction: this one, no training")
    parser.add_argument("--splits", default="test", help="of the unseen recordings, with commas")
    parser.add_argument("--valid", default="valid", help="split that thresholds are chosen on")
    parser.add_argument(
        "--score", default="g_beta", choices=SCORES, help="what the thresholds maximise"
    )
    parser.add_argument(
        "--take", default="best", choices=("best", "last"), help="which checkpoint of a classifier"
    )
    for option in ("--pretraining-preset", "--finetuning-preset", "--scratch-preset"):
        parser.add_argument(option, help="in place of the family's for one CPU")
    parser.add_argument(
        "--in-pretraining", type=str.split, default=[], help="overrides, between spaces"
    )
    parser.add_argument(
        "--in-training", type=str.split, default=[], help="the same of what is scored"
    )
    add_options(parser)
    args = parser.parse_intermixed_args(words)
    needed = {
        "pretraining": args.checkpoint is None,
        "labelled": args.table != "reconstruction",
        "on": args.table in ("reconstruction", "ablation"),
    }
    for name, needs in needed.items():
        if needs and not getattr(args, name):
            parser.error(f"the table {args.table} needs --{name}")
    if args.table == "ablation" and not FAMILIES[args.family].parts:
        parser.error(f"{args.family} has no parts that can be taken away; give --family mae")
    given = {
        name: getattr(args, f"{name}_preset")
        for name in ("pretraining", "finetuning", "scratch")
        if getattr(args, f"{name}_preset") is not None
    }
    args.family_name, args.family = args.family, replace(FAMILIES[args.family], **given)
    return args


if __name__ == "__main__":
    main()
