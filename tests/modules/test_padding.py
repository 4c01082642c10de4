"""Padded samples make padded frames."""

import pytest
import torch

from fairseq_ecg.modules.conv_features import ConvFeatures
from fairseq_ecg.modules.padding import frame_padding, of_time, padded_frames

STACK = ConvFeatures([(4, 2, 2)] * 4, in_channels=12)


def _padded(*counts, n_samples=2500):
    return torch.arange(n_samples) >= n_samples - torch.tensor(counts)[:, None]


@pytest.mark.parametrize(
    ("samples", "frames"), [(2500, 156), (5000, 312), (16, 1), (31, 1), (32, 2), (15, 0), (0, 0)]
)
def test_frames_follow_the_convolutions(samples, frames):
    assert STACK.output_length(samples) == frames
    if frames:
        assert STACK(torch.randn(1, 12, samples)).shape[2] == frames


def test_a_frame_is_padded_if_any_of_its_samples_is():
    found = frame_padding(_padded(0, 4, 5, 20), 156, STACK.output_length)
    assert found.lengths == [156, 156, 155, 155]
    assert torch.equal((~found.mask).sum(1), torch.tensor(found.lengths))
    assert found.mask[2].tolist() == [False] * 155 + [True]


def test_a_mask_without_padding_is_no_mask():
    assert frame_padding(_padded(0, 0), 156, STACK.output_length) is None
    assert frame_padding(None, 156, STACK.output_length) is None


def test_a_row_without_one_whole_frame_is_refused():
    with pytest.raises(ValueError, match="row 1 of the batch has 15 valid samples"):
        frame_padding(_padded(0, 2485), 156, STACK.output_length)


def test_padding_in_front_of_a_recording_is_refused():
    with pytest.raises(ValueError, match="has some in front; give task.pad_segments=end"):
        frame_padding(_padded(0, 20).flip(1), 156, STACK.output_length)


def test_a_mask_of_another_shape_is_refused():
    with pytest.raises(ValueError, match=r"expected as \[B, T\]"):
        frame_padding(torch.zeros(5, dtype=torch.bool), 156, STACK.output_length)


@pytest.mark.parametrize(("n_samples", "n_frames"), [(96, 3), (100, 4), (90, 3), (100, 3), (7, 1)])
def test_a_frame_of_padding_only_is_padded_wherever_it_stands(n_samples, n_frames):
    padding = torch.rand(5, n_samples) > 0.05
    padding[0] = True
    found = padded_frames(padding, n_frames, 32)
    for row in range(5):
        parts = [padding[row, 32 * i : 32 * (i + 1)] for i in range(n_frames)]
        assert found[row].tolist() == [bool(part.all()) for part in parts]
    for_each_lead = padding[:, None].expand(-1, 12, -1)
    assert torch.equal(of_time(for_each_lead), padding)
    assert torch.equal(padded_frames(for_each_lead, n_frames, 32), found)
