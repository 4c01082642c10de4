"""The command line: user directory, presets, order of words, refusals before any work."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

import fairseq_ecg_launch as launch
from fairseq_ecg.contract import ContractError
from tests.runs import CLASSIFICATION, PRETRAINING, Run, logged, train, write_segments

REPOSITORY = Path(__file__).resolve().parents[1]
PRESETS = sorted(REPOSITORY.glob("examples/**/*.yaml"))


@pytest.fixture(scope="module")
def segments(tmp_path_factory):
    return write_segments(tmp_path_factory.mktemp("segments") / "data")


def refusal(*arguments: str) -> str:
    """Return the message with which a command line is refused before any work."""

    def prepare() -> None:
        line = launch.CommandLine(arguments)
        launch.check_preset_exists(line)
        launch.compose(line)

    with pytest.raises(launch.LaunchError) as error:
        prepare()
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize(
    "words",
    [
        ["--user-dir", "fairseq_ecg"],
        ["--user-dir=fairseq_ecg"],
        ["common.user_dir=fairseq_ecg"],
        ["--user-dir", str(REPOSITORY / "fairseq_ecg")],
        [],
    ],
)
def test_the_user_directory_is_found_from_any_working_directory(words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    line = launch.CommandLine([*words, "--config-name", "x"])
    assert line.user_dir == REPOSITORY / "fairseq_ecg"
    assert f"common.user_dir='{REPOSITORY}/fairseq_ecg'" in line.for_hydra()


def test_a_user_directory_that_is_neither_folder_nor_package_is_refused():
    with pytest.raises(launch.LaunchError, match="no_such_package: neither a folder"):
        launch.CommandLine(["--user-dir", "no_such_package"])


def test_options_and_overrides_may_stand_in_any_order():
    line = launch.CommandLine(
        ["task.data=/d", "--config-name", "p.yaml", "common.seed=3", "--config-dir=/c", "-m"]
    )
    assert line.for_hydra()[:-1] == [
        *["--config-name", "p.yaml", "--config-dir", "/c", "-m"],
        *["++task.data=/d", "common.seed=3", "dataset.ignore_unused_valid_subsets=true"],
    ]
    assert (line.config_name, line.config_dir, line.sweeps) == ("p", "/c", True)


def test_of_a_sweep_the_first_job_is_checked_before_the_start(segments):
    words = [*PRETRAINING, "-m", "common.seed=range(3,6)", "optimization.lr=[0.1],[0.2]"]
    cfg = launch.compose(launch.CommandLine([*words, f"task.data={segments},/nowhere"]))
    assert (cfg.task.data, cfg.common.seed, cfg.optimization.lr) == (str(segments), 3, [0.1])
    with pytest.raises(launch.LaunchError, match="task.data=/nowhere is not a folder"):
        launch.compose(launch.CommandLine([*words, f"task.data=/nowhere,{segments}"]))


def test_a_preset_that_is_no_yaml_is_refused_with_its_path(tmp_path, segments):
    (tmp_path / "bad.yaml").write_text("task: {data: [}\n")
    line = launch.CommandLine(["--config-dir", str(tmp_path), "--config-name", "bad"])
    with pytest.raises(launch.LaunchError, match=r"bad.yaml is no YAML: while parsing"):
        launch.compose(line)


def test_an_option_without_its_value_is_refused():
    with pytest.raises(launch.LaunchError, match="--config-name needs a value"):
        launch.CommandLine(["--config-name"])


def test_a_config_dir_of_a_checkout_is_found_in_the_installed_package_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["--config-dir", "examples/w2v_cmsc/config/pretraining", "--config-name", "w2v_cmsc"]
    line = launch.CommandLine(words)
    assert (Path(line.config_dir) / "w2v_cmsc.yaml").is_file()
    assert line.for_hydra()[:2] == ["--config-dir", line.config_dir]
    below = launch.CommandLine(
        ["--config-dir", "examples/w2v_cmsc/config/finetuning", "--config-name", "diagnosis"]
    )
    assert (Path(below.config_dir) / "diagnosis.yaml").is_file()
    assert below.for_hydra()[1] == below.config_dir
    other = launch.CommandLine(["--config-dir", "examples/cmsc", "--config-name", "w2v_cmsc"])
    with pytest.raises(launch.LaunchError, match="no preset 'w2v_cmsc' in .*examples/cmsc; there"):
        launch.check_preset_exists(other)
    line = launch.CommandLine(["--config-dir", "examples/none", "--config-name", "w2v_cmsc"])
    with pytest.raises(launch.LaunchError, match="--config-dir examples/none is not a folder"):
        launch.check_preset_exists(line)


# Commands of the READMEs of fairseq-signals and ECG-FM; only --user-dir is added.
_PRETRAINED = ["task.data={data}", "--config-dir"]
_FINETUNED = ["task.data={data}", "model.model_path={checkpoint}", "--config-dir"]
DOCUMENTED = [
    [*_PRETRAINED, "examples/w2v_cmsc/config/pretraining", "--config-name", "w2v_cmsc_rlm"],
    [*_PRETRAINED, "examples/cmsc/config/pretraining/ecg_transformer", "--config-name", "cmsc"],
    [*_PRETRAINED, "examples/simclr/config/pretraining", "--config-name", "simclr_rlm"],
    [
        *_PRETRAINED,
        "examples/simclr/config/pretraining/ecg_transformer",
        "--config-name",
        "simclr_augs",
    ],
    [*_PRETRAINED, "examples/3kg/config/pretraining/ecg_transformer", "--config-name", "3kg"],
    [*_PRETRAINED, "examples/wav2vec2/config/pretraining", "--config-name", "w2v_augs"],
    [
        *_FINETUNED,
        "examples/w2v_cmsc/config/finetuning/ecg_transformer",
        "--config-name",
        "diagnosis",
    ],
    [*_FINETUNED, "examples/wav2vec2/config/finetuning", "--config-name", "diagnosis"],
    [
        *("task.data={data}", "model.model_path={checkpoint}", "model.num_labels=3"),
        *("optimization.lr=[1e-06]", "optimization.max_epoch=140", "dataset.batch_size=256"),
        *("dataset.num_workers=5", "dataset.disable_validation=true"),
        *("distributed_training.distributed_world_size=1",),
        *("distributed_training.find_unused_parameters=True", "checkpoint.save_dir=out"),
        *("checkpoint.save_interval=1", "checkpoint.keep_last_epochs=0", "common.log_format=csv"),
        *("+task.label_file={labels}", "+criterion.pos_weight=[2.0, 3.5, 1.0]"),
        *("--config-dir", "examples/w2v_cmsc/config/finetuning/ecg_transformer"),
        *("--config-name", "diagnosis"),
    ],
]


@pytest.mark.parametrize("words", DOCUMENTED, ids=lambda words: f"{words[-3]} {words[-1]}")
def test_documented_commands_of_fairseq_signals_are_taken_as_they_are(
    words, segments, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pretrained.pt").touch()
    np.save("y.npy", np.zeros((22, 3)))
    known = {"data": segments, "checkpoint": "pretrained.pt", "labels": "y.npy"}
    words = [word.format(**known) for word in words]
    one_gpu = ["distributed_training.distributed_world_size=1"]
    cfg = launch.compose(launch.CommandLine(["--user-dir", "fairseq_ecg", *words, *one_gpu]))
    assert cfg.task.data == str(segments)
    assert cfg.common.log_format == "json"
    assert cfg.dataset.ignore_unused_valid_subsets
    if "criterion.pos_weight" in str(words):
        assert cfg.criterion.pos_weight == [2.0, 3.5, 1.0]
        assert cfg.task.label_file == "y.npy"


def test_a_preset_written_for_fairseq_signals_runs(tmp_path, segments):
    """With their spellings: betas as text, ??? for what is not needed, no section for hydra."""
    preset = """
common: {log_format: json, log_interval: 1, all_gather_list_size: 2048000}
checkpoint: {save_interval: 1, keep_last_epochs: 1, save_interval_updates: 0, no_epoch_checkpoints: false}
task: {_name: ecg_classification, data: "???", normalize: false, enable_padding: true, leads_to_load: null}
dataset: {num_workers: 0, max_tokens: null, batch_size: 4, valid_subset: "valid"}
distributed_training: {distributed_world_size: 1}
criterion: {_name: binary_cross_entropy_with_logits, report_auc: true, report_cinc_score: false, weights_file: "???"}
optimization: {max_epoch: 1, max_update: 2, lr: [0.00005]}
optimizer: {_name: adam, adam_betas: "(0.9, 0.98)", adam_eps: 1e-08}
lr_scheduler: {_name: fixed, warmup_updates: 0}
model: {_name: ecg_transformer_classifier, model_path: null, no_pretrained_weights: true, num_labels: 3,
  feature_grad_mult: 0.1, in_d: 12, encoder_layers: 1, encoder_embed_dim: 16, encoder_ffn_embed_dim: 16,
  encoder_attention_heads: 2, conv_pos: 8, conv_pos_groups: 2, conv_feature_layers: "[(8, 2, 2)] * 3"}
"""
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "old.yaml").write_text(preset)
    (segments / "valid_gallery.tsv").write_text((segments / "valid.tsv").read_text())
    words = ["--config-dir", str(tmp_path / "theirs"), "--config-name", "old"]
    words += [f"task.data={segments}", f"checkpoint.save_dir={tmp_path}/checkpoints"]
    run = train(tmp_path / "run", words)
    (segments / "valid_gallery.tsv").unlink()
    assert logged(run.cwd)[-1]["num_updates"] == 2
    assert (tmp_path / "checkpoints" / "checkpoint_last.pt").is_file()


def test_presets_of_one_name_are_one_preset_and_every_one_is_found():
    """A name alone must mean the same whichever folder is searched first."""
    texts = {}
    for path in PRESETS:
        assert texts.setdefault(path.stem, path.read_text()) == path.read_text(), path
    assert {path.parent for path in PRESETS} <= set(launch.preset_folders())


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--config-name", "w2v_cmsc_rml"], "no preset 'w2v_cmsc_rml'.*did you mean w2v_cmsc_rlm"),
        (["--config-dir", "/nowhere", "--config-name", "x"], "--config-dir /nowhere is not a folder"),
        ([], "--config-name is missing; presets: .*w2v_cmsc_rlm"),
        ([*PRETRAINING], "task.data has no value: give task.data="),
        ([*PRETRAINING, "task.data=/nowhere"], "task.data=/nowhere is not a folder"),
        ([*PRETRAINING, "task.data={tmp}"], "has no train.tsv"),
        ([*PRETRAINING, "task.data={data}", "dataset.valid_subset=vald"], "no vald.tsv; did you mean valid"),
        ([*PRETRAINING, "task.data={data}", "datset.batch_size=3"], "unknown key datset.batch_size|unknown.*datset"),
        ([*PRETRAINING, "task.data={data}", "+datset.batch_size=3"], "unknown section 'datset'; did you mean dataset"),
        ([*PRETRAINING, "task.data={data}", "optimisation.max_update=3"], "unknown key optimisation.max_update; did you mean optimization"),
        (["--config-name", "diagnosis_small", "task.data={data}"], "model.model_path has no value"),
        ([*CLASSIFICATION, "task.data={data}", "model.model_path={tmp}"], "model.model_path=.* is a folder, not a file"),
        ([*PRETRAINING, "task.data={data}", "dataset.batch_sise=3"], "dataset.batch_sise; did you mean batch_size"),
        ([*PRETRAINING, "task.data={data}", "+common.sed=3"], "unknown key common.sed; did you mean seed"),
        ([*PRETRAINING, "task.data={data}", "task.segments=3"], "unknown key task.segments of ecg_pretraining; did you mean segment_s"),
        ([*PRETRAINING, "task.data={data}", "+task.segments=3"], "unknown key task.segments of ecg_pretraining; did you mean segment_s"),
        ([*PRETRAINING, "task.data={data}", "model.encoder_layer=3"], "did you mean encoder_layers"),
        ([*PRETRAINING, "task.data={data}", "model.encoder_layers=many"], "model.encoder_layers='many'.*could not be converted to Integer"),
        ([*PRETRAINING, "task.data={data}", "dataset.batch_size=many"], "batch_size.*could not be converted to Integer|Value 'many'"),
        ([*PRETRAINING, "task.data={data}", "optimizer.adam_bets=[0.9,0.9]"], "did you mean adam_betas"),
        ([*PRETRAINING, "task.data={data}", "model._name=wav2vec2"], "model._name=wav2vec2 is stock.*model._name=ecg_wav2vec2"),
        ([*PRETRAINING, "task.data={data}", "criterion._name=clocs"], "criterion._name=clocs is stock.*criterion._name=cmsc"),
        ([*PRETRAINING, "task.data={data}", "criterion._name=binary_cross_entropy"], "criterion._name=binary_cross_entropy_with_logits"),
        ([*PRETRAINING, "task.data={data}", "task.perturbation_mode=[emg]"], "task.perturbation_mode: no 'emg'; near: emg_noise; there are: 3kg, "),
        ([*CLASSIFICATION, "task.data={data}", "criterion.report_cinc_score=true"], "report_cinc_score needs the 26 classes"),
        ([*PRETRAINING, "task.data={data}", "task._name=ecg_pretrain"], "no task is called 'ecg_pretrain'; did you mean ecg_pretraining"),
        ([*PRETRAINING, "task.data={data}", "checkpoint.restore_file=lost.pt"], "checkpoint.restore_file=lost.pt does not exist"),
        ([*CLASSIFICATION, "task.data={data}", "checkpoint.best_checkpoint_metric=auroq"], "is never logged.*did you mean .*auroc"),
        ([*PRETRAINING, "task.data={data}", "checkpoint.best_checkpoint_metric=auroc"], "is never logged.*it logs: loss, loss_0"),
        ([*PRETRAINING, "task.data={data}", "criterion.log_keys=[prob_perplexty]"], "log_keys has 'prob_perplexty'; what can be"),
        ([*PRETRAINING, "task.data={data}", "model.mask_prob=0"], "apply_mask is set, but model.mask_prob is 0"),
        ([*PRETRAINING, "task.data={data}", "model.final_dim=0"], "model.final_dim is 0; give the width"),
        ([*PRETRAINING, "task.data={data}", "model.conv_feature_layers=open"], "open"),
        ([*CLASSIFICATION, "task.data={data}", "model.model_path=lost.pt"], "model.model_path=lost.pt does not exist"),
        ([*PRETRAINING, "task.data={data}", "distributed_training.distributed_world_size=4"], "distributed_world_size=4, but this machine has 0 GPUs.*torchrun"),
    ],
)  # fmt: skip
def test_a_mistake_is_refused_by_name_with_its_near_misses(arguments, expected, segments, tmp_path):
    words = [word.format(data=segments, tmp=tmp_path) for word in arguments]
    assert re.search(expected, refusal(*words))


def test_a_refusal_ends_with_status_2_one_line_and_leaves_nothing(tmp_path, segments):
    run = Run(tmp_path, [*PRETRAINING, f"task.data={segments}", "+common.sed=3"])
    assert run.wait() == 2
    assert run.output.count("error: unknown key common.sed") == 1
    assert not (tmp_path / "run").exists()


def raised(body: str, function: str, module: str, path: Path) -> ValueError:
    """Return what a function of a module raises, with the traceback it then has."""
    imports = "import numpy as np\nfrom fairseq_ecg.contract import ContractError\n"
    path.write_text(f"{imports}def {function}():\n    {body}\n")
    spec = importlib.util.spec_from_file_location(module, path)
    toy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(toy)
    with pytest.raises(ValueError) as caught:
        getattr(toy, function)()
    return caught.value


@pytest.mark.parametrize(
    ("body", "function", "module", "expected"),
    [
        ("raise ValueError('too short')", "build_model", "fairseq_ecg.models.toy", True),
        ("raise ValueError('too short')", "load_dataset", "fairseq_ecg.tasks.toy", True),
        ("raise ContractError('rate')", "load_checkpoint", "fairseq.checkpoint_utils", True),
        ("raise ValueError('too short')", "train_step", "fairseq_ecg.tasks.toy", False),
        ("raise ContractError('rate')", "train_step", "fairseq_ecg.tasks.toy", False),
        ("raise ValueError('too short')", "build_model", "fairseq.tasks.toy", False),
        ("raise ValueError('too short')", "build_model", "fairseq_ecg_other.toy", False),
        ("int('x')", "build_model", "fairseq_ecg.models.toy", False),
        ("a, b = [1]", "build_criterion", "fairseq_ecg.criterions.toy", False),
        ("np.zeros(2) + np.zeros(3)", "setup_task", "fairseq_ecg.tasks.toy", False),
    ],
)
def test_only_what_our_code_raises_on_purpose_while_building_is_a_refusal(
    body, function, module, expected, tmp_path
):
    error = raised(body, function, module, tmp_path / "toy.py")
    assert launch.is_refusal(error) is expected


@pytest.mark.parametrize(
    ("error", "full", "ends_as"),
    [
        (ContractError("rate"), "0", SystemExit),
        (ContractError("rate"), "1", ContractError),
        (KeyError(3), "0", KeyError),
    ],
)
def test_a_refusal_is_one_line_and_a_bug_stays_as_it_is(error, full, ends_as, monkeypatch, capsys):
    def build_model(cfg):
        raise error

    monkeypatch.setattr("fairseq_cli.train.main", build_model)
    monkeypatch.setenv("HYDRA_FULL_ERROR", full)
    with pytest.raises(ends_as) as caught:
        launch.train_or_refuse(None)
    refused = ends_as is SystemExit
    assert capsys.readouterr().err == ("fairseq-ecg: error: rate\n" if refused else "")
    assert caught.value.code == 2 if refused else caught.value is error


def test_the_same_mistake_is_refused_under_the_stock_script_too(tmp_path, segments):
    from fairseq_ecg.preflight import ConfigError
    from fairseq_ecg.tasks.ecg_pretraining import EcgPretrainingTask

    cfg = launch.compose(launch.CommandLine([*PRETRAINING, f"task.data={segments}"]))
    cfg = OmegaConf.create(OmegaConf.to_container(cfg))
    cfg.common.sed = 3
    with pytest.raises(ConfigError, match="did you mean seed"):
        EcgPretrainingTask.setup_task(cfg.task)


def test_the_overrides_of_a_student_reproduction_run(tmp_path, segments):
    """Their command, on a network cut down to size."""
    words = [
        *[word for word in PRETRAINING if not word.startswith("dataset.")],
        f"task.data={segments}",
        "task.enable_padding_leads=true",
        "task.leads_to_load=[0,1,2,3,4,5,6,7,8,9,10,11]",
        "dataset.batch_size=16",
        "optimization.max_epoch=1",
        "distributed_training.distributed_world_size=1",
    ]
    run = train(tmp_path, words)
    assert logged(run.cwd)[-1]["num_updates"] == 2


def test_torchrun_on_the_cpu_is_joined_with_gloo_and_on_gpus_with_the_world_size_only():
    environment = {"RANK": "1", "WORLD_SIZE": "2"}
    on_cpu = launch.torchrun_overrides(environment, gpus=0)
    assert "distributed_training.distributed_backend=gloo" in on_cpu
    assert "distributed_training.distributed_rank=1" in on_cpu
    assert launch.torchrun_overrides(environment, gpus=2) == [
        "distributed_training.distributed_world_size=2"
    ]
    assert launch.torchrun_overrides({}, gpus=0) == []


def test_stocks_own_script_is_told_from_ours(tmp_path, monkeypatch):
    script = tmp_path / "fairseq-hydra-train"
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    script.write_text("from fairseq_cli.hydra_train import cli_main")
    assert launch.stock_script() == str(script)
    script.write_text("from fairseq_ecg_launch import hydra_train")
    assert launch.stock_script() is None


def _commands():
    installed = Path(sys.executable).with_name("fairseq-hydra-train")
    if installed.is_file() and launch.stock_script() is None:
        yield pytest.param([str(installed)], id="fairseq-hydra-train")
    yield pytest.param([sys.executable, "-m", "fairseq_ecg_launch", "train"], id="python -m")


@pytest.mark.parametrize("command", list(_commands()))
def test_the_literal_command_trains_from_a_foreign_working_directory(command, tmp_path, segments):
    words = [*PRETRAINING, f"task.data={segments}", "optimization.max_update=2"]
    done = subprocess.run(
        [*command, "--user-dir", "fairseq_ecg", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "outputs/w2v_cmsc_rlm_small/checkpoints/checkpoint_last.pt").is_file()
    assert "Warning" not in done.stderr


def test_the_same_command_continues_a_run(tmp_path, segments):
    words = [*PRETRAINING, f"task.data={segments}"]
    train(tmp_path, [*words, "optimization.max_epoch=1"])
    run = train(tmp_path, [*words, "optimization.max_epoch=2"])
    assert "Loaded checkpoint" in run.output
    updates = [line["num_updates"] for line in logged(run.cwd)]
    assert updates == sorted(set(updates))
