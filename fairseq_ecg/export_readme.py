"""The README of an exported folder: a model card of the Hugging Face hub, with lines that run."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from fairseq_ecg import exported
from fairseq_ecg.contract import InputContract

_STANDARDIZE = {
    "none": "no",
    "record": "each lead of a recording: minus its mean, divided by its standard deviation",
    "person": "each lead by mean and standard deviation of all recordings of the person",
    "window": "a window: minus its mean, divided by its standard deviation, over all leads",
    "window_lead": "each lead of a window: minus its mean, divided by its standard deviation",
}
_FILES = {
    exported.CONFIG_FILE: "the network's configuration",
    exported.CONTRACT_FILE: "what it expects of a recording, and what it was trained on",
    exported.WEIGHTS_FILE: "its weights",
    exported.TRAINED_ON_FILE: "hashes of the recordings it was trained on and of their names, so "
    "that an evaluation can say which it has seen; may be left out",
    exported.ENCODER_FILE: "the encoder as a checkpoint for fine-tuning (`weights_only=True`)",
    exported.ONNX_FILE: "the network as a graph for onnxruntime",
    exported.ONNX_DATA_FILE: "the weights of that graph",
    exported.PT2_FILE: "the network as a graph of `torch.export`, a zip archive of JSON and raw "
    "numbers. This one can run no other code, but `torch.export.load` runs what somebody put into "
    "such a file: open only those whose origin you trust",
    exported.EXAMPLE_FILE: "made-up recordings to try it with",
    "mean.txt": "mean of each of the twelve leads in the training data, mV",
    "std.txt": "their standard deviation, mV",
}


@dataclass(frozen=True)
class Card:
    """What the README says.

    Args:
        name: Of the folder.
        model_name: Registered name of the model.
        parameters: How many it has.
        updates: How many it was trained for.
        contract: What it expects of its input.
        task_cfg: Configuration of the task it was trained with.
        files: Names of the other files of the folder.
        num_labels: Classes K; 0 for an encoder.
        single_label: Whether exactly one class is true.
        identifies: Whether it tells patients apart; K are then those of the training data.
        rows: Leads C of the graphs' input.
        outputs: Names of what the graphs give.
        n_samples: Length they were made with.
        step: They take that length plus or minus any multiple of this; 0: that length alone.
        compared_at: Lengths at which they were compared with PyTorch.
        differences: Largest difference found, by format.
    """

    name: str
    model_name: str
    parameters: int
    updates: int
    contract: InputContract
    task_cfg: Mapping[str, Any]
    files: frozenset[str]
    num_labels: int = 0
    single_label: bool = False
    identifies: bool = False
    rows: int = 0
    outputs: tuple[str, ...] = ()
    n_samples: int = 0
    step: int = 0
    compared_at: tuple[int, ...] = ()
    differences: Mapping[str, float] = field(default_factory=dict)


def readme(card: Card) -> str:
    """Return the README of an exported folder."""
    parts = [_front_matter(card), f"# {card.name}", _introduction(card), _input(card)]
    if card.outputs:
        parts.append(_output(card))
        parts += _programs(card)
    parts += [_in_fairseq_ecg(card), _classes(card), _files(card)]
    return "\n\n".join(filter(None, parts)) + "\n"


def _front_matter(card: Card) -> str:
    tags = ["ecg", "electrocardiogram", card.model_name]
    lines = ["---", f"library_name: {exported.LIBRARY}", "tags:", *(f"- {tag}" for tag in tags)]
    return "\n".join([*lines, "---"])


def _introduction(card: Card) -> str:
    what = "An encoder of electrocardiograms"
    if card.identifies:
        what = "A network that tells people apart by their electrocardiograms"
    elif card.num_labels:
        what = f"A classifier of electrocardiograms, {card.num_labels} classes"
    corpora = list(_corpora(card.contract.trained_on))
    on = f" on {', before that on '.join(corpora)}" if corpora else ""
    updates = f" for {card.updates:,} updates" if card.updates else ""
    trained = f", trained{updates}{on}" if on or updates else ""
    return (
        f"{what}: `{card.model_name}`, {card.parameters:,} parameters{trained}. It was made for "
        "research; it is no medical device and must not decide about anybody's care."
    )


def _corpora(stage: Mapping[str, Any] | None) -> Iterator[str]:
    while stage:
        if stage.get("corpus"):
            yield str(stage["corpus"])
        stage = stage.get("pretraining")


def _input(card: Card) -> str:
    contract = card.contract
    rows = [
        ("sampling rate", f"{contract.rate_hz:g} Hz"),
        ("leads, in this order", ", ".join(contract.leads)),
        ("unit of the samples", contract.unit),
    ]
    present = contract.present_leads
    if present is not None and set(present) != set(contract.leads):
        rows.append(("leads with signal in training, the others were 0", ", ".join(present)))
    if contract.standardize is not None:
        rows.append(("scaled by its own statistics", _STANDARDIZE[contract.standardize]))
    if contract.normalize:
        rows.append(("scaled by statistics of the training data", _normalize(card)))
    if contract.filter:
        rows.append(("filter", "baseline wander and mains hum removed (`task.filter`)"))
    for key, what in (("highpass_hz", "below"), ("lowpass_hz", "above")):
        edge = getattr(contract, key)
        if edge:
            rows.append((f"frequencies {what} are removed", f"{edge:g} Hz"))
    if contract.segment_s is not None:
        rows.append(("length of the windows in training", f"{contract.segment_s:g} s"))
    return "## Input\n\n" + _table(("", ""), rows)


def _normalize(card: Card) -> str:
    if "mean.txt" in card.files:
        return "each lead minus its number in `mean.txt`, divided by that in `std.txt`"
    mean, std = card.task_cfg.get("mean_mv"), card.task_cfg.get("std_mv")
    return f"minus {mean} mV, divided by {std} mV"


def _output(card: Card) -> str:
    unit = " of length 1; the cosine of two says how alike they are" if card.identifies else ""
    meaning = {
        "features": "[batch, frames, width], what the encoder says of each stretch of time",
        "embedding": f"[batch, width], one vector per recording{unit}",
        "out": f"[batch, {card.num_labels}], {_out(card)}",
    }
    rows = [(f"`{name}`", meaning[name]) for name in card.outputs]
    length = f"{card.n_samples} samples, no other number"
    if card.step:
        more = "any number" if card.step == 1 else f"any multiple of {card.step}"
        at = ", ".join(str(n) for n in card.compared_at)
        length = (
            f"{card.n_samples} samples, or {more} more or fewer as far as the network takes them "
            f"(compared at {at})"
        )
    if card.step != 1:
        length += ". onnxruntime does not check that, and computes nonsense from other lengths"
    differences = ", ".join(f"{value:.1e} ({name})" for name, value in card.differences.items())
    return (
        f"## Graphs\n\nThey take `source`, float32 [any batch, {card.rows} leads, samples], with "
        f"{length}.\n\n{_table(('output', 'float32'), rows)}\n\nThere is no padding mask: give "
        "recordings of different lengths one by one. Largest difference to PyTorch on made-up "
        f"recordings: {differences}."
    )


def _out(card: Card) -> str:
    if card.identifies:
        return "cosines with the people of the training data"
    if card.single_label:
        return "logits; their softmax is the probability of each class, one of which is true"
    return "logits; 1 / (1 + exp(-out)) is the probability of each class by itself"


def _programs(card: Card) -> Iterator[str]:
    names, listed = ", ".join(card.outputs), json.dumps(card.outputs)
    if exported.ONNX_FILE in card.files:
        yield (
            "### With onnxruntime\n\n`pip install onnxruntime numpy`, then in this folder\n\n"
            "```python\nimport numpy as np\nimport onnxruntime\n\n"
            f'session = onnxruntime.InferenceSession("{exported.ONNX_FILE}")\n'
            f'source = np.load("{exported.EXAMPLE_FILE}")\n'
            f'{names} = session.run({listed}, {{"source": source}})\n```'
        )
    if exported.PT2_FILE in card.files:
        yield (
            "### With torch\n\n`pip install torch numpy`, then in this folder\n\n"
            "```python\nimport numpy as np\nimport torch\n\n"
            f'network = torch.export.load("{exported.PT2_FILE}").module()\n'
            f'source = torch.from_numpy(np.load("{exported.EXAMPLE_FILE}"))\n'
            "with torch.no_grad():\n    outputs = network(source)\n"
            f"{names} = (outputs[name] for name in {listed})\n```"
        )


def _in_fairseq_ecg(card: Card) -> str:
    if exported.WEIGHTS_FILE not in card.files:
        return ""
    use = 'classes = model(source)["out"]' if card.num_labels else "embedding = model.embed(source)"
    encoder = exported.ENCODER_FILE if exported.ENCODER_FILE in card.files else ""
    path = "/".join(filter(None, (card.name, encoder)))
    return (
        "## With fairseq_ecg\n\nIn the folder that this one is in:\n\n```python\n"
        "import fairseq_ecg\n\n"
        f"model, contract = fairseq_ecg.load_pretrained({json.dumps(card.name)})\n"
        f"{use}  # source: float32 [batch, leads, samples]\n```\n\n"
        f"To fine-tune it, give it to a preset: `model.model_path={path}`."
    )


def _classes(card: Card) -> str:
    if not card.num_labels or card.identifies:
        return ""
    labels = card.contract.labels
    if labels is None:
        return "## Classes\n\nTheir names are not known."
    rows = [(str(number), label) for number, label in enumerate(labels)]
    return "## Classes\n\n" + _table(("column of `out`", "class"), rows)


def _files(card: Card) -> str:
    rows = [(f"`{name}`", what) for name, what in _FILES.items() if name in card.files]
    return "## Files\n\n" + _table(("file", "content"), rows)


def _table(head: tuple[str, str], rows: list[tuple[str, str]]) -> str:
    cells = [head, ("---", "---"), *((_in_cell(a), _in_cell(b)) for a, b in rows)]
    return "\n".join(f"| {a} | {b} |" for a, b in cells)


def _in_cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")
