"""Pooling is the mean over frames that are not exactly zero."""

import torch

from fairseq_ecg.modules.pooling import mean_of_nonzero, mean_of_valid


def test_without_zeros_it_is_the_mean():
    features = torch.randn(2, 5, 3)
    assert torch.allclose(mean_of_nonzero(features), features.mean(1), atol=1e-6)


def test_exact_zeros_and_padded_frames_do_not_count():
    features = torch.tensor([[[2.0, 1.0], [4.0, 0.0], [9.0, 9.0]]])
    padding = torch.tensor([[False, False, True]])
    assert mean_of_nonzero(features, padding).tolist() == [[3.0, 1.0]]


def test_a_channel_that_is_zero_everywhere_gives_zero_and_a_finite_gradient():
    features = torch.zeros(1, 4, 2, requires_grad=True)
    pooled = mean_of_nonzero(features)
    assert pooled.tolist() == [[0.0, 0.0]]
    pooled.sum().backward()
    assert features.grad.isfinite().all()


def test_the_mean_over_valid_frames_counts_zeros():
    features = torch.tensor([[[2.0, 1.0], [4.0, 0.0], [9.0, 9.0]]]).repeat(2, 1, 1)
    padding = torch.tensor([[False, False, True], [True, True, True]])
    assert mean_of_valid(features, padding).tolist() == [[3.0, 0.5], [0.0, 0.0]]
    assert torch.allclose(mean_of_valid(features), features.mean(1))
