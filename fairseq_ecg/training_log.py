"""What a run logged: the JSON lines of ``hydra_train.log`` in its folder."""

import json
import re
from pathlib import Path

LOG_NAME = "hydra_train.log"


def read_log(run_dir: str | Path, tag: str = "train_inner") -> list[dict[str, float]]:
    """Return what a run with ``common.log_format: json`` logged under one tag, in order.

    Args:
        run_dir: Folder of the run, which hydra names.
        tag: ``train_inner`` (each ``log_interval`` updates), ``train`` (each epoch), or the name of
            a validation subset. fairseq puts it before each key of the last two
            (``valid_loss``).

    Returns:
        One dictionary per line; fairseq logs numbers as text, here they are numbers. A line that a
        kill cut short is left out, also where the next start went on in the same line.

    Raises:
        FileNotFoundError: If there is no log.
    """
    text = (Path(run_dir) / LOG_NAME).read_text(encoding="utf-8", errors="replace")
    line_of_tag = rf"\[{re.escape(tag)}\]\[INFO\] - (\{{[^{{}}\n]*\}})$"
    found = re.findall(line_of_tag, text, flags=re.MULTILINE)
    return [{key: float(value) for key, value in json.loads(line).items()} for line in found]
