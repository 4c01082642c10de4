"""Run-time adjustments of fairseq, each with its reason; nothing of it is changed on disk.

``adjust()`` is called once when the package is imported, in every process that trains, and may be
called again without effect. Each function below cures one defect of ``fairseq-fixed`` 0.12.3.1;
``tests/test_engine.py`` holds a test per cure that fails once the engine no longer needs it.
"""

import collections
import hashlib
import logging
import multiprocessing
import os
import shutil
import signal
import threading
import typing
import zipfile

import numpy as np
import omegaconf
import torch
import torch.distributed as dist
import torch.utils.data
from fairseq import checkpoint_utils
from fairseq.distributed import utils as distributed_utils
from fairseq.file_io import PathManager
from fairseq.models import distributed_fairseq_model
from fairseq.trainer import Trainer
from omegaconf.base import ContainerMetadata, Metadata
from omegaconf.nodes import AnyNode
from torch.utils.data import dataloader

logger = logging.getLogger(__name__)

STOPPED = "SIGTERM: saving after this update; the same command continues the run"
"""What a run logs that ends before it is finished, though with exit status 0."""

_SCALAR_DTYPES = ("float64", "float32", "float16", "int64", "int32", "bool")


def adjust() -> None:
    """Apply every adjustment that training and loading need."""
    allow_plain_values_in_checkpoints()
    publish_checkpoints_atomically()
    wrap_cpu_models_without_device_ids()
    keep_loader_workers_through_sigterm()
    mark_dummy_batches()


def safe_globals() -> list:
    """Return the classes that a checkpoint may hold besides tensors and plain Python values.

    fairseq broadcasts a checkpoint between processes with an OmegaConf tree in it, and numpy
    scalars reach checkpoints through meters. None of these classes runs code when it is unpickled.
    """
    return [
        omegaconf.DictConfig,
        omegaconf.ListConfig,
        ContainerMetadata,
        Metadata,
        AnyNode,
        typing.Any,
        dict,
        list,
        int,
        collections.defaultdict,
        distributed_utils._TensorPlaceholder,
        np._core.multiarray.scalar,
        np.dtype,
        *{type(np.dtype(name)) for name in _SCALAR_DTYPES},
    ]


def allow_plain_values_in_checkpoints() -> None:
    """Let ``torch.load(weights_only=True)``, torch's default, read what fairseq writes.

    Without it a resumed run with two processes dies of ``omegaconf.DictConfig``, and any run dies
    of a numpy scalar that once got into a meter.
    """
    torch.serialization.add_safe_globals(safe_globals())


def _publish(source: str, target: str, overwrite: bool = False) -> str:
    """Give ``source`` a second name in one atomic step (hard link, else a complete copy)."""
    temporary = f"{target}.tmp"
    if os.path.lexists(temporary):
        os.remove(temporary)
    try:
        os.link(source, temporary)
    except OSError:
        shutil.copyfile(source, temporary)
    os.replace(temporary, target)
    return target


def publish_checkpoints_atomically() -> None:
    """Publish ``checkpoint_last.pt`` and ``checkpoint_best.pt`` by rename.

    fairseq copies the file it has just written onto these names byte by byte; a kill during the
    copy leaves a truncated file, and the next start fails. Linking is safe because checkpoints are
    only ever replaced by rename, never written in place.
    """
    PathManager.copy = staticmethod(_publish)


def check_checkpoint_is_whole(path: str) -> None:
    """Refuse a truncated checkpoint before any work starts.

    Args:
        path: An existing checkpoint file, written by torch as a zip archive.

    Raises:
        ValueError: If the archive has no readable directory; the message names the newest whole
            checkpoint beside it.
    """
    if zipfile.is_zipfile(path):
        return
    folder = os.path.dirname(os.path.abspath(path))
    others = [os.path.join(folder, name) for name in os.listdir(folder) if name.endswith(".pt")]
    whole = sorted((o for o in others if zipfile.is_zipfile(o)), key=os.path.getmtime)
    advice = f"restore it with checkpoint.restore_file={whole[-1]}" if whole else "remove it"
    raise ValueError(f"{path} is not a whole checkpoint (truncated or foreign); {advice}")


def model_in_checkpoint(path: str) -> typing.Optional[str]:
    """Return the registered name of the model in a checkpoint, without reading its tensors.

    Args:
        path: An existing file.

    Returns:
        The name; None if the file cannot be read like this or names none.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        return content["cfg"]["model"]["_name"]
    except Exception:  # noqa: BLE001 - can fail in any way; whoever loads the file reports it
        return None


class _DistributedDataParallel(torch.nn.parallel.DistributedDataParallel):
    """DistributedDataParallel that gets no device ids for a model on the CPU."""

    def __init__(self, module: torch.nn.Module, **kwargs: typing.Any) -> None:
        if all(parameter.device.type == "cpu" for parameter in module.parameters()):
            kwargs.update(device_ids=None, output_device=None)
        super().__init__(module, **kwargs)


def wrap_cpu_models_without_device_ids() -> None:
    """Make ``ddp_backend: pytorch_ddp`` (the default) work for processes on the CPU.

    fairseq always passes ``device_ids=[...]``, which torch refuses for a model on the CPU.
    """
    distributed_fairseq_model.DistributedDataParallel = _DistributedDataParallel


def _obey_only_the_parent() -> None:
    """Let SIGTERM end this process only if the process that started it sends it."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    parent = multiprocessing.parent_process().pid  # with a fork server not os.getppid()

    def wait() -> None:
        while signal.sigwaitinfo({signal.SIGTERM}).si_pid != parent:
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _worker_loop(*args: typing.Any) -> None:
    _obey_only_the_parent()
    _torch_worker_loop(*args)


class _MultiProcessingDataLoaderIter(dataloader._MultiProcessingDataLoaderIter):
    """Starts its workers with SIGTERM held back, so that none dies before it can look."""

    def __init__(self, loader: torch.utils.data.DataLoader) -> None:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        try:
            super().__init__(loader)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


_torch_worker_loop = torch.utils.data._utils.worker._worker_loop


def keep_loader_workers_through_sigterm() -> None:
    """Keep loader workers alive when a scheduler sends SIGTERM to the whole process group.

    The main process then finishes its update and saves (``GracefulStop``); without this its
    workers die of the same signal, and it dies of theirs. They still end when it tells them to, and
    when it is gone.
    """
    torch.utils.data._utils.worker._worker_loop = _worker_loop
    dataloader._MultiProcessingDataLoaderIter = _MultiProcessingDataLoaderIter


_fairseqs_reset_dummy_batch = Trainer.reset_dummy_batch


def _reset_marked_dummy_batch(trainer: Trainer, batch: dict) -> None:
    _fairseqs_reset_dummy_batch(trainer, {**batch, "dummy": True} if batch else batch)


def mark_dummy_batches() -> None:
    """Give the batch with which a process fills up its share the key ``dummy``.

    Where batches do not divide by the processes, fairseq lets some repeat the first one, so that
    all meet in the collectives, and drops the result. But a criterion that gathers rows over
    processes would take them for other recordings, and a validation step cannot tell at all.
    """
    Trainer.reset_dummy_batch = _reset_marked_dummy_batch


def seed_apart(seed: int, update: int) -> None:
    """Give each process but the first a stream of its own for masks, negatives and dropout.

    fairseq seeds every process alike before an update (seed + update), so that all processes mask
    the same frames. The first process keeps that seed: one process computes what it always did.

    Args:
        seed: ``common.seed``.
        update: Number of updates done.
    """
    rank = dist.get_rank() if dist.is_available() and dist.is_initialized() else 0
    if rank:
        digest = hashlib.sha256(f"{seed}:{update}:{rank}".encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:8], "little"))


def share_buffers(model: torch.nn.Module) -> None:
    """Give every process the buffers of the first one, whose network is the one that is saved.

    Processes share gradients only (``distributed_training.broadcast_buffers`` is false), so that
    the running statistics of batch norm drift apart, and each would validate a network of its own.

    Args:
        model: The network of this process; every process must call this.
    """
    if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        for buffer in model.buffers():
            dist.broadcast(buffer, 0)


def forget_earlier_jobs() -> None:
    """Clear the best score and the patience counter that fairseq keeps on two functions.

    Several jobs of one ``--multirun`` share a process; without this a job inherits the best score
    of the one before and may never write ``checkpoint_best.pt``.
    """
    from fairseq_cli import train

    for function, names in (
        (checkpoint_utils.save_checkpoint, ("best",)),
        (train.should_stop_early, ("best", "num_runs")),
    ):
        for name in names:
            if hasattr(function, name):
                delattr(function, name)


class GracefulStop:
    """Ends a run in good order after SIGTERM: the update under way is finished and saved.

    The handler only notes the request. ``agree`` is fed with the request summed over all
    processes, so that all of them stop after the same update; from then on the engine's question
    "stop early?" is answered with yes, whereupon it saves and ends with exit status 0.

    Args:
        at_end_of_epoch: Asked after the last update of each epoch whether the run shall end for
            another reason, after the validation and before the checkpoint is written; None: never.
    """

    def __init__(self, at_end_of_epoch: typing.Optional[typing.Callable[[], bool]] = None) -> None:
        self.requested = False
        self._agreed = False
        self._epoch_ends = False
        self._at_end_of_epoch = at_end_of_epoch

    def install(self) -> None:
        """Catch SIGTERM and hook into the engine's question; call it in the main thread."""
        from fairseq_cli import train

        self.requested = self._agreed = self._epoch_ends = False
        signal.signal(signal.SIGTERM, self._note)
        ask_engine = getattr(train.should_stop_early, "ask_engine", train.should_stop_early)

        def should_stop_early(cfg: typing.Any, valid_loss: typing.Optional[float]) -> bool:
            reasons = [self._agreed, self._ask_at_end_of_epoch(), ask_engine(cfg, valid_loss)]
            return any(reasons)  # all are asked: each counts

        vars(should_stop_early).update(vars(train.should_stop_early))  # best score, patience
        should_stop_early.ask_engine = ask_engine
        train.should_stop_early = should_stop_early
        self._watch_epochs(train)

    def _watch_epochs(self, train: typing.Any) -> None:
        """Learn whether an update is the last one of its epoch, which the question does not say."""
        engines_own = getattr(train.validate_and_save, "engines_own", train.validate_and_save)

        def validate_and_save(*args: typing.Any) -> tuple:
            self._epoch_ends = args[-1]
            return engines_own(*args)

        validate_and_save.engines_own = engines_own
        train.validate_and_save = validate_and_save

    def _ask_at_end_of_epoch(self) -> bool:
        ends, self._epoch_ends = self._epoch_ends, False
        return bool(ends and self._at_end_of_epoch is not None and self._at_end_of_epoch())

    def _note(self, signum: int, frame: object) -> None:
        self.requested = True

    def agree(self, requests: float) -> None:
        """Stop after this update if any process was asked to.

        Args:
            requests: Number of processes that caught SIGTERM, summed over all of them.
        """
        if requests and not self._agreed:
            logger.info(STOPPED)
            self._agreed = True


def patience_state() -> dict:
    """Return the early-stopping counter, which fairseq itself does not put into checkpoints."""
    from fairseq_cli import train

    counters = vars(train.should_stop_early)
    return {name: counters[name] for name in ("best", "num_runs") if name in counters}


def restore_patience_state(state: dict) -> None:
    """Take up the early-stopping counter of a checkpoint."""
    from fairseq_cli import train

    for name, value in state.items():
        setattr(train.should_stop_early, name, value)
