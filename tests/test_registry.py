"""What the package registers with fairseq: really ours, under names of the design, parseable."""

import argparse
import ast
import dataclasses
import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
import typing
from pathlib import Path

import pytest
from fairseq import options
from fairseq.criterions import CRITERION_DATACLASS_REGISTRY, CRITERION_REGISTRY
from fairseq.dataclass.utils import gen_parser_from_dataclass
from fairseq.models import MODEL_DATACLASS_REGISTRY, MODEL_REGISTRY
from fairseq.optim import OPTIMIZER_DATACLASS_REGISTRY, OPTIMIZER_REGISTRY
from fairseq.tasks import TASK_DATACLASS_REGISTRY, TASK_REGISTRY
from omegaconf import OmegaConf

import fairseq_ecg

PACKAGE = Path(fairseq_ecg.__file__).parent
REGISTRIES = {
    "task": (TASK_REGISTRY, TASK_DATACLASS_REGISTRY),
    "model": (MODEL_REGISTRY, MODEL_DATACLASS_REGISTRY),
    "criterion": (CRITERION_REGISTRY, CRITERION_DATACLASS_REGISTRY),
    "optimizer": (OPTIMIZER_REGISTRY, OPTIMIZER_DATACLASS_REGISTRY),
}
DESIGN = {
    "task": "ecg_pretraining ecg_classification ecg_identification ecg_frame_classification "
    "ecg_future_prediction",
    "model": "wav2vec2_cmsc ecg_wav2vec2 ecg_transformer ecg_transformer_classifier arcface "
    "nejedly2021resnet nejedly2021resnet_classifier se_wrn se_wrn_classifier ecg_uresnet "
    "ecg_uresnet_classifier ecg_mae ecg_mae_classifier ecg_resnet1d ecg_resnet1d_classifier "
    "ecg_resnet2d ecg_resnet2d_classifier ecg_resnet_cpc "
    "ecg_transform_cnn ecg_cnn_classifier",
    "criterion": "wav2vec2_with_cmsc ecg_wav2vec2 cmsc simclr 3kg arcface "
    "binary_cross_entropy_with_logits ecg_cross_entropy ecg_masked_mse ecg_transform_recognition "
    "ecg_cpc",
    "optimizer": "ecg_adamw",
}
# What the main job needs; other names of the design join as their methods are built.
BUILT = {
    ("task", "ecg_pretraining"),
    ("task", "ecg_classification"),
    ("model", "ecg_wav2vec2"),
    ("model", "wav2vec2_cmsc"),
    ("model", "ecg_transformer"),
    ("model", "ecg_transformer_classifier"),
    ("model", "nejedly2021resnet"),
    ("model", "nejedly2021resnet_classifier"),
    ("model", "se_wrn"),
    ("model", "se_wrn_classifier"),
    ("criterion", "ecg_wav2vec2"),
    ("criterion", "wav2vec2_with_cmsc"),
    ("criterion", "cmsc"),
    ("criterion", "simclr"),
    ("criterion", "3kg"),
    ("criterion", "binary_cross_entropy_with_logits"),
}


def declared():
    """Yield (kind, name, module, class) of every ``register_...`` in the source."""
    for path in sorted(PACKAGE.rglob("*.py")):
        module = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            for decorator in getattr(node, "decorator_list", ()):
                yield from _declaration(decorator, module, node.name)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Call) and node.args:
                yield from _declaration(node.func, module, ast.unparse(node.args[0]))


def _declaration(call, module, cls):
    kind = ast.unparse(getattr(call, "func", call)).removeprefix("register_")
    if kind in REGISTRIES:
        yield kind, call.args[0].value, module, cls


DECLARED = list(declared())
OURS = [(kind, name) for kind, name, _, _ in DECLARED]


@pytest.mark.parametrize(("kind", "name", "module", "cls"), DECLARED, ids=lambda v: str(v))
def test_what_is_declared_is_registered_and_not_someone_elses(kind, name, module, cls):
    """fairseq keeps the first class of a name and says nothing."""
    registered = REGISTRIES[kind][0][name]
    assert registered is getattr(importlib.import_module(module), cls)
    assert REGISTRIES[kind][1][name].__module__ == module


def test_every_class_of_ours_in_a_registry_is_declared_under_that_name():
    found = {
        (kind, name)
        for kind, (classes, _) in REGISTRIES.items()
        for name, cls in classes.items()
        if cls.__module__.startswith("fairseq_ecg")
    }
    assert found == set(OURS)
    assert len(OURS) == len(set(OURS))


def test_names_are_those_of_the_design():
    assert [(k, n) for k, n in OURS if n not in DESIGN[k].split()] == []
    assert set(OURS) >= BUILT


def test_no_name_is_stock_fairseqs():
    code = """
import json, fairseq.tasks, fairseq.models, fairseq.criterions, fairseq.optim, sys
assert "fairseq_ecg" not in sys.modules
print(json.dumps({
    "task": [list(fairseq.tasks.TASK_REGISTRY), list(fairseq.tasks.TASK_CLASS_NAMES)],
    "model": [[*fairseq.models.MODEL_REGISTRY, *fairseq.models.ARCH_MODEL_REGISTRY], []],
    "criterion": [
        list(fairseq.criterions.CRITERION_REGISTRY),
        [cls.__name__ for cls in fairseq.criterions.CRITERION_REGISTRY.values()],
    ],
    "optimizer": [
        list(fairseq.optim.OPTIMIZER_REGISTRY),
        [cls.__name__ for cls in fairseq.optim.OPTIMIZER_REGISTRY.values()],
    ],
}))
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    stock = json.loads(done.stdout.splitlines()[-1])
    assert "wav2vec2" in stock["model"][0]
    assert "cross_entropy" in stock["criterion"][0]
    classes = {(kind, name): cls for kind, name, _, cls in DECLARED}
    for (kind, name), cls in classes.items():
        names, class_names = stock[kind]
        assert name not in names
        assert cls not in class_names


# --- fairseq's own parser -----------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "name"), OURS)
def test_the_keys_of_a_section_have_types_and_defaults_that_fairseq_and_hydra_take(kind, name):
    dataclass = REGISTRIES[kind][1][name]
    OmegaConf.structured(dataclass)
    parser = argparse.ArgumentParser()
    gen_parser_from_dataclass(parser, dataclass(), delete_default=False)
    parser.parse_args(["somewhere"] if "data" in _fields(dataclass) else [])
    parser.format_help()
    for field in dataclasses.fields(dataclass):
        assert not isinstance(field.type, str), f"{field.name}: postponed annotation"
        assert "|" not in str(field.type), f"{field.name}: Optional[...], not a | b"
        assert typing.get_origin(field.type) is not typing.Literal, f"{field.name}: ChoiceEnum"
        if field.name != "_name" and not _inherited(dataclass, field.name):
            assert field.metadata.get("help"), f"{name}.{field.name} has no help"


def _fields(dataclass):
    return {field.name for field in dataclasses.fields(dataclass)}


def _inherited(dataclass, name):
    """Whether the value is taken from another section by interpolation, and needs no help."""
    default = next(f.default for f in dataclasses.fields(dataclass) if f.name == name)
    return isinstance(default, str) and default.startswith("${")


@pytest.mark.parametrize(
    ("task", "criterion"),
    [
        ("ecg_pretraining", "wav2vec2_with_cmsc"),
        ("ecg_classification", "binary_cross_entropy_with_logits"),
    ],
)
def test_the_parser_of_fairseq_validate_knows_our_classes(task, criterion):
    """It is built of all our dataclasses, with every key as an option."""
    parser = options.get_validation_parser()
    words = ["somewhere", "--task", task, "--criterion", criterion]
    args = options.parse_args_and_arch(parser, [*words, "--segment-s", "2.5", "--path", "x.pt"])
    assert args.segment_s == 2.5
    assert args.data == "somewhere"
    for kind, name in (("task", task), ("criterion", criterion)):
        dataclass = REGISTRIES[kind][1][name]
        cfg = dataclass.from_namespace(args)
        for field in dataclasses.fields(dataclass):
            if field.name in ("data", "segment_s", "_name") or _inherited(dataclass, field.name):
                continue
            if field.default is not dataclasses.MISSING:
                assert getattr(cfg, field.name) == field.default, f"{name}.{field.name}"


# --- documentation ------------------------------------------------------------------------------


def _modules():
    yield "fairseq_ecg"
    for module in pkgutil.walk_packages([str(PACKAGE)], "fairseq_ecg."):
        yield module.name


@pytest.mark.parametrize("name", sorted(_modules()))
def test_everything_public_has_a_docstring(name):
    module = importlib.import_module(name)
    assert (module.__doc__ or "").strip(), f"{name} has no docstring"
    tree = ast.parse(inspect.getsource(module))
    assert [where for where, node in _public(tree, name) if not ast.get_docstring(node)] == []


def _public(node, prefix):
    """Yield (name, node) of every public class, function and method."""
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef) and not child.name.startswith("_"):
            yield f"{prefix}.{child.name}", child
            if isinstance(child, ast.ClassDef):
                yield from _public(child, f"{prefix}.{child.name}")
