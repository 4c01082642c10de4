"""Hidden blocks: every sample against a loop, lengths that do not fit."""

import numpy as np
import pytest
import torch

from fairseq_ecg.modules.blocks import hide_blocks, samples_of_blocks


@pytest.mark.parametrize(
    ("n_samples", "block", "told"), [(12, 3, False), (12, 3, True), (14, 4, True), (7, 7, False)]
)
def test_a_sample_is_hidden_if_its_block_is(n_samples, block, told):
    rng = np.random.default_rng(0)
    mask = rng.random((3, 2, n_samples // block)) < 0.5
    source = rng.standard_normal((3, 2, n_samples)).astype(np.float32)
    expected = source.copy()
    for row, lead, n in np.argwhere(mask):
        for sample in range(n * block, (n + 1) * block):
            expected[row, lead, sample] = 0
    given = block if told else None
    hidden = hide_blocks(torch.from_numpy(source), torch.from_numpy(mask), given)
    np.testing.assert_array_equal(hidden.numpy(), expected)
    assert (source != 0).all()


@pytest.mark.parametrize(("n_blocks", "block"), [(5, None), (0, None), (3, 3), (5, 3)])
def test_blocks_that_are_not_those_of_the_recording_are_refused(n_blocks, block):
    with pytest.raises(ValueError, match=f"{n_blocks} blocks, which 12 samples"):
        samples_of_blocks(torch.zeros(2, n_blocks, dtype=torch.bool), 12, block)


def test_a_mask_of_other_leads_is_refused():
    with pytest.raises(ValueError, match=r"mask is expected as \[B, C, N\]"):
        hide_blocks(torch.zeros(2, 12, 64), torch.zeros(2, 1, 4, dtype=torch.bool))
