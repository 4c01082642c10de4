"""ECG-MAE: sizes, no leak, visible tokens only, order, padding, modes, checkpoints, over-fitting."""

from types import SimpleNamespace

import pytest
import torch
from fairseq.models import build_model
from omegaconf import OmegaConf

from fairseq_ecg.criterions.ecg_masked_mse import EcgMaskedMse
from fairseq_ecg.models.ecg_mae import EcgMae
from fairseq_ecg.modules.blocks import samples_of_blocks
from fairseq_ecg.resources import examples_dir
from tests.by_heart import error_learned, recordings
from tests.tiny import TINY_MAE

BY_LEAD = {"multi_scale": False, "tokens": "lead_time"}
# Parameters of encoder and decoder; of the last two the specification says nothing.
SIZES = {
    "mae_tiny": (6_179_072, 460_332),
    "mae_small": (22_749_440, 3_335_468),
    "mae_base": (87_740_672, 3_433_772),
    "mae_yang": (41_220_096, 39_511_052),
    "mae_st_mem": (85_126_038, 3_375_947),
    "mae_mtae": (85_752_072, 3_587_972),
    "mae_debug": (123_008, 18_840),
}
VARIANTS = {
    "default": {},
    "patch_scope": {"stem_scope": "patch"},
    "renorm": {"stem_renorm": True},
    "batch_norm": {"stem_norm": "batch", "stem_activation": "relu"},
    "no_stem": {"multi_scale": False, "patch_norm": True},
    "no_transformer": {"transformer": False},
    "all_tokens": {"encode_visible_only": False, "output": "transposed_conv"},
    "learned": {"position": "learned", "window": 100, "final_norm": False},
    "lead_time": {"tokens": "lead_time"},
    "lead_time_raw": {**BY_LEAD, "class_token": False},
    "lead": {"tokens": "lead", "multi_scale": False, "window": 100},
    "two_decoders": {"tokens": "time_and_lead", "window": 100},
}


def build(**cfg):
    torch.manual_seed(0)
    return build_model(OmegaConf.create({"_name": "ecg_mae", "in_d": 3, **TINY_MAE, **cfg}), None)


def draw(batch=4, leads=3, blocks=20, ratio=0.75, by_lead=False, seed=0):
    """Return a mask [B, C, N] with equally many hidden blocks in each row."""
    generator = torch.Generator().manual_seed(seed)
    rows = leads if by_lead else 1
    order = torch.rand(batch, rows, blocks, generator=generator).argsort(2)
    return (order < round(ratio * blocks)).expand(batch, leads, blocks).clone()


def of_leads(batch=4, leads=3, blocks=20):
    """Return a mask [B, C, N] that hides one whole lead of each row."""
    hidden = torch.arange(batch)[:, None] % leads == torch.arange(leads)
    return hidden[..., None].expand(batch, leads, blocks).clone()


def masks(variant):
    if variant == "lead":
        return {"mask": of_leads()}
    if variant == "two_decoders":
        return {"mask": draw(), "lead_mask": of_leads()}
    return {"mask": draw(by_lead="lead_time" in variant)}


def encoded_lengths(model):
    """Return a list that notes how many tokens the first block gets."""
    lengths = []
    model.blocks[0].register_forward_pre_hook(lambda _, args: lengths.append(args[0].shape[1]))
    return lengths


# --- sizes ----------------------------------------------------------------------------------------


def preset(name):
    return OmegaConf.load(examples_dir() / f"ecg_mae/config/pretraining/{name}.yaml")


@pytest.mark.parametrize("name", SIZES)
def test_parameters_are_those_of_the_specification(name):
    """Positions are not counted, fixed or learned."""
    cfg = OmegaConf.merge(EcgMae.config, preset(name).model, {"in_d": 12})
    with torch.device("meta"):
        model = EcgMae(cfg)
    named = [(n, p.numel()) for n, p in model.named_parameters() if ".positions." not in n]
    decoder = sum(count for name, count in named if name.startswith("decoder."))
    assert (sum(count for _, count in named) - decoder, decoder) == SIZES[name]


def test_the_defaults_are_the_preset_tiny():
    cfg = preset("mae_tiny").model
    defaults = OmegaConf.structured(EcgMae.config)
    assert {key: defaults[key] for key in cfg if key not in ("_name", "in_d")} == {
        key: value for key, value in cfg.items() if key not in ("_name", "in_d")
    }


# --- hiding ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_hidden_samples_change_nothing(variant):
    model = build(**VARIANTS[variant]).eval()
    source, given = torch.randn(4, 3, 100), masks(variant)
    with torch.no_grad():
        expected = model(source, None, **given)
        for key in given:
            other = source.clone()
            hidden = samples_of_blocks(given[key], 100)
            other[hidden] = 100 * torch.randn(int(hidden.sum()))
            found = model(other, None, **given)
            which = ["prediction", "features"] if key == "mask" else ["lead_prediction"]
            for name in which:
                assert torch.equal(found[name], expected[name])
                assert expected[name].isfinite().all()


@pytest.mark.parametrize("variant", VARIANTS)
def test_visible_samples_change_the_prediction_everywhere_they_may(variant):
    if variant == "no_transformer":
        return
    model = build(**VARIANTS[variant]).eval()
    source, given = torch.randn(4, 3, 100), masks(variant)
    other = source.clone()
    visible = ~samples_of_blocks(given["mask"], 100)
    other[visible] += torch.randn(int(visible.sum()))
    with torch.no_grad():
        one, two = (model(x, None, **given)["prediction"] for x in (source, other))
    hidden = samples_of_blocks(given["mask"], 100)
    assert (one != two)[hidden].float().mean() > 0.99


@pytest.mark.parametrize("ratio", [0.25, 0.5, 0.6, 0.75, 0.85, 0.9])
def test_the_encoder_gets_visible_tokens_and_the_class_token_only(ratio):
    source, mask = torch.randn(4, 3, 100), draw(ratio=ratio)
    shapes = []
    for visible_only, expected in ((True, 20 - round(20 * ratio) + 1), (False, 21)):
        model = build(encode_visible_only=visible_only).eval()
        lengths = encoded_lengths(model)
        shapes.append(model(source, None, mask)["prediction"].shape)
        assert lengths == [expected]
    assert shapes == [source.shape] * 2


def test_patches_of_single_leads_are_kept_lead_by_lead_with_separators():
    source, mask = torch.randn(4, 3, 100), draw(by_lead=True)
    model = build(**BY_LEAD, class_token=False).eval()
    lengths = encoded_lengths(model)
    model(source, None, mask)
    assert lengths == [3 * (5 + 2)]


def test_a_token_that_is_hidden_in_part_is_encoded():
    mask = draw()
    mask[:, 0] = True
    model = build().eval()
    lengths = encoded_lengths(model)
    model(torch.randn(4, 3, 100), None, mask)
    assert lengths == [6]


def test_rows_may_keep_different_numbers_of_tokens():
    mask = draw(batch=2)
    mask[1] = draw(batch=1, ratio=0.3, seed=5)[0]
    source = torch.randn(2, 3, 100)
    model = build().eval()
    with torch.no_grad():
        both = model(source, None, mask)
        assert both["padding_mask"].sum(1).tolist() == [9, 0]
        for row in range(2):
            alone = model(source[row : row + 1], None, mask[row : row + 1])["prediction"]
            assert torch.allclose(both["prediction"][row], alone[0], atol=1e-5)


@pytest.mark.parametrize("class_token", [True, False])
def test_a_row_without_any_visible_token_stays_finite_and_leaks_nothing(class_token):
    mask = draw(batch=2)
    mask[0] = True
    model = build(class_token=class_token).eval()
    source = torch.randn(2, 3, 100)
    prediction = model(source, None, mask)["prediction"]
    assert prediction.isfinite().all()
    source[0] = 7
    assert torch.equal(model(source, None, mask)["prediction"], prediction)


# --- order ----------------------------------------------------------------------------------------


class Nowhere(torch.nn.Module):
    """Positions that say nothing."""

    def forward(self, count):
        return torch.zeros(count + 2, 1)


class Index(torch.nn.Module):
    """Says of each token at which place of its row it stands, and nothing of hidden ones."""

    def __init__(self, decoder):
        super().__init__()
        self.grid = decoder.grid
        self.decoder = decoder
        decoder.embed = torch.nn.Identity()
        decoder.blocks = torch.nn.ModuleList()
        decoder.norm = torch.nn.Identity()
        decoder.positions = Nowhere()
        decoder.mask_token = torch.nn.Parameter(torch.tensor([-1.0]))
        decoder.output = torch.nn.Linear(1, decoder.grid.values)
        decoder.output.weight.data.fill_(1.0)
        decoder.output.bias.data.zero_()

    def forward(self, tokens, kept, *rest):
        index = torch.arange(kept.count).expand(len(tokens), -1)[..., None].float()
        return self.decoder(kept.take(index), kept, None, None, None)


@pytest.mark.parametrize("tokens", ["time", "lead_time"])
def test_every_patch_of_the_prediction_stands_at_its_time(tokens):
    model = build(tokens=tokens, separators=False).eval()
    model.decoder = Index(model.decoder)
    mask = draw(by_lead=tokens == "lead_time")
    prediction = model(torch.randn(4, 3, 100), None, mask)["prediction"]
    places = torch.arange(20).repeat_interleave(5).expand(4, 3, 100).clone()
    if tokens == "lead_time":
        places = places + 20 * torch.arange(3)[:, None]
    expected = torch.where(samples_of_blocks(mask, 100), -1, places)
    assert torch.equal(prediction, expected.float())


def test_samples_and_leads_of_a_token_come_back_to_their_place():
    for grid in (build().embedding.grid, build(**BY_LEAD).embedding.grid):
        source = torch.randn(2, 3, 100)
        tokens = grid.cut(grid.to_rows(source), 2)
        assert tokens.shape == (2, grid.rows * 20, grid.values)
        assert torch.equal(grid.join(tokens), source)


# --- equalities -----------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v != "two_decoders"])
def test_with_nothing_hidden_it_is_what_fine_tuning_sees(variant):
    model = build(**VARIANTS[variant]).eval()
    source = torch.randn(2, 3, 100)
    nothing = torch.zeros(2, 3, 20, dtype=torch.bool)
    with torch.no_grad():
        output, encoded = model(source, None, nothing), model.encode(source)
    assert torch.allclose(output["features"], encoded["features"], atol=1e-6)
    assert torch.allclose(encoded["features"], model.extract_features(source))


def test_one_lead_is_one_row_of_patches():
    time = build(in_d=1).eval()
    lead = build(in_d=1, tokens="lead_time", separators=False).eval()
    vectors = lead.state_dict()["embedding.lead_vectors"].zero_()
    lead.load_state_dict({**time.state_dict(), "embedding.lead_vectors": vectors})
    source, mask = torch.randn(4, 1, 100), draw(leads=1)
    one, two = (model(source, None, mask) for model in (time, lead))
    assert torch.allclose(one["prediction"], two["prediction"], atol=1e-6)
    assert torch.allclose(one["features"], two["features"], atol=1e-6)


def test_the_same_weights_serve_visible_and_all_tokens():
    visible, everything = build(), build(encode_visible_only=False)
    missing = everything.load_state_dict(visible.state_dict(), strict=False)
    assert missing.missing_keys == []
    assert missing.unexpected_keys == ["decoder.mask_token"]


def test_without_a_transformer_a_token_depends_on_its_own_patch_only():
    model = build(transformer=False, stem_scope="patch").eval()
    source = torch.randn(2, 3, 100)
    other = source.clone()
    other[..., 50:55] = 0
    moved = (model.extract_features(source) != model.extract_features(other)).any(2)
    assert moved.sum(1).tolist() == [1, 1]
    assert moved[:, 10].all()
    assert model.depth == 0


# --- padding --------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in ("two_decoders", "lead")])
def test_a_padded_recording_gives_what_it_gives_alone(variant):
    """But for separators, of which the last says how long the window is."""
    model = build(**{**VARIANTS[variant], "separators": False}).eval()
    alone = torch.randn(1, 3, 80)
    padded = torch.nn.functional.pad(alone, (0, 20), value=3.0)
    both = torch.cat([padded, torch.randn_like(padded)])
    padding = torch.tensor([[False] * 80 + [True] * 20, [False] * 100])
    found = model.encode(both, padding)
    features = found["features"][0].view(-1, 20, 16)
    expected = model.encode(alone)["features"][0].view(-1, 16, 16)
    assert torch.allclose(features[:, :16], expected, atol=1e-5)
    assert features[:, 16:].eq(0).all()
    assert torch.allclose(model.embed(both, padding)[0], model.embed(alone)[0], atol=1e-5)


def test_padding_may_stand_on_both_sides_and_a_patch_counts_if_any_sample_does():
    model = build().eval()
    padding = torch.ones(1, 100, dtype=torch.bool)
    padding[:, 12:81] = False
    found = model.encode(torch.randn(1, 3, 100), padding)["padding_mask"][0]
    assert found.tolist() == [True] * 2 + [False] * 15 + [True] * 3


def test_padded_patches_are_never_encoded_and_change_nothing():
    model = build().eval()
    lengths = encoded_lengths(model)
    source = torch.randn(2, 3, 100)
    padding = (torch.arange(100) >= 60).expand(2, 100)
    mask = draw(batch=2) & (torch.arange(20) < 12)
    first = model(source, padding, mask)["prediction"]
    kept = (~mask[:, 0, :12]).sum(1).max()
    assert lengths == [kept + 1]
    source[..., 60:] = 9
    assert torch.equal(model(source, padding, mask)["prediction"], first)


def test_samples_beyond_the_last_patch_are_cut_off():
    model = build().eval()
    source = torch.randn(2, 3, 103)
    expected = model.extract_features(source[..., :100])
    assert torch.equal(model.extract_features(source), expected)
    prediction = model(source, None, draw(batch=2))["prediction"]
    assert prediction.shape == source.shape
    assert prediction[..., 100:].eq(0).all()


# --- loss -----------------------------------------------------------------------------------------


def criterion(**keys):
    task = SimpleNamespace(cfg=SimpleNamespace(mask_block=5, views="masked"))
    return EcgMaskedMse(task, **keys)


def test_the_loss_ignores_visible_and_padded_samples():
    model = build().eval()
    source = torch.randn(2, 3, 100)
    padding = (torch.arange(100) >= 60).expand(2, 100)
    mask = draw(batch=2) & (torch.arange(20) < 12)
    net_input = {"source": source, "padding_mask": padding, "mask": mask}
    scored = samples_of_blocks(mask, 100)
    loss, size, _ = criterion()(model, {"net_input": net_input})
    prediction = model(**net_input)["prediction"]
    assert size == scored.sum()
    assert torch.allclose(loss, (prediction - source)[scored].square().sum(), rtol=1e-5)


# --- refusals -------------------------------------------------------------------------------------


def test_many_widths_are_read_from_a_checkpoint_in_their_order():
    widths = [3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23]
    model = build(stem_kernels=widths, stem_channels=24)
    assert EcgMae.sizes_of(model.state_dict())["stem_kernels"] == widths


@pytest.mark.parametrize(
    ("cfg", "message"),
    [
        ({"tokens": "leads"}, "model.tokens is 'leads'; give time or lead or lead_time"),
        ({"patch": 0}, "model.patch is 0"),
        ({"heads": 3}, r"model.embed_dim \(16\) must be a multiple of model.heads \(3\)"),
        ({"decoder_heads": 3}, r"model.decoder_embed_dim \(8\) must be .*decoder_heads"),
        ({"embed_dim": 15, "heads": 3}, "model.embed_dim is 15; position=sincos needs an even"),
        ({"stem_kernels": [3, 4]}, "model.stem_kernels .*4 is not odd"),
        ({"stem_kernels_ms": [-1.0]}, r"model.stem_kernels_ms is \[-1.0\]; give one width above 0"),
        ({"stem_channels": 12}, "model.stem_channels is 12; .*8 groups"),
        ({"stem_kernels_ms": [36.0]}, "model.stem_kernels_ms needs the rate"),
        ({"tokens": "lead", "window": 100}, "give model.multi_scale=false"),
        ({"tokens": "time_and_lead"}, "model.window is not set"),
        ({"position": "learned"}, "model.window is not set"),
        ({"position": "learned", "window": 4}, "model.patch is 5 samples, longer than the window"),
        ({"drop_path": 1.0}, "model.drop_path is 1.0"),
    ],
)
def test_a_configuration_that_cannot_work_is_refused_with_the_way_out(cfg, message):
    with pytest.raises(ValueError, match=message):
        build(**cfg)


def test_blocks_that_are_no_patches_are_refused_while_building_and_when_they_come():
    task = SimpleNamespace(num_leads=3, cfg=SimpleNamespace(mask_block=64, sample_rate=None))
    cfg = OmegaConf.create({"_name": "ecg_mae", "in_d": 3, **TINY_MAE})
    with pytest.raises(
        ValueError, match=r"task.mask_block is 64, but model.patch is 5.*mask_block=5"
    ):
        build_model(cfg, task)
    with pytest.raises(ValueError, match="task.mask_block=5"):
        build()(torch.randn(2, 3, 100), None, draw(batch=2, blocks=10))


def test_a_recording_shorter_than_a_patch_is_refused():
    with pytest.raises(ValueError, match=r"4 samples, fewer than one patch.*task.segment_s"):
        build().encode(torch.randn(1, 3, 4))


def test_masks_that_do_not_fit_the_tokens_are_refused():
    source = torch.randn(4, 3, 100)
    with pytest.raises(ValueError, match="task.mask_mode=time_and_lead"):
        build()(source, None, draw(), of_leads())
    with pytest.raises(ValueError, match="task.mask_mode=time_and_lead"):
        build(**VARIANTS["two_decoders"])(source, None, draw())


def test_an_encoder_alone_predicts_nothing():
    with pytest.raises(ValueError, match="model.decoder=true"):
        build(decoder=False)(torch.randn(1, 3, 100))


def test_kernels_in_milliseconds_follow_the_rate_of_the_task():
    task = SimpleNamespace(num_leads=3, cfg=SimpleNamespace(mask_block=5, sample_rate=250))
    cfg = {"_name": "ecg_mae", "in_d": None, **TINY_MAE, "stem_kernels_ms": [12.0, 36.0, 76.0]}
    model = build_model(OmegaConf.create(cfg), task)
    convs = model.embedding.stem.blocks[0].convs
    assert [conv.kernel_size[0] for conv in convs] == [3, 9, 19]
    assert EcgMae.sizes_of(model.state_dict())["stem_kernels"] == [3, 9, 19]
    with pytest.raises(ValueError, match="model.sample_rate is 500, but task.sample_rate is 250"):
        build_model(OmegaConf.create({**cfg, "sample_rate": 500}), task)


# --- training -------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_learns(variant):
    model = build(**VARIANTS[variant])
    given = masks(variant)
    output = model(torch.randn(4, 3, 100), None, **given)
    loss = sum(v.square().sum() for k, v in output.items() if k.endswith("prediction"))
    loss.backward()
    idle = [name for name, p in model.named_parameters() if p.grad is None]
    assert idle == []


def test_fixed_positions_are_no_parameters_and_not_saved():
    model = build()
    assert not [key for key in model.state_dict() if "positions" in key]


@pytest.mark.parametrize(("count", "updates", "error"), [(16, 400, 0.1), (8, 400, 0.05)])
def test_the_debug_network_learns_recordings_by_heart(shared, count, updates, error):
    """Real recordings of PTB-XL, 5 s at 100 Hz, far below the two minutes that are allowed."""
    cfg = preset("mae_debug")
    source = recordings(shared, count, 500)
    source -= source.mean((1, 2), keepdim=True)
    source /= source.std((1, 2), correction=0, keepdim=True)
    mask = draw(count, 12, 50, cfg.task.mask_ratio)

    torch.manual_seed(0)
    model = build_model(OmegaConf.merge(cfg.model, {"in_d": 12}), None)
    assert error_learned(model, source, mask, cfg.optimization.lr[0], updates) < error
