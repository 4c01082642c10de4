"""Future prediction: sizes, the context's formula, what a context may see, checkpoints."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq.models import build_model
from omegaconf import OmegaConf
from torch.nn import functional

from fairseq_ecg.checkpoint import load_pretrained
from fairseq_ecg.models.ecg_resnet_cpc import EcgResnetCpc, EcgResnetCpcConfig, FrameContext
from tests.tiny import TINY_RESNET, save_checkpoint, shaken

NAME = "ecg_resnet_cpc"
TINY = {**TINY_RESNET, "in_d": 1, "context_layers": 2, "context_heads": 2}


def build(task=None, **cfg):
    torch.manual_seed(0)
    return shaken(build_model(OmegaConf.create({"_name": NAME, **cfg}), task))


def test_the_context_has_the_parameters_of_the_published_one():
    with torch.device("meta"):
        model = build_model(OmegaConf.create({"_name": NAME}), None)
    context = sum(p.numel() for p in model.context.parameters())
    assert context == 3 * 2_102_784 + 512 == 6_308_864
    statistics = sum(value.numel() for key, value in model.named_buffers() if "running" in key)
    assert sum(p.numel() for p in model.parameters()) + statistics == 10_801_344


# --- formula ------------------------------------------------------------------------------------


def slow_context(context, frames, scale):
    """Apply the layers one head and one place after the other; [N, D] to [D], float64."""
    width = frames.shape[1]
    x = np.concatenate([context.token.detach().numpy()[None], frames]) * math.sqrt(width)
    for place in range(len(x)):
        for i in range(width):
            angle = place / 10000 ** (2 * (i // 2) / width)
            x[place, i] += math.cos(angle) if i % 2 else math.sin(angle)

    def linear(layer, rows):
        return rows @ layer.weight.detach().numpy().T + layer.bias.detach().numpy()

    def norm(layer, rows):
        rows = rows - rows.mean(1, keepdims=True)
        rows = rows / np.sqrt((rows**2).mean(1, keepdims=True) + 1e-3)
        return rows * layer.weight.detach().numpy() + layer.bias.detach().numpy()

    for layer in context.layers:
        attention = layer.self_attn
        part = width // attention.heads
        query, key, value = (
            linear(p, x) for p in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        mixed = np.zeros_like(x)
        for head in range(attention.heads):
            own = slice(head * part, (head + 1) * part)
            for place in range(len(x)):
                scores = np.exp(query[place, own] @ key[:, own].T / scale)
                mixed[place, own] = scores / scores.sum() @ value[:, own]
        x = norm(layer.self_attn_layer_norm, x + linear(attention.out_proj, mixed))
        inner = np.maximum(linear(layer.fc1, x), 0)
        x = norm(layer.final_layer_norm, x + linear(layer.fc2, inner))
    return x[0]


@pytest.mark.parametrize(("by_width", "scale"), [(True, math.sqrt(12)), (False, math.sqrt(4))])
@pytest.mark.parametrize("n_frames", [1, 5])
def test_the_context_is_the_formula(n_frames, by_width, scale):
    torch.manual_seed(0)
    context = FrameContext(12, layers=2, heads=3, scale_by_width=by_width)
    for parameter in context.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    frames = torch.randn(2, n_frames, 12)
    with torch.no_grad():
        found = context(frames)
    for row, expected in zip(found, frames.double().numpy(), strict=True):
        np.testing.assert_allclose(row, slow_context(context, expected, scale), atol=1e-4)


def test_the_context_is_drawn_as_the_published_one():
    torch.manual_seed(0)
    context = FrameContext(512, layers=1, heads=8, scale_by_width=True)
    assert context.token.std().item() == pytest.approx(0.88, abs=0.1)
    assert context.token.abs().max() <= 2
    layer = context.layers[0]
    for linear in (layer.self_attn.q_proj, layer.fc1, layer.fc2):
        bound = (6 / sum(linear.weight.shape)) ** 0.5
        assert 0.98 * bound < linear.weight.abs().max() <= bound
        assert (linear.bias == 0).all()


@pytest.mark.parametrize("overlap", [0, 16])
def test_scores_are_products_of_context_and_candidates(overlap):
    model = build(**TINY, context_overlap=overlap).eval()
    source, candidates = torch.randn(2, 1, 4 * (64 - overlap) + overlap), torch.randn(2, 3, 1, 64)
    with torch.no_grad():
        found = model(source, candidates)["out"]
        for row in range(2):
            starts = [i * (64 - overlap) for i in range(4)]
            frames = torch.cat([model.embed(source[[row], :, s : s + 64]) for s in starts])
            context = model.context(frames[None])[0]
            expected = [context @ model.embed(candidate[None])[0] for candidate in candidates[row]]
            torch.testing.assert_close(found[row], torch.stack(expected), atol=1e-4, rtol=1e-4)


def test_it_learns_which_frame_follows():
    """Frames are tones; the one that follows has the frequency of its context."""
    model = build(**TINY).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    rng = torch.Generator().manual_seed(0)
    for _ in range(60):
        hertz = torch.rand(16, 2, generator=rng) * 0.2 + torch.tensor([0.02, 0.25])
        order = torch.randint(2, (16, 1), generator=rng)
        own = hertz.gather(1, order)
        source = torch.sin(2 * math.pi * own[..., None] * torch.arange(192))
        candidates = torch.sin(2 * math.pi * hertz[:, :, None, None] * torch.arange(64))
        scores = model(source, candidates)["out"]
        loss = functional.cross_entropy(scores, order[:, 0])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (scores.argmax(1) == order[:, 0]).float().mean() > 0.9


def test_padding_is_seen_as_zeros_and_scores_are_float32_under_autocast():
    model = build(**TINY).eval()
    source, candidates = torch.randn(2, 1, 192), torch.randn(2, 2, 1, 64)
    padding = torch.arange(192) >= torch.tensor([[192], [100]])
    silent = source.masked_fill(padding[:, None], 0.0)
    with torch.no_grad():
        expected = model(silent, candidates)["out"]
        torch.testing.assert_close(model(source, candidates, padding)["out"], expected)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rough = model(silent, candidates)["out"]
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, expected, atol=0.1, rtol=0.1)


def test_it_compiles():
    model = build(**TINY, stages=2).eval()
    batch = torch.randn(2, 1, 192), torch.randn(2, 2, 1, 64)
    compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(compiled(*batch)["out"], model(*batch)["out"])


# --- configuration ------------------------------------------------------------------------------


def test_frames_overlap_as_the_task_says():
    task = SimpleNamespace(cfg=SimpleNamespace(context_overlap=16), num_leads=1)
    root = OmegaConf.create({"model": {"_name": NAME, **TINY}})
    assert build_model(root.model, task).context_overlap == 16
    assert root.model.context_overlap == 16
    assert build(**TINY).context_overlap == 0
    with pytest.raises(ValueError, match="model.context_overlap is 8, .* task.context_overlap is"):
        build(task, **TINY, context_overlap=8)


@pytest.mark.parametrize(
    ("source", "candidates", "message"),
    [
        ((2, 1, 192), (2, 2, 64), r"expected as \[2, candidates, 1 leads, samples\]"),
        ((2, 1, 192), (3, 2, 1, 64), r"have the shape \[3, 2, 1, 64\]"),
        ((2, 2, 192), (2, 2, 2, 64), "1 leads"),
        ((2, 1, 190), (2, 2, 1, 64), "190 samples is no whole number of frames of 64 samples"),
        ((2, 1, 32), (2, 2, 1, 64), "32 samples is no whole number"),
        ((1, 1, 512), (1, 2, 1, 1), "has 512 frames; give task.context_size up to 511"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(source, candidates, message):
    with pytest.raises(ValueError, match=message):
        build(**TINY)(torch.randn(source), torch.randn(candidates))


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"context_heads": 7}, "model.context_heads is 7, which does not divide the width 512"),
        ({"context_heads": 0}, "model.context_heads is 0"),
        ({"widths": [3, 3, 3, 3], "context_heads": 3}, "even width"),
        ({"context_layers": 0}, "model.context_layers is 0"),
        ({"context_overlap": -1}, "model.context_overlap is -1"),
        ({"stages": 9}, "model.stages is 9"),
    ],
)
def test_what_cannot_be_built_is_refused_before_and_while_building(cfg, message):
    with pytest.raises(ValueError, match=message):
        EcgResnetCpc.check(EcgResnetCpcConfig(**cfg))
    with pytest.raises(ValueError, match=message):
        build(**cfg)


def test_a_checkpoint_opens_by_itself_and_scores_the_same(tmp_path):
    model = build(**TINY, context_overlap=16, scale_by_width=False).eval()
    cfg = {"_name": NAME, "context_heads": 2, "context_overlap": 16, "scale_by_width": False}
    opened, _ = load_pretrained(save_checkpoint(tmp_path / "a.pt", cfg, model))
    batch = torch.randn(2, 1, 208), torch.randn(2, 2, 1, 64)
    assert torch.equal(opened(*batch)["out"], model(*batch)["out"])
    assert torch.equal(opened.embed(batch[0]), model.embed(batch[0]))
