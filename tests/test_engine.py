"""Each cure of engine.py, and that the engine still needs it."""

import inspect
import io
import os
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from fairseq import checkpoint_utils
from fairseq.file_io import PathManager
from fairseq.models import distributed_fairseq_model
from fairseq.trainer import Trainer
from omegaconf import OmegaConf

from fairseq_ecg import engine


@pytest.fixture(autouse=True)
def _adjusted():
    engine.adjust()


def _saved(value) -> io.BytesIO:
    buffer = io.BytesIO()
    torch.save(value, buffer)
    buffer.seek(0)
    return buffer


@pytest.mark.parametrize("value", [np.float64(1.5), np.int64(3), OmegaConf.create({"a": [1, "b"]})])
def test_plain_values_load_safely_and_only_thanks_to_the_allow_list(value):
    assert torch.load(_saved({"v": value}), weights_only=True)["v"] == value
    allowed = torch.serialization.get_safe_globals()
    torch.serialization.clear_safe_globals()
    try:
        with pytest.raises(Exception, match="Unsupported global"):
            torch.load(_saved({"v": value}), weights_only=True)
    finally:
        torch.serialization.add_safe_globals(allowed)


def test_a_checkpoint_is_published_by_rename_so_that_readers_keep_the_old_one(tmp_path):
    old, new = tmp_path / "old.pt", tmp_path / "new.pt"
    last = tmp_path / "checkpoint_last.pt"
    old.write_bytes(b"old" * 1000)
    new.write_bytes(b"new" * 1000)
    PathManager.copy(str(old), str(last), overwrite=True)
    with last.open("rb") as reader:
        PathManager.copy(str(new), str(last), overwrite=True)
        assert reader.read() == b"old" * 1000
    assert last.read_bytes() == b"new" * 1000
    assert not list(tmp_path.glob("*.tmp"))


def test_publishing_survives_a_file_system_without_hard_links(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise OSError("no links here")

    monkeypatch.setattr(os, "link", refuse)
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "b.tmp").write_bytes(b"left over from a kill")
    PathManager.copy(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (tmp_path / "b").read_bytes() == b"content"


def test_the_engine_itself_still_copies_byte_by_byte():
    source = inspect.getsource(inspect.getmodule(PathManager))
    assert "shutil.copyfile(src_path, dst_path)" in source


def test_a_truncated_checkpoint_is_refused_and_a_whole_one_is_named(tmp_path):
    torch.save({"a": torch.zeros(100)}, tmp_path / "checkpoint_best.pt")
    last = tmp_path / "checkpoint_last.pt"
    shutil.copyfile(tmp_path / "checkpoint_best.pt", last)
    engine.check_checkpoint_is_whole(str(last))
    last.write_bytes(last.read_bytes()[:400])
    with pytest.raises(ValueError, match=r"checkpoint_last.pt is not a whole.*checkpoint_best.pt"):
        engine.check_checkpoint_is_whole(str(last))


def test_ddp_on_the_cpu_gets_no_device_ids_and_torch_would_refuse_them(tmp_path):
    assert distributed_fairseq_model.DistributedDataParallel is engine._DistributedDataParallel
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = torch.nn.Linear(2, 1)
        with pytest.raises(ValueError, match="device_ids"):
            torch.nn.parallel.DistributedDataParallel(model, device_ids=[0], output_device=0)
        wrapped = distributed_fairseq_model.DistributedDataParallel(
            module=model, device_ids=[0], output_device=0
        )
        assert wrapped.device_ids is None
    finally:
        torch.distributed.destroy_process_group()


def drawn_by(monkeypatch, rank, seed=1, update=3):
    monkeypatch.setattr(engine.dist, "is_initialized", lambda: rank is not None)
    monkeypatch.setattr(engine.dist, "get_rank", lambda: rank)
    torch.manual_seed(seed + update)  # as the engine does
    engine.seed_apart(seed, update)
    return torch.rand(3).tolist()


def test_a_dummy_batch_is_marked_and_fairseqs_own_is_not():
    trainer, batch = SimpleNamespace(), {"id": 1}
    Trainer.reset_dummy_batch(trainer, batch)
    assert trainer._dummy_batch == {"id": 1, "dummy": True}
    assert batch == {"id": 1}
    engine._fairseqs_reset_dummy_batch(trainer, batch)
    assert trainer._dummy_batch == {"id": 1}


def test_processes_draw_apart_and_the_first_one_as_if_alone(monkeypatch):
    alone = drawn_by(monkeypatch, None)
    assert drawn_by(monkeypatch, 0) == alone
    others = [drawn_by(monkeypatch, rank) for rank in (1, 2)]
    others += [drawn_by(monkeypatch, 1, update=4), drawn_by(monkeypatch, 1, seed=2)]
    assert len({tuple(draw) for draw in [alone, *others]}) == 5
    assert drawn_by(monkeypatch, 1) == others[0]


def test_the_engine_itself_seeds_all_processes_alike():
    assert "self.cfg.common.seed + self.get_num_updates()" in inspect.getsource(Trainer._set_seed)


def test_scores_of_an_earlier_job_are_forgotten():
    from fairseq_cli import train

    checkpoint_utils.save_checkpoint.best = 0.9
    engine.restore_patience_state({"best": 0.9, "num_runs": 3})
    assert engine.patience_state() == {"best": 0.9, "num_runs": 3}
    engine.forget_earlier_jobs()
    assert not hasattr(checkpoint_utils.save_checkpoint, "best")
    assert engine.patience_state() == {}
    assert not hasattr(train.should_stop_early, "num_runs")


def test_a_stop_is_taken_only_after_all_processes_agreed_and_patience_still_counts():
    from fairseq_cli import train

    engine.forget_earlier_jobs()
    stop = engine.GracefulStop()
    stop.install()
    stop.install()  # a second job of the same process must not stack hooks
    checkpoint = SimpleNamespace(patience=2, maximize_best_checkpoint_metric=False)
    cfg = SimpleNamespace(checkpoint=checkpoint)
    assert [train.should_stop_early(cfg, loss) for loss in (1.0, 2.0)] == [False, False]
    assert engine.patience_state() == {"best": 1.0, "num_runs": 1}
    os.kill(os.getpid(), __import__("signal").SIGTERM)
    assert stop.requested
    assert not train.should_stop_early(cfg, None)
    stop.agree(0)
    assert not train.should_stop_early(cfg, None)
    stop.agree(1)
    assert train.should_stop_early(cfg, None)
    stop.install()
    assert not train.should_stop_early(cfg, None)
    engine.forget_earlier_jobs()


def test_a_reason_to_end_is_asked_for_after_each_epoch_and_no_other_update(monkeypatch):
    from fairseq_cli import train

    def engines_own(cfg, trainer, task, epoch_itr, valid_subsets, end_of_epoch):
        return train.should_stop_early(cfg, None)

    monkeypatch.setattr(train, "validate_and_save", engines_own)
    asked = []
    stop = engine.GracefulStop(lambda: asked.append(True) or len(asked) == 2)
    stop.install()
    stop.install()  # a second job of the same process must not stack hooks
    cfg = SimpleNamespace(checkpoint=SimpleNamespace(patience=0))
    ends = [False, True, False, False, True, False]
    answers = [train.validate_and_save(cfg, None, None, None, [], end) for end in ends]
    assert answers == [False, False, False, False, True, False]
    assert len(asked) == 2
    assert train.validate_and_save.engines_own is engines_own


def test_the_engine_still_says_last_whether_an_epoch_ends():
    import inspect

    from fairseq_cli import train

    own = getattr(train.validate_and_save, "engines_own", train.validate_and_save)
    assert list(inspect.signature(own).parameters)[-1] == "end_of_epoch"
