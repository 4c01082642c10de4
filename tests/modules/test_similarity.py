"""Logits by one similarity and a look-up equal those of the N x B x M x D form."""

import torch
import torch.nn.functional as F

from fairseq_ecg.modules.negatives import sample_negatives
from fairseq_ecg.modules.similarity import contrastive_logits


def slow_logits(predicted, targets, negatives, temperature):
    """The definition: all negatives side by side, equal vectors struck out."""
    batch, n_masked, width = predicted.shape
    flat = (negatives + n_masked * torch.arange(batch)[:, None, None]).flatten()
    chosen = targets.reshape(-1, width)[flat].view(batch, n_masked, -1, width).permute(2, 0, 1, 3)
    collide = (chosen == targets).all(-1)  # [N, B, M]
    logits = F.cosine_similarity(predicted[None], torch.cat([targets[None], chosen]), dim=-1)
    logits = logits / temperature
    logits[1:] = logits[1:].masked_fill(collide, float("-inf"))
    return logits


def _inputs():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(3, (2, 9, 2), generator=generator)  # few codes: many collisions
    table = torch.randn(3, 3, 8, generator=generator)
    targets = table[codes[..., 0], codes[..., 1]].requires_grad_()
    predicted = torch.randn(2, 9, 8, generator=generator).requires_grad_()
    return predicted, targets, sample_negatives(2, 9, 20, generator=generator), codes


def test_logits_and_gradients_equal_the_slow_form_with_collisions():
    predicted, targets, negatives, codes = _inputs()
    fast = contrastive_logits(predicted, targets, negatives, 0.1, codes)
    slow = slow_logits(predicted, targets, negatives, 0.1)
    assert fast.shape == (21, 2, 9)
    assert torch.equal(fast.isinf(), slow.isinf())
    assert 0 < fast.isinf().sum() < fast.numel() / 2
    finite = ~fast.isinf()
    assert torch.allclose(fast[finite], slow[finite], atol=1e-5)
    weights = torch.randn(21, 2, 9)
    gradients = [
        torch.autograd.grad((logits.masked_fill(~finite, 0) * weights).sum(), (predicted, targets))
        for logits in (fast, slow)
    ]
    for ours, theirs in zip(*gradients, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)


def test_without_codes_no_negative_is_excluded():
    predicted, targets, negatives, _ = _inputs()
    assert contrastive_logits(predicted, targets, negatives, 0.1).isfinite().all()


def test_logits_are_float32_under_autocast():
    predicted, targets, negatives, codes = _inputs()
    plain = contrastive_logits(predicted, targets, negatives, 0.1, codes)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(contrastive_logits(predicted, targets, negatives, 0.1, codes), plain)
