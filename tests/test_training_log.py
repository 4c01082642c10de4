"""Reading what a run logged."""

import json
import math

import pytest

from fairseq_ecg.training_log import LOG_NAME, read_log

STAMP = "[2024-01-01 00:00:00,000]"


def line(tag, **values):
    return f"{STAMP}[{tag}][INFO] - {json.dumps(values)}\n"


@pytest.fixture
def write(tmp_path):
    def write(text):
        (tmp_path / LOG_NAME).write_bytes(text if isinstance(text, bytes) else text.encode())
        return tmp_path

    return write


def test_lines_of_one_tag_come_in_order_as_numbers(write):
    run = write(
        line("train_inner", epoch=1, loss="1.5")
        + line("valid", epoch=1, valid_loss="0.5")
        + f"{STAMP}[fairseq.trainer][INFO] - begin training epoch 1\n"
        + line("train_inner", epoch=2, loss="0.25")
        + line("train", epoch=2, train_loss="0.75")
    )
    assert read_log(run) == [{"epoch": 1, "loss": 1.5}, {"epoch": 2, "loss": 0.25}]
    assert read_log(run, "valid") == [{"epoch": 1, "valid_loss": 0.5}]
    assert read_log(run, "train") == [{"epoch": 2, "train_loss": 0.75}]
    assert read_log(run, "test") == []
    assert all(isinstance(v, float) for row in read_log(run) for v in row.values())


def test_a_number_without_meaning_stays_nan(write):
    (row,) = read_log(write(line("valid", valid_auroc="nan", valid_loss="inf")), "valid")
    assert math.isnan(row["valid_auroc"])
    assert row["valid_loss"] == math.inf


@pytest.mark.parametrize("length", [40, 60, 70, 82])
def test_a_line_that_a_kill_cut_short_is_left_out_also_at_the_end_of_the_file(write, length):
    cut = line("train_inner", epoch=1, loss="1.5", num_updates="7")[:length]
    assert not cut.endswith("}")
    assert read_log(write(line("train_inner", epoch=0) + cut)) == [{"epoch": 0}]


@pytest.mark.parametrize("length", [40, 60, 70])
def test_what_the_next_start_wrote_behind_a_line_cut_short_does_no_harm(write, length):
    cut = line("train_inner", epoch=1, loss="1.5", num_updates="7")[:length]
    config = f"{STAMP}[fairseq_cli.train][INFO] - {{'_name': None, 'common': {{'seed': 1}}}}\n"
    after = line("train_inner", epoch=1, loss="2.5")
    assert read_log(write(cut + config + after)) == [{"epoch": 1, "loss": 2.5}]
    assert read_log(write(cut + after)) == [{"epoch": 1, "loss": 2.5}]


def test_a_tag_is_taken_literally_and_bytes_that_are_no_text_do_no_harm(write):
    run = write(b"\xff\xfe\n" + line("valid_2", x="1").encode() + line("valid.2", x="2").encode())
    assert read_log(run, "valid.2") == [{"x": 2.0}]


def test_a_run_without_a_log_is_an_error_with_its_path(tmp_path):
    with pytest.raises(FileNotFoundError, match=LOG_NAME):
        read_log(tmp_path)
