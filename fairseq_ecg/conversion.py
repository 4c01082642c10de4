"""Checkpoints from one layout to another."""

from pathlib import Path

import torch
from fairseq.models import MODEL_DATACLASS_REGISTRY
from omegaconf import OmegaConf

from fairseq_ecg import interop
from fairseq_ecg.checkpoint import (
    FORMAT,
    Checkpoint,
    CheckpointError,
    build_model,
    file_content,
    model_config,
    read_checkpoint,
)
from fairseq_ecg.data.atomic import replacing
from fairseq_ecg.models._finetuning import encoder_of

FORMATS = (FORMAT, *interop.WRITERS)


def convert_checkpoint(
    source: str | Path,
    dest: str | Path,
    to: str = FORMAT,
    *,
    kind: str | None = None,
    encoder_only: bool = False,
) -> Checkpoint:
    """Read a checkpoint of any layout and write it in another one, whole or not at all.

    The weights are not changed. Optimizer and data iterator are left behind: what is written is to
    be used or fine-tuned, not to continue the run that made it.

    Args:
        source: Checkpoint to read.
        dest: File to write; its folder is made if absent.
        to: One of ``FORMATS``.
        kind: How the data of a foreign checkpoint were prepared, as for ``read_checkpoint``.
        encoder_only: Write the encoder alone, without pretraining modules and heads.

    Returns:
        What was written, in our own terms.

    Raises:
        CheckpointError: If the source cannot be read, its weights do not fit its model, or the
            layout cannot hold it.
    """
    if to not in FORMATS:
        raise CheckpointError(f"no layout is called {to!r}; known: {', '.join(FORMATS)}")
    if Path(dest).exists() and Path(dest).samefile(source):
        raise CheckpointError(f"{dest} is the file to convert; give another name for the result")
    checkpoint = read_checkpoint(source, kind)
    if encoder_only:
        checkpoint = _encoder(checkpoint)
    build_model(checkpoint)
    content = file_content(checkpoint) if to == FORMAT else _foreign(checkpoint, to)
    with replacing(dest) as file:
        torch.save(content, file)
    return checkpoint


def _encoder(checkpoint: Checkpoint) -> Checkpoint:
    try:
        return encoder_of(checkpoint)
    except CheckpointError as error:
        raise CheckpointError(
            f"{checkpoint.path} holds the model {checkpoint.model_name}: {error}; "
            "convert it as a whole"
        ) from None


def _foreign(checkpoint: Checkpoint, to: str) -> dict:
    dataclass = MODEL_DATACLASS_REGISTRY[checkpoint.model_name]
    defaults = OmegaConf.to_container(OmegaConf.structured(dataclass))
    parts = {**vars(checkpoint), "model_cfg": {**defaults, **model_config(checkpoint)}}
    try:
        return interop.WRITERS[to].export(parts)
    except ValueError as error:
        raise CheckpointError(f"{checkpoint.path}: {error}") from None
