"""The pages and the code say the same: links, commands, presets, keys, names of files and tests."""

import argparse
import dataclasses
import enum
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from fairseq.dataclass.configs import FairseqConfig
from fairseq.models import MODEL_DATACLASS_REGISTRY
from fairseq.registry import REGISTRIES
from fairseq.tasks import TASK_DATACLASS_REGISTRY
from omegaconf import MISSING, OmegaConf

import fairseq_ecg
import fairseq_ecg_launch as launch
from fairseq_ecg import studies
from fairseq_ecg.cli.main import build_parser
from fairseq_ecg.data.ledger import REASONS
from fairseq_ecg.tasks._config import EcgTaskConfig

REPOSITORY = Path(__file__).resolve().parents[1]
PAGES = sorted(
    [
        *REPOSITORY.glob("*.md"),
        *(
            p
            for room in ("docs", "examples", "manifests")
            for p in REPOSITORY.glob(f"{room}/**/*.md")
        ),
    ]
)
PRESETS = {path.stem: path for path in REPOSITORY.glob("examples/**/*.yaml")}
METHODS = {
    method: {path.stem: path for path in method.rglob("*.yaml")}
    for method in sorted(path for path in REPOSITORY.glob("examples/*") if path.is_dir())
}
# What docs/adding.md makes as an example, with a stand-in that exists.
NEW = {"ludb": "wfdb", "mean_power": "diagnosis_small"}
# Keys that the pages show as mistakes, or as those of another program.
WRONG_ON_PURPOSE = {
    *("task.segments", "common.sed", "common.typo", "common.wandb_entity"),
    *("optimization.foo", "task.rate_hz"),
}
REGISTRY = {
    "task": TASK_DATACLASS_REGISTRY,
    "criterion": REGISTRIES["criterion"]["dataclass_registry"],
    "model": MODEL_DATACLASS_REGISTRY,
    "optimizer": REGISTRIES["optimizer"]["dataclass_registry"],
}


def page_id(path: Path) -> str:
    return path.relative_to(REPOSITORY).as_posix()


def blocks(path: Path, language: str) -> list[str]:
    """Return the code blocks of one language, without the indentation of lists."""
    found = re.findall(
        rf"^( *)```{language}\n(.*?)^ *```$", path.read_text(), flags=re.MULTILINE | re.DOTALL
    )
    return ["\n".join(line.removeprefix(i) for line in text.split("\n")) for i, text in found]


def commands() -> list:
    """Return every command of every console block, split into words."""
    found = []
    for path in PAGES:
        for block in blocks(path, "console"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.strip():
                    words = shlex.split(line, comments=True)
                    found.append(pytest.param(words, id=f"{page_id(path)}: {line.strip()[:50]}"))
    return found


def our_words(words: list[str]) -> tuple[str, list[str]] | None:
    """Return verb and arguments of a command of ours, in whatever form it is written."""
    if words[0] == "fairseq-hydra-train":
        return "train", words[1:]
    if words[0] == "fairseq-ecg":
        return words[1], words[2:]
    if "fairseq_ecg_launch" in words:
        first = words.index("fairseq_ecg_launch") + 1
        return words[first], words[first + 1 :]
    return None


def of_package(section: str) -> dict[str, type]:
    """Return our dataclasses of a section by registered name."""
    return {
        name: dataclass
        for name, dataclass in REGISTRY[section].items()
        if dataclass.__module__.startswith(f"{fairseq_ecg.__name__}.")
    }


def known_keys() -> set[str]:
    """Return ``section.key`` for everything that a run may set."""
    keys = set()
    for field in dataclasses.fields(FairseqConfig):
        if dataclasses.is_dataclass(field.default):
            keys |= {f"{field.name}.{f.name}" for f in dataclasses.fields(field.default)}
    schedulers = [("lr_scheduler", name) for name in ("fixed", "cosine", "step")]
    for section, name in [("optimizer", "adam"), *schedulers]:
        fields = dataclasses.fields(REGISTRIES[section]["dataclass_registry"][name])
        keys |= {f"{section}.{f.name}" for f in fields}
    for section in REGISTRY:
        keys.add(f"{section}._name")
        for dataclass in of_package(section).values():
            keys |= {f"{section}.{f.name}" for f in dataclasses.fields(dataclass)}
    return keys


KEYS = known_keys()
SECTIONS = sorted({key.partition(".")[0] for key in KEYS})


# --- links and names ------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_relative_links_and_their_headings_exist(path):
    for target, heading in re.findall(r"\]\(([^)#\s]*)(#[^)\s]*)?\)", path.read_text()):
        if re.match(r"\w+:", target):
            continue
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), f"{page_id(path)} links to {target}"
        if heading:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), flags=re.MULTILINE)
            slugs = {re.sub(r"[^\w\- ]", "", h).strip().lower().replace(" ", "-") for h in headings}
            assert heading[1:] in slugs, f"{page_id(path)} links to {target}{heading}"


def test_every_page_is_in_the_readme_or_in_the_navigation():
    listed = (REPOSITORY / "README.md").read_text()
    for path in REPOSITORY.glob("docs/**/*.md"):
        name = path.relative_to(REPOSITORY / "docs").as_posix()
        assert name in (REPOSITORY / "mkdocs.yml").read_text()
        assert f"docs/{name}" in listed or name == "index.md"


def test_tests_that_the_pages_name_exist():
    text = "".join(path.read_text() for path in PAGES)
    for file, name in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text):
        content = (REPOSITORY / file).read_text()
        assert not name or f"def {name}(" in content, f"{file}::{name}"


def test_files_and_functions_on_the_way_of_a_batch_exist():
    text = (REPOSITORY / "docs/batch.md").read_text()
    rows = re.findall(r"`([a-z_]+/\w+\.py)` `([\w.]+)`", text)
    assert len(rows) > 15
    for file, name in rows:
        content = (REPOSITORY / "fairseq_ecg" / file).read_text()
        for part in name.split("."):
            assert re.search(rf"(?:def|class) {part}\b", content), f"{file} {name}"


def test_every_reason_of_the_ledger_is_explained():
    text = (REPOSITORY / "docs/data_format.md").read_text()
    assert not [reason for reason in REASONS if f"`{reason}`" not in text]


# --- commands -------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", commands())
def test_commands_are_understood_by_the_real_parsers(words):
    if words[0] == "make":
        targets = re.findall(r"^(\w+):", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
        assert words[1] in targets
        return
    if words[0] == "python" and words[1].startswith(("benchmarks/", "examples/")):
        known = script_options((REPOSITORY / words[1]).read_text())
        assert {word for word in words[2:] if word.startswith("--")} <= known
        return
    ours = our_words(words)
    if ours is None:
        assert words[0] in ("pip", "READTHEDOCS=1")
        return
    verb, rest = ours
    rest = [NEW.get(word, word) for word in rest]
    if verb == "train":
        check_training(rest)
    else:
        build_parser().parse_args([verb, *rest])


def script_options(source: str) -> set[str]:
    """Return the options of a script, those that every study has included."""
    parser = argparse.ArgumentParser()
    if "add_options(" in source:
        studies.add_options(parser)
    return {*parser._option_string_actions, *re.findall(r'"(--[\w-]+)"', source)}


def check_training(words: list[str]) -> None:
    line = launch.CommandLine(words)
    flags = {flag for flag in line.flags if flag.startswith("-")}
    assert flags <= launch._FLAGS_WITH_VALUE | {"-m", "--multirun"}
    assert line.config_name in PRESETS
    for override in line.overrides:
        key = override.lstrip("+").partition("=")[0]
        assert key in KEYS or key.startswith("hydra."), key


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_keys_that_the_text_names_exist(path):
    spans = re.findall(r"`([^`\n]+)`", path.read_text())
    for key in re.findall(
        rf"(?<![\w/])((?:{'|'.join(SECTIONS)})\.(?!(?:py|onnx|pt2|safetensors)\b)\w+)",
        "\n".join(spans),
    ):
        assert key in KEYS | WRONG_ON_PURPOSE, key


def test_options_that_the_text_names_exist():
    known = launch._FLAGS_WITH_VALUE | {"--user-dir", "--multirun", "--no-build-isolation"}
    for folder in ("examples", "benchmarks"):
        for path in (REPOSITORY / folder).rglob("*.py"):
            known |= script_options(path.read_text())
    parsers = [build_parser()]
    while parsers:
        for action in parsers.pop()._actions:
            known |= set(action.option_strings)
            if isinstance(action.choices, dict):
                parsers += action.choices.values()
    for path in PAGES:
        text = re.sub(r"<!--.*?-->", "", path.read_text(), flags=re.DOTALL)
        for span in re.findall(r"`([^`\n]+)`", text):
            for option in re.findall(r"(?<!\S)--[a-z-]+", span):
                assert option in known, f"{page_id(path)}: {option}"


# --- presets --------------------------------------------------------------------------------------


def presets_in(page: Path) -> list[str]:
    """Return the presets of the table under the heading "Presets"."""
    text = page.read_text().partition("## Presets")[2].partition("\n## ")[0]
    return re.findall(r"^\| `(\w+)` \|", text.partition("\n### ")[0], flags=re.MULTILINE)


def test_the_page_of_presets_lists_every_one_and_no_other():
    assert sorted(presets_in(REPOSITORY / "docs/configuration.md")) == sorted(PRESETS)


@pytest.mark.parametrize("method", METHODS)
def test_the_page_of_a_method_lists_its_presets_and_no_other(method):
    assert sorted(presets_in(method / "README.md")) == sorted(METHODS[method])


@pytest.mark.parametrize("method", METHODS)
def test_the_table_of_presets_has_their_values(method):
    text = (method / "README.md").read_text()
    for name, path in METHODS[method].items():
        cfg = OmegaConf.load(path)
        if "encoder_layers" not in cfg.model:
            continue
        expected = [
            cfg.model.encoder_layers,
            cfg.model.encoder_embed_dim,
            cfg.distributed_training.distributed_world_size,
            cfg.dataset.batch_size,
            cfg.optimization.update_freq[0],
            cfg.optimization.lr[0],
        ]
        row = f"| `{name}` | " + " | ".join(str(value) for value in expected) + " |"
        assert row in text, row


# --- keys -----------------------------------------------------------------------------------------


def shown(field: dataclasses.Field) -> str:
    """Return a default as the tables show it."""
    default = field.default
    if default is dataclasses.MISSING:
        default = field.default_factory()
    if isinstance(default, enum.Enum):
        default = default.value
    if default is None or isinstance(default, bool):
        return {None: "null", True: "true", False: "false"}[default]
    if default == MISSING:
        return "???"
    return str(list(default)) if isinstance(default, (list, tuple)) else str(default)


def documented() -> dict[str, dict[str, str]]:
    """Return the keys and defaults under each heading "Task: x (and y)", those of y included."""
    text = (REPOSITORY / "docs/configuration.md").read_text()
    found: dict[str, dict[str, str]] = {}
    pattern = r"^### (Task|Criterion|Optimizer|Model): ([\w ]+?)(?: \(and ([\w ]+)\))?$"
    parts = re.split(pattern, text, flags=re.MULTILINE)[1:]
    for section, name, parent, body in zip(*(parts[i::4] for i in range(4)), strict=True):
        body = re.split(r"^#", body, maxsplit=1, flags=re.MULTILINE)[0]
        rows = re.findall(r"^\| `(\w+)` \| `(.+?)` \| .+ \|$", body, flags=re.MULTILINE)
        inherited = found[f"{section.lower()} {parent}"] if parent else {}
        found[f"{section.lower()} {name}"] = inherited | dict(rows)
    return found


def test_the_page_of_keys_is_complete_and_has_the_true_defaults():
    expected = {"task every task": EcgTaskConfig}
    for section in REGISTRY:
        for name, dataclass in of_package(section).items():
            expected[f"{section} {name}"] = dataclass
    pages = documented()
    assert set(pages) == set(expected)
    for title, dataclass in expected.items():
        fields = {f.name: shown(f) for f in dataclasses.fields(dataclass) if f.name != "_name"}
        assert pages[title] == fields, title


# --- code -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_python_in_the_pages_compiles_and_imports_what_exists(path):
    for block in blocks(path, "python"):
        compile(block, page_id(path), "exec")
        for line in re.findall(r"^(?:from fairseq_ecg\S* )?import .*fairseq_ecg.*$", block, re.M):
            exec(line, {})  # noqa: S102 - a line of our own pages
        for module, names in re.findall(
            r"^from (fairseq_ecg[\w.]*) import ([\w, ]+)$", block, re.M
        ):
            exec(f"from {module} import {names}", {})  # noqa: S102


def test_the_examples_of_additions_register_themselves(tmp_path):
    folder = tmp_path / "additions"
    folder.mkdir()
    for number, block in enumerate(blocks(REPOSITORY / "docs/adding.md", "python")):
        (folder / f"part{number}.py").write_text(block)
    (folder / "preset.yaml").write_text(blocks(REPOSITORY / "docs/adding.md", "yaml")[0])
    script = f"""
import sys; sys.path.insert(0, {str(folder)!r})
import fairseq_ecg, numpy, torch
import part0, part1, part2, part3
from fairseq.models import build_model
from fairseq_ecg import preflight
from fairseq_ecg.corpora._base import available_corpora
from fairseq_ecg.data.signal import EcgSignal
from omegaconf import OmegaConf
assert "ludb" in available_corpora()
model = build_model(OmegaConf.create({{"_name": "mean_power", "num_labels": 3}}), None)
assert model(torch.ones(2, 12, 50))["out"].shape == (2, 3)
sample = {{"net_input": {{"source": torch.ones(2, 12, 50)}}, "label": torch.ones(2, 3)}}
assert part2.SquaredError(None)(model, sample)[1] == 6
signal = EcgSignal(numpy.ones((1, 5), numpy.float32), 100.0, ("I",))
part3.GainJitter()(signal, numpy.random.default_rng(0))
assert (signal.values_mv != 1).all()
cfg = OmegaConf.load({str(folder / "preset.yaml")!r})
del cfg["hydra"]
try:
    preflight.check(cfg)
except preflight.ConfigError as error:
    assert str(error).startswith("task.data has no value"), error
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
