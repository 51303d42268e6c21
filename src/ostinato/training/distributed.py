"""A run of several processes, which ``torchrun`` launches: data parallel training.

Every process, or rank, holds the whole network and takes its rows of each batch; the gradients are
those of the joined batch (Li et al. 2020, "PyTorch Distributed: experiences on accelerating data
parallel training"). What ranks decide together, they decide by numbers that are the same on all of
them: sums of all, or what the first one says, the time included. The first one reads data, writes
files and prints.
"""

from __future__ import annotations

import atexit
import json
import os
import socket
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, TypeVar, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel
from torch.utils import _pytree

from ostinato.errors import OstinatoError
from ostinato.launch import Launch, PeerError, launch
from ostinato.recurrence.layers import Hidden, state_rows

T = TypeVar("T")

TIMEOUT = timedelta(minutes=10)
"""How long a rank waits for the others at a step, before it takes them for hung. Ranks that ended
are noticed immediately."""

PREPARATION = timedelta(days=7)
"""How long the others wait while the first rank reads data."""


class World:
    """The ranks of a run, and what they tell each other; by default one that is alone.

    Every method but `now` is called by all ranks at the same point of their work.
    """

    rank = 0
    size = 1

    def now(self) -> float:
        """Return the seconds of a clock; all ranks get the same ones between two exchanges."""
        return time.perf_counter()

    def sum(self, *values: float) -> list[float]:
        """Return the sums of numbers over all ranks."""
        return list(values)

    def gather(self, value: T) -> list[T]:
        """Return the values of all ranks, by rank; not of strangers, since they are pickled."""
        return [value]

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite tensors with those of the first rank."""

    def combine(self, tensors: Iterable[Tensor], share: float) -> None:
        """Overwrite tensors with the sum over ranks of each one's share of its own."""

    def first(self, make: Callable[[], T]) -> T:
        """Return what the first rank makes, however long it takes.

        Raises:
            PeerError: on the others, if it raises an error there.
        """
        return make()

    def local_device(self, name: str) -> str:
        """Return the device of this rank, of those that a setting names."""
        return name

    def path(self, path: Path) -> Path:
        """Return a path as all ranks, which may be in other folders, understand it."""
        return path

    def parallel(self, module: nn.Module) -> nn.Module:
        """Return a module whose gradients are the means over all ranks."""
        return module


ALONE = World()


class Ranks(World):
    """Ranks that exchange by gloo, and gradients of GPUs by nccl. See `join`."""

    def __init__(self, place: Launch) -> None:
        self.rank, self.size, self._local_rank = place.rank, place.size, place.local_rank
        self._now = 0.0
        self._made = 0
        gpus = torch.cuda.device_count()
        if 0 < gpus < place.local_size:
            raise OstinatoError(
                f"torchrun: {place.local_size} processes for {gpus} GPUs: launch one for each "
                "(--nproc-per-node), or hide the GPUs (CUDA_VISIBLE_DEVICES=) to train on CPUs."
            )
        if gpus:
            torch.cuda.set_device(self._local_rank)
        torch.set_num_threads(threads_of(place))
        # Not there in every PyTorch.
        from torch.distributed.distributed_c10d import PrefixStore
        from torch.distributed.rendezvous import rendezvous

        with noticing_lost_peers():
            store, _, _ = next(rendezvous("env://", timeout=TIMEOUT))
            self._store = PrefixStore("ostinato", store)
            if not dist.is_initialized():
                dist.init_process_group(
                    "cpu:gloo,cuda:nccl" if gpus else "gloo",
                    store=PrefixStore("group", self._store),
                    rank=self.rank,
                    world_size=self.size,
                    timeout=TIMEOUT,
                )
                atexit.register(dist.destroy_process_group)

    def now(self) -> float:
        return self._now

    def sum(self, *values: float) -> list[float]:
        mine = [*values, time.perf_counter() if self.rank == 0 else 0.0]
        numbers = torch.tensor(mine, dtype=torch.float64)
        with noticing_lost_peers():
            dist.all_reduce(numbers)
        *sums, self._now = numbers.tolist()
        return sums

    def gather(self, value: T) -> list[T]:
        found: list[Any] = [None] * self.size
        with noticing_lost_peers():
            dist.all_gather_object(found, (value, time.perf_counter()))
        self._now = found[0][1]
        return [each for each, _ in found]

    def broadcast(self, tensors: Iterable[Tensor]) -> None:
        with noticing_lost_peers():
            for tensor in tensors:
                dist.broadcast(tensor, 0)

    def combine(self, tensors: Iterable[Tensor], share: float) -> None:
        by_kind: dict[Any, list[Tensor]] = {}
        for tensor in tensors:
            by_kind.setdefault((tensor.dtype, tensor.device), []).append(tensor)
        for several in by_kind.values():  # in one message, whose latency is what costs
            joined = torch.cat([tensor.reshape(-1) for tensor in several]).mul_(share)
            with noticing_lost_peers():
                dist.all_reduce(joined)
            parts = torch.split(joined, [tensor.numel() for tensor in several])
            for tensor, part in zip(several, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def first(self, make: Callable[[], T]) -> T:
        self._made += 1
        key, found = f"made {self._made}", [cast(T, None)]
        if self.rank:
            with noticing_lost_peers():
                self._store.wait([key], PREPARATION)
                problem: str | None = json.loads(self._store.get(key))
            if problem is not None:
                raise PeerError(problem)
        else:
            try:
                found = [make()]
            except BaseException as error:
                self._store.set(key, json.dumps(str(error) or type(error).__name__))
                raise
            self._store.set(key, json.dumps(None))
        with noticing_lost_peers():
            dist.broadcast_object_list(found, 0)
        return found[0]

    def local_device(self, name: str) -> str:
        if name in ("auto", "cuda") and torch.cuda.is_available():
            return f"cuda:{self._local_rank}"
        return name

    def path(self, path: Path) -> Path:
        return path.absolute()

    def parallel(self, module: nn.Module) -> nn.Module:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*broadcast_buffers.*")  # the name until torch 2.13
            return DistributedDataParallel(module, broadcast_buffers=False)


def join() -> World:
    """Return the ranks that this process was launched with; `ALONE`, without any exchange, if none.

    All of them must call it, and after it train the same estimators in the same order.
    """
    place = launch()
    if place.size == 1:
        return ALONE
    if not dist.is_available():
        raise OstinatoError("torchrun: this PyTorch was built without torch.distributed.")
    return _joined(place)


@cache
def _joined(place: Launch) -> World:
    return Ranks(place)


def threads_of(place: Launch) -> int:
    """Return the threads of a rank, so that those of a machine do not fight for its cores.

    ``OMP_NUM_THREADS`` says it, if it is not 1, which is what ``torchrun`` sets by itself.
    Otherwise the cores that this process may use are shared evenly.
    """
    given = os.environ.get("OMP_NUM_THREADS", "")
    if given.isdecimal() and int(given) > 1:
        return int(given)
    can_tell = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if can_tell else (os.cpu_count() or 1)
    return max(1, cores // place.local_size)


@contextmanager
def noticing_lost_peers() -> Iterator[None]:
    """Raise a `PeerError` for an error of the exchange, since another rank has ended or hangs."""
    try:
        yield
    except RuntimeError as error:
        words = ("gloo", "nccl", "connection closed", "connection reset")
        if not (isinstance(error, dist.DistError) or any(w in str(error).lower() for w in words)):
            raise
        raise PeerError(
            "another process of the run has ended, or did not answer: what it said is above, or in "
            f"the log of its machine ({str(error).splitlines()[0]:.200}). The last checkpoint is "
            "kept: the same command with --resume continues from it."
        ) from error


def check_all(world: World, holds: bool, problem: str) -> None:
    """Raise an `OstinatoError` on every rank unless something holds on all of them."""
    found = world.gather((holds, socket.gethostname()))
    where = [f"rank {rank} ({host})" for rank, (held, host) in enumerate(found) if not held]
    if where:
        error = OstinatoError if world.rank == 0 else PeerError
        raise error(f"{', '.join(where[:3])}{', ...' if where[3:] else ''}: {problem}")


# The carried state and random numbers of all ranks, in a checkpoint


def joined_rows(parts: Sequence[Hidden]) -> Hidden:
    """Return a state of all rows, of which part i has rows i, i + parts, and so on.

    >>> even, odd = torch.tensor([[[0.0], [2.0]]]), torch.tensor([[[1.0]]])
    >>> joined_rows([even, odd]).flatten().tolist()
    [0.0, 1.0, 2.0]
    """
    sizes = [_rows(part) for part in parts]
    begins = np.cumsum([0, *sizes])
    order = [begins[row % len(parts)] + row // len(parts) for row in range(sum(sizes))]
    whole = _pytree.tree_map(_concatenated, parts[0], *parts[1:])
    return state_rows(whole, torch.tensor(order))


def own_rows(state: Hidden, part: int, parts: int) -> Hidden:
    """Return the rows of a part, None if it has none: the inverse of `joined_rows`."""
    rows = torch.arange(_rows(state))[part::parts]
    return state_rows(state, rows) if len(rows) else None


def _concatenated(*tensors: Tensor | None) -> Tensor | None:
    return None if tensors[0] is None else torch.cat([t for t in tensors if t is not None], 1)


def _rows(state: Hidden) -> int:
    tensors = (t for t in _pytree.tree_leaves(state) if isinstance(t, Tensor))
    return next((t.shape[1] for t in tensors), 0)


def seed_of_rank(seed: int, rank: int, step: int = 0) -> int:
    """Return a seed for random numbers of a rank; those of the first are the seed's own."""
    sequence = np.random.SeedSequence([seed % 2**63, rank, step])
    return int(sequence.generate_state(1, np.uint64)[0])
