"""What a network expects is compared with the recordings at hand, and differences say the way out."""

import re

import numpy as np
import pytest
import torch
from fairseq.models import build_model
from omegaconf import OmegaConf

from fairseq_ecg.contract import (
    CONTRACT_KEYS,
    INPUT_KEYS,
    ContractError,
    InputContract,
    check,
    name_prints,
    seen_in_training,
)
from fairseq_ecg.data.leads import STANDARD_LEADS
from fairseq_ecg.data.manifest import read_manifest
from tests.recordings import load, make_task, write_folder, write_tone_store
from tests.runs import CLASSIFICATION, Run
from tests.tiny import TINY_TRANSFORMER

SD = "standard deviations"
FULL = InputContract(
    rate_hz=500.0,
    leads=STANDARD_LEADS,
    unit="mV",
    standardize="none",
    normalize=False,
    filter=False,
    highpass_hz=0.0,
    lowpass_hz=0.0,
    segment_s=5.0,
    labels=("a", "b"),
    source_format="fairseq_ecg",
    trained_on={"corpus": "toy"},
)


def changed(**values) -> InputContract:
    return InputContract.from_dict({**FULL.to_dict(), **values})


# --- the form in checkpoints ----------------------------------------------------------------------


@pytest.mark.parametrize("contract", [FULL, InputContract()])
def test_the_form_in_checkpoints_is_plain_and_complete(contract):
    values = contract.to_dict()
    assert set(values) == {*CONTRACT_KEYS, "trained_on"}
    assert not any(isinstance(value, tuple) for value in values.values())
    assert InputContract.from_dict(values) == contract


def test_keys_that_are_not_known_are_left_out():
    assert InputContract.from_dict({"unit": "mV", "colour": "red"}) == InputContract(unit="mV")


# --- comparing ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expected", "given", "message"),
    [
        ({"rate_hz": 500}, {"rate_hz": 250}, "expects 500 Hz, but the recordings have 250 Hz.*--rate 500"),
        ({"leads": ["I", "II"]}, {"leads": ["I"]},
         r"expects 2 leads \(I, II\), but gets 1 \(I\): set task.leads_to_load='\[I, II\]'$"),
        ({}, {"leads": ["I"]}, r"expects 12 leads .*gets 1 \(I\).*task.enable_padding_leads=true"),
        ({"leads": ["II", "I"]}, {"leads": ["I", "II"]}, r"\(II, I\), but gets 2 \(I, II\)"),
        ({"unit": SD}, {}, "samples in standard deviations, but gets mV.*task.standardize=record"),
        ({}, {"unit": SD, "standardize": "record"}, "samples in mV, but gets standard.*standardize=none"),
        ({"normalize": True}, {}, "normalize: True, but .* False: set task.normalize=true, with task.mean"),
        ({}, {"normalize": True, "unit": SD}, "normalize: False, .*: set task.normalize=false$"),
        ({}, {"filter": True}, "filter: False, but task.filter is True: set task.filter=false"),
        ({"unit": SD, "standardize": "window"}, {}, "gets mV: set task.standardize=window, which"),
        ({"unit": SD, "standardize": "person"}, {}, "set task.standardize=person, which scales each"),
        ({}, {"unit": SD, "standardize": "window"}, "in mV, but gets standard.*standardize=none"),
        ({"unit": SD, "standardize": "window"}, {"unit": SD, "standardize": "window_lead"},
         "standardize: window, but gets window_lead: set task.standardize=window$"),
        ({"unit": SD, "standardize": "window"}, {"unit": SD, "standardize": "record"},
         "but gets record: set task.standardize=window; recordings that .* prepared again, in mV$"),
        ({"highpass_hz": 0.67}, {}, "highpass_hz: 0.67, but task.highpass_hz is null: set task.hi.*=0.67$"),
        ({}, {"lowpass_hz": 40.0}, "lowpass_hz: null, but task.lowpass_hz is 40: set .*pass_hz=null$"),
        ({}, {"labels": ["b", "a"]}, r"2 classes \(a, b, ...\), but the data have 2 \(b, a, ...\)"),
    ],
)  # fmt: skip
def test_each_difference_is_named_with_the_way_to_mend_it(expected, given, message):
    with pytest.raises(ContractError, match=f"^x.pt {'' if message.startswith('expects') else '.*'}"
                       f"{message}"):  # fmt: skip
        check(changed(**expected), changed(**given), "x.pt", (*INPUT_KEYS, "labels"))


@pytest.mark.parametrize("key", [*INPUT_KEYS, "labels"])
@pytest.mark.parametrize("side", [0, 1])
def test_what_one_side_does_not_know_is_not_compared(key, side):
    other = {"rate_hz": 1.0, "leads": ["V1"], "unit": SD, "normalize": True, "filter": True}
    sides = [changed(**{key: None}), changed(**{key: other.get(key, ["z"])})]
    check(sides[side], sides[1 - side], "x.pt", (key,))
    check(FULL, FULL, "x.pt", (*INPUT_KEYS, "labels"))


def test_all_differences_are_in_one_message_and_one_cause_is_named_once():
    with pytest.raises(ContractError) as caught:
        check(FULL, changed(rate_hz=100.0, normalize=True, unit=SD), "x.pt")
    assert str(caught.value).count("; ") == 1
    assert "100 Hz" in str(caught.value)
    assert "samples in" not in str(caught.value)
    with pytest.raises(ContractError) as caught:
        check(FULL, changed(standardize="window", unit=SD), "x.pt")
    assert "; standardize" not in str(caught.value)


def test_labels_and_length_are_not_compared_unless_asked():
    check(FULL, changed(labels=["z"], segment_s=1.0), "x.pt")


# --- who has seen what ----------------------------------------------------------------------------


def test_recordings_of_the_training_and_of_every_stage_before_it_are_found():
    fingerprints = np.array([1, 2, 3, 2**63 + 5], dtype=np.uint64)
    records = torch.from_numpy(fingerprints.view(np.int64))
    trained_on = {
        "records": records[[0]],
        "pretraining": {"records": records[[1]], "pretraining": {"records": records[[1, 3]]}},
    }
    own, pretraining = seen_in_training(trained_on, fingerprints)
    assert own.tolist() == [True, False, False, False]
    assert pretraining.tolist() == [False, True, False, True]


@pytest.mark.parametrize("trained_on", [{}, {"corpus": "toy"}, {"records": [1], "pretraining": {}}])
def test_what_is_not_known_counts_as_not_seen(trained_on):
    own, pretraining = seen_in_training(trained_on, np.array([7], dtype=np.uint64))
    assert not own.any()
    assert not pretraining.any()
    for found in seen_in_training(trained_on, np.empty(0, dtype=np.uint64)):
        assert found.shape == (0,)
    nobody = np.empty(0, dtype=np.uint64)
    assert seen_in_training(trained_on, nobody, ["a", "b"])[0].tolist() == [False, False]


def test_where_content_is_not_known_on_one_side_names_decide():
    prints = name_prints(["one_0.mat", "two_1.mat"]).view(np.int64)
    contents = np.array([1, 2, 3], dtype=np.uint64)
    names = ["elsewhere/one_1.mat", "three_0.mat", "two"]
    files = {"records": torch.empty(0, dtype=torch.int64), "names": torch.from_numpy(prints)}
    store = {"records": torch.tensor([3]), "names": torch.from_numpy(prints)}
    nothing = np.empty(0, dtype=np.uint64)
    for trained_on, fingerprints in ((files, nothing), (files, contents), (store, nothing)):
        seen, _ = seen_in_training(trained_on, fingerprints, names)
        assert seen.tolist() == [True, False, True]
    seen, earlier = seen_in_training({**store, "pretraining": files}, contents, names)
    assert (seen.tolist(), earlier.tolist()) == ([False, False, True], [True, False, True])


def test_a_name_is_that_of_the_recording_wherever_its_file_lies():
    same = ["a/b_0.mat", "b_12.mat", "b.mat", "c/b.hea", "b"]
    assert len(set(name_prints(same).tolist())) == 1
    others = ["b_0", "b_0.hea", "a_b", "b_x.mat", "b\udcff"]  # names that are no UTF-8, too
    assert len(set(name_prints([*others, "b"]).tolist())) == 5


# --- training from a checkpoint -------------------------------------------------------------------


@pytest.fixture
def data(tmp_path):
    return write_folder(tmp_path / "data", [200, 200], labels=["a", "a;b"])


def pretrained(path, **contract):
    """Write the checkpoint of a small encoder with this contract."""
    model = build_model(OmegaConf.create({"_name": "ecg_transformer", **TINY_TRANSFORMER}), None)
    values = {**FULL.to_dict(), "rate_hz": 100.0, "labels": None, **contract}
    cfg = {"model": {"_name": "ecg_transformer", **TINY_TRANSFORMER}, "task": {}}
    state = {"input_contract": values}
    torch.save({"cfg": cfg, "model": model.state_dict(), "task_state": state}, path)
    return str(path)


def start(task, model_path):
    """Do what a run does before its first update."""
    cfg = {"_name": "ecg_transformer_classifier", "model_path": model_path}
    task.build_model(OmegaConf.create(cfg))
    load(task, "valid")
    load(task, "train")
    return task


def test_recordings_that_fit_are_trained_on_and_the_contract_names_both_stages(data, tmp_path):
    earlier = {"corpus": "big", "records": torch.tensor([4, 5])}
    path = pretrained(tmp_path / "a.pt", trained_on=earlier)
    task = start(make_task("ecg_classification", data), path)
    contract = task.state.input_contract
    assert contract["trained_on"]["corpus"] == "wfdb"
    assert contract["trained_on"]["pretraining"]["corpus"] == "big"
    assert contract["standardize"] == "none"
    names = read_manifest(data / "train.tsv").recordings()[0]
    nothing = np.empty(0, dtype=np.uint64)  # of files, only the names are known
    seen, _ = seen_in_training(contract["trained_on"], nothing, [*names, "another"])
    assert seen.tolist() == [*([True] * len(names)), False]
    # a resumed run whose pretrained file is gone
    again = make_task("ecg_classification", data)
    again.load_state_dict({"input_contract": contract})
    load(again, "train")
    assert again.state.input_contract["trained_on"]["pretraining"]["corpus"] == "big"


@pytest.mark.parametrize(
    ("contract", "keys", "message"),
    [
        ({"rate_hz": 500.0}, {}, "expects 500 Hz, but the recordings have 100 Hz.*--rate 500"),
        ({}, {"leads_to_load": "I,II"}, "takes 12 leads, but the task gives 2: .*leads_to_load=P-3"),
        ({"unit": SD, "standardize": "record"}, {}, "expects samples in standard deviations.*gets mV"),
        ({}, {"standardize": "record"}, "expects samples in mV, but gets standard deviations"),
        ({}, {"filter": True}, "set task.filter=false"),
        ({"unit": SD, "standardize": "window"}, {}, "samples in .*set task.standardize=window"),
        ({"unit": SD, "standardize": "window"}, {"standardize": "record"}, "but gets record"),
        ({"highpass_hz": 0.67}, {}, "set task.highpass_hz=0.67"),
        ({}, {"lowpass_hz": 40.0}, "set task.lowpass_hz=null"),
        ({"normalize": True}, {}, "set task.normalize=true"),
    ],
)  # fmt: skip
def test_other_recordings_are_refused_before_the_first_update(
    data, tmp_path, contract, keys, message
):
    path = pretrained(tmp_path / "a.pt", **contract)
    with pytest.raises(ContractError, match=f"^the encoder in {path} .*{message}"):
        start(make_task("ecg_classification", data, **keys), path)


@pytest.mark.parametrize(
    ("contract", "keys"),
    [
        ({"unit": SD, "standardize": "record"}, {"standardize": "record"}),
        ({"unit": SD, "standardize": "window_lead"}, {"standardize": "window_lead"}),
        ({"unit": SD, "standardize": "person"}, {"standardize": "person"}),
        ({"highpass_hz": 0.67, "lowpass_hz": 40.0}, {"highpass_hz": 0.67, "lowpass_hz": 40.0}),
        ({"highpass_hz": None, "lowpass_hz": None}, {"highpass_hz": 0.67, "lowpass_hz": 40.0}),
        ({}, {"leads_to_load": "I,II", "enable_padding_leads": True}),
        ({"rate_hz": None, "unit": None, "leads": None}, {"filter": False}),
    ],
)
def test_the_way_out_that_a_refusal_names_works(data, tmp_path, contract, keys):
    start(make_task("ecg_classification", data, **keys), pretrained(tmp_path / "a.pt", **contract))


def test_what_may_differ_is_logged_once_and_the_rest_is_still_compared(data, tmp_path, caplog):
    path = pretrained(tmp_path / "a.pt", rate_hz=500.0)
    task = start(make_task("ecg_classification", data, contract_ignores=["rate_hz"]), path)
    remark = f"the encoder in {path} expects rate_hz: 500.0, but gets 100.0; task.contract_ignores"
    assert sum(remark in line.message for line in caplog.records) == 1
    assert task.state.input_contract["rate_hz"] == 100.0
    task = make_task("ecg_classification", data, contract_ignores=["rate_hz"], filter=True)
    with pytest.raises(ContractError, match="set task.filter=false"):
        start(task, path)


def test_a_fine_tuned_network_is_evaluated_with_nothing_left_out(data):
    task = make_task("ecg_classification", data, contract_ignores=["rate_hz"])
    task.expect(changed(rate_hz=500.0, labels=None), "its checkpoint")
    with pytest.raises(ContractError, match="its checkpoint expects 500 Hz"):
        load(task, "valid")


def test_only_what_is_compared_can_be_left_out(data):
    with pytest.raises(ValueError, match=r"names 'rate', which is not compared.*rate_hz"):
        make_task("ecg_classification", data, contract_ignores=["rate"])


def test_without_a_pretrained_encoder_nothing_is_expected(data):
    task = make_task("ecg_classification", data, filter=True)
    cfg = {"_name": "ecg_transformer_classifier", "num_labels": 2, **TINY_TRANSFORMER}
    task.build_model(OmegaConf.create(cfg))
    load(task, "train")
    assert "pretraining" not in task.state.input_contract["trained_on"]


def test_a_run_stops_with_the_message_and_writes_no_checkpoint(tmp_path):
    folder = write_tone_store(tmp_path / "data")
    path = pretrained(tmp_path / "a.pt", rate_hz=500.0)
    run = Run(tmp_path / "run", [
        *CLASSIFICATION, f"task.data={folder}", "optimization.max_epoch=1",
        f"model.model_path={path}", "model.no_pretrained_weights=false",
    ])  # fmt: skip
    assert run.wait() == 2
    refused = "fairseq-ecg: error: the encoder in .*expects 500 Hz, but the recordings have 100 Hz"
    assert len(re.findall(refused, run.output)) == 1
    assert "Traceback" not in run.output
    assert not list(run.cwd.rglob("*.pt"))
