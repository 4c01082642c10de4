"""Layer specifications written as text, such as ``"[(256, 2, 2)] * 4"``, read without running them.

The text is parsed to a syntax tree, and only numbers, tuples, lists, ``+`` between lists and ``*``
between a list and an integer are followed. Nothing else has a meaning here, so nothing can run.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence

LayerSpec = tuple[tuple[int, int, int], ...]

MAX_LAYERS = 256
_MAX_CHARACTERS = 4096
_MAX_SIZE = 1 << 20  # channels, kernel or stride of one layer
_EXAMPLE = "[(256, 2, 2)] * 4"


def parse_layers(spec: str | Sequence[Sequence[int]]) -> LayerSpec:
    """Read the blocks of a convolutional stack.

    Args:
        spec: Text with lists of ``(channels, kernel, stride)``, joined by ``+`` and repeated by
            ``*``, or the list itself.

    Returns:
        One ``(channels, kernel, stride)`` of positive integers per layer, at most 256 of them.

    Raises:
        ValueError: If the text holds anything else, or more layers; it is quoted in the message.
    """
    value = _parse_text(spec) if isinstance(spec, str) else spec
    if not isinstance(value, Sequence) or not 1 <= len(value) <= MAX_LAYERS:
        raise _error(spec, f"a list of 1 to {MAX_LAYERS} layers is expected")
    return tuple(_layer(layer, spec) for layer in value)


def _layer(layer: object, spec: object) -> tuple[int, int, int]:
    if not isinstance(layer, Sequence) or len(layer) != 3:
        raise _error(spec, f"each layer is (channels, kernel, stride), not {_shorten(layer)}")
    for size in layer:
        if type(size) is not int or not 1 <= size <= _MAX_SIZE:
            raise _error(spec, f"sizes are integers from 1 to {_MAX_SIZE}, not {_shorten(size)}")
    channels, kernel, stride = layer
    return channels, kernel, stride


def _parse_text(spec: str) -> object:
    if len(spec) > _MAX_CHARACTERS:
        raise _error(spec, f"it is longer than {_MAX_CHARACTERS} characters")
    try:
        tree = ast.parse(spec.strip(), mode="eval")
        return _value(tree.body, spec)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise _error(spec, f"it does not parse ({type(error).__name__})") from None
    except ValueError as error:
        if str(error).startswith("layer specification"):
            raise
        raise _error(spec, "it does not parse") from None


def _value(node: ast.expr, spec: str) -> object:
    match node:
        case ast.Constant(value=int(number)) if type(number) is int:
            return number
        case ast.Tuple(elts=elements):
            return tuple(_value(element, spec) for element in elements)
        case ast.List(elts=elements):
            return [_value(element, spec) for element in elements]
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return _joined(_value(left, spec), _value(right, spec), spec)
        case ast.BinOp(left=left, op=ast.Mult(), right=right):
            return _repeated(_value(left, spec), _value(right, spec), spec)
    raise _error(spec, f"{type(node).__name__} has no meaning in it")


def _joined(left: object, right: object, spec: str) -> list:
    if not (isinstance(left, list) and isinstance(right, list)):
        raise _error(spec, "+ joins two lists")
    return _bounded(left, right, spec)


def _repeated(left: object, right: object, spec: str) -> list:
    layers, times = (left, right) if isinstance(left, list) else (right, left)
    if not isinstance(layers, list) or type(times) is not int:
        raise _error(spec, "* repeats a list an integer number of times")
    if times < 0 or times * len(layers) > MAX_LAYERS:
        raise _error(spec, f"it asks for more than {MAX_LAYERS} layers or fewer than none")
    return layers * times


def _bounded(left: list, right: list, spec: str) -> list:
    if len(left) + len(right) > MAX_LAYERS:
        raise _error(spec, f"it asks for more than {MAX_LAYERS} layers")
    return left + right


def _shorten(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _error(spec: object, why: str) -> ValueError:
    return ValueError(
        f"layer specification {_shorten(spec)} is not understood: {why}. "
        f'Write lists of (channels, kernel, stride), for example "{_EXAMPLE}"'
    )
