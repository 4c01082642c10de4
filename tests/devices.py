"""A pretended device: arithmetic of the CPU that refuses what an accelerator refuses.

Tensors on it never meet tensors of the CPU in one operation (CUDA lets an index be on the CPU, this
does not), and NumPy cannot see them. So a test finds where a tensor was left behind, or made in the
wrong place, on a machine without accelerator.
It stands on torch's key for devices that are written in Python. The engine of autograd counts the
devices of its process once, so the device lives in a process of its own: see ``pretending``.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from torch.utils import backend_registration
from torch.utils._pytree import tree_leaves, tree_map

from tests.runs import CONTEXT

DEVICE = "pretended"
_COPY = torch.ops.aten.copy_.default  # the one operation between devices
_libraries = []  # kept alive with the process: their end would take the kernels with it


class PretendedTensor(torch.Tensor):
    """A tensor on the pretended device.

    Args:
        inner: The tensor of the CPU that holds its values.
    """

    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, inner: torch.Tensor) -> "PretendedTensor":
        return torch.Tensor._make_wrapper_subclass(
            cls,
            inner.shape,
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=f"{DEVICE}:0",
        )

    def __init__(self, inner: torch.Tensor) -> None:
        self.inner = inner

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.inner})"

    def tolist(self) -> Any:
        """Return the values; an accelerator waits and copies them, too."""
        return self.cpu().tolist()

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = operation.decompose(*args, **kwargs)  # in inference mode nobody did it yet
        return _compute(operation, *args, **kwargs) if result is NotImplemented else result


class _Module(backend_registration._DummyBackendModule):
    """What torch asks the module of a device."""

    def get_amp_supported_dtype(self) -> list[torch.dtype]:
        return [torch.bfloat16]


def _compute(operation: Any, *args: Any, **kwargs: Any) -> Any:
    """Compute on the CPU what was called on the device, or refuse."""
    _check_one_device(operation, args, kwargs)
    device = kwargs.get("device")
    of_cpu = {} if device is None else {"device": "cpu"}
    result = operation(*tree_map(_inner, args), **{**tree_map(_inner, kwargs), **of_cpu})
    if device is not None and torch.device(device).type == "cpu":
        return result
    written = kwargs.get("out", args[0] if _changes_its_first(operation) else None)
    if written is not None:
        return _unresized(operation, written)
    return tree_map(lambda x: PretendedTensor(x) if isinstance(x, torch.Tensor) else x, result)


def _check_one_device(operation: Any, args: tuple, kwargs: dict) -> None:
    """Refuse tensors of both devices in one operation; a number may be on either."""
    if operation is _COPY:
        return
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
    of_cpu = [x for x in tensors if not isinstance(x, PretendedTensor) and x.dim() > 0]
    if of_cpu and len(of_cpu) < len(tensors):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {operation} got one of shape "
            f"{tuple(of_cpu[0].shape)} on cpu besides one on {DEVICE}:0"
        )


def _changes_its_first(operation: Any) -> bool:
    first = operation._schema.arguments[:1]
    changed = first and first[0].alias_info is not None and first[0].alias_info.is_write
    return bool(changed) and bool(operation._schema.returns)


def _unresized(operation: Any, written: PretendedTensor) -> PretendedTensor:
    """Return a tensor that was written into; its shape is fixed."""
    if written.inner.shape != written.shape:
        raise NotImplementedError(f"{operation} would resize a tensor on {DEVICE}")
    return written


def _inner(value: Any) -> Any:
    return value.inner if isinstance(value, PretendedTensor) else value


def _register() -> None:
    """Make the device known to torch in this process."""
    torch.set_num_threads(1)
    backend_registration._setup_privateuseone_for_python_backend(DEVICE, backend_module=_Module())
    everything, of_aten = (torch.library.Library(name, "IMPL") for name in ("_", "aten"))
    everything.fallback(_compute, "PrivateUse1")  # what makes a tensor has none to dispatch on
    for overload in ("default", "start", "start_step"):  # without these arange would resize
        arange = functools.partial(_compute, getattr(torch.ops.aten.arange, overload))
        of_aten.impl(f"arange.{overload}".removesuffix(".default"), arange, "PrivateUse1")
    stft = functools.partial(_compute, torch.ops.aten.stft.default)  # its parts change a shape
    for key in ("PrivateUse1", "AutogradPrivateUse1"):
        of_aten.impl("stft", stft, key)
    _libraries.extend((everything, of_aten))


@contextlib.contextmanager
def pretending() -> Iterator[Callable[..., Any]]:
    """Give a function that calls others in a process with the device, one after the other.

    ``call(function, *args)`` returns what the function returns and raises what it raises; function,
    arguments and result must be picklable.
    """
    with ProcessPoolExecutor(1, CONTEXT, initializer=_register) as process:
        yield lambda function, *args: process.submit(function, *args).result()
