"""One training step of ECG-MAE, with visible tokens only against all tokens, by mask ratio.

Both forms have the same weights and the same masks; with nothing hidden they are shown to be equal
before they are timed. They are timed in turn, on a CPU by processor time, so that a busy machine
does not favour one. Three networks differ in what comes before the tokens: convolutions of the
whole recording, whose cost does not depend on the ratio, convolutions of each visible patch by
itself, and none.

    python benchmarks/mae_visible_only.py --batch 8 [--device cuda] [--repeat 5] [--depth 12]
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from fairseq.models import build_model
from omegaconf import OmegaConf
from torch import Tensor

import fairseq_ecg  # noqa: F401 - registers the model

RATIOS = (0.25, 0.5, 0.6, 0.75, 0.85, 0.9)
LEADS, PATCHES, PATCH = 12, 100, 25  # 10 s at 250 Hz in patches of 100 ms
NETWORKS = {
    "whole recording convolved (default)": {},
    "patches convolved one by one (stem_scope=patch)": {"stem_scope": "patch"},
    "no convolutions (multi_scale=false)": {"multi_scale": False},
}


def build(options: dict, depth: int, visible_only: bool, device: str) -> torch.nn.Module:
    torch.manual_seed(0)
    cfg = {"_name": "ecg_mae", "depth": depth, "encode_visible_only": visible_only, **options}
    return build_model(OmegaConf.create(cfg), None).to(device)


def draw(batch: int, ratio: float, device: str) -> Tensor:
    order = torch.rand(batch, 1, PATCHES, device=device).argsort(2)
    return (order < round(ratio * PATCHES)).expand(batch, LEADS, PATCHES)


def step(model: torch.nn.Module, source: Tensor, mask: Tensor) -> None:
    model.zero_grad()
    hidden = mask.repeat_interleave(PATCH, 2)
    error = (model(source, None, mask)["prediction"] - source).square()
    ((error * hidden).sum() / hidden.sum()).backward()


def seconds(work: Callable[[], None], device: str) -> float:
    clock = time.perf_counter if device == "cuda" else time.process_time
    begin = clock()
    work()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - begin


def compare(
    options: dict, batch: int, depth: int, device: str, repeat: int
) -> list[tuple[float, float]]:
    """Return the median seconds per step of both forms for each ratio."""
    visible, everything = (build(options, depth, only, device) for only in (True, False))
    everything.load_state_dict(visible.state_dict(), strict=False)
    source = torch.randn(batch, LEADS, PATCHES * PATCH, device=device)
    nothing = draw(batch, 0.0, device)
    with torch.no_grad():
        torch.testing.assert_close(
            visible(source, None, nothing)["prediction"],
            everything(source, None, nothing)["prediction"],
            rtol=1e-4,
            atol=1e-4,
        )
    found = []
    for ratio in RATIOS:
        mask = draw(batch, ratio, device)
        works = [lambda m=m, k=mask: step(m, source, k) for m in (visible, everything)]
        for work in works:
            work()
        times = [[seconds(work, device) for work in works] for _ in range(repeat)]
        found.append(tuple(statistics.median(column) for column in zip(*times, strict=True)))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=8, help="recordings per batch")
    parser.add_argument("--depth", type=int, default=12, help="encoder blocks; 12 = tiny")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    print(
        f"ECG-MAE (D 192, {args.depth} blocks), B = {args.batch} recordings of "
        f"{LEADS} x {PATCHES * PATCH}, float32, {args.device}, {torch.get_num_threads()} threads, "
        f"forward and backward, median of {args.repeat}"
    )
    for name, options in NETWORKS.items():
        print(f"\n{name}\n{'ratio':>6} {'visible':>10} {'all':>10} {'all / visible':>16}")
        found = compare(options, args.batch, args.depth, args.device, args.repeat)
        for ratio, (fast, slow) in zip(RATIOS, found, strict=True):
            print(f"{ratio:6.2f} {fast * 1e3:7.1f} ms {slow * 1e3:7.1f} ms {slow / fast:14.2f} x")


if __name__ == "__main__":
    main()
