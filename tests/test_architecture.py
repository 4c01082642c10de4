"""The arrows of the design: which room may know which, and what no room may do.

A room is a folder of ``fairseq_ecg`` or one of its top-level modules. The tables are the rule; a
new arrow needs an entry, and an exception also a reason.
"""

import ast
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "fairseq_ecg"
FILES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in [*PACKAGE.rglob("*.py"), ROOT / "fairseq_ecg_launch.py"]
}

# Helpers below every room.
EVERYBODY = {"resources", "_discover", "_near_misses"}
ALL_ROOMS = {
    *("data", "transforms", "corpora", "tasks", "modules", "models", "criterions", "metrics"),
    *("interop", "plots", "engine", "preflight", "checkpoint", "evaluation", "training_log"),
    *("lead_robustness", "contract", "conversion", "reconstruction", "studies", "optim"),
    *("evaluation_results", "evaluation_files"),
    *("export", "export_readme", "exported", "hub", "portable"),
    *("extraction", "embedding_files", "probing", "shallow_features", "comparison"),
    *("saliency", "prediction", "html_page", "report"),
}
# The design: data -> transforms -> tasks, data -> corpora, modules -> models,
# metrics -> criterions; interop knows models and data; everything -> cli.
KNOWS = {
    "data": set(),
    "transforms": {"data"},
    "corpora": {"data"},
    "tasks": {"data", "transforms"},
    "modules": set(),
    "models": {"modules"},
    "metrics": set(),
    "criterions": {"metrics"},
    "optim": set(),
    "interop": {"models", "data"},
    "plots": set(),
    "engine": set(),
    "preflight": set(),
    "checkpoint": set(),
    "evaluation": {"evaluation_results"},
    "evaluation_results": {"metrics"},
    "evaluation_files": {"data", "evaluation_results", "metrics", "plots"},
    "training_log": set(),
    "lead_robustness": {"checkpoint", "data", "evaluation"},
    "contract": {"data"},
    "exported": {"data"},
    "export": {
        *("checkpoint", "contract", "corpora", "data", "evaluation", "models"),
        *("export_readme", "exported", "portable"),
    },
    "export_readme": {"contract", "exported"},
    "hub": {"data", "exported"},
    "portable": {"exported", "models"},
    "embedding_files": {"data"},
    "extraction": {
        *("checkpoint", "contract", "data", "evaluation", "models"),
        *("embedding_files", "exported"),
    },
    "shallow_features": set(),
    "probing": {
        *("data", "evaluation", "evaluation_results", "metrics", "tasks"),
        *("embedding_files", "shallow_features"),
    },
    "comparison": {
        *("checkpoint", "contract", "evaluation", "evaluation_files", "evaluation_results"),
        *("embedding_files", "exported", "extraction", "metrics", "models", "probing"),
    },
    "conversion": {"checkpoint", "data", "interop", "models"},
    "reconstruction": {"checkpoint", "data", "evaluation", "modules"},
    "studies": {"data", "engine"},
    "saliency": {"modules"},
    "prediction": {
        *("checkpoint", "contract", "data", "evaluation", "metrics", "saliency", "tasks"),
    },
    "html_page": set(),
    "report": {
        *("checkpoint", "contract", "data", "evaluation_files", "evaluation_results"),
        *("html_page", "plots", "prediction", "training_log"),
    },
    "cli": ALL_ROOMS,
    "__init__": {
        *("models", "tasks", "criterions", "optim"),
        *("engine", "checkpoint", "_quiet_import"),
    },
    "fairseq_ecg_launch": {"cli", "preflight"},
}
EXCEPTIONS = {
    ("data", "transforms"): "a store is resampled while it is built; resample.py knows no room",
    ("criterions", "modules"): "CMSC pools and compares with the layers its models use",
    ("interop", "corpora"): "patients of segments are divided as those of a store",
    ("plots", "metrics"): "curves are drawn of the points that their areas are computed from",
    ("plots", "data"): "a picture is drawn of an EcgSignal, and published atomically",
    ("tasks", "engine"): "the graceful stop and the patience counter act during training",
    ("tasks", "preflight"): "runs of the stock script are checked where the task is set up",
    ("preflight", "engine"): "one way to tell a whole checkpoint from a truncated one",
    ("preflight", "exported"): "an exported folder is as good as a checkpoint",
    ("checkpoint", "exported"): "the same",
    ("checkpoint", "engine"): "one list of classes that a checkpoint may hold",
    ("checkpoint", "interop"): "foreign checkpoints are converted while they are read",
    ("checkpoint", "modules"): "layer specs of a checkpoint are parsed before anything is built",
    ("checkpoint", "models"): "inside a function: a model is built of a checkpoint",
    ("checkpoint", "contract"): "the keys of the contract that it carries",
    ("models", "checkpoint"): "a classifier starts from a pretrained checkpoint",
    ("models", "contract"): "the encoder of a checkpoint keeps what it expects",
    ("tasks", "contract"): "recordings are compared with it where they are opened",
    ("evaluation", "checkpoint"): "it joins checkpoint, task and metrics; only the CLI is above",
    ("evaluation", "tasks"): "the same",
    ("evaluation", "metrics"): "the same",
    ("evaluation", "contract"): "recordings must be what the checkpoint expects",
    ("evaluation", "corpora"): "the database of a challenge record stands in its name",
    ("evaluation", "data"): "what the recordings are decides how they are prepared",
}


def room(module: str) -> str:
    """Return the room of a module: the folder or top-level module right below the package."""
    parts = module.split(".")
    return parts[0] if parts[0] != "fairseq_ecg" else parts[1] if len(parts) > 1 else "__init__"


def imported(tree: ast.Module) -> list[tuple[str, bool]]:
    """Return (module, whether at import time) of every import of this project."""
    lazy = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute here"
            whole = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [name if name in FILES else node.module for name in whole]
        found += [(name, id(node) not in lazy) for name in names]
    return found


TREES = {module: ast.parse(path.read_text("utf-8")) for module, path in FILES.items()}
IMPORTS = {module: imported(tree) for module, tree in TREES.items()}
ARROWS = {
    (room(module), room(name))
    for module, names in IMPORTS.items()
    for name, _ in names
    if name.split(".")[0] in ("fairseq_ecg", "fairseq_ecg_launch") and room(name) != room(module)
}


def test_every_room_has_its_place_in_the_table():
    rooms = {room(module) for module in FILES}
    assert rooms - EVERYBODY - {"_quiet_import"} == set(KNOWS)


def test_rooms_know_only_whom_the_design_lets_them_know():
    allowed = {(a, b) for a, known in KNOWS.items() for b in known | EVERYBODY}
    assert sorted(ARROWS - allowed - EXCEPTIONS.keys()) == []


def test_every_exception_is_still_needed():
    assert sorted(EXCEPTIONS.keys() - ARROWS) == []


def test_nothing_imports_the_command_line_but_the_launcher():
    assert {a for a, b in ARROWS if b == "cli"} == {"fairseq_ecg_launch"}
    assert {a for a, b in ARROWS if b == "fairseq_ecg_launch"} == set()


def test_tasks_models_and_criterions_are_joined_by_fairseq_not_by_imports():
    apart = {"tasks", "models", "criterions"}
    assert {(a, b) for a, b in ARROWS if a in apart and b in apart} == set()


def test_no_modules_import_each_other_in_a_circle():
    graph = {
        module: {name for name, at_import in names if at_import and name in FILES}
        for module, names in IMPORTS.items()
    }
    graphlib.TopologicalSorter(graph).prepare()


def test_what_data_takes_from_transforms_knows_nothing_of_data():
    taken = {
        name
        for module, names in IMPORTS.items()
        if room(module) == "data"
        for name, _ in names
        if room(name) == "transforms"
    }
    assert taken == {"fairseq_ecg.transforms.resample"}
    assert not [n for n, _ in IMPORTS["fairseq_ecg.transforms.resample"] if "fairseq_ecg" in n]


def test_only_the_readers_of_wfdb_files_import_wfdb():
    users = {m for m, names in IMPORTS.items() if any(n.split(".")[0] == "wfdb" for n, _ in names)}
    assert users == {"fairseq_ecg.data.wfdb_fallback"}


def test_metrics_and_plots_need_neither_torch_nor_fairseq():
    for module, names in IMPORTS.items():
        if room(module) in ("metrics", "plots", "training_log", "resources"):
            assert not {n.split(".")[0] for n, _ in names} & {"torch", "fairseq"}, module


def test_foreign_names_are_known_in_their_own_room_only():
    for module, tree in TREES.items():
        docstrings = {
            id(node.body[0].value)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            and node.body
            and isinstance(node.body[0], ast.Expr)
        }
        strings = [
            node.value
            for node in ast.walk(tree)
            if isinstance(node, ast.Constant)
            and isinstance(node.value, str)
            and id(node) not in docstrings
        ]
        if room(module) != "interop":
            assert not [s for s in strings if "fairseq_signals" in s], module


# --- what no room may do ------------------------------------------------------------------------


def _call_name(node: ast.Call) -> str:
    return ast.unparse(node.func)


def _keyword(node: ast.Call, name: str) -> object:
    return next(
        (k.value.value for k in node.keywords if k.arg == name and hasattr(k.value, "value")), None
    )


def faults(tree: ast.Module, may_print: bool = False) -> list[str]:
    """Return what is forbidden everywhere: running text, unpickling, asserting, hiding errors."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Assert):
            found.append(f"{node.lineno}: assert")
        elif isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"{node.lineno}: bare except")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [a.name for a in node.names] + [getattr(node, "module", None) or ""]
            if {n.split(".")[0] for n in names} & {"pickle", "dill", "joblib", "marshal", "shelve"}:
                found.append(f"{node.lineno}: pickle")
        elif isinstance(node, ast.Call):
            found += [f"{node.lineno}: {fault}" for fault in _call_faults(node, may_print)]
    return found


def _call_faults(node: ast.Call, may_print: bool) -> list[str]:
    name = _call_name(node)
    found = []
    if name in ("eval", "exec", "compile", "__import__", "os.system"):
        found.append(name)
    if name == "print" and not may_print:
        found.append("print")
    if name == "torch.load" and _keyword(node, "weights_only") is not True:
        found.append("torch.load without weights_only=True")
    if name == "np.load" and _keyword(node, "allow_pickle") is not False:
        found.append("np.load without allow_pickle=False")
    if _keyword(node, "shell") is True:
        found.append("shell=True")
    return found


@pytest.mark.parametrize("module", sorted(FILES))
def test_no_module_runs_text_unpickles_asserts_or_hides_errors(module):
    may_print = room(module) in ("cli", "fairseq_ecg_launch")
    assert faults(TREES[module], may_print) == []


@pytest.mark.parametrize(
    "code",
    [
        "eval('1')",
        "exec('1')",
        "import pickle",
        "from pickle import load",
        "torch.load(p)",
        "torch.load(p, weights_only=False)",
        "np.load(p)",
        "np.load(p, allow_pickle=True)",
        "try:\n    f()\nexcept:\n    pass",
        "print(1)",
        "assert x",
        "subprocess.run(c, shell=True)",
    ],
)
def test_the_check_sees_what_it_is_there_for(code):
    assert len(faults(ast.parse(code))) == 1


def test_the_check_lets_harmless_code_pass():
    code = "model.eval()\nast.literal_eval(t)\ntorch.load(p, weights_only=True)\nmodel.compile()"
    assert faults(ast.parse(code)) == []
    assert faults(ast.parse("print(1)"), may_print=True) == []
