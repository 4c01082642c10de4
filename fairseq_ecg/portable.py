"""A network as a graph that runs without this package: traced once, written as ONNX or by torch.

The graph takes ``source`` alone, float32 [B, C, T]. There is no padding mask: which frames are
valid is decided in Python, and a recording that is given with its own length needs none.
Shapes: B batch, C leads, T samples, L frames, D width, K classes.
"""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from fairseq_ecg.exported import write_bytes
from fairseq_ecg.models._encoder import EcgEncoder
from fairseq_ecg.models._finetuning import FinetunedModel

LIMIT = (
    1e-5  # largest difference to eager PyTorch, of values up to 1; above, relative to the largest
)
ONNX_PACKAGES = ("onnx", "onnxscript", "onnxruntime")
_LARGEST_FILE = 1_900_000_000  # bytes; a protobuf message ends at 2 GiB
_STEPS = (1, 2, 4, 8, 16, 32)  # to lengths to compare at: halvings that go wrong show there
_ASIDE = ("stack_trace", "nn_module_stack", "source_fn_stack", "torch_fn")  # in nodes, of no use


class PortableError(ValueError):
    """A network cannot be traced, or its graph does not compute what it computes."""


class Network(nn.Module):
    """What is traced: recordings in, a dictionary of what the network says of them out.

    ``features`` float [B, L, D]; ``embedding`` float [B, D], of length 1 where the network tells
    patients apart; of a model around an encoder also ``out``, float [B, K].

    Args:
        model: In evaluation mode.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, source: Tensor) -> dict[str, Tensor]:
        """Return the outputs for recordings, float32 [B, C, T], of which nothing is padded."""
        if isinstance(self.model, EcgEncoder):
            encoded = self.model.encode(source)
            return {"features": encoded["features"], "embedding": self.model.pooled(encoded)}
        with _encoding_once(self.model.encoder):
            output = self.model(source)
            return {
                "features": self.model.extract_features(source),
                "embedding": output.get("embedding", self.model.embed(source)),
                "out": output["out"],
            }


@dataclass(frozen=True, eq=False)
class Traced:
    """A traced network.

    Args:
        program: The graph.
        outputs: Names of its outputs, in their order.
        n_samples: Length T it was traced with.
        step: It takes T plus or minus any multiple of this; 0: T alone.
        others: Some other lengths that it takes.
    """

    program: torch.export.ExportedProgram
    outputs: tuple[str, ...]
    n_samples: int
    step: int = 0
    others: tuple[int, ...] = ()


def missing_packages() -> list[str]:
    """Return which packages are not installed that writing and checking ONNX needs."""
    return [name for name in ONNX_PACKAGES if find_spec(name) is None]


def accepted_length(model: nn.Module, leads: int, n_samples: int) -> int:
    """Return the shortest length from ``n_samples`` on that a network takes.

    Args:
        model: In evaluation mode.
        leads: C.
        n_samples: Where to begin; up to four times that is tried.

    Raises:
        PortableError: If it takes none of them, with the reason that it gives.
    """
    network, refusal = Network(model).eval(), ""
    for length in range(n_samples, 4 * n_samples + 1):
        refusal = _refusal(network, leads, length)
        if not refusal:
            return length
    raise PortableError(
        f"the network takes no recording of {leads} leads and {n_samples} to {4 * n_samples} "
        f"samples: {refusal}"
    )


def trace(model: nn.Module, leads: int, n_samples: int) -> Traced:
    """Trace a network for any batch, and for any length where it can be done.

    Args:
        model: An encoder, or a model around one; is changed and of no further use.
        leads: C.
        n_samples: Length to trace with, which the network takes.

    Raises:
        PortableError: If it cannot be traced.
    """
    _prepare(model)
    network = Network(model).eval()
    source = torch.zeros(2, leads, n_samples)
    for longest in (4 * n_samples, 2 * n_samples, n_samples):
        if not _refusal(network, leads, longest):  # and positions for so many frames are made
            break
    with torch.no_grad():
        outputs = tuple(network(source))
    program = _traced(network, source, any_length=True)
    if isinstance(program, torch.export.ExportedProgram):
        with _quiet():
            step, others = _other_lengths(program, network, leads, n_samples)
        if others:
            return Traced(program, outputs, n_samples, step, others)
    program = _traced(network, source, any_length=False)
    if isinstance(program, Exception):
        reason = str(program).strip().split("\n")[0]
        raise PortableError(f"the network cannot be traced by torch.export: {reason}")
    return Traced(program, outputs, n_samples)


def write_pt2(traced: Traced, path: Path) -> None:
    """Write a traced network with ``torch.export.save``, with the lengths that it refuses.

    Args:
        traced: The network.
        path: File to write.
    """
    content = io.BytesIO()  # torch's own writer ends the process where the disk is full
    with _quiet():
        torch.export.save(traced.program, content)
    write_bytes(path, content.getbuffer())


def write_onnx(traced: Traced, path: Path) -> None:
    """Write a traced network as ONNX; weights of more than 2 GB go to a file beside it.

    Args:
        traced: The network.
        path: File to write.
    """
    weights = [*traced.program.state_dict.values(), *traced.program.constants.values()]
    n_bytes = sum(w.nbytes for w in weights if torch.is_tensor(w))
    with _quiet():
        written = torch.onnx.export(
            traced.program,
            (),
            dynamo=True,
            verbose=False,
            input_names=["source"],
            output_names=list(traced.outputs),
        )
        _name_axes(written.model.graph)
        written.save(str(path), external_data=n_bytes > _LARGEST_FILE)


def open_pt2(path: Path) -> Callable[[Tensor], dict[str, Tensor]]:
    """Return what a file of ``write_pt2`` computes."""
    module = torch.export.load(path).module()

    def run(source: Tensor) -> dict[str, Tensor]:
        with torch.no_grad():
            return module(source)

    return run


def open_onnx(path: Path, threads: int = 0) -> Callable[[Tensor], dict[str, Tensor]]:
    """Return what a file of ``write_onnx`` computes, by onnxruntime on the CPU.

    Args:
        path: The file.
        threads: How many to use; 0: one for each core.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def run(source: Tensor) -> dict[str, Tensor]:
        found = session.run(names, {"source": source.numpy()})
        return {name: torch.from_numpy(value) for name, value in zip(names, found, strict=True)}

    return run


def largest_difference(
    model: nn.Module, run: Callable[[Tensor], dict[str, Tensor]], sources: Sequence[Tensor]
) -> float:
    """Compare a graph with the network that it was made of.

    Args:
        model: The network itself, not the one that was traced.
        run: Computes the graph's outputs.
        sources: Recordings, float32 [B, C, T] each; lengths and batches may differ.

    Returns:
        The largest difference of any output; where outputs are larger than 1, over the largest of
        them.

    Raises:
        PortableError: If the graph fails, gives other shapes, or differs by more than ``LIMIT``.
    """
    network, distances = Network(model).eval(), [0.0]
    for source in sources:
        with torch.no_grad():
            expected = network(source)
        try:
            found = run(source)
        except Exception as error:  # of another program
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise PortableError(f"the graph fails for {list(source.shape)}: {reason}") from error
        distances += [_distance(name, value, found[name]) for name, value in expected.items()]
    worst = float(np.max(distances))  # NaN if one is
    if not worst <= LIMIT:
        raise PortableError(
            f"the graph differs from PyTorch by {worst:.1e}, more than {LIMIT:g}; nothing was "
            "exported. Leave this format out, and report it with the network's configuration"
        )
    return worst


# --- tracing --------------------------------------------------------------------------------------


@contextmanager
def _encoding_once(encoder: EcgEncoder) -> Iterator[None]:
    """Let all of a model's methods share what its encoder says of the same recordings."""
    encode, found = encoder.encode, []

    def once(source: Tensor, padding_mask: Tensor | None = None) -> dict[str, Tensor | None]:
        if not found:
            found.append(encode(source, padding_mask))
        return dict(found[0])

    encoder.encode = once
    try:
        yield
    finally:
        del encoder.encode


class _SymbolicPooling(TorchFunctionMode):
    """Take maxima over time as over an image of one row.

    ``torch.max_pool1d`` without gradients has a form of its own, which keeps no length open.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in (torch.max_pool1d, functional.max_pool1d):
            return _max_pool(*args, **kwargs)
        return func(*args, **kwargs)


def _max_pool(
    x: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Tensor:
    if return_indices:
        raise PortableError("a network that asks for the places of maxima cannot be traced")
    given = ((kernel_size, 1), (stride or kernel_size, 1), (padding, 0), (dilation, 1))
    kernel, step, zeros, gap = (
        (of_row, value if isinstance(value, int) else value[0]) for value, of_row in given
    )
    return functional.max_pool2d(x[..., None, :], kernel, step, zeros, gap, ceil_mode)[..., 0, :]


def _prepare(model: nn.Module) -> None:
    """Bring a network into the form that is traced: weights that need not be computed, unfrozen."""
    model.eval().requires_grad_(False)
    if isinstance(model, FinetunedModel):
        model.freeze_updates = 0
    for module in list(model.modules()):
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
    model.requires_grad_(False)


def _traced(
    network: Network, source: Tensor, any_length: bool
) -> torch.export.ExportedProgram | Exception:
    """Return the graph, or why there is none."""
    axes = {0: torch.export.Dim.DYNAMIC}
    if any_length:
        axes[2] = torch.export.Dim.DYNAMIC
    try:
        with torch.no_grad(), _quiet(), _SymbolicPooling():
            program = torch.export.export(
                network, (source,), dynamic_shapes={"source": axes}, strict=False
            )
    except (RuntimeError, ValueError, TypeError, AttributeError) as error:
        return error
    graphs = [m.graph for m in program.graph_module.modules() if hasattr(m, "graph")]
    for node in (node for graph in graphs for node in graph.nodes):
        for key in _ASIDE:  # they say where on this machine the code lies
            node.meta.pop(key, None)
    return program


def _other_lengths(
    program: torch.export.ExportedProgram, network: Network, leads: int, n_samples: int
) -> tuple[int, tuple[int, ...]]:
    """Return the step from one length to the next that a graph takes, and some it does take."""
    module = program.module()
    candidates = range(n_samples + 1, 2 * n_samples + 1)
    longer = next((n for n in candidates if _agrees(module, network, leads, n)), None)
    if longer is None:
        return 0, ()
    step = longer - n_samples
    lengths = {n_samples + step * factor for factor in _STEPS if step * factor <= n_samples}
    lengths |= {n_samples // 2, 3 * n_samples // 2, 2 * n_samples}
    return step, tuple(n for n in sorted(lengths) if _agrees(module, network, leads, n))


def _agrees(module: nn.Module, network: Network, leads: int, n_samples: int) -> bool:
    """Return whether network and graph take a length and give the same shapes."""
    if _refusal(network, leads, n_samples):
        return False
    source = torch.zeros(1, leads, n_samples)
    try:
        with torch.no_grad():
            found, expected = module(source), network(source)
    except (RuntimeError, ValueError, AssertionError):
        return False
    return all(found[name].shape == value.shape for name, value in expected.items())


def _refusal(network: Network, leads: int, n_samples: int) -> str:
    """Return why a network takes no recording of a length; empty if it does."""
    try:
        with torch.no_grad():
            network(torch.zeros(1, leads, n_samples))
    except (RuntimeError, ValueError) as error:
        return str(error).splitlines()[0] or type(error).__name__
    return ""


def _name_axes(graph: Any) -> None:
    """Name the open axes of an ONNX graph ``batch`` and ``samples``, and leave notes out."""
    source = graph.inputs[0]
    names = {}
    for axis, name in ((0, "batch"), (2, "samples")):
        if not isinstance(source.shape[axis], int):
            names[str(source.shape[axis].value)] = name
    values = [*graph.inputs, *graph.outputs]
    for node in graph.all_nodes():
        node.metadata_props.clear()
        values += node.outputs
    for value in {id(v): v for v in values}.values():
        value.metadata_props.clear()
        for axis, size in enumerate(value.shape or ()):
            if not isinstance(size, int) and size.value is not None:
                text = str(size.value)
                for symbol, name in names.items():
                    text = text.replace(symbol, name)
                value.shape[axis] = text


def _distance(name: str, expected: Tensor, found: Tensor) -> float:
    if found.shape != expected.shape:
        raise PortableError(
            f"the graph gives {name} as {list(found.shape)}, but PyTorch {list(expected.shape)}"
        )
    largest = max(1.0, float(expected.abs().max()))
    return float(np.abs(found.numpy() - expected.numpy()).max()) / largest


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporters from talking about what their user cannot change."""
    disabled = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(disabled)
