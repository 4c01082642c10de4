"""The commands ``fairseq-ecg`` and ``fairseq-hydra-train``.

This module lies outside the package ``fairseq_ecg`` on purpose: fairseq imports the user directory
itself, under the name and from the place it was given, and refuses a package that was imported
from elsewhere before. So everything up to the choice of the user directory happens here.

``fairseq-hydra-train`` is fairseq's own command with six things added: it takes
``--user-dir`` literally, finds presets by name, takes options and overrides in any order, sets up
processes started by torchrun, checks the whole configuration before any work starts, and puts what
our code refuses later, while task, model and data are built, into one line.
"""

import difflib
import importlib.util
import logging
import os
import re
import shutil
import sys
import warnings
from argparse import Namespace
from collections.abc import Sequence
from opcode import opmap
from pathlib import Path
from traceback import walk_tb

PACKAGE = "fairseq_ecg"
REINSTALL = "pip install --force-reinstall --no-deps fairseq-ecg (in a checkout: .)"

# Sections whose keys are known only once the plugin is imported. hydra takes them for unknown
# unless the preset spells them, so overrides in them are sent as "add or replace" and are checked
# against the plugin's dataclasses afterwards.
OPEN_SECTIONS = ("task", "model", "criterion", "optimizer", "lr_scheduler")

# Presets that are called like another one of fairseq-signals.
_OTHER_THERE = {"w2v_cmsc_rlm_small": "w2v_cmsc_rlm_8layers"}
# Values of fairseq-signals that stock fairseq does not have, and what is closest to them.
_TRANSLATED = {"common.log_format=csv": "common.log_format=json"}
# fairseq refuses a folder that has other manifests with "valid" in their names; ours are looked at
# by ``fairseq_ecg.preflight``, and a task may read more than one for a subset.
_UNUSED_SUBSETS = "dataset.ignore_unused_valid_subsets"

_FLAGS_WITH_VALUE = {
    *("--config-name", "-cn", "--config-dir", "-cd", "--config-path", "-cp"),
    *("--package", "-p", "--cfg", "-c", "--info", "-i", "--experimental-rerun"),
}
# Functions of fairseq, and of our tasks, below which a run is being put together.
_BUILDING = {"setup_task", "build_model", "build_criterion", "load_dataset", "load_checkpoint"}
_NOISE = (
    "torch.cuda.amp",
    "pin_memory",
    "version_base",
    "working directory",
    "ConfigStore schema",
    "weight_norm",
    "broadcast_buffers",
)


class LaunchError(Exception):
    """A command line that cannot be run; the message says why and what would work."""


# --- finding things -----------------------------------------------------------------------------


def package_folder() -> Path:
    """Return the folder of the importable ``fairseq_ecg`` without importing it.

    Raises:
        LaunchError: If there is none.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise LaunchError(f"the package {PACKAGE} is not installed here; {REINSTALL}")
    return Path(next(iter(spec.submodule_search_locations))).resolve()


def preset_folders() -> list[Path]:
    """Return every folder with presets, of the wheel or of the checkout around the package."""
    package = package_folder()
    for examples in (package / "examples", package.parent / "examples"):
        folders = sorted({path.parent for path in examples.rglob("*.yaml")})
        if folders:
            return folders
    return []


def find_user_dir(value: str) -> Path:
    """Return the absolute folder that ``--user-dir VALUE`` means.

    Args:
        value: A folder, absolute or relative to the working directory, or the name of an
            installed package such as ``fairseq_ecg``.

    Raises:
        LaunchError: If it is neither.
    """
    folder = Path(value).expanduser()
    if folder.is_dir():
        return folder.resolve()
    name = value.strip("/")
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations))).resolve()
    raise LaunchError(
        f"--user-dir {value}: neither a folder (looked in {Path.cwd()}) nor an installed package"
    )


def find_config_dir(value: str) -> str:
    """Return the folder that ``--config-dir VALUE`` means, whether it exists or not.

    ``examples/METHOD/...`` of a command that was written in a checkout is looked for in the
    installed package too.
    """
    path = Path(value)
    if not path.is_dir() and path.parts[:1] == ("examples",):
        package = package_folder()
        for root in (package, package.parent):
            if (root / path).is_dir():
                return str(root / path)
    return value


def suggest(name: str, known: Sequence[str]) -> str:
    """Return "; did you mean ...?" for near misses of ``name``, or an empty string.

    The package's own ``did_you_mean`` cannot be had yet when this is needed.
    """
    near = difflib.get_close_matches(name, [str(k) for k in known], n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


# --- the command line ---------------------------------------------------------------------------


class CommandLine:
    """A ``fairseq-hydra-train`` command line, taken apart.

    Args:
        arguments: The words after the command.

    Raises:
        LaunchError: If an option lacks its value, or the user directory cannot be found.
    """

    def __init__(self, arguments: Sequence[str]) -> None:
        self.flags: list[str] = []
        self.overrides: list[str] = []
        self.options: dict[str, str] = {}
        user_dir = PACKAGE
        words = list(arguments)
        while words:
            word = words.pop(0)
            name, has_value, value = word.partition("=")
            if name == "--user-dir" or name in _FLAGS_WITH_VALUE:
                if not has_value:
                    if not words:
                        raise LaunchError(f"{name} needs a value")
                    value = words.pop(0)
                if name == "--user-dir":
                    user_dir = value
                else:
                    if name in ("--config-dir", "-cd"):
                        value = find_config_dir(value)
                    self.options[name] = value
                    self.flags += [name, value]
            elif word.startswith("-"):
                self.flags.append(word)
            elif name.lstrip("+") == "common.user_dir":
                user_dir = value.strip("'\"")
            else:
                self.overrides.append(_open_override(word))
        self._find_preset_below_config_dir()
        if not any(_UNUSED_SUBSETS in word for word in self.overrides):
            self.overrides.append(f"{_UNUSED_SUBSETS}=true")
        self.user_dir = find_user_dir(user_dir)

    def _find_preset_below_config_dir(self) -> None:
        """Take the folder below ``--config-dir`` that holds the preset, if it is not itself one.

        fairseq-signals' older commands name ``.../finetuning``, newer ones a folder below it.
        """
        if self.config_dir is None or self.config_name is None:
            return
        name = f"{self.config_name}.yaml"
        if (Path(self.config_dir) / name).is_file():
            return
        found = sorted(Path(self.config_dir).rglob(name))
        if found:
            for option in {"--config-dir", "-cd"} & self.options.keys():
                self.flags[self.flags.index(option) + 1] = self.options[option] = str(
                    found[0].parent
                )

    @property
    def config_name(self) -> str | None:
        """Name of the preset, without ``.yaml``."""
        name = self.options.get("--config-name", self.options.get("-cn"))
        return name.removesuffix(".yaml") if name else None

    @property
    def config_dir(self) -> str | None:
        """Folder given with ``--config-dir``."""
        return self.options.get("--config-dir", self.options.get("-cd"))

    @property
    def sweeps(self) -> bool:
        """Whether this is a hydra multirun."""
        return bool({"-m", "--multirun"} & set(self.flags))

    @property
    def only_shows(self) -> bool:
        """Whether hydra will only print something (help, the configuration)."""
        shows = {"--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i"}
        return bool(shows & {flag.partition("=")[0] for flag in self.flags})

    def for_hydra(self) -> list[str]:
        """Return the words for the stock command: options first, then all overrides."""
        return [*self.flags, *self.overrides, f"common.user_dir={_quoted(str(self.user_dir))}"]


def _open_override(word: str) -> str:
    word = _TRANSLATED.get(word, word)
    if re.match(rf"\+?({'|'.join(OPEN_SECTIONS)})\.[\w.]+=", word):
        return f"++{word.lstrip('+')}"
    return word


def _quoted(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def check_preset_exists(line: CommandLine) -> None:
    """Refuse a preset name that no folder holds; hydra would silently train from pure defaults.

    Raises:
        LaunchError: Naming the folders that were searched and the near misses.
    """
    if line.config_name is None:
        raise LaunchError(f"--config-name is missing; presets: {', '.join(_preset_names(line))}")
    if line.config_dir is not None and not Path(line.config_dir).is_dir():
        raise LaunchError(f"--config-dir {line.config_dir} is not a folder")
    names = _preset_names(line)
    if line.config_name in _OTHER_THERE:
        print(
            f"note: {line.config_name} is a network for one CPU; what fairseq-signals calls so is "
            f"{_OTHER_THERE[line.config_name]} here",
            file=sys.stderr,
        )
    if line.config_name in names:
        return
    where = line.config_dir or "the presets of fairseq_ecg"
    raise LaunchError(
        f"no preset {line.config_name!r} in {where}"
        f"{suggest(line.config_name, names) or '; there are: ' + ', '.join(names)}"
    )


def _preset_names(line: CommandLine) -> list[str]:
    folders = [Path(line.config_dir)] if line.config_dir else preset_folders()
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def torchrun_overrides(environment: dict[str, str], gpus: int) -> list[str]:
    """Return the overrides that make fairseq join the processes torchrun has started.

    fairseq takes torchrun's variables only if the preset's world size is not 1 (else every
    process trains alone, into the same folder), and needs them spelled out on the CPU.

    Args:
        environment: The environment, with RANK and WORLD_SIZE under torchrun.
        gpus: Number of GPUs of this machine.
    """
    world = int(environment.get("WORLD_SIZE", "1"))
    if world == 1 or "RANK" not in environment:
        return []
    section = "distributed_training"
    overrides = [f"{section}.distributed_world_size={world}"]
    if gpus == 0:
        overrides += [
            f"{section}.distributed_backend=gloo",
            f"{section}.distributed_init_method='env://'",
            f"{section}.distributed_no_spawn=true",
            f"{section}.distributed_rank={environment['RANK']}",
        ]
    return overrides


def compose(line: CommandLine) -> object:
    """Compose the configuration as the run will see it and check it.

    Raises:
        LaunchError: If hydra refuses it, or ``fairseq_ecg.preflight`` finds something wrong.
    """
    import hydra
    import yaml
    from fairseq.dataclass.initialize import hydra_init
    from fairseq.utils import import_user_module
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    import_user_module(Namespace(user_dir=str(line.user_dir)))
    from fairseq_ecg import preflight

    hydra_init(line.config_name)
    folders = [Path(line.config_dir)] if line.config_dir else preset_folders()
    name = f"{line.config_name}.yaml"
    folder = next(folder for folder in folders if (folder / name).is_file())
    GlobalHydra.instance().clear()
    try:
        with hydra.initialize_config_dir(str(folder.resolve()), version_base="1.1"):
            cfg = hydra.compose(line.config_name, overrides=_single_overrides(line))
    except HydraException as error:
        raise LaunchError(preflight.explain_composition(error)) from None
    except yaml.YAMLError as error:
        raise LaunchError(f"{folder / name} is no YAML: {error}") from None
    finally:
        GlobalHydra.instance().clear()
    try:
        preflight.check(cfg)
        preflight.check_parts(cfg)
    except preflight.ConfigError as error:
        raise LaunchError(str(error)) from None
    return cfg


def _single_overrides(line: CommandLine) -> list[str]:
    """Return the overrides of the first job of a sweep; the other jobs check their own."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    if not line.sweeps:
        return line.overrides
    parsed = OverridesParser.create().parse_overrides(line.overrides)
    words = [o.input_line for o in parsed if not o.is_sweep_override()]
    swept = [o for o in parsed if o.is_sweep_override() and o.is_discrete_sweep()]
    return words + [f"{o.get_key_element()}={next(o.sweep_string_iterator())}" for o in swept]


# --- refusals of a run that has started ----------------------------------------------------------


def train_or_refuse(cfg: object, **kwargs: object) -> None:
    """Train as fairseq does; what our code refuses while it builds ends with one line and status 2.

    With ``HYDRA_FULL_ERROR=1``, or for any other error, the traceback stays.

    Args:
        cfg: The whole configuration.
        **kwargs: What fairseq passes on.
    """
    from fairseq_cli.train import main

    try:
        main(cfg, **kwargs)
    except ValueError as error:
        if os.environ.get("HYDRA_FULL_ERROR") == "1" or not is_refusal(error):
            raise
        print(f"fairseq-ecg: error: {error}", file=sys.stderr)
        sys.exit(2)


def is_refusal(error: ValueError) -> bool:
    """Return whether our code has raised an error on purpose while the run was put together.

    That is an error class of ours, or a ValueError of a ``raise`` in our code: one that a call
    inside it has met, such as ``int("x")``, is a bug.

    Args:
        error: What has ended the run.
    """
    frames = [frame for frame, _ in walk_tb(error.__traceback__)]
    if not _BUILDING & {frame.f_code.co_name for frame in frames}:
        return False
    if _is_ours(type(error).__module__):
        return True
    last = error.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    raised = last.tb_frame.f_code.co_code[last.tb_lasti] == opmap["RAISE_VARARGS"]
    return raised and _is_ours(frames[-1].f_globals.get("__name__", ""))


def _is_ours(module: str) -> bool:
    return module.partition(".")[0] == PACKAGE


# --- the commands -------------------------------------------------------------------------------


def quieten() -> None:
    """Keep the engine's harmless start-up noise off the terminal (section names in ``_NOISE``)."""
    logging.basicConfig(level=logging.WARNING)
    for message in _NOISE:
        warnings.filterwarnings("ignore", message=f"(?s).*{re.escape(message)}")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"fairseq\..*")


def train(arguments: Sequence[str]) -> None:
    """Train as ``fairseq-hydra-train`` does, with the additions named at the top of this module.

    Args:
        arguments: The words after the command.

    Raises:
        LaunchError: If the command line or the configuration cannot work.
    """
    quieten()
    line = CommandLine(arguments)
    if not line.only_shows:
        check_preset_exists(line)
    import torch

    line.overrides += torchrun_overrides(dict(os.environ), torch.cuda.device_count())
    from fairseq_cli import hydra_train as stock

    if not line.only_shows:
        compose(line)
    sys.argv = [sys.argv[0], *line.for_hydra()]
    stock.pre_main = train_or_refuse
    stock.cli_main()


def hydra_train() -> None:
    """Entry point of the console script ``fairseq-hydra-train``."""
    _run(lambda: train(sys.argv[1:]))


def main() -> None:
    """Entry point of ``fairseq-ecg VERB ...`` and ``python -m fairseq_ecg_launch VERB ...``."""
    if sys.argv[1:2] == ["train"]:
        _warn_if_stock_script_wins()
        _run(lambda: train(sys.argv[2:]))
        return
    quieten()

    def verb() -> int:
        from fairseq_ecg.cli.main import main as cli_main

        return cli_main(sys.argv[1:])

    _run(verb)


def _run(command) -> None:
    try:
        sys.exit(command())
    except LaunchError as error:
        print(f"fairseq-ecg: error: {error}", file=sys.stderr)
        sys.exit(2)


def stock_script() -> str | None:
    """Return the path of ``fairseq-hydra-train`` if that is fairseq's own script, not ours."""
    beside = Path(sys.executable).with_name("fairseq-hydra-train")
    path = str(beside) if beside.is_file() else shutil.which("fairseq-hydra-train")
    if path is None or "fairseq_ecg_launch" in Path(path).read_text(errors="replace"):
        return None
    return path


def _warn_if_stock_script_wins() -> None:
    path = stock_script()
    if path is not None:
        print(
            f"note: {path} is fairseq's own script and does not know --user-dir; "
            f"this command works all the same. To get ours: {REINSTALL}",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()
