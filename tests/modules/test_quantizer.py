"""The quantizer equals its plain form, codebook broadcast over all rows, in value and gradient."""

import pytest
import torch
import torch.nn.functional as F

from fairseq_ecg.modules.quantizer import GumbelQuantizer


def plain_form(quantizer, x):
    """One-hot choices times the whole codebook, for every row."""
    batch, rows, _ = x.shape
    logits = quantizer.weight_proj(x.reshape(batch * rows, -1)).view(batch * rows * 2, -1)
    if quantizer.training:
        choice = F.gumbel_softmax(logits, tau=quantizer.temp, hard=True)
    else:
        choice = F.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    spread = choice.view(batch * rows, -1, 1) * quantizer.vars  # [N, G * V, d]
    chosen = spread.view(batch * rows, 2, -1, quantizer.vars.shape[-1]).sum(2)
    soft = logits.view(batch * rows, 2, -1).softmax(-1).mean(0)
    hard = F.one_hot(logits.argmax(-1), logits.shape[-1]).float().view(batch * rows, 2, -1).mean(0)
    perplexities = [
        torch.exp(-(share * torch.log(share + 1e-7)).sum(-1)).sum() for share in (soft, hard)
    ]
    return chosen.view(batch, rows, -1), *perplexities


@pytest.fixture
def quantizer():
    torch.manual_seed(0)
    return GumbelQuantizer(6, 8, groups=2, codes=5, temperature=(2.0, 0.5, 0.999995))


@pytest.mark.parametrize("training", [True, False])
def test_values_and_gradients_equal_the_plain_form(quantizer, training):
    quantizer.train(training)
    x = torch.randn(3, 7, 6)
    results = []
    for form in (quantizer, lambda x: plain_form(quantizer, x)):
        leaf = x.clone().requires_grad_()
        torch.manual_seed(1)  # the same noise
        chosen, *rest = form(leaf)
        rest = rest[-2:]
        loss = (chosen * torch.linspace(-1, 1, chosen.numel()).view_as(chosen)).sum() + rest[0]
        inputs = [leaf, *quantizer.parameters()]
        results.append((chosen, *rest, *torch.autograd.grad(loss, inputs)))
    for ours, theirs in zip(*results, strict=True):
        assert torch.allclose(ours, theirs, atol=1e-5)
    assert results[0][3].abs().sum() > 0


def test_chosen_entries_are_exact_in_training():
    """So equal codes give equal targets, and collisions can be found by comparing codes."""
    torch.manual_seed(0)
    quantizer = GumbelQuantizer(6, 8, groups=2, codes=40, temperature=(20.0, 0.5, 0.9))
    found = quantizer(torch.randn(40, 50, 6))
    entries = quantizer.vars[0].view(2, 40, 4)
    expected = torch.cat([entries[g][found.codes[..., g]] for g in range(2)], dim=-1)
    assert torch.equal(found.x, expected)


def test_codes_name_the_entries_that_were_chosen(quantizer):
    quantizer.eval()
    found = quantizer(torch.randn(3, 7, 6))
    entries = quantizer.vars[0].view(2, 5, 4)
    assert torch.equal(found.x[1, 2, :4], entries[0, found.codes[1, 2, 0]])
    assert torch.equal(found.x[1, 2, 4:], entries[1, found.codes[1, 2, 1]])


def test_perplexity_counts_the_codes_in_use(quantizer):
    with torch.no_grad():
        quantizer.weight_proj.weight.zero_()
        quantizer.weight_proj.bias.zero_()
    found = quantizer.eval()(torch.randn(3, 7, 6))
    assert found.prob_perplexity.item() == pytest.approx(10.0, rel=1e-4)
    assert found.code_perplexity.item() == pytest.approx(2.0, rel=1e-4)


def test_temperature_decays_to_its_floor(quantizer):
    assert quantizer.temp == 2.0
    quantizer.set_num_updates(100_000)
    assert quantizer.temp == pytest.approx(2 * 0.999995**100_000)
    quantizer.set_num_updates(277_258)
    assert quantizer.temp > 0.5
    quantizer.set_num_updates(277_259)
    assert quantizer.temp == 0.5


def test_it_computes_in_float32_under_autocast(quantizer):
    quantizer.eval()
    x = torch.randn(3, 7, 6)
    plain = quantizer(x)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = quantizer(x)
    assert found.x.dtype == torch.float32
    assert torch.equal(found.x, plain.x)


def test_a_width_that_groups_cannot_share_is_refused():
    with pytest.raises(ValueError, match=r"multiple of latent_groups \(2\)"):
        GumbelQuantizer(6, 7, 2, 5, (2.0, 0.5, 0.9))


def test_a_floor_above_the_start_is_refused():
    with pytest.raises(ValueError, match="latent_temp is"):
        GumbelQuantizer(6, 8, 2, 5, (0.5, 2.0, 0.9))
