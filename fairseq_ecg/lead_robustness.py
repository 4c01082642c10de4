"""What a network with twelve inputs makes of recordings with fewer leads.

Oh et al., CHIL 2022, PMLR 174:338-353, Table 1: missing leads are silent rows ("P-3").
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from fairseq_ecg.checkpoint import read_checkpoint
from fairseq_ecg.data.leads import LEAD_SETS, STANDARD_LEADS
from fairseq_ecg.evaluation import evaluate, recorded_leads


def lead_robustness(
    path: str, data: str, split: str = "test", *, sets: Sequence[str] = (), **options: Any
) -> pd.DataFrame:
    """Evaluate a checkpoint with all leads and with each reduced set.

    Args:
        path: Checkpoint whose network takes twelve rows.
        data: Folder of a label set, with ``labels.txt`` and ``<split>.tsv``.
        split: Which manifest.
        sets: Names of ``LEAD_SETS``; all of them if empty.
        **options: Passed on to ``evaluate``.

    Returns:
        One row per set, in the order given, with the number of ``leads``, one column per metric,
        and a ``remark`` where the network was trained on just these leads, or where the recordings
        have no more of them than of an earlier set, so that both rows must be equal.

    Raises:
        ValueError: If a set is unknown, the network takes other rows than the twelve, or
            ``evaluate`` refuses.
    """
    unknown = [name for name in sets if name not in LEAD_SETS]
    if unknown:
        raise ValueError(f"no set of leads is called {unknown[0]!r}; sets: {', '.join(LEAD_SETS)}")
    contract = read_checkpoint(path).contract
    leads = contract["leads"]
    if leads is not None and tuple(leads) != STANDARD_LEADS:
        raise ValueError(
            f"the network of {path} takes the rows {', '.join(leads)} and none that could be "
            "silent; train it with twelve rows (task.leads_to_load=P-3, or null)"
        )
    recorded = recorded_leads(path, data, split)
    present = {
        name: frozenset(recorded).intersection(LEAD_SETS[name]) for name in sets or LEAD_SETS
    }
    trained = frozenset(contract["present_leads"] or ())
    rows = {}
    for name in present:
        found = evaluate(path, data, split, leads=name, remark_on_leads=False, **options)
        remark = _remark(name, present, trained)
        rows[name] = {"leads": len(LEAD_SETS[name]), **found.metrics, "remark": remark}
    return pd.DataFrame.from_dict(rows, orient="index")


def _remark(name: str, present: Mapping[str, frozenset[str]], trained: frozenset[str]) -> str:
    """Return what stands beside a set: see ``lead_robustness``."""
    same = next(other for other, leads in present.items() if leads == present[name])
    remarks = ["trained on these"] if present[name] == trained else []
    remarks += [f"same input as {same}"] if same != name else []
    return "; ".join(remarks)
