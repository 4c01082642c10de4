"""One W2V+CMSC training step, ours against the plain formula, side by side in one run.

The plain form is the one that papers and older code write down: negatives gathered into an
[N, B, M, D] tensor, the codebook multiplied with every row's choices, masks and negatives drawn
row by row in Python, and one .mat file read per segment. Both sides are shown to be equal before
they are timed. The networks, their attention included, are otherwise the same, so the last line
says what the differences make up of a whole step.

    python benchmarks/w2v_cmsc_step.py --batch 32 [--device cuda] [--repeat 5] [--layers 12]
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.io
import torch
import torch.nn.functional as F
from fairseq.models import build_model
from omegaconf import OmegaConf
from torch import Tensor

from fairseq_ecg.corpora._build import build_manifest
from fairseq_ecg.corpora.synthetic import generate
from fairseq_ecg.criterions.wav2vec2_with_cmsc import Wav2Vec2WithCmscCriterion
from fairseq_ecg.data.dataset import EcgDataset
from fairseq_ecg.data.manifest import read_manifest
from fairseq_ecg.data.sources import open_source
from fairseq_ecg.data.windows import cut_windows
from fairseq_ecg.models import ecg_wav2vec2
from fairseq_ecg.modules.masking import masked_positions, sample_span_mask
from fairseq_ecg.modules.negatives import sample_negatives
from fairseq_ecg.modules.quantizer import GumbelQuantizer, Quantized
from fairseq_ecg.modules.similarity import contrastive_logits
from fairseq_ecg.transforms.pipeline import Pipeline

FRAMES, WIDTH, NEGATIVES, TEMPERATURE = 156, 256, 100, 0.1  # 5 s at 500 Hz, the paper's sizes
PAPER = {
    "_name": "wav2vec2_cmsc",
    "apply_mask": True,
    "mask_prob": 0.65,
    "quantize_targets": True,
    "final_dim": WIDTH,
    "feature_grad_mult": 0.1,
    "dropout_input": 0.1,
    "dropout_features": 0.1,
}


# --- the plain forms ------------------------------------------------------------------------------


def plain_mask(
    batch: int, n_frames: int, prob: float, span: int, rng: np.random.Generator
) -> Tensor:
    n_spans = max(2, int(prob * n_frames / span + rng.random()))
    rows = []
    for _ in range(batch):
        starts = rng.choice(n_frames - span, n_spans, replace=False)
        rows.append(np.unique([start + step for start in starts for step in range(span)]))
    least = min(len(row) for row in rows)
    mask = np.zeros((batch, n_frames), dtype=bool)
    for index, row in enumerate(rows):
        mask[index, rng.choice(row, least, replace=False)] = True
    return torch.from_numpy(mask)


def plain_negatives(batch: int, n_masked: int, n_negatives: int) -> Tensor:
    own = torch.arange(n_masked).repeat_interleave(n_negatives)
    rows = []
    for _ in range(batch):
        drawn = torch.randint(n_masked - 1, (n_masked * n_negatives,))
        drawn[drawn >= own] += 1
        rows.append(drawn.view(n_masked, n_negatives))
    return torch.stack(rows)


def plain_logits(predicted: Tensor, targets: Tensor, negatives: Tensor, codes: object) -> Tensor:
    batch, n_masked, width = targets.shape
    offset = n_masked * torch.arange(batch, device=negatives.device)[:, None, None]
    chosen = targets.reshape(-1, width)[(negatives + offset).flatten()]
    chosen = chosen.view(batch, n_masked, -1, width).permute(2, 0, 1, 3)  # [N, B, M, D]
    collide = (chosen == targets[None]).all(-1)
    candidates = torch.cat([targets[None], chosen])
    logits = F.cosine_similarity(predicted.float()[None], candidates.float(), dim=-1) / TEMPERATURE
    return torch.cat([logits[:1], logits[1:].masked_fill(collide, float("-inf"))])


class PlainQuantizer(GumbelQuantizer):
    """The same choices, times the whole codebook for every row."""

    def forward(self, x: Tensor) -> Quantized:
        """Quantise rows, as ``GumbelQuantizer.forward``."""
        logits = self.weight_proj(x.float())
        shape, groups = logits.shape[:-1], self.groups
        logits = logits.reshape(-1, logits.shape[-1] // groups)
        hard = torch.zeros_like(logits).scatter_(-1, logits.argmax(-1, keepdim=True), 1.0)
        choice = F.gumbel_softmax(logits, self.temp, hard=True) if self.training else hard
        codes = choice.argmax(-1).view(*shape, groups)
        spread = choice.reshape(len(choice) // groups, -1, 1) * self.vars  # [N, G * V, d]
        chosen = spread.view(len(spread), groups, -1, self.vars.shape[-1]).sum(2)
        shares = [v.view(-1, groups, v.shape[-1]).mean(0) for v in (logits.softmax(-1), hard)]
        perplexities = [torch.exp(-(s * torch.log(s + 1e-7)).sum(-1)).sum() for s in shares]
        return Quantized(chosen.reshape(*shape, -1), codes, *perplexities)


class Swapped:
    """Puts the plain forms into the model's file while it is entered."""

    def __enter__(self) -> None:
        rng = np.random.default_rng(0)
        self.kept = (ecg_wav2vec2.contrastive_logits, ecg_wav2vec2.sample_negatives)
        ecg_wav2vec2.contrastive_logits = lambda p, t, n, temperature, c: plain_logits(p, t, n, c)
        ecg_wav2vec2.sample_negatives = lambda b, m, n, d: plain_negatives(b, m, n).to(d)
        self.draw_mask = ecg_wav2vec2.EcgWav2Vec2.draw_mask
        ecg_wav2vec2.EcgWav2Vec2.draw_mask = lambda model, x, padding: plain_mask(
            x.shape[0], x.shape[1], 0.65, 10, rng
        )

    def __exit__(self, *error: object) -> None:
        ecg_wav2vec2.contrastive_logits, ecg_wav2vec2.sample_negatives = self.kept
        ecg_wav2vec2.EcgWav2Vec2.draw_mask = self.draw_mask


# --- measuring ------------------------------------------------------------------------------------


def measure(step: Callable[[], object], device: str, repeat: int) -> tuple[float, float]:
    """Return the median seconds of a step and the most bytes that it holds at once."""
    step()
    seconds = []
    for _ in range(repeat):
        begin = time.perf_counter()
        step()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - begin)
    return statistics.median(seconds), _peak(step, device)


def _peak(step: Callable[[], object], device: str) -> float:
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    with torch.profiler.profile(
        activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True
    ) as profile:
        step()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    return float(np.cumsum([event.nbytes() for event in events]).max(initial=0))


def report(name: str, ours: Callable, plain: Callable, device: str, repeat: int) -> None:
    fast, small = measure(ours, device, repeat)
    slow, large = measure(plain, device, repeat)
    memory = f"{large / small:6.1f} x" if min(small, large) > 1 << 20 else "     -"
    print(
        f"{name:26} {fast * 1e3:9.2f} {slow * 1e3:9.2f} ms {slow / fast:7.1f} x"
        f" {small / 2**20:9.1f} {large / 2**20:9.1f} MiB {memory}"
    )


# --- the comparisons ------------------------------------------------------------------------------


def compare_loading(batch: int, repeat: int) -> None:
    """A batch of segments from the store, against one float64 .mat file per segment."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        generate(folder / "wfdb", num_patients=-(-batch // 4))
        build_manifest("physionet2021", folder / "wfdb", folder / "built")
        manifest = read_manifest(folder / "built" / "train.tsv")
        source = open_source(manifest)
        dataset = EcgDataset(source, cut_windows(source.n_samples, 2500), Pipeline())
        indices = [i % len(dataset) for i in range(batch)]
        paths = [folder / f"{i}.mat" for i in indices]
        for path, i in zip(paths, indices, strict=True):
            feats = dataset[i]["source"].astype(np.float64)
            scipy.io.savemat(path, {"feats": feats, "curr_sample_rate": 500})

        def ours() -> Tensor:
            return dataset.collater(dataset.__getitems__(indices))["net_input"]["source"]

        def plain() -> Tensor:
            return torch.stack(
                [torch.from_numpy(scipy.io.loadmat(p)["feats"]).float() for p in paths]
            )

        torch.testing.assert_close(ours(), plain())
        report("batch loading", ours, plain, "cpu", repeat)


def compare_parts(batch: int, device: str, repeat: int) -> None:
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    mask = sample_span_mask(batch, FRAMES, 0.65, 10)
    n_masked = masked_positions(mask).shape[1]
    quantizer = GumbelQuantizer(WIDTH, WIDTH, 2, 320, (2.0, 0.5, 0.999995)).to(device)
    plain_quantizer = PlainQuantizer(WIDTH, WIDTH, 2, 320, (2.0, 0.5, 0.999995)).to(device)
    plain_quantizer.load_state_dict(quantizer.state_dict())
    rows = torch.randn(batch, n_masked, WIDTH, device=device)
    predicted = torch.randn(batch, n_masked, WIDTH, device=device, requires_grad=True)
    negatives = sample_negatives(batch, n_masked, NEGATIVES, device)
    with torch.no_grad():
        found = quantizer.eval()(rows)
        expected = plain_quantizer.eval()(rows)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    quantizer.train(), plain_quantizer.train()
    targets = found.x.clone().requires_grad_()

    def ours_logits() -> Tensor:
        return contrastive_logits(predicted, targets, negatives, TEMPERATURE, found.codes)

    def slow_logits() -> Tensor:
        return plain_logits(predicted, targets, negatives, None)

    torch.testing.assert_close(ours_logits(), slow_logits(), rtol=1e-4, atol=1e-4)
    shares = [
        float(torch.stack([draw()[0].sum() for _ in range(60)]).float().mean()) / FRAMES
        for draw in (
            lambda: sample_span_mask(batch, FRAMES, 0.65, 10),
            lambda: plain_mask(batch, FRAMES, 0.65, 10, rng),
        )
    ]
    assert abs(shares[0] - shares[1]) < 0.03, shares
    print(f"equal: quantizer, logits (1e-4); masked share {shares[0]:.3f} and {shares[1]:.3f}")
    print(f"{'':26} {'ours':>9} {'plain':>9}    {'time':>9} {'ours':>9} {'plain':>9}     memory")
    report(
        "masks",
        lambda: sample_span_mask(batch, FRAMES, 0.65, 10),
        lambda: plain_mask(batch, FRAMES, 0.65, 10, rng),
        device,
        10 * repeat,
    )
    report(
        "negatives",
        lambda: sample_negatives(batch, n_masked, NEGATIVES, device),
        lambda: plain_negatives(batch, n_masked, NEGATIVES).to(device),
        device,
        10 * repeat,
    )
    report(
        "quantizer, with backward",
        lambda: quantizer(rows).x.sum().backward(),
        lambda: plain_quantizer(rows).x.sum().backward(),
        device,
        repeat,
    )
    report(
        "logits, with backward",
        lambda: ours_logits().clamp_min(-99).sum().backward(),
        lambda: slow_logits().clamp_min(-99).sum().backward(),
        device,
        repeat,
    )


def compare_steps(batch: int, layers: int, device: str, repeat: int) -> None:
    torch.manual_seed(0)
    model = build_model(OmegaConf.create({**PAPER, "encoder_layers": layers}), None).to(device)
    criterion = Wav2Vec2WithCmscCriterion(None, True, [0.1, 10])
    source = torch.randn(batch, 12, 2500, device=device)
    pairs = torch.arange(batch, device=device)
    sample = {"net_input": {"source": source}, "patient_id": pairs // 2, "segment": pairs % 2}
    quantizer = model.quantizer
    plain_quantizer = PlainQuantizer(WIDTH, WIDTH, 2, 320, (2.0, 0.5, 0.999995)).to(device)
    plain_quantizer.load_state_dict(quantizer.state_dict())

    def step(sample: dict) -> Tensor:
        model.zero_grad()
        loss = criterion(model, sample)[0]
        loss.backward()
        return loss.detach()

    def plain_step(sample: dict) -> Tensor:
        model.quantizer = plain_quantizer
        with Swapped():
            loss = step(sample)
        model.quantizer = quantizer
        return loss

    mask = sample_span_mask(batch, FRAMES, 0.65, 10)
    n_masked = masked_positions(mask).shape[1]
    offset = n_masked * torch.arange(batch)[:, None, None]
    negatives = (sample_negatives(batch, n_masked, NEGATIVES) + offset).flatten(1)
    given = {"mask_indices": mask.to(device), "negative_indices": negatives.to(device)}
    fixed = {**sample, "net_input": {**sample["net_input"], **given}}
    model.eval(), plain_quantizer.eval()
    torch.testing.assert_close(step(fixed), plain_step(fixed), rtol=1e-4, atol=0.0)
    model.train(), plain_quantizer.train()
    report(
        f"whole step, {layers} layers",
        lambda: step(sample),
        lambda: plain_step(sample),
        device,
        repeat,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=32, help="segments per batch")
    parser.add_argument("--layers", type=int, default=12, help="transformer layers; 12 = base")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    args = parser.parse_args()
    threads = torch.get_num_threads()
    print(
        f"W2V+CMSC, base size (D 768, 100 negatives, 640 codes), B = {args.batch} segments of "
        f"12 x 2500, float32, {args.device}, {threads} threads, median of {args.repeat}"
    )
    compare_parts(args.batch, args.device, args.repeat)
    compare_loading(args.batch, args.repeat)
    compare_steps(args.batch, args.layers, args.device, args.repeat)


if __name__ == "__main__":
    main()
