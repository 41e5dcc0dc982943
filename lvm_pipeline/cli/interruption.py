"""SIGTERM and SIGHUP interrupt a command as Ctrl-C does, so that a training closes its MLflow run."""

import os
import signal
from types import FrameType

ASKED_TO_END = (signal.SIGTERM, signal.SIGHUP)


def handle_signals() -> None:
    """Raise KeyboardInterrupt at SIGINT, SIGTERM and SIGHUP; what `nohup` ignores stays ignored.

    SIGINT is handled even in a background job, where shells ignore it: Dagster would then ignore SIGTERM too.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    process_id = os.getpid()

    def interrupt(number: int, frame: FrameType | None) -> None:
        if os.getpid() != process_id:  # a forked child has no run to close
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
        for each in ASKED_TO_END:  # a closed terminal sends several, which would interrupt the end
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    for number in ASKED_TO_END:
        if signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, interrupt)
