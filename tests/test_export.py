"""Exported networks compute what they compute here, without this package, for every family."""

import errno
import io
import json
import os
import re
import subprocess
import sys
import zipfile
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq.models import MODEL_REGISTRY, build_model
from omegaconf import OmegaConf

import fairseq_ecg
from fairseq_ecg import export, exported, portable
from fairseq_ecg.checkpoint import CheckpointError, read_checkpoint
from fairseq_ecg.cli.main import main
from fairseq_ecg.contract import ContractError, InputContract
from fairseq_ecg.data.wfdb_reader import read_signal
from fairseq_ecg.evaluation import evaluate
from fairseq_ecg.export import ExportError, export_checkpoint, made_up_recordings
from tests.exports import CONTRACT, MODELS, N_SAMPLES, programs, sizes_of, write_model
from tests.golden import RELATIVE
from tests.golden import distance as relative_distance
from tests.golden import load as load_golden
from tests.models.test_encoder import HEADS, build
from tests.recordings import write_tone_store
from tests.runs import CLASSIFICATION, PRETRAINING, logged, train
from tests.tiny import save_checkpoint

LIMIT = 1e-5
# What an importer finds where none of this package's surroundings is installed.
ALONE = """
import importlib.abc, json, os, sys

GONE = {"fairseq", "fairseq_ecg", "fairseq_cli", "hydra", "omegaconf", "hydra_plugins"}

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in GONE:
            raise ImportError(f"{name} is not installed")

sys.meta_path.insert(0, Blocker())
import numpy
for number, (folder, program) in enumerate(json.load(sys.stdin)):
    os.chdir(folder)
    found = {}
    exec(program, found)
    outputs = {name: numpy.asarray(found[name]) for name in ("features", "embedding", "out") if name in found}
    numpy.savez(f"found{number}.npz", **outputs)
assert not GONE & {name.split(".")[0] for name in sys.modules}
"""


@pytest.fixture(scope="module")
def real(shared):
    """Three real recordings of 4 s at 100 Hz, float32 [3, 12, 400], mV."""
    records = sorted((shared / "data" / "ptb-xl" / "records100").rglob("*.hea"))[:3]
    signals = [read_signal(path.with_suffix("")).values_mv[:, 200:600] for path in records]
    return torch.from_numpy(np.stack(signals))


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """Return (checkpoint, what was exported of it) of a model; each is exported once."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra: export)")
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra: export)")
    folder, done = tmp_path_factory.mktemp("exports"), {}

    def of(name):
        if name not in done:
            path = write_model(folder / f"{name}.pt", name)
            done[name] = (path, export_checkpoint(path, folder / name))
        return done[name]

    return of


def eager(path, source):
    """Return what the network of a checkpoint says, by the methods that everybody uses."""
    model, _ = fairseq_ecg.load_pretrained(path)
    with torch.no_grad():
        found = {"features": model.extract_features(source), "embedding": model.embed(source)}
        if hasattr(model, "num_labels"):
            output = model(source)
            found |= {"out": output["out"], **{k: output[k] for k in ("embedding",) if k in output}}
    return found


def distance(a, b):
    assert a.keys() == b.keys()
    return max(float(np.abs(np.asarray(a[key]) - np.asarray(b[key])).max()) for key in a)


# --- every family ---------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_graphs_agree_with_eager_pytorch_on_real_recordings(name, exports, real):
    path, written = exports(name)
    assert written.differences.keys() == {"onnx", "torch-export"}
    graphs = (
        portable.open_onnx(written.folder / "model.onnx"),
        portable.open_pt2(written.folder / "model.pt2"),
    )
    sources = [real[..., :N_SAMPLES], real[:1, :, :N_SAMPLES]]
    if written.step:
        longer = N_SAMPLES + 3 * written.step
        sources += [real[:2, :, :longer], real[..., : 3 * N_SAMPLES // 2]]
    for source in sources:
        expected = eager(path, source)
        for run in graphs:
            assert distance(expected, run(source)) < LIMIT


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_an_exported_folder_opens_as_its_checkpoint_does(name, exports, real):
    path, written = exports(name)
    source = real[..., :N_SAMPLES]
    model, contract = fairseq_ecg.load_pretrained(written.folder)
    assert type(model) is (
        type(fairseq_ecg.load_pretrained(path)[0])
        if name in HEADS
        else MODEL_REGISTRY[name].encoder_class
    )
    found = eager(written.folder, source)
    assert all(torch.equal(found[key], value) for key, value in eager(path, source).items())
    mask = torch.arange(N_SAMPLES)[None].expand(3, -1) >= torch.tensor([[240], [256], [192]])
    with torch.no_grad():
        assert torch.isfinite(model.embed(source, mask)).all()
    expected = read_checkpoint(path).contract
    assert torch.equal(contract["trained_on"].pop("records"), torch.arange(3))
    assert torch.equal(contract["trained_on"]["pretraining"].pop("names"), torch.arange(5))
    assert contract["trained_on"] == {"corpus": "toy", "pretraining": {"corpus": "another"}}
    others = contract.keys() - {"trained_on"}
    assert {key: contract[key] for key in others} == {key: expected[key] for key in others}


@pytest.mark.slow
def test_the_lines_of_the_readme_run_where_nothing_of_this_package_is(exports):
    """Also without a compiler: nothing is on the path of programs."""
    folders = [exports(name)[1].folder for name in MODELS]
    jobs = [(str(folder), program) for folder in folders for program in programs(folder)]
    assert len(jobs) == 2 * len(MODELS)
    environment = {"PATH": "", "HOME": str(folders[0]), "OMP_NUM_THREADS": "1"}
    extra = [path for path in sys.path if path and "site-packages" not in path]
    extra = [path for path in extra if os.path.isdir(os.path.join(path, "onnxruntime"))]
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        input=json.dumps(jobs),
        env={**environment, "PYTHONPATH": os.pathsep.join(extra)},
        cwd=folders[0],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for number, (folder, _) in enumerate(jobs):
        source = torch.from_numpy(np.load(os.path.join(folder, "example.npy")))
        with np.load(os.path.join(folder, f"found{number}.npz")) as found:
            assert distance(eager(folder, source), dict(found)) < LIMIT, folder


@pytest.mark.parametrize("name", MODELS)
def test_the_encoder_of_any_model_is_written_for_fine_tuning(name, tmp_path):
    path = write_model(tmp_path / "a.pt", name)
    written = export_checkpoint(path, tmp_path / "out", purpose="finetuning")
    assert written.files == (
        "README.md", "config.json", "encoder.pt", "input_contract.json", "model.safetensors",
        "trained_on.safetensors",
    )  # fmt: skip
    torch.load(tmp_path / "out" / "encoder.pt", weights_only=True)
    asked = {"_name": "ecg_transformer_classifier", "num_labels": 5}
    source = torch.randn(2, 12, N_SAMPLES)
    expected = fairseq_ecg.load_pretrained(path)[0]
    expected = getattr(expected, "encoder", expected) if name in HEADS else expected
    path.unlink()
    for start in (tmp_path / "out", tmp_path / "out" / "encoder.pt"):
        model = build_model(OmegaConf.create({**asked, "model_path": str(start)}), None).eval()
        assert torch.equal(model.extract_features(source), expected.extract_features(source))
        assert model.pretrained_contract.rate_hz == 100
        assert model.pretrained_contract.labels is None


def test_the_references_own_numbers_come_out_of_the_graph(shared, tmp_path):
    pytest.importorskip("onnxscript", reason="onnxscript is not installed (extra: export)")
    golden = load_golden(shared / "golden" / "w2v_cmsc")
    source = golden.arrays["source"]
    with pytest.raises(ContractError, match="does not say .*unit.*--kind"):
        export_checkpoint(golden.checkpoint, tmp_path / "out", ["onnx"])
    written = export_checkpoint(
        golden.checkpoint, tmp_path / "out", ["onnx"], kind="chil", recordings=source
    )
    assert (written.n_samples, written.step) == (2500, 1)
    found = portable.open_onnx(tmp_path / "out" / "model.onnx")(source)["embedding"]
    assert relative_distance(found, golden.arrays["pooled"]) < RELATIVE
    with pytest.raises(CheckpointError, match="was exported without; give `--format safetensors`"):
        fairseq_ecg.load_pretrained(tmp_path / "out")


def test_a_length_that_needs_another_graph_is_no_length_of_this_one(tmp_path):
    """The zeros of TensorFlow's convolutions depend on whether a length is even."""
    cfg = {**sizes_of("ecg_resnet1d"), "same_padding": "tf"}
    model = build("ecg_resnet1d", **cfg)
    path = save_checkpoint(tmp_path / "a.pt", {"_name": "ecg_resnet1d", **cfg}, model, **CONTRACT)
    written = export_checkpoint(path, tmp_path / "out", ["torch-export"])
    assert written.step == 32
    run = portable.open_pt2(tmp_path / "out" / "model.pt2")
    assert distance(eager(path, torch.ones(1, 12, 320)), run(torch.ones(1, 12, 320))) < LIMIT
    with pytest.raises(AssertionError, match="Guard failed"):
        run(torch.ones(1, 12, 321))
    card = (tmp_path / "out" / "README.md").read_text()
    assert "any multiple of 32 more or fewer" in card
    assert "onnxruntime does not check that" in card


# --- runs -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return write_tone_store(tmp_path_factory.mktemp("tones") / "data")


@pytest.fixture(scope="module")
def pretrained(data, tmp_path_factory):
    words = [*PRETRAINING, f"task.data={data}", "optimization.max_update=1"]
    run = train(tmp_path_factory.mktemp("pretraining"), words)
    return run.checkpoints / "checkpoint_last.pt"


@pytest.mark.parametrize("start", ["out", "out/encoder.pt"])
def test_a_preset_trains_from_the_export_and_the_result_is_exported_too(
    data, pretrained, start, tmp_path
):
    export_checkpoint(pretrained, tmp_path / "out", purpose="finetuning")
    words = [*CLASSIFICATION, f"task.data={data}", "optimization.max_update=3"]
    words += [f"model.model_path={tmp_path / start}", "model.no_pretrained_weights=false"]
    tuned = train(tmp_path / "tuned", words)
    assert "encoder of" in tuned.output
    losses = [row["loss"] for row in logged(tuned.cwd)]
    assert len(losses) == 3
    assert np.isfinite(losses).all()

    path = tuned.checkpoints / "checkpoint_last.pt"
    export_checkpoint(path, tmp_path / "again", ["safetensors"])
    config = (tmp_path / "again" / "config.json").read_text()
    assert str(tmp_path) not in config
    assert str(data) not in config
    ours, theirs = (evaluate(str(p), str(data)) for p in (path, tmp_path / "again"))
    assert np.array_equal(ours.probability, theirs.probability)
    assert ours.metrics == theirs.metrics
    assert ours.overlap == theirs.overlap == 3
    assert theirs.pretraining_overlap == ours.pretraining_overlap == 3
    assert ours.labels == theirs.labels == ["a", "b", "c"]


def test_other_leads_than_the_exported_encoders_are_refused(data, tmp_path):
    write_model(tmp_path / "a.pt", "ecg_transformer", rate_hz=500.0)
    export_checkpoint(tmp_path / "a.pt", tmp_path / "out", purpose="finetuning")
    cfg = {"_name": "ecg_transformer_classifier", "model_path": str(tmp_path / "out")}
    with pytest.raises(ContractError, match="takes 12 leads, but the task gives 3"):
        build_model(OmegaConf.create(cfg), SimpleNamespace(num_leads=3, num_labels=3))


def test_statistics_of_the_training_data_travel_with_the_network(tmp_path):
    (tmp_path / "mean.text").write_text("\n".join(["0.5"] * 12))
    (tmp_path / "std.text").write_text("\n".join(["2.5"] * 12))
    path = write_model(tmp_path / "a.pt", "se_wrn", normalize=True, unit="standard deviations")
    raw = torch.load(path, weights_only=True)
    task = {
        "data": "/data",
        "mean_path": f"{tmp_path}/mean.text",
        "std_path": f"{tmp_path}/std.text",
    }
    raw["cfg"]["task"] = task
    torch.save(raw, path)
    export_checkpoint(path, tmp_path / "out", ["safetensors"])
    found = read_checkpoint(tmp_path / "out").task_cfg
    assert found["data"] is None
    assert found["mean_path"] == str(tmp_path / "out" / "mean.txt")
    assert (tmp_path / "out" / "std.txt").read_text().split() == ["2.5"] * 12
    assert "minus its number in `mean.txt`" in (tmp_path / "out" / "README.md").read_text()
    (tmp_path / "mean.text").unlink()
    with pytest.raises(ContractError, match=r"mean.text \(task.mean_path\), which is not here"):
        export_checkpoint(path, tmp_path / "other", ["safetensors"])
    assert not (tmp_path / "other").exists()


# --- what is in the files -------------------------------------------------------------------------


def test_no_file_says_where_it_was_made_and_none_can_run_code(exports):
    path, written = exports("ecg_transformer_classifier")
    for file in written.folder.iterdir():
        content = file.read_bytes()
        for place in (str(path.parent), os.path.dirname(fairseq_ecg.__file__)):
            assert place.encode() not in content, file
    with zipfile.ZipFile(written.folder / "model.pt2") as archive:
        known = (
            r"/(weight_\d+|\w+\.json|version|byteorder|archive_format|archive_version|\.data/\w+)$"
        )
        others = [name for name in archive.namelist() if not re.search(known, name)]
        assert [name.partition("/")[2] for name in others] == ["data/sample_inputs/model.pt"]
        (given,), named = torch.load(io.BytesIO(archive.read(others[0])), weights_only=True)
        configs = [archive.read(n) for n in archive.namelist() if n.endswith("_config.json")]
    assert not given.any()
    assert named == {}
    assert len(configs) == 2
    assert not any(b'"use_pickle":true' in text.replace(b" ", b"") for text in configs)


def test_the_axes_of_the_graph_have_names_and_the_encoder_stands_in_it_once(exports):
    onnx = pytest.importorskip("onnx")
    of_encoder, of_head = (
        onnx.load(exports(name)[1].folder / "model.onnx").graph
        for name in ("se_wrn", "se_wrn_classifier")
    )
    convolutions = [sum(n.op_type == "Conv" for n in g.node) for g in (of_encoder, of_head)]
    assert convolutions[0] == convolutions[1] > 3
    axes = [d.dim_param or d.dim_value for d in of_head.input[0].type.tensor_type.shape.dim]
    assert axes == ["batch", 12, "samples"]
    assert [output.name for output in of_head.output] == ["features", "embedding", "out"]
    program = torch.export.load(exports("se_wrn_classifier")[1].folder / "model.pt2")
    called = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    assert sum("conv" in name for name in called) == convolutions[0]


def test_the_card_says_what_the_network_expects(exports):
    folder = exports("wav2vec2_cmsc")[1].folder
    text = (folder / "README.md").read_text()
    for part in (
        "library_name: fairseq_ecg",
        "| sampling rate | 100 Hz |",
        "| leads, in this order | I, II, III, aVR, aVL, aVF, V1, V2, V3, V4, V5, V6 |",
        "`ecg_transformer`",
        "on toy, before that on another. It was made",
        "256 samples, or any number more or fewer",
        "There is no padding mask",
    ):
        assert part in text, part
    listed = set(re.findall(r"^\| `([\w.]+\.\w+)` \|", text, re.MULTILINE))
    assert listed | {"README.md"} == {p.name for p in folder.iterdir() if p.suffix != ".npz"}
    head = (exports("arcface")[1].folder / "README.md").read_text()
    assert "cosines with the people of the training data" in head
    assert "## Classes" not in head
    config = json.loads((exports("se_wrn_classifier")[1].folder / "config.json").read_text())
    assert config["id2label"] == {"0": "a", "1": "b", "2": "c"}
    assert config["graph"]["input"] == {"source": ["batch", 12, "samples"]}


def test_a_head_for_one_length_says_so(exports):
    written = exports("ecg_uresnet_classifier")[1]
    assert (written.n_samples, written.step) == (N_SAMPLES, 0)
    assert "with 256 samples, no other number" in (written.folder / "README.md").read_text()
    assert exports("ecg_uresnet")[1].step == 16


def test_a_contract_fills_in_what_the_checkpoint_does_not_know(tmp_path, capsys):
    path = write_model(tmp_path / "a.pt", "se_wrn", rate_hz=None, unit=None)
    arguments = ["export", str(path), "--dest", str(tmp_path / "out"), "--format", "safetensors"]
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert "does not say what the network expects (rate_hz, unit)" in error
    assert "--kind" in error
    assert "--contract" in error
    (tmp_path / "c.json").write_text('{"rate_hz": 250, "unit": "mV"}')
    assert main([*arguments, "--contract", str(tmp_path / "c.json"), "--for", "finetuning"]) == 0
    printed = capsys.readouterr().out
    assert "se_wrn, " in printed
    assert "encoder.pt" in printed
    assert fairseq_ecg.load_pretrained(tmp_path / "out")[1]["rate_hz"] == 250
    for given, message in (
        ({"rate": 250}, "has no key 'rate'"),
        ({"leads": ["I"], "rate_hz": 1.0, "unit": "mV"}, "says leads: .* was given; leave it out"),
    ):
        with pytest.raises(ContractError, match=message):
            export_checkpoint(path, tmp_path / "other", ["safetensors"], contract=given)


@pytest.mark.parametrize("unit", ["mV", "standard deviations"])
def test_made_up_recordings_are_as_the_contract_says(unit):
    contract = InputContract(rate_hz=40.0, leads=("II", "V5"), unit=unit)
    made = made_up_recordings(contract, 2, 333, 3)
    assert made.shape == (3, 2, 333)
    assert made.dtype == torch.float32
    assert not torch.equal(made[0], made[1])
    if unit != "mV":
        assert torch.allclose(made.std(-1, correction=0), torch.ones(3, 2), atol=1e-3)


# --- refusals -------------------------------------------------------------------------------------


@pytest.fixture
def small(tmp_path):
    return write_model(tmp_path / "a.pt", "se_wrn")


@pytest.mark.parametrize(
    ("formats", "options", "message"),
    [
        (
            ["onxx"],
            {},
            r"no format is called 'onxx'; did you mean onnx\?; known: safetensors, onnx",
        ),
        ([], {}, "no format is given"),
        (None, {"purpose": "training"}, "for use or finetuning, not for 'training'"),
    ],
)
def test_what_is_not_known_is_refused(small, tmp_path, formats, options, message):
    with pytest.raises(ExportError, match=message):
        export_checkpoint(small, tmp_path / "out", formats, **options)


def test_an_existing_destination_is_left_as_it_is(small, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(ExportError, match="out exists; give the name of a folder that does not"):
        export_checkpoint(small, tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_a_model_without_an_encoder_has_nothing_to_export(small, tmp_path, monkeypatch):
    class Plain(torch.nn.Module):
        __module__ = "fairseq_ecg.models.plain"

    monkeypatch.setitem(MODEL_REGISTRY, "se_wrn", Plain)
    for purpose in ("use", "finetuning"):
        with pytest.raises(
            ExportError, match="model se_wrn: it has no encoder.*give the checkpoint"
        ):
            export_checkpoint(small, tmp_path / "out", purpose=purpose)
    assert not (tmp_path / "out").exists()


def test_missing_packages_are_named_with_the_way_out(small, tmp_path, monkeypatch):
    monkeypatch.setattr(portable, "find_spec", lambda name: None if name == "onnxscript" else 1)
    with pytest.raises(ExportError, match=r"needs onnxscript.*fairseq-ecg\[export\].*torch-export"):
        export_checkpoint(small, tmp_path / "out")
    export_checkpoint(small, tmp_path / "out", ["safetensors"])


@pytest.mark.parametrize(
    ("module", "function"),
    [
        (exported, "replacing"),
        (exported, "write_json"),
        (export, "write_text"),
        (portable, "write_bytes"),
        (np, "save"),
    ],
)
def test_a_full_disk_leaves_nothing(small, tmp_path, monkeypatch, module, function, capsys):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(module, function, full)
    arguments = ["export", str(small), "--dest", str(tmp_path / "new" / "out")]
    assert main([*arguments, "--format", "safetensors,torch-export"]) == 2
    assert "No space left on device" in capsys.readouterr().err
    assert list((tmp_path / "new").iterdir()) == []


@pytest.mark.parametrize("words", ["torch-export", "onnx", "safetensors --for finetuning"])
def test_a_disk_that_is_really_full_leaves_nothing_and_ends_no_process(small, tmp_path, words):
    """A limit to the size of files is what a test can have of a full disk."""
    program = (
        "import resource, sys, fairseq_ecg; from fairseq_ecg.cli.main import main; "
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500)); sys.exit(main(sys.argv[1:]))"
    )
    arguments = ["export", str(small), "--dest", str(tmp_path / "new" / "out"), "--format"]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments, *words.split()],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr[-2000:]
    assert "File too large" in done.stderr
    assert list((tmp_path / "new").iterdir()) == []


def test_a_graph_that_computes_something_else_is_not_published(small, tmp_path, monkeypatch):
    def slightly_wrong(path):
        run = portable.open_pt2(path)
        return lambda source: {k: v + 3e-5 for k, v in run(source).items()}

    graphs = [(n, f, w, slightly_wrong) for n, f, w, _ in export._GRAPHS if n == "torch-export"]
    monkeypatch.setattr(export, "_GRAPHS", tuple(graphs))
    with pytest.raises(
        portable.PortableError, match=r"differs from PyTorch by 3\.\de-05, more than"
    ):
        export_checkpoint(small, tmp_path / "out", ["torch-export"])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (lambda o: {k: v * float("nan") for k, v in o.items()}, "differs from PyTorch by nan"),
        (lambda o: {k: v[:1] for k, v in o.items()}, "gives features as .*, but PyTorch"),
        (lambda o: 1 / 0, r"fails for \[2, 12, 96\]: division by zero"),
    ],
)
def test_a_graph_that_fails_is_told_from_one_that_agrees(found, message):
    model, source = (
        build("se_wrn", num_filters="[4, 8]", num_blocks=1, ratio=4),
        torch.randn(2, 12, 96),
    )
    network = portable.Network(model)
    with torch.no_grad():
        assert portable.largest_difference(model, network, [source]) == 0
        with pytest.raises(portable.PortableError, match=message):
            portable.largest_difference(model, lambda s: found(network(s)), [source])


def test_recordings_of_the_user_are_compared_too_and_not_written(small, tmp_path, monkeypatch):
    seen = []
    largest = portable.largest_difference

    def looking(model, run, sources):
        seen.extend(sources)
        return largest(model, run, sources)

    monkeypatch.setattr(portable, "largest_difference", looking)
    mine = torch.randn(2, 12, 300)
    export_checkpoint(small, tmp_path / "out", ["torch-export"], recordings=mine)
    assert any(torch.equal(source, mine) for source in seen)
    assert {len(source) for source in seen} == {1, 2, 3}
    assert np.load(tmp_path / "out" / "example.npy").shape == (3, 12, N_SAMPLES)


# --- damaged folders ------------------------------------------------------------------------------


def damage_json(key, value):
    def damage(folder):
        content = json.loads((folder / "config.json").read_text())
        content[key] = value
        (folder / "config.json").write_text(json.dumps(content))

    return damage


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "a folder without config.json; give a checkpoint"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is damaged"),
        (lambda f: (f / "config.json").write_text("[" * 100_000), "config.json is damaged"),
        (lambda f: (f / "config.json").write_text("[]"), "it holds no dictionary"),
        (damage_json("library_name", "timm"), "library_name is 'timm'"),
        (damage_json("format_version", 99), "format_version 99, but 1 is known"),
        (damage_json("model", None), "has no section 'model'"),
        (damage_json("model", {"_name": "se_wrm"}), "'se_wrm' is not known.*se_wrn"),
        (lambda f: (f / "input_contract.json").unlink(), "has no input_contract.json"),
        (lambda f: (f / "model.safetensors").unlink(), "was exported without.*--format safetensors"),
        (lambda f: os.truncate(f / "model.safetensors", 900), "model.safetensors is damaged"),
        (lambda f: exported.write_weights(f / "model.safetensors", {"a": torch.ones(1)}), "weights do not fit|it has no"),
    ],
)  # fmt: skip
def test_a_damaged_folder_is_refused_by_name(small, tmp_path, damage, message):
    export_checkpoint(small, tmp_path / "out", ["safetensors"])
    damage(tmp_path / "out")
    with pytest.raises(CheckpointError, match=message):
        fairseq_ecg.load_pretrained(tmp_path / "out")


def test_a_folder_says_itself_how_its_data_were_prepared(small, tmp_path):
    export_checkpoint(small, tmp_path / "out", ["safetensors"])
    with pytest.raises(CheckpointError, match="says itself what its input is; kind=chil"):
        fairseq_ecg.load_pretrained(tmp_path / "out", kind="chil")
    (tmp_path / "out" / "trained_on.safetensors").unlink()
    assert fairseq_ecg.load_pretrained(tmp_path / "out")[1]["trained_on"]["corpus"] == "toy"


def test_weights_that_share_memory_are_written_whole(tmp_path):
    one = torch.arange(6.0)
    exported.write_weights(
        tmp_path / "a.safetensors", {"a": one, "b": one[2:], "c": one.view(2, 3).T}
    )
    found = exported._read_weights(tmp_path, "a.safetensors")
    assert torch.equal(found["b"], one[2:])
    assert torch.equal(found["c"], one.view(2, 3).T)


def test_a_frozen_encoder_and_frozen_convolutions_are_exported_as_any(tmp_path):
    name = "ecg_transformer_classifier"
    path = write_model(tmp_path / "a.pt", name)
    raw = torch.load(path, weights_only=True)
    raw["cfg"]["model"] |= {"feature_grad_mult": 0.0, "freeze_finetune_updates": 10}
    torch.save(raw, path)
    written = export_checkpoint(path, tmp_path / "out", ["torch-export"])
    assert written.differences["torch-export"] < LIMIT


def test_networks_of_one_lead_are_exported_for_one_or_for_all(tmp_path):
    cfg = {"in_d": 1, "widths": [4, 6], "kernels": [8, 4], "num_labels": 2}
    head = {**cfg, "lead_mode": "concat", "num_leads": 12}
    for name, keys, rows in (
        ("ecg_cnn_classifier", head, 12),
        ("ecg_transform_cnn", {k: v for k, v in cfg.items() if k != "num_labels"}, 1),
    ):
        path = save_checkpoint(
            tmp_path / f"{name}.pt", {"_name": name, **keys}, build(name, **keys), **CONTRACT
        )
        written = export_checkpoint(path, tmp_path / name, ["torch-export"])
        assert written.differences["torch-export"] < LIMIT
        assert np.load(tmp_path / name / "example.npy").shape == (3, rows, N_SAMPLES)
