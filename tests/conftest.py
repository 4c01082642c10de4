"""Fixtures that every room's tests use."""

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real recordings and reference numbers, or skip where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip("../shared (real recordings and reference numbers) is not here")
    return SHARED
