"""Saliency of every family: sums that must hold, against slow forms, and gradients kept by nobody."""

from dataclasses import fields

import numpy as np
import pytest
import torch
from fairseq.models import MODEL_DATACLASS_REGISTRY
from torch import nn

from fairseq_ecg import saliency
from fairseq_ecg.modules.transformer import TransformerLayer, TransformerSizes
from fairseq_ecg.saliency import METHODS, TOLERANCE, explain, integrated_gradients, smoothed
from tests.models.test_encoder import ENCODERS, HEADS, OPTIONS, SIZES, build, save
from tests.tiny import shaken

FAMILY = {
    "ecg_transformer_classifier": "ecg_transformer",
    "ecg_mae_classifier": "ecg_mae",
    "ecg_uresnet_classifier": "ecg_uresnet",
    "nejedly2021resnet_classifier": "nejedly2021resnet",
    "se_wrn_classifier": "se_wrn",
    "ecg_cnn_classifier": "ecg_transform_cnn",
    "ecg_resnet1d_classifier": "ecg_resnet1d",
    "ecg_resnet2d_classifier": "ecg_resnet2d",
}
# Every head around its own family, and every family below one head.
CASES = [*FAMILY.items(), *(("ecg_resnet1d_classifier", family) for family in ENCODERS)]
WITH_ATTENTION = ("ecg_transformer", "ecg_wav2vec2", "wav2vec2_cmsc", "ecg_mae")


def classifier(head, family=None, folder=None, **more):
    """Return a classifier of three classes whose logits differ visibly from recording to flat."""
    known = {field.name for field in fields(MODEL_DATACLASS_REGISTRY[head])}
    if folder is None:
        keys = {key: v for key, v in SIZES[family or FAMILY[head]].items() if key in known}
    else:
        encoder = build(family, **SIZES[family])
        keys = {"model_path": save(folder / "encoder.pt", family, SIZES[family], encoder)}
    model = build(head, **{**keys, **OPTIONS.get(head, {}), **more, "num_labels": 3})
    shaken(model)
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=1.5 / parameter[0].numel() ** 0.5)
    return model


def recordings(count=2):
    return 0.5 * torch.randn(count, 12, 96, generator=torch.Generator().manual_seed(2))


def test_every_classifier_is_looked_at():
    assert set(FAMILY) == set(HEADS) - {"arcface"}


@pytest.mark.parametrize(("head", "family"), CASES)
def test_integrated_gradients_add_up_to_the_difference_of_the_logits(head, family, tmp_path):
    model = classifier(head, family, tmp_path).double()
    source = recordings().double()
    with torch.no_grad():
        here, flat = (model(x)["out"][:, 1] for x in (source, torch.zeros_like(source)))
    found = explain(model, {"source": source}, 1, "integrated")
    assert (here - flat).abs().min() > 0.01
    # Images that are scaled by their own deviation change within a millionth of the way.
    limit = 0.06 if family == "ecg_resnet2d" else TOLERANCE
    assert found.gap.max() <= limit
    total = torch.from_numpy(found.values.astype(np.float64).sum((1, 2)))
    torch.testing.assert_close(total, here - flat, rtol=limit, atol=0.1 * limit + 1e-5)


@pytest.mark.parametrize("head", FAMILY)
def test_the_gradient_is_that_of_small_changes(head):
    model, source = classifier(head).double(), recordings(1).double()
    found = explain(model, {"source": source}, 2, "gradient")
    assert found.values.shape == source.shape
    step = 1e-3 if head == "ecg_resnet2d_classifier" else 1e-6  # its images are float32
    with torch.no_grad():
        ends = [model(source * factor)["out"][0, 2] for factor in (1 + step, 1 - step)]
    change = (ends[0] - ends[1]).item() / (2 * step)
    size = float(np.abs(found.values).sum())
    assert found.values.sum() == pytest.approx(change, rel=0.02, abs=1e-3 * size)


def test_a_linear_network_is_explained_by_its_weights_whatever_the_method():
    class Linear(nn.Module):
        def __init__(self):
            super().__init__()
            self.weights = nn.Parameter(torch.randn(2, 12, 96))

        def forward(self, source, padding_mask=None):
            return {"out": torch.einsum("bct,kct->bk", source, self.weights) + 3}

    model, source = Linear(), recordings()
    for method in ("gradient", "integrated"):
        found = explain(model, {"source": source}, 1, method)
        expected = (source * model.weights[1]).detach().numpy()
        np.testing.assert_allclose(found.values, expected, rtol=1e-4, atol=1e-6)


def test_parts_that_a_training_froze_are_explained_as_if_it_had_not():
    free = classifier("ecg_transformer_classifier", feature_grad_mult=1.0)
    slow = classifier("ecg_transformer_classifier", feature_grad_mult=0.1)
    frozen = classifier("ecg_transformer_classifier", freeze_finetune_updates=1000)
    frozen.encoder.feature_grad_mult = 0.0
    for model in (slow, frozen):
        model.load_state_dict(free.state_dict())
    expected = explain(free, {"source": recordings()}, 0).values
    assert np.abs(expected).max() > 0
    for model in (slow, frozen):
        np.testing.assert_allclose(explain(model, {"source": recordings()}, 0).values, expected)
    assert slow.encoder.feature_grad_mult == pytest.approx(0.1)
    assert (frozen.encoder.feature_grad_mult, frozen.freeze_updates) == (0, 1000)


def test_no_gradient_is_left_in_the_network():
    model = classifier("ecg_resnet1d_classifier")
    for method in ("gradient", "integrated"):
        explain(model, {"source": recordings()}, 0, method)
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("frames", [1, 4, 7])
@pytest.mark.parametrize("layers", [1, 3])
def test_rollout_is_the_product_of_the_layers_of_its_paper(frames, layers):
    class Encoder(nn.Module):
        token_rows = 1

        def __init__(self):
            super().__init__()
            sizes = TransformerSizes(layers=layers, width=8, ffn_width=8, heads=2)
            self.layers = nn.ModuleList(TransformerLayer(sizes) for _ in range(layers))

        def encode(self, source, padding_mask=None):
            x = source.unflatten(2, (frames, -1)).mean(3).transpose(1, 2)
            self.inputs = []
            for layer in self.layers:
                self.inputs.append(x)
                x = layer(x)
            return {"features": x, "padding_mask": None}

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = Encoder()

        def forward(self, source, padding_mask=None):
            return {"out": self.encoder.encode(source)["features"].mean(1)}

    torch.manual_seed(0)
    model, source = Model().eval(), torch.randn(1, 8, 6 * frames)
    found = explain(model, {"source": source}, 3, "attention").values[0]
    model(source)
    rollout = np.eye(frames)
    for layer, x in zip(model.encoder.layers, model.encoder.inputs, strict=True):
        weights = layer.attention_weights(x)[0].detach().numpy()
        rollout = (0.5 * np.eye(frames) + 0.5 * weights) @ rollout
    share = rollout.mean(axis=0)
    places = (np.arange(6 * frames) + 0.5) / 6 - 0.5  # of samples, counted in frames
    expected = np.interp(places, np.arange(frames), share) / 6
    np.testing.assert_allclose(found, np.tile(expected, (8, 1)), rtol=1e-5)


@pytest.mark.parametrize("family", ENCODERS)
def test_attention_is_there_for_transformers_and_refused_for_others(family, tmp_path):
    model = classifier("ecg_resnet1d_classifier", family, tmp_path)
    net_input = {"source": recordings()}
    if family not in WITH_ATTENTION:
        with pytest.raises(ValueError, match="no transformer layers"):
            explain(model, net_input, 0, "attention")
        return
    values = explain(model, net_input, 0, "attention").values
    assert values.shape == (2, 12, 96)
    assert (values >= 0).all()
    assert values.std() > 0


@pytest.mark.parametrize(
    "more",
    [
        {},
        {"pool": "cls", "class_token": True},
    ],
)
def test_attention_of_what_is_padded_is_that_of_the_recording_alone(more):
    # A stem of convolutions would see where the padding begins.
    model = classifier("ecg_mae_classifier", multi_scale=False, **more)
    source = recordings()[:, :, :95]
    alone = explain(model, {"source": source[:1, :, :50]}, 0, "attention").values
    padding_mask = torch.zeros(2, 95, dtype=torch.bool)
    padding_mask[0, 50:] = True
    both = source.masked_fill(padding_mask[:, None], 0.0)
    padded = explain(model, {"source": both, "padding_mask": padding_mask}, 0, "attention").values
    assert padded[0, :, 55:].max() == 0
    np.testing.assert_allclose(padded[0, :, :45], alone[0, :, :45], rtol=0.1, atol=1e-4)


@pytest.mark.parametrize("more", [{}, {"pool": "cls", "class_token": True}])
def test_tokens_of_single_leads_have_shares_of_their_own(more):
    separated = {"tokens": "lead_time", "separators": True, **more}
    model, source = classifier("ecg_mae_classifier", **separated), recordings()
    padding_mask = torch.zeros(2, 96, dtype=torch.bool)
    padding_mask[0, 50:] = True
    net_input = {"source": source, "padding_mask": padding_mask}
    values = explain(model, net_input, 0, "attention").values
    assert values[0, :, 55:].max() == 0
    assert values[0, :, :50].min() > 0
    assert values[1].min() > 0
    assert np.abs(values - values[:, :1]).max(axis=(1, 2)).min() > 0


def test_a_method_that_does_not_exist_is_refused():
    with pytest.raises(ValueError, match=", ".join(METHODS)):
        explain(classifier("ecg_resnet1d_classifier"), {"source": recordings()}, 0, "magic")


def test_a_gap_that_stays_is_told():
    class Step(nn.Module):
        def forward(self, source, padding_mask=None):
            return {
                "out": (source.sum((1, 2), keepdim=True) > 0.5)[..., 0].float() + 0 * source[:, 0]
            }

    source = torch.ones(1, 12, 8)
    _, gap = integrated_gradients(Step(), {"source": source}, 0)
    assert float(gap) == pytest.approx(1.0)


def test_blurring_keeps_the_sum_inside_and_knows_seconds():
    values = np.zeros((1, 1000))
    values[0, 500] = 1
    blurred = smoothed(values, rate_hz=100, width_s=0.1)
    assert blurred.sum() == pytest.approx(1)
    assert blurred[0, 510] / blurred[0, 500] == pytest.approx(np.exp(-0.5), rel=1e-3)


@pytest.mark.parametrize(("begin", "end"), [(0.0, 1.0), (0.0, 0.25), (0.5, 0.75)])
def test_the_nodes_are_those_of_an_integral_over_the_bent_way(begin, end):
    places, weights = np.array(list(saliency._nodes(begin, end))).T
    low, high = begin**3, end**3
    assert (places > low).all()
    assert (places < high).all()
    for power in (0, 1):
        expected = (high ** (power + 1) - low ** (power + 1)) / (power + 1)
        assert (weights * places**power).sum() == pytest.approx(expected, rel=1e-9)
