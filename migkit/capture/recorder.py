"""Records one migration of a domain to its end.

Loads neither pandas nor numpy; pyarrow only at the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import signal
import threading
from collections.abc import Callable, Iterator
from typing import TypeVar

from migkit.capture import source as s
from migkit.capture.journal import Recording, finalise, writable
from migkit.capture.sampler import in_background
from migkit.capture.session import Session
from migkit.errors import UsageError

W = TypeVar("W", bound=s.Witness)


def record(
    source: s.Source | str,
    *,
    output: str | os.PathLike[str],
    uri: str = "qemu:///system",
    interval_ms: float = 100,
    wait: bool = True,
    destination: s.Witness | str | None = None,
    via: str | None = None,
    via_socket: str | None = None,
    mask_names: bool = False,
    force: bool = False,
    on_ready: Callable[[], None] | None = None,
) -> Recording:
    """Records the running or the next migration of a domain to its end.

    Parameters: `source` a domain's name or uuid at the libvirt `uri`, or an open Source; `output` the trace to write;
    `interval_ms` between polls; `wait` for a migration to begin, else there must be one; `destination` libvirt URI of
    the host it goes to, asked for the final stats where the source cannot tell them any more; `via`, `via_socket` as
    in `open_source`; `mask_names` leaves out what names guests and hosts; `force` overwrites; `on_ready` is called
    once attached. Ctrl-C and SIGTERM end the recording and keep it, outcome `interrupted`.

    Returns a Recording. Raises MigkitError when it cannot begin, or cannot write; what is in the journal then stays.

    >>> import migkit as mk
    >>> mk.record("guest", uri="fake:///fast?speed=20", output="/tmp/fast.parquet", force=True).meta.end.outcome
    'completed'
    """
    target = writable(output, force=force)
    if not 0 < interval_ms <= 60_000:
        raise UsageError(f"interval {interval_ms:g} ms: must be more than 0 and at most 60000")
    # The outer stack is the last to unwind: from the session's beginning until all is closed, Ctrl-C is a message.
    with contextlib.ExitStack() as signals, contextlib.ExitStack() as stack:
        opened = opened_for(stack, source, lambda name: s.open_source(name, uri, via=via, via_socket=via_socket))
        facts = in_background(opened.facts)
        far = None
        if destination is not None:
            far = opened_for(stack, destination, lambda there: s.open_witness(identity(facts), there))
        session = Session(opened, target, interval_ms=interval_ms, destination=far, mask_names=mask_names)
        signals.enter_context(signals_to(session.stop))
        recording = session.run(
            facts, lambda journal: finalise(journal.fd, journal.path, target, force=force), wait=wait, on_ready=on_ready
        )
    return dataclasses.replace(recording, stopped=session.stopped)


def opened_for(stack: contextlib.ExitStack, source: W | str, open_it: Callable[[str], W]) -> W:
    """The source itself, or one opened for this recording and closed after it."""
    if not isinstance(source, str):
        return source
    name = source
    opened: W = in_background(lambda: open_it(name))
    stack.callback(opened.close)
    return opened


def identity(facts: s.Facts) -> str:
    """The uuid of a domain, else its name."""
    return facts.domain.uuid or facts.domain.name


@contextlib.contextmanager
def signals_to(stop: Callable[[], None], *, hangup: Callable[[], None] | None = None) -> Iterator[None]:
    """Ctrl-C, SIGTERM and a closed terminal become a call: nothing is torn apart in the middle of a write. `hangup` is
    called for the terminal instead, if given."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    calls = {signal.SIGINT: stop, signal.SIGTERM: stop}
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup
        calls[signal.SIGHUP] = hangup or stop
    before = {number: signal.signal(number, lambda *_, call=call: call()) for number, call in calls.items()}
    try:
        yield
    finally:
        # Ctrl-C last: from then on it may cut this short.
        for number, handler in reversed(before.items()):
            signal.signal(number, handler)
