"""What a perturbation is, how one is registered, and how those of a run are built from its keys.

A perturbation is one class in one file of this folder: a frozen dataclass whose fields, made with
``option``, are keys of every task. Nothing else has to know it. Drawing is separate from
arithmetic: each segment of a batch draws from its own generator, then all are computed together.
"""

import abc
import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, TypeVar

import numpy as np

from fairseq_ecg import transforms
from fairseq_ecg._discover import import_public_modules
from fairseq_ecg._near_misses import near_misses
from fairseq_ecg.data.signal import MILLIVOLTS, EcgSignal

_PERTURBATIONS: dict[str, "type[Perturbation]"] = {}


def option(
    default: Any,
    description: str,
    unit: str = "",
    low: float | None = None,
    high: float = math.inf,
) -> Any:
    """Declare an option of a perturbation: a dataclass field that is a key of the tasks too.

    Args:
        default: Its value unless given; a tuple becomes a list in the configuration.
        description: One line of help, without the unit.
        unit: Of the value, such as "mV"; empty if it has none.
        low: Smallest value allowed; None if it is no number, or checked by the class.
        high: Largest value allowed.
    """
    text = f"{description}, in {unit}" if unit else description
    metadata = {"help": text, "unit": unit, "low": low, "high": high}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class Perturbation(abc.ABC):
    """A random change of a training segment.

    Messages about a field begin with its name, so that they can name the key of the task.

    Args:
        p: Probability that a segment is touched at all, in [0, 1].

    Raises:
        ValueError: If a field lies outside the range that its ``option`` gives.
    """

    p: float = dataclasses.field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        if not 0 <= self.p <= 1:
            raise ValueError(f"p must lie in [0, 1], got {self.p}")
        for field in options_of(type(self)).values():
            _check_range(field, getattr(self, field.name))

    def check(self, rate_hz: float, leads: tuple[str, ...]) -> None:
        """Refuse recordings on which the perturbation cannot work; by default it can on all.

        Args:
            rate_hz: Rate of the recordings.
            leads: Names of their rows.

        Raises:
            ValueError: If it cannot; names the key of the task and the way out.
        """
        del rate_hz, leads

    def remark(self, unit: str) -> str | None:
        """Return what the user of recordings in some unit should know, or None.

        Args:
            unit: Of the samples that are perturbed.
        """
        keys = [
            f"task.{key}={getattr(self, key):g}"
            for key, field in options_of(type(self)).items()
            if field.metadata["unit"] == MILLIVOLTS
        ]
        if unit == MILLIVOLTS or not keys:
            return None
        return (
            f"{', '.join(keys)}: meant in {MILLIVOLTS}, but the recordings are in {unit} when they "
            f"are perturbed, so these are {unit} too; scale them accordingly"
        )

    def __call__(self, signal: EcgSignal, rng: np.random.Generator) -> EcgSignal:
        """Perturb one signal in place: a batch of one."""
        self.batch([signal], [rng])
        return signal

    def batch(
        self, signals: Sequence[EcgSignal], rngs: Sequence[np.random.Generator]
    ) -> Sequence[EcgSignal]:
        """Perturb ``values_mv`` (float32 [C, T]) of B signals in place, each with chance ``p``.

        The result for a signal is the same, bit for bit, whatever else is in the batch. The first
        draw of its generator decides whether it is touched; those of ``draw`` follow only then.

        Args:
            signals: One or more of one shape, one rate and one choice of leads.
            rngs: A generator of its own for each.

        Raises:
            ValueError: If the perturbation cannot work on these signals.
        """
        self.check(signals[0].rate_hz, signals[0].leads)
        drawn = [
            (signal, *self.draw(signal, rng))
            for signal, rng in zip(signals, rngs, strict=True)
            if rng.random() < self.p
        ]
        if drawn:
            self.apply(*zip(*drawn, strict=True))
        return signals

    @abc.abstractmethod
    def draw(self, signal: EcgSignal, rng: np.random.Generator) -> tuple[Any, ...]:
        """Draw everything random of one signal; look at its rate, leads and length only."""

    @abc.abstractmethod
    def apply(self, signals: Sequence[EcgSignal], *drawn: Sequence[Any]) -> None:
        """Perturb ``values_mv`` (float32 [C, T]) of B signals in place.

        Args:
            signals: One or more of one shape, one rate and one choice of leads.
            *drawn: What ``draw`` returned; each of its parts as a tuple of B.
        """


PerturbationClass = TypeVar("PerturbationClass", bound=type[Perturbation])


def register_perturbation(name: str) -> Callable[[PerturbationClass], PerturbationClass]:
    """Register a perturbation under its name in ``task.perturbation_mode``.

    Args:
        name: The name; must be new.

    Returns:
        A class decorator.

    Raises:
        ValueError: If the name is taken by another class.
    """

    def register(cls: PerturbationClass) -> PerturbationClass:
        taken = _PERTURBATIONS.get(name)
        if taken is not None and taken.__qualname__ != cls.__qualname__:
            raise ValueError(f"perturbation {name!r} is registered already, by {taken}")
        _PERTURBATIONS[name] = cls
        return cls

    return register


def available_perturbations() -> dict[str, type[Perturbation]]:
    """Return all perturbations by name, sorted. Every module of this folder is imported for it."""
    import_public_modules(transforms.__name__, transforms.__path__)
    return dict(sorted(_PERTURBATIONS.items()))


def options_of(cls: type[Perturbation]) -> dict[str, dataclasses.Field]:
    """Return the fields of a perturbation that were made with ``option``, by name."""
    return {field.name: field for field in dataclasses.fields(cls) if "help" in field.metadata}


def perturbation_keys() -> dict[str, dataclasses.Field]:
    """Return the options of all perturbations by name, the keys of the tasks.

    Perturbations that share a key share its meaning and its default.

    Raises:
        ValueError: If two perturbations declare one key differently.
    """
    keys: dict[str, dataclasses.Field] = {}
    for name, cls in available_perturbations().items():
        for key, field in options_of(cls).items():
            known = keys.setdefault(key, field)
            if (known.default, known.metadata) != (field.default, field.metadata):
                raise ValueError(
                    f"perturbation {name!r} declares {key} in another way than an earlier one; "
                    "inherit the field, or give it a name of its own"
                )
    return keys


def config_of_perturbations(base: type) -> type:
    """Return a configuration dataclass with the keys of all perturbations.

    Args:
        base: Dataclass that it derives from.
    """
    fields = []
    for key, field in perturbation_keys().items():
        kept: dict[str, Any] = {"metadata": {"help": field.metadata["help"]}}
        if isinstance(field.default, tuple):
            kept["default_factory"] = lambda values=field.default: list(values)
        else:
            kept["default"] = field.default
        fields.append((key, field.type, dataclasses.field(**kept)))
    namespace = {"__doc__": "Keys of the perturbations.", "__module__": __name__}
    return dataclasses.make_dataclass(
        "PerturbationConfig", fields, bases=(base,), namespace=namespace
    )


def build_perturbation(name: str, p: float, options: Mapping[str, Any]) -> Perturbation:
    """Build one perturbation of ``task.perturbation_mode``.

    Args:
        name: Name in the configuration.
        p: Probability that it is applied to a segment.
        options: Values by key, None for a default; those of other perturbations are passed over.

    Raises:
        ValueError: If there is no such perturbation, or a value is out of range; names the key.
    """
    known = available_perturbations()
    if name not in known:
        near = near_misses(name, known)
        hint = f"near: {', '.join(near)}; " if near else ""
        raise ValueError(
            f"task.perturbation_mode: no {name!r}; {hint}there are: {', '.join(known)}"
        )
    if not 0 <= p <= 1:
        raise ValueError(f"task.p must lie in [0, 1], but {name} has {p}")
    own = {key: options[key] for key in options_of(known[name]) if options.get(key) is not None}
    try:
        return known[name](**own, p=p)
    except ValueError as error:
        raise ValueError(f"task.{error}") from None


def _check_range(field: dataclasses.Field, value: Any) -> None:
    """Refuse a number outside the range that was declared, or one that is not finite."""
    low, high = field.metadata["low"], field.metadata["high"]
    if low is None or (isinstance(value, Real) and low <= value <= high and value < math.inf):
        return
    wanted = (
        f"be finite and at least {low:g}" if high == math.inf else f"lie in [{low:g}, {high:g}]"
    )
    raise ValueError(f"{field.name} must {wanted}, got {value!r}")
