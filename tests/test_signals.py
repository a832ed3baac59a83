"""Signals ask to stop or to save, and a folder has one training at a time."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.conftest import PROJECT
from tests.test_checkpoint import forked
from training import signals
from training.signals import RunLock, StopRequest, exit_code


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)])
def test_a_signal_asks_to_stop_and_the_handlers_come_back(monkeypatch, capsys, number, code):
    before = signal.signal(number, signal.SIG_DFL)
    try:
        with StopRequest() as stop:
            assert stop.received == 0
            signal.raise_signal(number)
            assert stop.received == number and exit_code(stop.received) == code
        assert signal.getsignal(number) == signal.SIG_DFL
    finally:
        signal.signal(number, before)
    assert capsys.readouterr().out == "\nStopping after this step. Press Ctrl-C again to quit now.\n"


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_ends_the_process_at_once(first):
    def work():
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        with StopRequest():
            signal.raise_signal(first)
            signal.raise_signal(signal.SIGTERM)
            os._exit(7)

    assert forked(work) == -signal.SIGTERM


def test_a_second_ctrl_c_interrupts_the_step():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt), StopRequest():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_under_nohup_sighup_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            signal.raise_signal(signal.SIGHUP)
            assert stop.received == 0
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_run_whose_terminal_is_closed_can_still_print_and_save(tmp_path):
    """The process has a terminal of its own, which ends while it trains; printing to it is then an error."""
    script = (
        "import sys, time; from pathlib import Path; from training.signals import StopRequest\n"
        "with StopRequest() as stop:\n"
        "    Path(sys.argv[1], 'ready').touch()\n"
        "    while not stop.received: time.sleep(0.01)\n"
        "    print('more', flush=True); print('and more', file=sys.stderr, flush=True)\n"
        "    Path(sys.argv[1], 'saved').write_text(str(stop.received))\n"
    )
    ours, theirs = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)], cwd=PROJECT, stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    deadline = time.monotonic() + 60
    while not (tmp_path / "ready").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.close(ours)
    process.send_signal(signal.SIGHUP)
    assert process.wait(60) == 0 and (tmp_path / "saved").read_text() == str(int(signal.SIGHUP))


def test_the_lock_is_refused_while_its_holder_lives_and_free_after_its_kill(tmp_path):
    run = tmp_path / "a" / "run"
    pid = os.fork()
    if pid == 0:
        signal.alarm(120)  # a child that hangs fails the test, not the suite
        with RunLock(run):
            (run / "file").touch()
            time.sleep(60)
    try:
        while not (run / "file").exists():
            time.sleep(0.005)
        with pytest.raises(ValueError, match=r"got .*run, where another training is running.*Fix: wait"), RunLock(run):
            pass
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    with RunLock(run):
        pass
    assert [p.name for p in run.iterdir()] == ["file"]


def test_a_run_that_writes_nothing_leaves_no_folder(tmp_path):
    with RunLock(tmp_path / "a" / "run"):
        assert (tmp_path / "a" / "run").is_dir()
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_locks_is_noted(tmp_path, monkeypatch, capsys):
    def refuse(*_):
        raise OSError(9, "Bad file descriptor")

    monkeypatch.setattr(signals.fcntl, "flock", refuse)
    with RunLock(tmp_path):
        pass
    assert "cannot be locked (Bad file descriptor). Start no second training there." in capsys.readouterr().out
