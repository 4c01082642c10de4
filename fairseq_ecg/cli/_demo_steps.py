"""The commands of the demo: printed, and run each in a process of its own."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections import deque
from dataclasses import dataclass
from pathlib import Path

from fairseq_ecg.training_log import read_log

# Threads that wait without spinning: on a shared machine spinning costs several times the work.
_ENVIRONMENT = {"PYTHONWARNINGS": "ignore", "OMP_WAIT_POLICY": "PASSIVE"}


@dataclass(frozen=True)
class Step:
    """One command.

    Args:
        title: What is printed above it.
        words: Of the command line, after ``fairseq-ecg``.
        folder: Of a training: where it runs.
        updates: Of a training: after how many it is done.
    """

    title: str
    words: tuple[str, ...]
    folder: Path | None = None
    updates: int = 0

    @property
    def is_done(self) -> bool:
        """Whether this is a training that has ended; other commands find out by themselves."""
        return self.folder is not None and _updates_done(self.folder) >= self.updates

    def run(self) -> None:
        """Print the command and run it, unless it is done.

        Training talks much; of its lines only the logged numbers are shown, all is in its run
        folder.

        Raises:
            ValueError: If the command fails; its last words are on stderr.
        """
        if self.is_done:
            print(f"\n== {self.title}: done already, in {self.folder}", flush=True)
            return
        print(f"\n== {self.title}\n$ fairseq-ecg {shlex.join(self.words)}", flush=True)
        process = subprocess.Popen(
            [sys.executable, "-m", "fairseq_ecg_launch", *self.words],
            env={**os.environ, **_ENVIRONMENT},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        last: deque[str] = deque(maxlen=30)
        for line in process.stdout or ():
            last.append(line)
            shown = progress(line) if self.words[0] == "train" else line.rstrip()
            if shown is not None:
                print(shown, flush=True)
        if process.wait():
            print("".join(last), file=sys.stderr)
            raise ValueError(
                f"the step {self.title!r} failed with exit status {process.returncode}"
            )


def progress(line: str) -> str | None:
    """Return one short line for the logged numbers of training and validation, else None.

    Args:
        line: A line of a training's output.
    """
    found = re.search(r"\[(train_inner|valid)\]\[INFO\] - (\{.*\})", line)
    if found is None:
        return None
    values = {k.removeprefix("valid_"): v for k, v in json.loads(found[2]).items()}
    names = ("loss", "accuracy", "auroc", "cinc_score")
    numbers = "  ".join(f"{n} {float(values[n]):.3f}" for n in names if n in values)
    label = "valid" if found[1] == "valid" else "     "
    return f"  {label}  update {int(float(values['num_updates'])):>5}  {numbers}"


def _updates_done(folder: Path) -> int:
    finished = folder / "checkpoints" / "checkpoint_last.pt"
    if not finished.is_file() or not (folder / "hydra_train.log").is_file():
        return 0
    epochs = read_log(folder, "train")
    return int(epochs[-1]["train_num_updates"]) if epochs else 0
