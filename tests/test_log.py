"""The log, the printed line of a validation, and the progress of a run; and the device's figures."""

import io
import json
import math
import re
import sys
import time

import pytest
import torch

from training import log as log_module
from training.device import choose_device, free_memory, half_precision
from training.log import ProgressLine, read_log, time_text, validation_line, write_log


def test_a_log_is_read_up_to_the_epoch_of_the_checkpoint(tmp_path):
    path, log = tmp_path / "log.jsonl", [{"epoch": n, "loss": n / 10} for n in (5, 10, 15)]
    assert read_log(path, 10) == []
    write_log(log, path)
    assert [json.loads(line) for line in path.read_text().splitlines()] == log
    assert read_log(path, 10) == log[:2] and read_log(path, 15) == log
    path.write_text(path.read_text()[:-9])  # cut off in its last line
    assert read_log(path, 15) == log[:2]


@pytest.mark.parametrize("line", ["", "{", "[1]", "3", '{"step": 1}', '{"epoch": "x"}', "\x00\x01"])
def test_a_line_that_is_no_record_is_an_error(tmp_path, line):
    (tmp_path / "log.jsonl").write_text(f'{{"epoch": 1}}\n{line}\n{{"epoch": 2}}\n')
    with pytest.raises(ValueError, match=r"log\.jsonl: line 2 is not a record of this log.*Fix: move the file away"):
        read_log(tmp_path / "log.jsonl", 9)


def test_the_line_of_a_validation_has_every_error_with_its_unit():
    record = {
        "epoch": 20, "loss": 0.41234, "score": 0.25, "rmse": {"T2M": 0.4123, "REFC": 5.0, "X": None},
        "persistence_rmse": {"T2M": 0.8246, "REFC": 4.0, "X": None}, "skill": {"T2M": 0.5, "REFC": -0.25, "X": None},
    }  # fmt: skip
    units = {"T2M": "K", "REFC": "dBZ", "X": ""}
    assert validation_line(record, units, "1 h", 200, 3 * 3600 + 1200, True) == (
        "epoch 20 of 200: loss 0.4123, mean skill +0.250 (best); RMSE at 1 h: T2M 0.412 K (persistence 0.825, skill "
        "+0.50), REFC 5 dBZ (persistence 4, skill -0.25), X n/a (persistence n/a, skill n/a); about 3 h 20 min left"
    )
    assert "(best)" not in validation_line(record, units, "1 h", 200, 1, False)


@pytest.mark.parametrize("seconds, text", [
    (0.4, "0 s"), (99, "99 s"), (100, "2 min"), (3540, "59 min"), (5969, "99 min"), (6000, "1 h 40 min"),
    (100 * 3600, "100 h 0 min"), (math.nan, "unknown time"),
])  # fmt: skip
def test_durations_are_read_in_words(seconds, text):
    assert time_text(seconds) == text


class Clock:
    """Stands for the time module; 10 June 2024, 23:00 UTC at its start."""

    strftime, localtime = time.strftime, time.gmtime  # as on a machine in UTC

    def __init__(self):
        self.now = 0.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return 1718060400 + self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(log_module, "time", clock)
    return clock


def test_without_a_terminal_a_line_comes_at_least_every_30_seconds(clock, capsys):
    progress = ProgressLine(2000, 1000, samples_per_step=16)
    printed = []
    for step in range(1001, 1031):  # 4 s each
        clock.now += 4
        progress.update(step, "epoch 3 of 5", torch.tensor(0.4121), 0.306 if step > 1010 else None)
        if text := capsys.readouterr().out:
            printed.append((clock.now, text))
    assert [when for when, _ in printed] == [28, 56, 84, 112]
    assert printed[0][1] == (
        "epoch 3 of 5, step 1007 of 2000, loss 0.412, 4 samples/s, about 66 min left, ends 2024-06-11 00:06\n"
    )
    assert re.search("loss 0.412, skill \\+0.31, 4 samples/s", printed[-1][1])
    assert progress.samples_per_s == 4 and progress.seconds_left(1030) == 970 * 4
    clock.now += 100  # a validation
    progress.update(1030, "validation", 0.4)
    assert "validation, step 1030 of 2000" in capsys.readouterr().out


def test_the_end_of_a_run_on_the_same_day_is_a_clock_time(clock, capsys):
    progress = ProgressLine(40, 0, print_every=0)
    clock.now += 60
    progress.update(20, "epoch 1 of 2", 1.0)
    assert capsys.readouterr().out.endswith("0.333 samples/s, about 60 s left, ends 23:02\n")


def test_between_two_lines_the_loss_is_not_read(clock):
    class OnAGPU:
        def __float__(self):
            raise AssertionError("this waits for the GPU")

    progress = ProgressLine(100, 0)
    for step in range(1, 20):
        clock.now += 1
        progress.update(step, "epoch 1 of 2", OnAGPU())


def test_nothing_is_foretold_before_the_first_step(clock, capsys):
    progress = ProgressLine(100, 10, print_every=0)
    progress.update(10, "validation", 1.0)
    assert capsys.readouterr().out == "validation, step 10 of 100, loss 1.000\n"
    assert math.isnan(progress.seconds_left(10)) and progress.samples_per_s == 0


def test_on_a_terminal_there_is_a_bar_and_text_stands_above_it(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    progress = ProgressLine(10, 4)
    progress.every = 0
    progress.update(6, "epoch 1 of 2", 0.5, 0.25)
    progress.write("a line")
    progress.close()
    shown = terminal.getvalue()
    assert "epoch 1 of 2:  60%" in shown and "6/10" in shown and "loss 0.500, skill +0.25" in shown
    assert "\ra line\n" in re.sub(" +\r", "\r", shown)


# ---- device


def test_training_takes_bfloat16_on_processors_with_units_for_it(monkeypatch):
    for has, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda has=has: {"amx_bf16": has})
        assert half_precision(torch.device("cpu")) == expected
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, has=has: has)
        assert half_precision(torch.device("cuda")) == expected
    assert half_precision(torch.device("meta")) == torch.float32


def test_the_device_computes_float32_without_tf32(monkeypatch):
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    for available, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert choose_device().type == kind
    assert not torch.backends.cuda.matmul.allow_tf32 and not torch.backends.cudnn.allow_tf32


def test_free_memory_is_limited_by_the_control_groups_of_a_container(tmp_path):
    def files(folder, **values):
        folder.mkdir(parents=True, exist_ok=True)
        for name, value in values.items():
            (folder / name.replace("__", ".")).write_text(value)

    own, groups = tmp_path / "own", tmp_path / "groups"
    files(tmp_path, meminfo="MemTotal: 99 kB\nMemAvailable:   20000 kB\n")
    places = str(tmp_path / "meminfo"), str(own), str(groups)
    assert free_memory(*places) == 20_000 * 1024
    own.write_text("0::/job/step\n")
    stat = "anon 1\ninactive_file 1500000\n"  # the limit stands above the group of the process
    files(groups / "job", memory__max="9000000\n", memory__current="5000000\n", memory__stat=stat)
    files(groups / "job/step", memory__max="max\n", memory__current="1\n")
    assert free_memory(*places) == 5_500_000
    own.write_text("5:cpu,cpuacct:/x\n4:memory:/x\n")  # version 1; inside a container the path does not exist
    files(groups / "memory", memory__limit_in_bytes="7000000\n", memory__usage_in_bytes="6000000\n",
          memory__stat="total_inactive_file 0\n")  # fmt: skip
    assert free_memory(*places) == 1_000_000
    assert free_memory(str(tmp_path / "none"), str(tmp_path / "none")) > 0  # another system
