"""One table of pretraining methods: linear probe and fine-tuning against training from scratch.

Each method's ``_small`` preset is pretrained once per seed; from each checkpoint a linear probe
(encoder frozen) and a whole network are trained on the same labelled recordings and scored on the
same unseen ones. Everything is a run of the command line; a run that is finished is not repeated,
so the script can be stopped and started again.

    python examples/method_table.py --pretraining DATA --labelled DATA/LABEL_SET --dest table
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

from fairseq_ecg.evaluation import evaluate_splits
from fairseq_ecg.studies import (
    Run,
    Trial,
    add_options,
    as_markdown,
    quoted,
    study_of,
    write_table,
)

SCRATCH = "from scratch"


@dataclass(frozen=True)
class Classifier:
    """What is trained on the labelled recordings.

    Args:
        preset: Of a classifier.
        name: In the names of folders.
        overrides: Of probe and fine-tuning.
        from_scratch: Further ones of random weights.
    """

    preset: str
    name: str
    overrides: tuple[str, ...]
    from_scratch: tuple[str, ...] = ("model.model_path=null", "model.no_pretrained_weights=true")


TRANSFORMER = Classifier(
    "diagnosis_small",
    "",
    ("model.in_d=null",),
    (*Classifier.from_scratch, "model.feature_grad_mult=1.0"),
)
CNN_MEAN, CNN_CONCAT, CNN_JOINT = (
    Classifier("transform_finetune_small", mode, (f"model.lead_mode={mode}", f"model.in_d={in_d}"))
    for mode, in_d in (("mean", "1"), ("concat", "1"), ("joint", "null"))
)


@dataclass(frozen=True)
class Method:
    """A row of the table.

    Args:
        name: What the table calls it.
        preset: Preset of pretraining; None trains from scratch.
        leads: Leads of probe and fine-tuning.
        cost: Time of an update of pretraining, compared with the other methods; there are fewer
            updates in this proportion.
        overrides: Of probe and fine-tuning.
        classifier: What is trained on the labels.
        in_pretraining: Overrides of pretraining; it then has a folder of its own.
    """

    name: str
    preset: str | None
    leads: str = "12-lead"
    cost: int = 1
    overrides: tuple[str, ...] = ()
    classifier: Classifier = TRANSFORMER
    in_pretraining: tuple[str, ...] = ()

    @property
    def folder(self) -> str:
        """Where its runs are."""
        first = self.preset or f"scratch_{self.leads}"
        return f"{first}_{self.classifier.name}".removesuffix("_")


TRANSFORMERS = (
    Method(SCRATCH, None),
    Method("wav2vec 2.0 + RLM", "w2v_rlm_small"),
    Method("W2V+CMSC+RLM", "w2v_cmsc_rlm_small"),
    Method("ECG-FM", "ecg_fm_small", overrides=("task.standardize=record",)),
    Method("CMSC", "cmsc_small"),
    Method("SimCLR + RLM", "simclr_rlm_small"),
    Method("3KG", "3kg_small"),
    Method(f"{SCRATCH}, lead I", None, "1-lead"),
    Method("CMLC, lead I", "cmlc_small", "1-lead", cost=3),
    Method("CMSMLC, lead I", "cmsmlc_small", "1-lead", cost=3),
)
FORMS = "transform_small"
TOGETHER = ("task.lead_items=false", "task.leads_to_load=12-lead")
CNNS = (
    Method(f"{SCRATCH}, leads averaged", None, classifier=CNN_MEAN),
    Method("transformations, leads averaged", FORMS, classifier=CNN_MEAN),
    Method(f"{SCRATCH}, leads concatenated", None, classifier=CNN_CONCAT),
    Method("transformations, leads concatenated", FORMS, classifier=CNN_CONCAT),
    Method(f"{SCRATCH}, leads together", None, classifier=CNN_JOINT),
    Method("transformations, leads together", FORMS, classifier=CNN_JOINT, in_pretraining=TOGETHER),
)
METHODS = {"transformer": TRANSFORMERS, "cnn": CNNS}
PROTOCOLS = {
    "linear probe": ("model.freeze_finetune_updates=1000000",),
    "fine-tuning": (),
}


def pretraining(method: Method, seed: int, data: Path, updates: int) -> Run:
    """Return the pretraining of a method."""
    words = [
        *("--config-name", str(method.preset), f"task.data={quoted(data)}"),
        *(f"common.seed={seed}", "dataset.disable_validation=true", "dataset.num_workers=0"),
        *(f"optimization.max_update={updates // method.cost}", "optimization.max_epoch=0"),
        *method.in_pretraining,
    ]
    folder = method.folder if method.in_pretraining else method.preset
    return Run(f"{folder}/pretraining_{seed}", tuple(words))


def finetuning(
    method: Method, protocol: str, seed: int, data: Path, epochs: int, start: Run | None
) -> Run:
    """Return the training on the labelled recordings."""
    words = [
        *("--config-name", method.classifier.preset, f"task.data={quoted(data)}"),
        *(f"common.seed={seed}", "dataset.disable_validation=true", "dataset.num_workers=0"),
        *(f"optimization.max_epoch={epochs}", f"task.leads_to_load={method.leads}"),
        *method.classifier.overrides,
        *(method.classifier.from_scratch if start is None else PROTOCOLS[protocol]),
    ]
    name = f"{method.folder}/{protocol.replace(' ', '_')}_{seed}"
    return Run(name, (*words, *method.overrides), start)


def trials(methods: tuple[Method, ...], args: argparse.Namespace) -> list[Trial]:
    """Return every method with every protocol and seed."""
    found = []
    for seed in range(1, args.seeds + 1):
        for method in methods:
            start = None
            if method.preset is not None:
                start = pretraining(method, seed, args.pretraining, args.updates)
            for protocol in PROTOCOLS if start is not None else ("fine-tuning",):
                run = finetuning(method, protocol, seed, args.labelled, args.epochs, start)
                labels = {"method": method.name, "protocol": protocol, "seed": seed}
                found.append(Trial(run, labels))
    return found


def main() -> None:
    """Parse, run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pretraining", type=Path, required=True, help="folder of manifests")
    parser.add_argument("--labelled", type=Path, required=True, help="folder of a label set")
    parser.add_argument("--updates", type=int, default=240, help="of each pretraining")
    parser.add_argument("--epochs", type=int, default=12, help="over the labelled recordings")
    parser.add_argument("--splits", default="test", help="of the unseen recordings, with commas")
    parser.add_argument("--metric", default="auroc", help="which one the printed table has")
    parser.add_argument(
        "--network",
        choices=METHODS,
        default="transformer",
        help="which rows: those of transformers, or those of the CNN of transform_small, which "
        "needs stores at 100 Hz (default: transformer)",
    )
    parser.add_argument("--methods", default="", help="presets, separated by commas (all)")
    add_options(parser)
    args = parser.parse_args()
    chosen = set(filter(None, args.methods.split(",")))
    rows_of = METHODS[args.network]
    methods = tuple(m for m in rows_of if not chosen or m.preset is None or m.preset in chosen)
    splits = args.splits.split(",")
    study = study_of(args)
    rows = study.table(
        trials(methods, args),
        lambda path: evaluate_splits(str(path), str(args.labelled), splits).metrics,
    )
    text = as_markdown(rows[rows.metric == args.metric], "method", "protocol", [*PROTOCOLS])
    write_table(rows, text, study.dest)
    print(text)


if __name__ == "__main__":
    main()
