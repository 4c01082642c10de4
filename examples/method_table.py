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
class Method:
    """A row of the table.

    Args:
        name: What the table calls it.
        preset: Preset of pretraining; None trains from scratch.
        leads: Leads of probe and fine-tuning.
        cost: Time of an update of pretraining, compared with the other methods; there are fewer
            updates in this proportion.
        overrides: Of probe and fine-tuning.
    """

    name: str
    preset: str | None
    leads: str = "12-lead"
    cost: int = 1
    overrides: tuple[str, ...] = ()


METHODS = (
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
    ]
    return Run(f"{method.preset}/pretraining_{seed}", tuple(words))


def finetuning(
    method: Method, protocol: str, seed: int, data: Path, epochs: int, start: Run | None
) -> Run:
    """Return the training on the labelled recordings."""
    words = [
        *("--config-name", "diagnosis_small", f"task.data={quoted(data)}"),
        *(f"common.seed={seed}", "dataset.disable_validation=true", "dataset.num_workers=0"),
        *(f"optimization.max_epoch={epochs}", f"task.leads_to_load={method.leads}"),
        "model.in_d=null",
    ]
    if start is None:
        words += ["model.model_path=null", "model.no_pretrained_weights=true"]
        words += ["model.feature_grad_mult=1.0"]
    else:
        words += PROTOCOLS[protocol]
    folder = method.preset or f"scratch_{method.leads}"
    name = f"{folder}/{protocol.replace(' ', '_')}_{seed}"
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
    parser.add_argument("--methods", default="", help="presets, separated by commas (all)")
    add_options(parser)
    args = parser.parse_args()
    chosen = set(filter(None, args.methods.split(",")))
    methods = tuple(m for m in METHODS if not chosen or m.preset is None or m.preset in chosen)
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
