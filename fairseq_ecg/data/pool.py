"""Shards over processes: the same function through any ``concurrent.futures`` executor."""

from __future__ import annotations

import contextlib
import errno
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import (
    FIRST_COMPLETED,
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    wait,
)
from pathlib import Path
from typing import TypeVar

if sys.platform != "win32":
    import fcntl

Task = TypeVar("Task")
Result = TypeVar("Result")

# Enough to keep a cluster busy while results come back, few enough to keep memory constant.
_TASKS_IN_FLIGHT = 256


class BuildError(ValueError):
    """A build that cannot start or go on."""


@contextlib.contextmanager
def exclusive(folder: Path, block: bool = False) -> Iterator[int | None]:
    """Hold a folder, so that two processes never write to it at the same time.

    The lock ends with the process, also with a killed one, and leaves no file. File systems that
    know no locks are used without.

    Args:
        folder: An existing folder.
        block: Wait for a process that holds it, instead of refusing.

    Yields:
        A descriptor; a process that inherits it holds the folder too. None where there is none.

    Raises:
        BuildError: If another process holds it.
    """
    if sys.platform == "win32":
        yield None
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if block else fcntl.LOCK_NB))
        except BlockingIOError:
            raise BuildError(
                f"another process is building {folder}; wait for it or stop it"
            ) from None
        except OSError:
            pass
        yield descriptor
    finally:
        os.close(descriptor)


def map_shards(
    function: Callable[[Task], Result],
    tasks: Sequence[Task],
    workers: int = 1,
    executor: Executor | None = None,
) -> Iterator[Result]:
    """Apply a function to all tasks and yield the results as they come.

    Args:
        function: A function of a module, so that it can be sent to other processes.
        tasks: Its arguments.
        workers: Processes to start; with 1, or with one task, the work is done here.
        executor: An executor to use in place of our own processes; it is left running.

    Yields:
        Results in the order of completion.

    Raises:
        BuildError: If a worker dies or the disk is full; says how to go on.
    """
    try:
        if executor is not None:
            yield from _map(function, tasks, executor, _TASKS_IN_FLIGHT)
        elif workers <= 1 or len(tasks) <= 1:
            yield from map(function, tasks)
        else:
            with _start_pool(min(workers, len(tasks))) as pool:
                yield from _map(function, tasks, pool, 2 * workers)
    except (BrokenExecutor, MemoryError) as error:
        raise BuildError(
            "a worker process died, most often for lack of memory. Finished shards are kept: run "
            "the same command again, with fewer --workers or a smaller --max-seconds"
        ) from error
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
            raise
        raise BuildError(
            f"writing failed ({error.strerror}). Finished shards are kept: make room and run the "
            "same command again"
        ) from error


def _map(
    function: Callable[[Task], Result], tasks: Sequence[Task], executor: Executor, in_flight: int
) -> Iterator[Result]:
    waiting = iter(tasks)
    running: set[Future[Result]] = set()
    try:
        while True:
            for task in waiting:
                running.add(executor.submit(function, task))
                if len(running) >= in_flight:
                    break
            if not running:
                return
            done, running = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        for future in running:
            future.cancel()


def _start_pool(workers: int) -> ProcessPoolExecutor:
    # Not plain fork: the calling process may run threads (torch, Arrow) that hold locks.
    method = "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["fairseq_ecg.data.builder"])
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_end_with_parent)


def _end_with_parent() -> None:
    """Let a worker end when the process that started it is killed."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
