"""Studies: many trainings of the command line, scored, as one table of means over seeds.

A study is a list of trials (a run of the command line, and what the table calls it) and a function
that scores a checkpoint. A run that is finished is not repeated; one that was stopped or killed at
any moment goes on from its last checkpoint when the study is started again.
"""

from __future__ import annotations

import argparse
import graphlib
import json
import logging
import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from fairseq_ecg.data.atomic import write_json, write_text
from fairseq_ecg.data.pool import exclusive
from fairseq_ecg.engine import STOPPED

logger = logging.getLogger(__name__)

Score = Callable[[Path], Mapping[str, float]]

# One thread per run: two runs side by side are faster than one run with two threads.
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
_TRAIN = (sys.executable, "-m", "fairseq_ecg_launch", "train")
_RECORD = "study.json"

# Of fewer pairs no signed-rank test can say p < 0.05: the smallest one is 2 / 2^n.
FEWEST_PAIRS = 6


@dataclass(frozen=True)
class Run:
    """One training.

    Args:
        name: Its folder below that of the study.
        words: Of the command line, behind ``fairseq-ecg train``.
        start: The pretraining whose checkpoint becomes ``model.model_path``.
        checkpoint: Which checkpoint it is made for.
    """

    name: str
    words: tuple[str, ...]
    start: Run | None = None
    checkpoint: str = "checkpoint_last.pt"


@dataclass(frozen=True)
class Trial:
    """A run and its place in the table.

    Args:
        run: The run to score.
        labels: Columns of the table and their values, such as method and seed.
    """

    run: Run
    labels: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Study:
    """Where runs are made, and how.

    Args:
        dest: Folder for everything.
        overrides: Further words of every run.
        jobs: Runs side by side.
    """

    dest: Path
    overrides: tuple[str, ...] = ()
    jobs: int = 1

    def table(self, trials: Sequence[Trial], score: Score) -> pd.DataFrame:
        """Train whatever is missing, then score every trial.

        Args:
            trials: What the table is about.
            score: Returns the metrics of a checkpoint by name.

        Returns:
            One row per trial and metric: its labels, ``metric`` and ``value``.

        Raises:
            ValueError: As ``train``.
        """
        self.train([trial.run for trial in trials])
        rows = []
        for trial in trials:
            for name, value in score(self.checkpoint(trial.run)).items():
                rows.append({**trial.labels, "metric": name, "value": value})
        return pd.DataFrame(rows)

    def train(self, runs: Iterable[Run]) -> None:
        """Train runs, after those they start from, unless they are done.

        Args:
            runs: In any order; one that others start from is trained once.

        Raises:
            ValueError: If a run fails, was stopped, or its folder holds another one.
        """
        sorter = graphlib.TopologicalSorter(_with_starts(runs))
        sorter.prepare()
        running: dict[Future[None], Run] = {}
        with ThreadPoolExecutor(self.jobs) as pool:
            try:
                while sorter.is_active():
                    running |= {pool.submit(self._train, r): r for r in sorter.get_ready()}
                    for future in wait(running, return_when=FIRST_COMPLETED).done:
                        future.result()
                        sorter.done(running.pop(future))
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def checkpoint(self, run: Run) -> Path:
        """Return the checkpoint that a run is made for."""
        return self.dest / run.name / "checkpoints" / run.checkpoint

    def _train(self, run: Run) -> None:
        folder = self.dest / run.name
        folder.mkdir(parents=True, exist_ok=True)
        # Held by the training too: one that outlived its study is waited for, not doubled.
        with exclusive(folder, block=True) as lock:
            if self._is_done(run, folder):
                return
            logger.info("%s", folder)
            self._launch(run, folder, () if lock is None else (lock,))
            if not self.checkpoint(run).is_file():
                raise ValueError(
                    f"{folder} is done, but has no {run.checkpoint}; see {folder / 'output.txt'}"
                )
            write_json(folder / _RECORD, {"run": self._described(run), "done": True})

    def _is_done(self, run: Run, folder: Path) -> bool:
        """Return whether a folder holds the finished run; note what it is for if it is new."""
        record = folder / _RECORD
        described = self._described(run)
        if not record.is_file():
            write_json(record, {"run": described, "done": False})
            return False
        found = json.loads(record.read_text(encoding="utf-8"))
        if found["run"] != described:
            raise ValueError(
                f"{folder} holds a run of other words ({record}); give the study another folder, "
                "the same options as before, or remove this one"
            )
        return bool(found["done"])

    def _described(self, run: Run) -> dict[str, Any]:
        start = None if run.start is None else self._described(run.start)
        return {"words": [*run.words, *self.overrides], "start": start}

    def _launch(self, run: Run, folder: Path, locks: tuple[int, ...]) -> None:
        words = [*run.words, *self.overrides, f"hydra.run.dir={quoted(folder)}"]
        if run.start is not None:
            words.append(f"model.model_path={quoted(self.checkpoint(run.start))}")
        path = folder / "output.txt"
        with open(path, "ab") as output:
            begin = output.tell()
            status = subprocess.run(
                [*_TRAIN, *words],
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**_ENVIRONMENT, **os.environ},
                pass_fds=locks,
                check=False,
            ).returncode
        said = path.read_bytes()[begin:].decode("utf-8", errors="replace")
        if status or STOPPED in said:
            how = f"failed with status {status}" if status else "was stopped"
            last = "\n".join(said.splitlines()[-5:])
            raise ValueError(f"{folder} {how}; see {path}. Its words: {' '.join(words)}\n{last}")


def as_markdown(
    rows: pd.DataFrame,
    index: str,
    columns: str,
    names: Sequence[str] | None = None,
    counts: Collection[str] = (),
) -> str:
    """Return mean ± standard deviation of ``value``, over whatever else the rows differ in.

    Args:
        rows: As ``Study.table`` returns them, those of one metric or with ``metric`` as columns.
        index: Which column names the lines.
        columns: Which one names the columns.
        names: The columns, in their order; None: as they occur.
        counts: Those of them that are whole numbers; no spread is shown where they are all equal.

    Returns:
        A table in Markdown, its lines in the order of the rows; a cell without values is empty.
    """
    names = list(rows[columns].unique()) if names is None else names
    lines = ["| " + " | ".join(["", *map(str, names)]) + " |", "|---" * (1 + len(names)) + "|"]
    for label in rows[index].unique():
        here = rows[rows[index] == label]
        cells = [
            _cell(here[here[columns] == name].value.dropna(), name in counts) for name in names
        ]
        lines.append("| " + " | ".join([str(label), *cells]) + " |")
    return "\n".join(lines)


def paired_differences(
    rows: pd.DataFrame, index: str, reference: str, over: str = "seed"
) -> pd.DataFrame:
    """Compare every line of a table with one of them, seed by seed.

    Args:
        rows: As ``Study.table`` returns them.
        index: Which column names the lines.
        reference: Which line the others are compared with.
        over: Which column pairs the runs; of several runs of a line with the same value the mean
            is taken.

    Returns:
        One row per other line and metric: ``n`` pairs, ``difference`` (line minus reference) and
        its ``deviation`` (n - 1), and ``p`` of Wilcoxon's signed-rank test, two-sided; NaN of fewer
        than ``FEWEST_PAIRS`` pairs, and 1 where all differences are 0.
    """
    values = rows.pivot_table("value", over, [index, "metric"])
    found = []
    for name, metric in rows[[index, "metric"]].drop_duplicates().itertuples(index=False):
        if name == reference or not {(name, metric), (reference, metric)} <= {*values.columns}:
            continue
        pairs = (values[name, metric] - values[reference, metric]).dropna().to_numpy()
        if len(pairs):
            found.append({index: name, "metric": metric, **_summary(pairs)})
    return pd.DataFrame(found, columns=[index, "metric", "n", "difference", "deviation", "p"])


def differences_as_markdown(found: pd.DataFrame, index: str, metrics: Sequence[str]) -> str:
    """Return what ``paired_differences`` found as a table in Markdown.

    Args:
        found: Its result.
        index: Which column names the lines.
        metrics: Which ones are columns, in their order; those that occur.
    """
    metrics = [name for name in metrics if (found.metric == name).any()]
    lines = ["| " + " | ".join(["", "pairs", *(f"{name} | p" for name in metrics)]) + " |"]
    lines.append("|---" * (2 + 2 * len(metrics)) + "|")
    for label in found[index].unique():
        here = found[found[index] == label].set_index("metric")
        cells = [str(label), str(here.n.max())]
        for name in metrics:
            cells += _difference(here.loc[name]) if name in here.index else ["", ""]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write_table(rows: pd.DataFrame, text: str, folder: Path, name: str = "table") -> None:
    """Write all scores as ``<name>.csv`` and a table of them as ``<name>.md``.

    Args:
        rows: As ``Study.table`` returns them.
        text: Markdown.
        folder: Where; it is made if absent.
        name: Of the two files.
    """
    write_text(folder / f"{name}.csv", rows.to_csv(index=False, float_format="%.6f"))
    write_text(folder / f"{name}.md", text + "\n")


def add_options(parser: argparse.ArgumentParser, seeds: int = 3, of: str = "each run") -> None:
    """Add the options of every script that makes a study.

    Args:
        parser: Of the script.
        seeds: How many by default.
        of: What they are seeds of.
    """
    parser.add_argument("--dest", type=Path, required=True, help="folder for everything")
    parser.add_argument("--seeds", type=int, default=seeds, help=f"of {of} (default: {seeds})")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side")
    parser.add_argument("overrides", nargs="*", help="further overrides of every run")


def study_of(args: argparse.Namespace, *overrides: str) -> Study:
    """Return the study that ``add_options`` describes, and show which run is under way.

    Args:
        args: The parsed options.
        *overrides: Words of every run, before those that were given.
    """
    logging.basicConfig(format="%(message)s")
    logger.setLevel(logging.INFO)
    return Study(args.dest.resolve(), (*overrides, *args.overrides), args.jobs)


def quoted(path: str | Path) -> str:
    """Return a path as the value of an override: absolute, quoted where hydra needs it."""
    text = str(Path(path).absolute())
    if re.fullmatch(r"[\w./-]+", text, re.ASCII):
        return text
    return "'" + text.replace("'", "\\'") + "'"


def _with_starts(runs: Iterable[Run]) -> dict[Run, set[Run]]:
    graph: dict[Run, set[Run]] = {}
    for run in runs:
        while run not in graph:
            graph[run] = set() if run.start is None else {run.start}
            run = run.start or run
    return graph


def _cell(values: pd.Series, counts: bool = False) -> str:
    if values.empty:
        return ""
    if counts and values.nunique() == 1:
        return f"{values.iloc[0]:,.0f}"
    digits = 1 if counts else 3 if abs(values.mean()) < 100 else 0
    spread = f" ± {values.std():,.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():,.{digits}f}{spread}"


def _summary(pairs: np.ndarray) -> dict[str, float]:
    from scipy.stats import wilcoxon

    p = math.nan
    if len(pairs) >= FEWEST_PAIRS:
        p = float(wilcoxon(pairs).pvalue) if pairs.any() else 1.0
    deviation = float(pairs.std(ddof=1)) if len(pairs) > 1 else math.nan
    return {"n": len(pairs), "difference": float(pairs.mean()), "deviation": deviation, "p": p}


def _difference(row: pd.Series) -> list[str]:
    spread = "" if math.isnan(row.deviation) else f" ± {row.deviation:.3f}"
    return [f"{row.difference:+.3f}{spread}", "" if math.isnan(row.p) else f"{row.p:.3g}"]
