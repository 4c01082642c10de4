"""The registry of perturbations: what is in it, how it is built, what it gives the tasks."""

import dataclasses

import numpy as np
import pytest
from fairseq.dataclass import FairseqDataclass
from omegaconf import OmegaConf

from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.signal import EcgSignal
from fairseq_ecg.transforms import perturbation as registry
from fairseq_ecg.transforms.lead_mask import LeadMask
from fairseq_ecg.transforms.noise import BaselineShift, BaselineWander, EmgNoise, PowerlineNoise
from fairseq_ecg.transforms.perturbation import (
    Perturbation,
    available_perturbations,
    build_perturbation,
    config_of_perturbations,
    option,
    perturbation_keys,
    register_perturbation,
)
from fairseq_ecg.transforms.scale_shift_noise_warp import ScaleShiftNoiseWarp
from fairseq_ecg.transforms.vectorcardiogram import VectorcardiogramAugment

NAMES = {
    "3kg": VectorcardiogramAugment,
    "baseline_shift": BaselineShift,
    "baseline_wander": BaselineWander,
    "emg_noise": EmgNoise,
    "powerline_noise": PowerlineNoise,
    "random_leads_masking": LeadMask,
    "scale_shift_noise_warp": ScaleShiftNoiseWarp,
}
# Names and defaults of fairseq-signals' task.
FAIRSEQ_SIGNALS = {
    "max_amplitude": 0.1,
    "min_amplitude": 0.0,
    "dependency": True,
    "shift_ratio": 0.2,
    "num_segment": 1,
    "max_freq": 0.2,
    "min_freq": 0.01,
    "k": 3,
    "mask_leads_selection": "random",
    "mask_leads_prob": 0.5,
    "mask_leads_condition": [4, 5],
    "angle": 45.0,
    "scale": 1.5,
    "mask_ratio": 0.5,
}

# Keys of scale_shift_noise_warp, with other values than their defaults.
VIEW_KEYS = {
    "view_chance": 0.4,
    "view_scaling": [0.9, 1.3],
    "view_shift_s": 0.2,
    "view_snr_db": [5.0, 20.0],
    "view_warp_pieces": 4,
    "view_warp_factor": [1.0, 1.2],
}


def signal(leads=STANDARD_LEADS, rate_hz=250.0, n=500):
    values = np.random.default_rng(5).normal(size=(len(leads), n)).astype(np.float32)
    return EcgSignal(values, rate_hz, tuple(leads))


@pytest.fixture
def own_registry(monkeypatch):
    """Let a test register what is gone again after it."""
    available_perturbations()
    monkeypatch.setattr(registry, "_PERTURBATIONS", dict(registry._PERTURBATIONS))


def test_the_names_are_those_of_fairseq_signals_and_ours():
    assert available_perturbations() == NAMES


def test_the_keys_of_fairseq_signals_keep_their_names_and_defaults():
    cfg = OmegaConf.structured(config_of_perturbations(FairseqDataclass))
    values = OmegaConf.to_container(cfg)
    assert {key: values[key] for key in FAIRSEQ_SIGNALS} == FAIRSEQ_SIGNALS
    assert set(values) - set(FAIRSEQ_SIGNALS) == {"_name", "powerline_hz", *VIEW_KEYS}
    assert values["powerline_hz"] == [50.0, 60.0]


def test_lists_of_two_configurations_are_not_one_list():
    config = config_of_perturbations(FairseqDataclass)
    config().powerline_hz.append(16.7)
    assert config().powerline_hz == [50.0, 60.0]


def test_every_key_has_a_help_text_that_names_its_unit():
    for key, field in perturbation_keys().items():
        assert field.metadata["help"].endswith(field.metadata["unit"]), key
    assert perturbation_keys()["max_freq"].metadata["help"] == (
        "baseline_wander: largest frequency, in Hz"
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_perturbation_is_built_from_its_name_with_the_keys_that_are_its_own(name):
    ours = {**VIEW_KEYS, "powerline_hz": [50.0]}
    options = {**FAIRSEQ_SIGNALS, **ours, "max_amplitude": 0.3, "angle": 30.0}
    built = build_perturbation(name, 0.25, options)
    assert type(built) is NAMES[name]
    assert built.p == 0.25
    for field in dataclasses.fields(built):
        assert field.name == "p" or getattr(built, field.name) == options[field.name]


def test_keys_that_are_left_out_have_their_defaults():
    assert build_perturbation("emg_noise", 1.0, {}) == EmgNoise()


@pytest.mark.parametrize("name", NAMES)
def test_p_0_changes_nothing_and_p_1_always_something(name):
    never, always = (build_perturbation(name, p, {}) for p in (0.0, 1.0))
    before = signal().values_mv
    for seed in range(30):
        same = signal()
        assert never(same, np.random.default_rng(seed)) is same
        np.testing.assert_array_equal(same.values_mv, before)
        changed = always(signal(), np.random.default_rng(seed)).values_mv
        assert not np.array_equal(changed, before)


@pytest.mark.parametrize("name", NAMES)
def test_p_is_the_share_of_segments_that_are_touched(name):
    sometimes = build_perturbation(name, 0.3, {})
    rng = np.random.default_rng(0)
    before = signal(n=50).values_mv
    touched = [
        not np.array_equal(sometimes(signal(n=50), rng).values_mv, before) for _ in range(600)
    ]
    assert np.mean(touched) == pytest.approx(0.3, abs=0.08)


@pytest.mark.parametrize("name", NAMES)
def test_the_generator_decides_and_the_values_change_in_place_as_float32(name):
    build = build_perturbation(name, 1.0, {})
    results = []
    for seed in (1, 1, 2):
        given = signal()
        values = given.values_mv
        result = build(given, np.random.default_rng(seed))
        assert result.values_mv is values
        assert values.dtype == np.float32
        assert values.shape == (12, 500)
        assert np.isfinite(values).all()
        results.append(values)
    one, again, other = results
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one, other)


def one_of(row, leads, n):
    values = np.random.default_rng((5, row)).normal(size=(len(leads), n)).astype(np.float32)
    return EcgSignal(values, 250.0, leads)


@pytest.mark.parametrize("p", [0.5, 1.0])
@pytest.mark.parametrize("n", [1, 64, 65, 501])
@pytest.mark.parametrize(
    ("name", "options", "leads"),
    [
        *((name, {}, STANDARD_LEADS) for name in NAMES),
        *((name, {}, ("V1", "aVL")) for name in NAMES if name != "3kg"),
        ("baseline_wander", {"k": 5, "max_freq": 40.0, "dependency": False}, STANDARD_LEADS),
        ("baseline_shift", {"num_segment": 4, "shift_ratio": 0.4}, STANDARD_LEADS),
        ("random_leads_masking", {"mask_leads_selection": "conditional"}, STANDARD_LEADS),
    ],
)
def test_a_signal_of_a_batch_is_to_the_bit_what_it_is_alone(name, options, leads, n, p):
    perturbation = build_perturbation(name, p, options)
    alone, following = [], []
    for row in range(12):
        rng = np.random.default_rng((7, row))
        alone.append(perturbation(one_of(row, leads, n), rng).values_mv)
        following.append(rng.random())
    if n > 1:  # a span of a fifth of one sample is none
        touched = [not np.array_equal(alone[r], one_of(r, leads, n).values_mv) for r in range(12)]
        assert any(touched)
        assert p == 1 or not all(touched)
    for batch in (range(12), range(11, -1, -1), [3], [5, 0], [2, 9, 4, 7, 11], [8, 1, 6]):
        signals = [one_of(row, leads, n) for row in batch]
        rngs = [np.random.default_rng((7, row)) for row in batch]
        assert perturbation.batch(signals, rngs) is signals
        for row, given, rng in zip(batch, signals, rngs, strict=True):
            np.testing.assert_array_equal(given.values_mv, alone[row])
            assert rng.random() == following[row]


def test_a_batch_with_fewer_generators_than_signals_is_refused():
    with pytest.raises(ValueError, match="shorter"):
        EmgNoise().batch([signal(), signal()], [np.random.default_rng(0)])


@pytest.mark.parametrize("name", NAMES)
def test_numpys_global_generator_is_not_touched(name):
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    build_perturbation(name, 1.0, {})(signal(), np.random.default_rng(0))
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize(
    ("name", "p", "options", "message"),
    [
        ("emg", 1.0, {}, "perturbation_mode: no 'emg'; near: emg_noise; there are: 3kg, baseline"),
        ("powerline", 1.0, {}, "no 'powerline'; near: powerline_noise; there are"),
        ("zzz", 1.0, {}, "no 'zzz'; there are: 3kg, baseline_shift, baseline_wander, emg_noise, p"),
        (3, 1.0, {}, "no 3; "),
        ("emg_noise", -0.1, {}, r"task.p must lie in \[0, 1\], but emg_noise has -0.1"),
        ("emg_noise", float("nan"), {}, r"task.p must lie in \[0, 1\].*has nan"),
        (
            "emg_noise",
            1.0,
            {"max_amplitude": -1},
            "task.max_amplitude must be finite and at least 0, got -1",
        ),
        ("emg_noise", 1.0, {"max_amplitude": float("nan")}, "task.max_amplitude .* got nan"),
        ("emg_noise", 1.0, {"max_amplitude": float("inf")}, "task.max_amplitude .* got inf"),
        ("emg_noise", 1.0, {"max_amplitude": "x"}, "task.max_amplitude .* got 'x'"),
        (
            "emg_noise",
            1.0,
            {"min_amplitude": -0.1},
            "task.min_amplitude must be finite and at least 0",
        ),
        (
            "baseline_shift",
            1.0,
            {"min_amplitude": 0.2},
            "task.min_amplitude must not exceed max_amplitude=0.1, got 0.2",
        ),
        ("baseline_wander", 1.0, {"min_freq": 0.3}, "task.min_freq must not exceed max_freq=0.2"),
        ("baseline_wander", 1.0, {"max_freq": -1}, "task.max_freq must be finite and at least 0"),
        ("baseline_wander", 1.0, {"k": 0}, "task.k must be finite and at least 1, got 0"),
        ("baseline_shift", 1.0, {"shift_ratio": 1.1}, r"task.shift_ratio must lie in \[0, 1\]"),
        (
            "baseline_shift",
            1.0,
            {"num_segment": 0},
            "task.num_segment must be finite and at least 1",
        ),
        ("powerline_noise", 1.0, {"powerline_hz": []}, r"task.powerline_hz must be .* got \[\]"),
        ("powerline_noise", 1.0, {"powerline_hz": [50, 0]}, r"task.powerline_hz .*\[50, 0\]"),
        ("powerline_noise", 1.0, {"powerline_hz": "50"}, "task.powerline_hz .* got '50'"),
        ("3kg", 1.0, {"angle": 181}, r"task.angle must lie in \[0, 180\], got 181"),
        ("3kg", 1.0, {"scale": 0.9}, "task.scale must be finite and at least 1, got 0.9"),
        ("3kg", 1.0, {"mask_ratio": -0.1}, r"task.mask_ratio must lie in \[0, 1\], got -0.1"),
        (
            "random_leads_masking",
            1.0,
            {"mask_leads_selection": "x"},
            "task.*='x' must be random or c",
        ),
        ("random_leads_masking", 1.0, {"mask_leads_prob": -1}, r"lie in \[0, 1\], got -1"),
        (
            "random_leads_masking",
            1.0,
            {"mask_leads_selection": "conditional", "mask_leads_condition": (4, -5)},
            r"two whole numbers, of limb and of chest leads to mask, got \(4, -5\)",
        ),
        (
            "random_leads_masking",
            1.0,
            {"mask_leads_selection": "conditional", "mask_leads_condition": 4},
            "two whole numbers, of limb and of chest leads to mask, got 4",
        ),
    ],
)
def test_what_cannot_be_built_is_refused_with_its_key(name, p, options, message):
    with pytest.raises(ValueError, match=message):
        build_perturbation(name, p, options)


def test_a_class_that_is_registered_brings_its_keys_along(own_registry):
    @register_perturbation("gain")
    @dataclasses.dataclass(frozen=True)
    class Gain(Perturbation):
        gain: float = option(2.0, "gain: factor", low=0)

        def draw(self, given, rng):
            return ()

        def apply(self, signals):
            for given in signals:
                given.values_mv[:] *= self.gain

    assert "gain" in available_perturbations()
    assert config_of_perturbations(FairseqDataclass)().gain == 2.0
    doubled = build_perturbation("gain", 1.0, {"gain": 3.0})(signal(), np.random.default_rng(0))
    np.testing.assert_allclose(doubled.values_mv, 3 * signal().values_mv)


def test_a_name_or_a_key_with_two_meanings_is_refused(own_registry):
    @dataclasses.dataclass(frozen=True)
    class Other(Perturbation):
        max_amplitude: float = option(0.5, "noises: largest amplitude", "mV", low=0)

        def draw(self, given, rng):
            return ()

        def apply(self, signals):
            """Do nothing."""

    with pytest.raises(ValueError, match="'emg_noise' is registered already"):
        register_perturbation("emg_noise")(Other)
    register_perturbation("other")(Other)
    with pytest.raises(ValueError, match="declares max_amplitude in another way"):
        perturbation_keys()
