"""Importing fairseq without its effect on logging.

Two of its task modules call ``logging.basicConfig`` at import, which sets the root logger to DEBUG
and gives it a handler: every library of the process starts to talk. A third one advertises a
package for speech.
"""

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def root_logger_kept() -> Iterator[None]:
    """Keep fairseq silent in the block; restore level and handlers of the root logger after it."""
    root = logging.getLogger()
    level, handlers, disabled = root.level, list(root.handlers), root.manager.disable
    logging.disable(logging.INFO)
    try:
        yield
    finally:
        logging.disable(disabled)
        root.setLevel(level)
        root.handlers[:] = handlers
