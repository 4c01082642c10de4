"""Importing fairseq without its effect on the root logger.

Two of its task modules call ``logging.basicConfig`` at import, which sets the root logger to DEBUG
and gives it a handler: every library of the process starts to talk.
"""

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def root_logger_kept() -> Iterator[None]:
    """Restore level and handlers of the root logger after the block."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    try:
        yield
    finally:
        root.setLevel(level)
        root.handlers[:] = handlers
