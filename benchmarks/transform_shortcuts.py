"""One training step of the network of transformation recognition, with shortcuts and attention.

The configurations are timed in turn, on a CPU by processor time, so that a busy machine does not
favour one, and compared with the plain network step by step.

    python benchmarks/transform_shortcuts.py --windows 4 [--device cuda] [--repeat 9]
"""

import argparse
import statistics
import time

import torch
from fairseq.models import build_model
from omegaconf import OmegaConf
from torch import Tensor

import fairseq_ecg  # noqa: F401 - registers the model
from fairseq_ecg.criterions.ecg_transform_recognition import (
    COEFFICIENTS,
    FORMS,
    multi_binary_loss,
)

SAMPLES = 2560  # 10 s at 256 Hz
CONFIGURATIONS = {
    "none": {},
    "first": {"residual_blocks": [1]},
    "first_second": {"residual_blocks": [1, 2]},
    "all": {"residual_blocks": [1, 2, 3]},
    "all, se_reduction=8": {"residual_blocks": [1, 2, 3], "se_reduction": 8},
}


def build(options: dict, device: str) -> torch.nn.Module:
    torch.manual_seed(0)
    return build_model(OmegaConf.create({"_name": "ecg_transform_cnn", **options}), None).to(device)


def seconds(model: torch.nn.Module, source: Tensor, form: Tensor, weights: Tensor) -> float:
    on_gpu = source.is_cuda
    clock = time.perf_counter if on_gpu else time.process_time
    begin = clock()
    model.zero_grad()
    multi_binary_loss(model(source)["logits"], form, weights).backward()
    if on_gpu:
        torch.cuda.synchronize()
    return clock() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=4, help="per batch; seven rows each")
    parser.add_argument("--repeat", type=int, default=9)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    models = {name: build(options, args.device) for name, options in CONFIGURATIONS.items()}
    source = torch.randn(args.windows * len(FORMS), 1, SAMPLES, device=args.device)
    form = torch.arange(len(FORMS), device=args.device).repeat(args.windows)
    weights = torch.tensor(COEFFICIENTS, device=args.device)
    rounds = [
        {name: seconds(model, source, form, weights) for name, model in models.items()}
        for _ in range(args.repeat + 1)
    ][1:]
    print(
        f"ecg_transform_cnn, {args.windows} windows of {SAMPLES} samples in {len(FORMS)} forms, "
        f"float32, {args.device}, {torch.get_num_threads()} threads, forward and backward, median "
        f"of {args.repeat}\n{'':<20} {'parameters':>10} {'step':>10} {'/ none':>8}"
    )
    for name, model in models.items():
        step = statistics.median(one[name] for one in rounds)
        ratio = statistics.median(one[name] / one["none"] for one in rounds)
        n_parameters = sum(parameter.numel() for parameter in model.parameters())
        print(f"{name:<20} {n_parameters:>10,} {step * 1e3:7.0f} ms {ratio:7.3f}x")


if __name__ == "__main__":
    main()
