"""One table of pretraining methods: linear probe and fine-tuning against training from scratch.

Each method's ``_small`` preset is pretrained once per seed; from each checkpoint a linear probe
(encoder frozen) and a whole network are trained on the same labelled recordings and scored on the
same unseen ones. Everything is a run of the command line; a run that is finished is not repeated,
so the script can be stopped and started again.

    python examples/method_table.py --pretraining DATA --labelled DATA/LABEL_SET --dest table
"""

import argparse
import json
import os
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from fairseq_ecg.evaluation import evaluate
from fairseq_ecg.metrics.summary import Summary

SCRATCH = "from scratch"
TRAIN = (sys.executable, "-m", "fairseq_ecg_launch", "train")
# One thread per run: two runs side by side are faster than one run with two threads.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


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
PROTOCOLS = {"linear probe": "model.freeze_finetune_updates=1000000", "fine-tuning": None}


@dataclass(frozen=True)
class Study:
    """What is run.

    Args:
        pretraining: Folder of manifests without labels.
        labelled: Folder of a label set.
        dest: Folder for everything that is made.
        seeds: How many seeds, of pretraining and of everything after it.
        updates: Length of each pretraining.
        epochs: Passes over the labelled recordings, of probe and fine-tuning.
        splits: Manifests of the unseen recordings.
        overrides: Further overrides of every run.
    """

    pretraining: Path
    labelled: Path
    dest: Path
    seeds: int
    updates: int
    epochs: int
    splits: tuple[str, ...]
    overrides: tuple[str, ...] = ()

    def folder(self, method: Method, what: str, seed: int) -> Path:
        """Return the folder of one run."""
        return self.dest / (method.preset or f"scratch_{method.leads}") / f"{what}_{seed}"

    def scores(self, method: Method, seed: int) -> dict[str, dict[str, float]]:
        """Pretrain, then score each protocol; all metrics of the unseen recordings."""
        checkpoint = None if method.preset is None else self.pretrain(method, seed)
        found = {}
        for protocol in PROTOCOLS:
            if checkpoint is not None or protocol == "fine-tuning":
                found[protocol] = self.finetune(method, protocol, seed, checkpoint)
        return found

    def pretrain(self, method: Method, seed: int) -> Path:
        """Return the checkpoint of a pretraining."""
        folder = self.folder(method, "pretraining", seed)
        words = ["--config-name", method.preset, f"task.data={self.pretraining}"]
        words += [f"common.seed={seed}", "dataset.disable_validation=true"]
        words += [f"optimization.max_update={self.updates // method.cost}"]
        words += ["optimization.max_epoch=0"]
        return self.run(folder, words)

    def finetune(
        self, method: Method, protocol: str, seed: int, checkpoint: Path | None
    ) -> dict[str, float]:
        """Train on the labelled recordings and return the metrics on the unseen ones."""
        folder = self.folder(method, protocol.replace(" ", "_"), seed)
        words = ["--config-name", "diagnosis_small", f"task.data={self.labelled}"]
        words += [f"common.seed={seed}", f"optimization.max_epoch={self.epochs}"]
        words += [f"task.leads_to_load={method.leads}", "model.in_d=null"]
        words += ["dataset.disable_validation=true"]
        if checkpoint is None:
            words += ["model.model_path=null", "model.no_pretrained_weights=true"]
            words += ["model.feature_grad_mult=1.0"]
        else:
            words += [f"model.model_path={checkpoint}"]
            words += [PROTOCOLS[protocol]] if PROTOCOLS[protocol] else []
        trained = self.run(folder, [*words, *method.overrides])
        return self.score(trained)

    def score(self, checkpoint: Path) -> dict[str, float]:
        """Return the metrics over the recordings of all unseen splits together."""
        parts = [evaluate(str(checkpoint), str(self.labelled), split) for split in self.splits]
        summary = Summary()
        return summary(
            np.concatenate([part.probability for part in parts]),
            np.concatenate([part.truth for part in parts]),
        )

    def run(self, folder: Path, words: list[str]) -> Path:
        """Run one training, unless it is done, and return its last checkpoint."""
        checkpoint = folder / "checkpoints" / "checkpoint_last.pt"
        done = folder / "done.json"
        if done.is_file():
            return checkpoint
        folder.mkdir(parents=True, exist_ok=True)
        words = [*words, f"hydra.run.dir={folder}", "dataset.num_workers=0", *self.overrides]
        started = time.monotonic()
        with open(folder / "output.txt", "a") as output:
            status = subprocess.run(
                [*TRAIN, *words],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **ENVIRONMENT},
            ).returncode
        if status:
            raise RuntimeError(f"{' '.join(words)}\nfailed; see {folder / 'output.txt'}")
        done.write_text(json.dumps({"minutes": (time.monotonic() - started) / 60}) + "\n")
        return checkpoint


def table(study: Study, methods: tuple[Method, ...], jobs: int) -> pd.DataFrame:
    """Run everything and return one row per method, protocol, seed and metric."""
    pairs = [(method, seed) for seed in range(1, study.seeds + 1) for method in methods]
    with ThreadPoolExecutor(jobs) as pool:
        found = list(pool.map(lambda pair: study.scores(*pair), pairs))
    return pd.DataFrame(
        [
            {"method": method.name, "protocol": protocol, "seed": seed, "metric": k, "value": v}
            for (method, seed), scores in zip(pairs, found, strict=True)
            for protocol, metrics in scores.items()
            for k, v in metrics.items()
        ]
    )


def as_markdown(rows: pd.DataFrame, metric: str, methods: tuple[Method, ...]) -> str:
    """Return mean and standard deviation over seeds of one metric, one line per method."""
    lines = [f"| {metric} | {' | '.join(PROTOCOLS)} |", "|---" * (1 + len(PROTOCOLS)) + "|"]
    for method in methods:
        cells = []
        for protocol in PROTOCOLS:
            mask = (rows.method == method.name) & (rows.protocol == protocol)
            values = rows[mask & (rows.metric == metric)].value
            cells.append(f"{values.mean():.3f} ± {values.std():.3f}" if len(values) else "")
        lines.append(f"| {method.name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Parse, run, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pretraining", type=Path, required=True, help="folder of manifests")
    parser.add_argument("--labelled", type=Path, required=True, help="folder of a label set")
    parser.add_argument("--dest", type=Path, required=True, help="folder for everything")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--updates", type=int, default=240, help="of each pretraining")
    parser.add_argument("--epochs", type=int, default=12, help="over the labelled recordings")
    parser.add_argument("--splits", default="test", help="of the unseen recordings, with commas")
    parser.add_argument("--metric", default="auroc", help="which one the printed table has")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side")
    parser.add_argument("--methods", default="", help="presets, separated by commas (all)")
    parser.add_argument("overrides", nargs="*", help="further overrides of every run")
    args = parser.parse_args()
    chosen = set(filter(None, args.methods.split(",")))
    methods = tuple(m for m in METHODS if not chosen or m.preset is None or m.preset in chosen)
    study = Study(
        args.pretraining.resolve(),
        args.labelled.resolve(),
        args.dest.resolve(),
        args.seeds,
        args.updates,
        args.epochs,
        tuple(args.splits.split(",")),
        tuple(args.overrides),
    )
    rows = table(study, methods, args.jobs)
    rows.to_csv(study.dest / "scores.csv", index=False, float_format="%.6f")
    text = as_markdown(rows, args.metric, methods)
    (study.dest / "table.md").write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    main()
