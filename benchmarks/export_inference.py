"""Inference of exported encoders against eager PyTorch on one CPU thread, side by side in one run.

    python benchmarks/export_inference.py [--batch 4] [--repeat 5] [--families ecg_mae,se_wrn]

Every family is built with its default sizes and twelve leads, and exported. Network, ONNX
(onnxruntime) and ``torch.export`` encode the same made-up recordings; they are shown to agree
before they are timed. Each is timed several times in turn, and the median processor time is printed
as recordings per second.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from fairseq.models import MODEL_REGISTRY, build_model
from omegaconf import OmegaConf
from torch import Tensor

import fairseq_ecg  # noqa: F401 - registers the models
from fairseq_ecg import portable
from fairseq_ecg.contract import InputContract
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.export import made_up_recordings
from fairseq_ecg.models._encoder import EcgEncoder

Run = Callable[[Tensor], dict[str, Tensor]]
CONTRACT = InputContract(rate_hz=500.0, leads=STANDARD_LEADS, unit="mV")


def families() -> list[str]:
    return sorted(
        name
        for name, model in MODEL_REGISTRY.items()
        if isinstance(model, type)
        and issubclass(model, EcgEncoder)
        and model.encoder_class is model
    )


def build(name: str) -> EcgEncoder:
    torch.manual_seed(0)
    return build_model(OmegaConf.create({"_name": name, "in_d": 12}), None).eval()


def forms(name: str, n_samples: int, folder: Path) -> tuple[dict[str, Run], int]:
    """Return the three forms of a network, and the length of the recordings that they take."""
    model = build(name)
    n_samples = portable.accepted_length(model, 12, n_samples)
    traced = portable.trace(build(name), 12, n_samples)
    portable.write_onnx(traced, folder / "model.onnx")
    portable.write_pt2(traced, folder / "model.pt2")
    found = {
        "eager": portable.Network(model).eval(),
        "onnx": portable.open_onnx(folder / "model.onnx", threads=1),
        "torch.export": portable.open_pt2(folder / "model.pt2"),
    }
    source = made_up_recordings(CONTRACT, 12, n_samples, 2)
    for run in (found["onnx"], found["torch.export"]):
        portable.largest_difference(model, run, [source])
    return found, n_samples


def seconds(found: dict[str, Run], source: Tensor, repeat: int) -> dict[str, float]:
    """Return the median processor time of each form."""
    times: dict[str, list[float]] = {name: [] for name in found}
    with torch.inference_mode():
        for turn in range(repeat + 1):
            for name, run in found.items():
                start = time.process_time()
                run(source)
                if turn:  # the first one warms up
                    times[name].append(time.process_time() - start)
    return {name: statistics.median(of_form) for name, of_form in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--families", type=lambda text: text.split(","), default=None)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--samples", type=int, default=2500, help="5 s at 500 Hz")
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| encoder | parameters | samples | eager | ONNX | torch.export |")
    print("|---|---|---|---|---|---|")
    for name in args.families or families():
        with tempfile.TemporaryDirectory() as folder:
            found, n_samples = forms(name, args.samples, Path(folder))
            source = made_up_recordings(CONTRACT, 12, n_samples, args.batch)
            taken = seconds(found, source, args.repeat)
        cells = [
            f"{args.batch / taken[form]:.1f}/s ({taken['eager'] / taken[form]:.2f} x)"
            for form in found
        ]
        model = build(name)
        parameters = model.part_of(dict(model.named_parameters()))
        count = sum(parameter.numel() for parameter in parameters.values())
        print(f"| `{name}` | {count:,} | {n_samples} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
