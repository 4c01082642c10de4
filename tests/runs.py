"""Training runs of the tests: real ones, through the launcher, in processes that start at once.

A fork server imports fairseq once; each run is a fork of it, so that a test can afford dozens of
starts and kills.
"""

import contextlib
import multiprocessing
import os
import re
import signal
import socket
import sys
from pathlib import Path

import numpy as np
from omegaconf import OmegaConf

from fairseq_ecg.data.manifest import write_manifest
from fairseq_ecg.training_log import read_log

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["fairseq_cli.hydra_train", "fairseq_ecg"])

PRETRAINING = [
    "--config-name",
    "w2v_cmsc_rlm_small",
    "common.log_interval=1",
    "dataset.num_workers=0",
    "dataset.batch_size=4",
    "task.segment_s=1.0",
    *(f"model.{key}={value}" for key, value in {
        "encoder_layers": 1,
        "encoder_embed_dim": 16,
        "encoder_ffn_embed_dim": 16,
        "encoder_attention_heads": 2,
        "conv_pos": 8,
        "conv_pos_groups": 2,
        "latent_vars": 8,
        "final_dim": 8,
        "num_negatives": 5,
        "conv_feature_layers": "'[(8, 2, 2)] * 3'",
    }.items()),
]  # fmt: skip
TUNING_FROM_SCRATCH = [
    "common.log_interval=1",
    "dataset.num_workers=0",
    "dataset.batch_size=4",
    "task.segment_s=1.0",
    "model.model_path=null",
    "model.no_pretrained_weights=true",
    "model.feature_grad_mult=1.0",
    "model.activation_dropout=0.0",
    *(word for word in PRETRAINING if re.match(r"model\.(encoder|conv)", word)),
]
CLASSIFICATION = ["--config-name", "diagnosis_small", *TUNING_FROM_SCRATCH]

MASKED = [
    "--config-name",
    "uresnet_small",
    "common.log_interval=1",
    "dataset.num_workers=0",
    "dataset.batch_size=4",
    "task.sample_rate=100",
    "task.segment_s=2.56",  # 256 samples, of which write_segments has 200
    "task.mask_block=8",
    "model.filters=[4,4,8]",
    "model.kernel_size=5",
]


def single_label_words(folder: Path, **keys: object) -> list[str]:
    """Write the preset of ``CLASSIFICATION`` with ecg_cross_entropy; return the words of a run."""
    cfg = OmegaConf.load(next(EXAMPLES.rglob("diagnosis_small.yaml")))
    cfg.criterion = {"_name": "ecg_cross_entropy", **keys}
    cfg.checkpoint.best_checkpoint_metric = "f1"
    OmegaConf.save(cfg, folder / "single.yaml")
    return [f"--config-dir={folder}", "--config-name=single", *CLASSIFICATION[2:]]


def write_segments(folder: Path, count: int = 22, rate_hz: int = 100, seconds: int = 2) -> Path:
    """Write a small corpus of real WFDB files and its manifests with three classes.

    Class k is a tone of its own frequency in lead k, in noise, so that it can be learnt.
    """
    rng = np.random.default_rng(0)
    (folder / "wfdb").mkdir(parents=True)
    names, truths = [], []
    time = np.arange(rate_hz * seconds) / rate_hz
    leads = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
    for i in range(count):
        truth = [k for k in range(3) if (i >> k) & 1]
        signal = 0.1 * rng.standard_normal((12, time.size))
        for k in truth:
            signal[k] += np.sin(2 * np.pi * (3 + 4 * k) * time)
        adu = np.round(signal * 1000).astype("<i2")
        adu.T.tofile(folder / "wfdb" / f"r{i:03d}.dat")
        lines = [f"r{i:03d} 12 {rate_hz} {time.size}"]
        lines += [
            f"r{i:03d}.dat 16 1000/mV 16 0 {r[0]} 0 0 {n}" for r, n in zip(adu, leads, strict=True)
        ]
        (folder / "wfdb" / f"r{i:03d}.hea").write_text("\n".join(lines) + "\n")
        names.append(f"r{i:03d}")
        truths.append(";".join("abc"[k] for k in truth))
    (folder / "labels.txt").write_text("a\nb\nc\n")
    rows = [(name, time.size, truth) for name, truth in zip(names, truths, strict=True)]
    write_manifest(folder / "train.tsv", "wfdb", rows)
    write_manifest(folder / "valid.tsv", "wfdb", rows[3:16])
    write_manifest(folder / "test.tsv", "wfdb", rows[16:])
    return folder


def _target(arguments: list[str], cwd: str, environment: dict[str, str], output: str) -> None:
    os.setsid()  # so that a kill reaches the loader workers too
    os.chdir(cwd)
    os.environ.update(environment)
    multiprocessing.set_start_method("fork", force=True)  # as a run has it outside the tests
    os.environ["OMP_NUM_THREADS"] = "1"
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    import torch

    import fairseq_ecg_launch

    torch.set_num_threads(1)
    try:
        fairseq_ecg_launch.train(arguments)
    except fairseq_ecg_launch.LaunchError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        sys.exit(2)


class Run:
    """A training run of one or more processes in a folder of its own.

    Args:
        cwd: Working directory; output goes to ``<cwd>/output.txt``.
        arguments: Words after ``fairseq-hydra-train``.
        processes: How many, joined as torchrun would join them.
    """

    def __init__(self, cwd: Path, arguments: list[str], processes: int = 1) -> None:
        cwd.mkdir(parents=True, exist_ok=True)
        self.cwd = cwd
        self.processes = []
        port = _free_port()
        for rank in range(processes):
            environment = {}
            if processes > 1:
                environment = {
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(processes),
                    "MASTER_ADDR": "127.0.0.1",
                    "MASTER_PORT": str(port),
                }
            output = str(cwd / f"output{rank or ''}.txt")
            process = CONTEXT.Process(
                target=_target,
                args=([*arguments, f"hydra.run.dir={cwd}/run"], str(cwd), environment, output),
            )
            process.start()
            self.processes.append(process)

    def wait(self, timeout: float = 120) -> int:
        """Wait for all processes and return the worst exit status."""
        for process in self.processes:
            process.join(timeout)
            if process.exitcode is None:
                self.signal(signal.SIGKILL)
                raise TimeoutError(f"still running after {timeout} s:\n{self.output[-3000:]}")
        return max(abs(process.exitcode) for process in self.processes)

    def signal(self, number: int) -> None:
        """Send a signal to every process and its loader workers, as a scheduler does."""
        for process in self.processes:
            for send in (os.killpg, os.kill) if number == signal.SIGKILL else (os.killpg,):
                with contextlib.suppress(ProcessLookupError):  # no group yet, or gone already
                    send(process.pid, number)
        if number == signal.SIGKILL:
            for process in self.processes:
                process.join()

    @property
    def running(self) -> bool:
        """Whether any process is still alive."""
        return any(process.exitcode is None for process in self.processes)

    @property
    def output(self) -> str:
        """What the first process has printed so far, over all starts in this folder."""
        path = self.cwd / "output.txt"
        return path.read_text() if path.exists() else ""

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints."""
        return self.cwd / "run" / "checkpoints"


def train(cwd: Path, arguments: list[str], processes: int = 1) -> Run:
    """Run to the end and require success."""
    run = Run(cwd, arguments, processes)
    status = run.wait()
    assert status == 0, run.output[-4000:]
    return run


def logged(cwd: Path, tag: str = "train_inner") -> list[dict]:
    """Return what the run in ``cwd`` logged under one tag."""
    return read_log(cwd / "run", tag)


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
