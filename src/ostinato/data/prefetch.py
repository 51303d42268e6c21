"""Batches that a thread reads while the network computes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

from ostinato.data.batches import Epochs, SequenceBatches

DEPTH = 4
"""Batches that are read ahead."""


class Prefetched:
    """Batches read ahead by a thread, in the same order; the position is that of who takes them.

    Args:
        batches: the batches.
        ready: makes a batch ready for the network, in the thread that takes it.
        depth: batches that are read ahead.

    >>> from ostinato.data.batches import ContiguousBatches
    >>> ahead = Prefetched(ContiguousBatches(range(8), batch_size=2, window=2))
    >>> ahead.next_batch().inputs.tolist(), ahead.state_dict()["next_batch"]
    ([[0, 1], [3, 4]], 1)
    >>> ahead.close()
    """

    def __init__(
        self, batches: Epochs, ready: Callable[[Any], Any] | None = None, depth: int = DEPTH
    ) -> None:
        self._batches = batches
        self._ready = ready
        self._depth = depth
        self._state = batches.state_dict()
        self._thread: threading.Thread | None = None
        self._ended = threading.Event()
        self._queue: queue.Queue[Any] = queue.Queue(depth)

    @property
    def windows(self) -> int:
        """Batches in an epoch."""
        return self._batches.windows

    def next_batch(self) -> Any:
        """The next batch of the endless succession of epochs."""
        if self._thread is None:
            self._ended, self._queue = threading.Event(), queue.Queue(self._depth)
            self._thread = threading.Thread(
                target=self._read, args=(self._ended, self._queue), name="batches", daemon=True
            )
            self._thread.start()
        found, state = self._queue.get()
        if isinstance(found, BaseException):
            self.close()
            raise found
        self._state = state
        return found if self._ready is None else self._ready(found)

    def _read(self, ended: threading.Event, places: queue.Queue[Any]) -> None:
        while not ended.is_set():
            try:
                batch = self._batches.next_batch()  # type: ignore[attr-defined]  # all have it
                item = batch, self._batches.state_dict()
            except BaseException as error:
                item = error, {}
            while not ended.is_set():
                try:
                    places.put(item, timeout=0.1)
                    break
                except queue.Full:
                    continue
            if isinstance(item[0], BaseException):
                return

    def state_dict(self) -> dict[str, int]:
        """Where `next_batch` stands, and what gives it a meaning."""
        return self._state

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to where `state_dict` was taken, of the same data and settings."""
        self.close()
        self._batches.load_state_dict(state)
        self._state = self._batches.state_dict()

    def split(self, part: int, parts: int) -> Prefetched:
        """Return a part of the batches, read ahead by a thread of its own; see `Epochs.split`."""
        return Prefetched(self._batches.split(part, parts), self._ready, self._depth)

    def close(self) -> None:
        """End the thread; the next batch is the one after those that were taken."""
        if self._thread is None:
            return
        self._ended.set()
        self._thread.join()
        self._thread = None
        self._batches.load_state_dict(self._state)


def ahead(batches: Any) -> Any:
    """Return batches that a thread reads ahead; the network's thread makes them ready."""
    if isinstance(batches, SequenceBatches):
        return Prefetched(replace(batches, transform=lambda batch: batch), batches.transform)
    return Prefetched(batches) if isinstance(batches, Epochs) else batches


@runtime_checkable
class Closable(Protocol):
    """Batches that a thread reads, which is to be ended."""

    def close(self) -> None:
        """End the thread."""


@contextmanager
def closing(batches: Any) -> Iterator[None]:
    """End the thread that reads batches ahead, if there is one, after the block."""
    try:
        yield
    finally:
        if isinstance(batches, Closable):
            batches.close()
