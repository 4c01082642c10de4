"""Fixtures that every room's tests use."""

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(scope="session")
def shared() -> Path:
    """Return the folder of real recordings and reference numbers, or skip where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip("../shared (real recordings and reference numbers) is not here")
    return SHARED


@pytest.fixture(autouse=True)
def _own_log_and_meters() -> Iterator[None]:
    """Leave neither the level of our log nor the engine's meters to the next test."""
    logger = logging.getLogger("fairseq_ecg")
    level = logger.level
    yield
    logger.setLevel(level)
    engine = sys.modules.get("fairseq.logging.metrics")
    if engine is not None:
        engine.reset()
