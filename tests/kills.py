"""A training in a process of its own, which SIGKILL ends at random moments."""
import itertools
import os
import signal
import sys
from threading import Timer

from conftest import PROCESSES

from medaug.snapshots import Snapshots


def _train(train, given, call, delay):
    """Train in this process, which is killed `delay` seconds after it wrote its snapshot number `call`."""
    if call is not None:
        write, calls = Snapshots.write, itertools.count()

        def write_and_die_later(self, content, now=False):
            due = next(calls) == call
            write(self, content, now=now or due)
            if due:
                Timer(delay, os.kill, (os.getpid(), signal.SIGKILL)).start()

        Snapshots.write = write_and_die_later
    train(*given)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(0)     # a timer that still waits does not hold the process


def exit_code(train, *given, call=None, delay=0.0):
    """The exit code of a process that calls `train(*given)`: that of SIGKILL if it was killed before its end."""
    process = PROCESSES.Process(target=_train, args=(train, given, call, delay))
    process.start()
    process.join()
    return process.exitcode


def killed_and_continued(train, folder, chance, calls, seconds, kills=2):
    """The folder of a training, `train(out)`, that is killed `kills` times and then goes on to its end.

    Each kill comes up to `seconds` after one of the first `calls` snapshots that could be written. If the training ends
    before all kills, it begins anew in another folder, and the kills come sooner.
    """
    for attempt in range(20):
        out = folder/f"attempt-{attempt}"
        moments = [{"call": chance.randrange(max(1, calls >> attempt)), "delay": chance.uniform(0, seconds)/2**attempt}
                   for _ in range(kills)]
        killed = all(exit_code(train, out, **moment) == -signal.SIGKILL for moment in moments)
        if killed and not (out/"checkpoint.pt").exists():
            assert exit_code(train, out) == 0
            return out
    raise AssertionError("the training ends before it can be killed")
