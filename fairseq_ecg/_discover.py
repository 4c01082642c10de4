"""Importing every module of a room, so that adding a file is enough to register what it holds."""

import importlib
import pkgutil
from collections.abc import Iterable


def import_public_modules(package_name: str, package_path: Iterable[str]) -> list[str]:
    """Import the modules of a package whose names do not begin with an underscore.

    Args:
        package_name: The package's ``__name__``.
        package_path: The package's ``__path__``.

    Returns:
        The full names of the imported modules, sorted.
    """
    names = sorted(
        f"{package_name}.{module.name}"
        for module in pkgutil.iter_modules(package_path)
        if not module.name.startswith("_")
    )
    for name in names:
        importlib.import_module(name)
    return names
