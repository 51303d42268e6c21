"""The training loop: truncated back-propagation through time, in small named steps."""

from __future__ import annotations

import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import KW_ONLY, dataclass
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ostinato.errors import OstinatoError
from ostinato.recurrence.cells import Tensors
from ostinato.training.callbacks import Callback, Ending, TrainingResult
from ostinato.training.checkpoints import Checkpoints
from ostinato.training.distributed import ALONE, World, seed_of_rank
from ostinato.training.evaluation import (
    Batches,
    MovingStatistics,
    Objective,
    eval_mode,
    measure,
)
from ostinato.training.gradients import Average, Divisible, Joined, PartedBatch, Parts, Whole
from ostinato.training.health import (
    GradientHealth,
    Monitor,
    NonFiniteError,
    first_nonfinite,
    is_finite,
)
from ostinato.training.optimization import (
    Schedule,
    clip_gradients,
    make_optimizer,
    updates_of,
)
from ostinato.training.settings import TrainingSettings
from ostinato.training.storage import parts_of

MAX_SKIPS = 20
MAX_SKIPS_IN_STATE = 3
"""Steps skipped in a row from the same state, before the next one starts from zeros."""

MAX_ROLLBACKS = 8

FALL = 1.0
"""Steps in which the learning rate falls where validation stalls, for each step to the best."""

COARSE = 100
"""Items below which a metric such as the accuracy is too coarse to judge by: the loss judges."""

_STATEFUL = ("network", "optimizer", "schedule", "batches")
_SAVED = (
    "step",
    "total",
    "tokens",
    "seconds",
    "rollbacks",
    "last_loss",
    "best_loss",
    "best_score",
    "lowest_loss",
    "best_step",
    "best_weights",
    "evaluations",
    "evaluated_parts",
    "evaluation_seconds",
    "planned_at",
    "stale_evaluations",
)


class Pace(NamedTuple):
    """Seconds of a step, and of an evaluation; 0 without validation data."""

    step: float
    evaluation: float


@dataclass(eq=False)
class Trainer:
    """Trains a network in place, until its budget is used, patience is lost, or an interrupt.

    State is carried from batch to batch and detached in between, which is truncated
    back-propagation through time (Williams and Peng 1990); a ``fresh`` batch starts from zeros.

    Args:
        network: the network, on its device.
        batches: training batches, ready for the network.
        objective: their loss.
        settings: settings of the run.
        callbacks: callbacks to call.
        validation: validation batches; None for no validation.
        sample: returns something to show at each validation, by the step.
        on_best: called with the result so far when the weights are the best so far.
        title: a one-line description of the run.
        folder: folder of checkpoints; None keeps the newest in memory.
        world: the ranks that train together. Each has a trainer with the same arguments; callbacks
            are those of the first.

    Example:
        >>> import numpy as np
        >>> from ostinato.data.batches import SequenceBatches
        >>> from ostinato.data.ragged import Examples, Ragged
        >>> from ostinato.networks.arrangements import ManyToOne, recurrent_layers
        >>> from ostinato.networks.outputs import Output
        >>> from ostinato.tasks.targets import Classes
        >>> examples = Examples(Ragged.of(np.ones((n, 2), "f4") for n in (3, 1)), np.array([0, 1]))
        >>> network = ManyToOne(nn.Identity(), recurrent_layers("gru", 2, 8), Output(8, 2))
        >>> batches = SequenceBatches(examples, batch_size=2)
        >>> settings, classes = TrainingSettings(steps=30, health=False), Classes(np.array([0, 1]))
        >>> result = Trainer(network, batches, classes, settings, validation=batches).run()
        >>> result.ended, result.best_loss < 0.7
        ('budget', True)
    """

    network: nn.Module
    batches: Batches
    objective: Objective[Any, Any]
    settings: TrainingSettings
    callbacks: Sequence[Callback] = ()
    _: KW_ONLY
    validation: Iterable[Any] | None = None
    sample: Callable[[int], str] | None = None
    on_best: Callable[[TrainingResult], None] | None = None
    title: str = ""
    folder: Path | None = None
    world: World = ALONE

    def __post_init__(self) -> None:
        settings = self.settings
        settings.check_settings()
        if settings.health and self.world.rank == 0:
            self.callbacks = [*self.callbacks, GradientHealth()]
        self.checkpoints = Checkpoints(self.folder)
        self.optimizer = make_optimizer(self.network, settings)
        self.schedule = Schedule(settings)
        self.monitor = Monitor(clip_norm=settings.clip_norm)
        self.statistics = MovingStatistics(self.network)
        self.compute: Whole | Joined = Whole(self.network, self.objective)
        # Of ranks that train apart for some steps; None where they share every gradient.
        self.average: Average | None = None
        if self.world.size > 1 and settings.average_every > 1:
            self.average = Average(self.world, self.network, self.optimizer)
        if self.world.size > 1 or settings.accumulate > 1:
            self.batches = Parts(self.batches, self.world, settings.accumulate)
            self.compute = Joined(
                self.network,
                self.objective,
                self.world,
                settings.accumulate,
                apart=self.average is not None,
            )
        self.parameters = [p for p in self.network.parameters() if p.requires_grad]
        self.batch: Any = None
        self.state: Any = None
        self.step = self.tokens = self.skips = self.rollbacks = 0
        self.total = settings.steps
        if settings.epochs is not None:
            self.total = max(1, math.ceil(settings.epochs * self.batches.windows))
        # Without a budget of steps time is the limit; the total is then a plan, None at first.
        self.time_limit = 60 * (settings.minutes or 5) if self.total is None else None
        self.seconds = 0.0
        self.last_loss = math.nan
        self.best_loss, self.best_step = math.inf, 0
        # The loss, or the metric that judges: negative where more of it is better.
        self.best_score = self.lowest_loss = math.inf
        self.judge = "loss"
        self.best_weights: dict[str, Tensor] = {}
        self.evaluations = settings.evaluations or 10
        self.stale_evaluations = self.evaluated_parts = self._evaluated_at = 0
        self.evaluation_seconds = self.planned_at = 0.0
        self._measured: list[float] = []
        self._suspicions: list[str] = []
        self._interrupted = self._ends = False

    # The run

    def run(self, *, resume: bool = False) -> TrainingResult:
        """Train, or continue from the newest checkpoint if there is one.

        An interrupt (Ctrl-C, SIGTERM) lets the step finish, and saves a checkpoint; a second Ctrl-C
        aborts. After an interrupt the network holds the latest weights, otherwise the best.

        Raises:
            NonFiniteError: see ``settings.on_nonfinite``.
        """
        self._interrupted = self._ends = False
        with ExitStack() as closing:
            for callback in self.callbacks:
                closing.callback(callback.close)
            checkpoint = self.world.first(self.checkpoints.load) if resume else None
            notes: list[str] = []
            if checkpoint is not None:
                with parts_of(self.folder or Path()):
                    notes += self.restore(checkpoint)
            else:
                if self.world.rank:  # whose random masks are others than those of the first
                    torch.manual_seed(seed_of_rank(self.settings.seed, self.world.rank))
                if self.world.size == 1 and self.settings.average_every > 1:
                    notes.append("average_every: there is one process, and nothing to average")
                if self.statistics.buffers and isinstance(self.compute, Joined):
                    notes.append("batch normalisation: by the rows of each part of a batch alone")
            self.world.sum()  # from here on all have the same clock
            self._start = self._last_save = self.world.now()
            self._seconds_before = self.seconds
            for callback in self.callbacks:
                callback.on_begin(self)
                for note in notes:
                    callback.note(note)
            if checkpoint is None:
                self.save()
            with self._catching_interrupts():
                result = self._train()
            for callback in self.callbacks:
                callback.on_end(result)
        return result

    def pace(self, seconds: float = 2.0) -> Pace:
        """Train and evaluate for a moment, to measure how long either takes; not before `run`."""
        self.callbacks, self._start, self._seconds_before = [], time.perf_counter(), 0.0
        self.network.train()
        steps: list[float] = []
        while len(steps) < 3 or (sum(steps) < seconds and len(steps) < 100):
            start = time.perf_counter()
            self.train_step()
            steps.append(time.perf_counter() - start)
        start = time.perf_counter()
        read: list[bool] = []

        def some() -> Iterator[Any]:
            for batch in self.validation or ():
                read.append(not read or time.perf_counter() - start < seconds)
                if read[-1]:
                    yield batch

        measure(self.network, self.objective, some())
        share = sum(read) / max(1, len(read))
        return Pace(median(steps), (time.perf_counter() - start) / share if read else 0.0)

    def _train(self) -> TrainingResult:
        self.network.train()
        ended: Ending = "budget"
        while self.total is None or self.step < self.total:
            if self._ends or (self._interrupted and self.world.size == 1):
                ended = "interrupt"
                break
            if 0 < (self.settings.patience or 0) <= self.stale_evaluations and not self._anneal():
                ended = "patience"
                break
            start = self.world.now()
            self.train_step()
            if self.time_limit is not None:
                self._measured.append(self.world.now() - start)
                self._plan(self.time_limit)
            if self._is_evaluation_due():
                self.evaluate()
            if self.world.now() - self._last_save > 60 * self.settings.checkpoint_minutes:
                self.save()
        if ended == "budget" and self.schedule.anneals:
            ended = "patience"
        self.save()
        if self.best_weights and ended != "interrupt":
            with updates_of(self.network):
                self.network.load_state_dict(self.best_weights)
        elif not self._is_finite():
            raise self._failure("the weights are not finite", "the weights")
        self.network.eval()
        return self.result(ended)

    def stop(self) -> None:
        """End the run after the current step, as Ctrl-C does: it can be resumed."""
        self._interrupted = True

    def result(self, ended: Ending = "unfinished") -> TrainingResult:
        """Return how the run ended, or its current state."""
        return TrainingResult(ended, self.step, self.best_loss, self.best_step, self.seconds)

    def train_step(self) -> None:
        """Run one batch forward and backward, and one step of the optimizer."""
        settings = self.settings
        with updates_of(self.network):
            batch = self.batches.next_batch()
            self.batch = batch.parts[0] if isinstance(batch, PartedBatch) else batch
            before = None if batch.fresh else self.state
            self.statistics.keep()
            self.optimizer.zero_grad()
            found = self.compute.gradients(batch, before, self._interrupted)
            norm = math.nan
            if math.isfinite(found.loss):
                norm = clip_gradients(self.parameters, settings.clip_norm, settings.clip_value)
            if self.average is None:
                self._ends = found.stop
            if not math.isfinite(norm):
                self.statistics.restore()
                if self.average is None:
                    self.treat_nonfinite(batch, before, found.loss)
                else:
                    self._lose(self.average, batch, before, found.loss)
                return
            self.skips = 0
            self.step += 1
            rate = self.schedule.rate(self.step, self.total)
            for group in self.optimizer.param_groups:
                group["lr"] = rate
            self.optimizer.step()
            if self.average is None:
                self.world.broadcast(self.statistics.buffers)
            else:
                self.average.add(found)
            self.state = detach(found.state) if found.carries else None
            if not found.carries:
                self.log("the carried state is not finite; the next batch starts from zeros")
            self.last_loss = found.loss
            self.tokens += found.steps
        goes_on = self.step % settings.average_every != 0 or self.combine()
        self._clock()
        if goes_on:
            self.record(found.loss, norm, rate)

    def record(self, loss: float, norm: float, rate: float) -> None:
        """Call the callbacks after a step."""
        record = {
            "step": self.step,
            "loss": loss,
            **self.objective.units(loss),
            "learning_rate": rate,
            "gradient_norm": norm,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 3),
        }
        for callback in self.callbacks:
            callback.on_step(record)
        for message in self.monitor.observe(self.step, loss, norm):
            self.suspect(message)

    def combine(self) -> bool:
        """Average the weights of ranks that train apart, unless they are equal.

        A loss or gradient that was not finite is treated here, by all of them. Return whether the
        run goes on from here, and not from its last checkpoint.
        """
        if self.average is None or not self.average.pending:
            return True
        interval = self.average.exchange(self._interrupted)
        self._ends, self.last_loss = interval.stop, interval.loss
        self.tokens += interval.others
        if interval.lost:
            problem = f"not finite on some processes: {interval.problem}"
            if self.settings.on_nonfinite != "skip" or interval.hopeless:
                self._go_back(problem, interval.problem)
                return False
            self.log(f"{problem}; {interval.lost} of their steps are skipped")
        with updates_of(self.network):
            self.average.combine(interval.share)
            self.world.broadcast(self.statistics.buffers)
        return True

    def evaluate(self) -> None:
        """Compute the validation metrics and a sample; keep the best weights."""
        if not self.combine():  # what is evaluated is the average
            return
        start = self.world.now()
        metrics, score, judge = {"loss": self.last_loss}, self.last_loss, self.objective.judge
        flawless = False
        if self.validation is not None:
            metrics, items = self._measure(self.validation)
            score = self._score(metrics, items)
            flawless = metrics[judge] == self.objective.flawless
        loss = metrics.pop("loss")
        is_finite = math.isfinite(loss) and math.isfinite(score) and self._is_finite()
        sample = None
        if self.sample is not None and is_finite and self.world.rank == 0:
            with eval_mode(self.network), torch.no_grad():
                sample = self.sample(self.step)
        if not math.isfinite(loss):
            self.log(f"validation loss {loss}: not finite; these weights are not kept")
        elif not is_finite:
            self.log("the weights are not finite; they are not kept")
        # The loss of one training batch is noisy: without validation the latest counts as best.
        is_better = (score, loss) < (self.best_score, self.best_loss)
        is_best = is_finite and (self.validation is None or is_better)
        # What is flawless has nothing to gain but certainty.
        improves = score < self.best_score or (loss < self.lowest_loss and not flawless)
        improves = is_finite and improves
        if is_best:
            self.best_score, self.best_loss, self.best_step = score, loss, self.step
            self.best_weights = {n: t.clone() for n, t in self.network.state_dict().items()}
            if self.on_best is not None:
                self.on_best(self.result())
        if is_finite:
            self.lowest_loss = min(loss, self.lowest_loss)
        self._evaluated_at = self.step
        self.stale_evaluations = 0 if improves else self.stale_evaluations + 1
        self.schedule.observe(loss)
        if improves and self._suspicions:
            self.monitor.forget()
        for message in () if improves else self._suspicions:
            self.log(message)
        self._suspicions.clear()
        self.world.sum()  # the clock goes on
        self._clock()
        self.evaluation_seconds = self.world.now() - start
        self.evaluated_parts = self._parts_done()
        record = {
            "step": self.step,
            "training_loss" if self.validation is None else "validation_loss": loss,
            **self.objective.units(loss),
            **metrics,
            "best": is_best,
            "seconds": round(self.seconds, 3),
        }
        for callback in self.callbacks:
            callback.on_validation(record, sample)

    def _measure(self, validation: Iterable[Any]) -> tuple[dict[str, float], int]:
        """Compute the validation metrics, each rank of its part of the batches."""
        if isinstance(validation, Divisible):
            validation = validation.split(self.world.rank, self.world.size)
            return measure(self.network, self.objective, validation, self.world)
        return self.world.first(lambda: measure(self.network, self.objective, validation))

    def _score(self, metrics: dict[str, float], items: int) -> float:
        """Return what the best weights have least of: the loss, or the metric that judges."""
        self.judge = "loss" if items < COARSE else self.objective.judge
        value = metrics[self.judge]
        return -value if self.judge != "loss" and self.objective.higher_is_better else value

    def log(self, message: str) -> None:
        """Send a warning for the user to the callbacks."""
        for callback in self.callbacks:
            callback.log(f"step {self.step}: {message}")

    def suspect(self, message: str) -> None:
        """Warn, unless the next evaluation is better than all before it."""
        if self.validation is None:
            self.log(message)
        else:
            self._suspicions.append(f"{message} (seen at step {self.step})")

    # Non-finite numbers

    def treat_nonfinite(self, batch: Any, before: Any, loss: float) -> None:
        """Stop, skip the step or roll back, as ``on_nonfinite`` says."""
        what, otherwise, tensor = self._first_nonfinite(batch, before, loss)
        tensor = next((t for t in self.world.gather(tensor) if t != otherwise), otherwise)
        problem = f"{what} not finite; first non-finite tensor: {tensor}"
        skips = self.settings.on_nonfinite == "skip" and self.skips < MAX_SKIPS
        if skips and not tensor.startswith("weight"):
            self._skip(before)
            self.log(f"{problem}; the step is skipped")
            return
        self._go_back(problem, tensor)

    def _first_nonfinite(self, batch: Any, before: Any, loss: float) -> tuple[str, str, str]:
        """Return what is not finite, what it is called by itself, and the first such tensor."""
        what = "gradient" if math.isfinite(loss) else "loss"
        otherwise = "the norm of the gradients" if what == "gradient" else "the loss"
        if what == "loss":
            self.optimizer.zero_grad()  # which is not finite because the loss is not
        tensor = first_nonfinite(
            self.network, lambda: self.compute.losses(batch, before), otherwise
        )
        self.optimizer.zero_grad()
        return what, otherwise, tensor

    def _skip(self, before: Any) -> None:
        self.skips += 1
        self.state = before if self.skips <= MAX_SKIPS_IN_STATE else None

    def _lose(self, average: Average, batch: Any, before: Any, loss: float) -> None:
        """Leave out a step of this rank alone; the others hear of it when they average."""
        tensor = self._first_nonfinite(batch, before, loss)[2]
        average.lose(tensor, self.skips >= MAX_SKIPS or tensor.startswith("weight"))
        self._skip(before)
        # A step of length 0: optimizers of all ranks count the same steps.
        for p in self.parameters:
            p.grad = torch.zeros_like(p)
        for group in self.optimizer.param_groups:
            group["lr"] = 0.0
        self.optimizer.step()
        self.step += 1
        if self.step % self.settings.average_every == 0:
            self.combine()
        self._clock()

    def _go_back(self, problem: str, tensor: str) -> None:
        """Return to the last checkpoint with half the learning rate, or raise an error."""
        remedy = self.settings.on_nonfinite
        can_go_back = remedy == "rollback" and self.rollbacks < MAX_ROLLBACKS
        checkpoint = self.world.first(self.checkpoints.load) if can_go_back else None
        if checkpoint is None:
            raise self._failure(problem, tensor)
        at, rollbacks, scale = self.step + 1, self.rollbacks + 1, self.schedule.scale / 2
        self.restore(checkpoint)
        self.rollbacks, self.schedule.scale = rollbacks, scale
        for callback in self.callbacks:
            callback.on_rollback(self)
        self.save()
        self.log(
            f"at step {at} {problem}; back to step {self.step} with the learning rate halved "
            f"to {self.settings.learning_rate * scale:.2g}"
        )

    def _failure(self, problem: str, tensor: str) -> NonFiniteError:
        clip = self.settings.clip_norm
        clipping = f"clip_norm (now {clip:g})" if clip else "clip_norm=1"
        return NonFiniteError(
            f"step {self.step + 1}: {problem}. Try a lower learning_rate "
            f"(now {self.settings.learning_rate:g}), {clipping}, cell='lstm' or 'gru' for a plain "
            "rnn, a shorter window, or on_nonfinite='rollback'. The last good checkpoint is kept.",
            self.step + 1,
            tensor,
        )

    def _is_finite(self) -> bool:
        return is_finite(self.parameters)

    # Checkpoints

    def save(self) -> None:
        """Save a checkpoint, unless the weights are not finite."""
        if not self.combine():
            return
        self._last_save = self.world.now()
        if not self._is_finite():
            self.log("the weights are not finite; the last good checkpoint is kept instead")
            return
        self._clock()
        for callback in self.callbacks:
            callback.on_checkpoint()
        cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
        own = {"cpu": torch.get_rng_state(), "cuda": cuda}
        carried, random = detach(self.state), own
        if isinstance(self.compute, Joined):
            carried = self.compute.joined_state(carried)
        if self.world.size > 1:
            random = own | {"ranks": self.world.gather(own)}
        if self.world.rank:
            return
        with updates_of(self.network):
            self.checkpoints.save(
                {
                    **{name: getattr(self, name) for name in _SAVED},
                    **{name: getattr(self, name).state_dict() for name in _STATEFUL},
                    "carried": carried,
                    "random": random,
                }
            )

    def restore(self, checkpoint: dict[str, Any]) -> list[str]:
        """Restore the run from a checkpoint; the inverse of `save`.

        Returns:
            what the user should know of it.
        """
        device = next(iter(self.network.state_dict().values())).device
        with updates_of(self.network):
            for name in _STATEFUL:
                getattr(self, name).load_state_dict(checkpoint[name])
        for name in _SAVED:
            known, value = getattr(self, name), checkpoint[name]
            kinds = (int, type(None)) if name == "total" else (type(known),)
            if not isinstance(value, kinds) or (isinstance(value, int) and value < 0):
                raise OstinatoError(f"the checkpoint has {name}={value!r:.40}.")
            setattr(self, name, value)
        carried = detach(checkpoint["carried"], device)
        self.state = carried if is_finite(carried) else None
        if isinstance(self.compute, Joined):
            self.state = self.compute.own_state(self.state)
        world, random, notes = self.world, checkpoint["random"], []
        ranks = random.get("ranks", [random])
        if world.rank < len(ranks):
            random = ranks[world.rank]
            torch.set_rng_state(random["cpu"])
            if random["cuda"] and torch.cuda.is_available():
                torch.cuda.set_rng_state_all(random["cuda"])
        else:
            torch.manual_seed(seed_of_rank(self.settings.seed, world.rank, self.step))
        if len(ranks) != world.size:
            notes.append(
                f"the checkpoint of step {self.step} is of {_processes(len(ranks))}, and this is a "
                f"run of {world.size}: rows of batches, and carried states, are divided again"
            )
        # A checkpoint is written after its step's evaluation.
        self._evaluated_at = self.step
        self.evaluated_parts = max(self.evaluated_parts, self._parts_done())
        return notes

    @contextmanager
    def _catching_interrupts(self) -> Iterator[None]:
        """Let the first Ctrl-C or SIGTERM end the run after the current step."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def note(number: int, frame: Any) -> None:
            # torchrun hands on what a terminal has told us already: no second one.
            if self._interrupted and number == signal.SIGINT and self.world.size == 1:
                raise KeyboardInterrupt
            self._interrupted = True

        old = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    # The budget

    def _plan(self, limit: float) -> None:
        """Convert the time that is left into steps: after a measured start, and again later."""
        first = self.total is None
        if first:
            # A twentieth of the time, and 20 steps unless half of it is gone.
            if self.seconds < limit / (2 if self.step < 20 else 20):
                return
            # The median ignores the first steps, but ranks that train apart have no common clock.
            per_step = median(self._measured) if self.average is None else fmean(self._measured)
            self.evaluate()
            # Slow evaluations become rarer: together they may take a tenth of the time.
            affordable = int(0.1 * limit / max(self.evaluation_seconds, 1e-9))
            self.evaluations = max(1, min(self.evaluations, affordable))
        elif self.seconds - self.planned_at < limit / 50 or (
            self.schedule.anneals and self.seconds < limit
        ):
            return
        else:
            per_step = fmean(self._measured)
        # The model that is kept is measured once more.
        evaluations = self.evaluations - self.evaluated_parts + (self.validation is not None)
        left = limit - self.seconds - self.evaluation_seconds * evaluations
        steps = round(left / max(1e-9, per_step))
        self.total = self.step + max(1 if first or self.step == 0 else 0, steps)
        self.planned_at = self.seconds
        self._measured.clear()
        if first:
            self.save()

    def _anneal(self) -> bool:
        """Go back to the best weights and let the learning rate fall from there, once in a run.

        Return whether there is anything to gain by it: not where the rate has fallen before.
        """
        rate, total = self.schedule.rate(self.step, self.total), self.total
        can = self.settings.schedule in ("cosine", "wsd") and not self.schedule.anneals
        low = rate < 0.1 * self.settings.learning_rate
        if not can or low or total is None or not self.best_weights:
            return self.schedule.anneals
        steps = min(max(1, round(FALL * self.best_step)), total - self.step)
        with updates_of(self.network):
            self.network.load_state_dict(self.best_weights)
        self.state = None
        self.schedule.anneal(self.step, steps, rate)
        self.total = self.step + steps
        self.evaluations = max(1, round(self.evaluations * self.total / total))
        self.evaluated_parts = self._parts_done()
        self.stale_evaluations = 0
        for callback in self.callbacks:
            callback.note(
                f"step {self.step}: no better for {self.settings.patience} evaluations; back to "
                f"step {self.best_step}, from where the learning rate falls for {steps:,} steps"
            )
        return True

    def _is_evaluation_due(self) -> bool:
        if self.total is None or self._evaluated_at == self.step:
            return False
        return self.step == self.total or self._parts_done() > self.evaluated_parts

    def _parts_done(self) -> int:
        """Return how many parts of the run are done; each of them ends by an evaluation."""
        return 0 if self.total is None else self.step * self.evaluations // max(1, self.total)

    def _clock(self) -> None:
        self.seconds = self._seconds_before + self.world.now() - self._start


def _processes(count: int) -> str:
    return "one process" if count == 1 else f"{count} processes"


def detach(state: Any, device: Any = None) -> Any:
    """Return a state with the same tensors, detached from the autograd graph."""
    if isinstance(state, Tensor):
        return state.detach().to(device=device)
    if isinstance(state, tuple | list):
        parts = [detach(part, device) for part in state]
        return type(state)(*parts) if isinstance(state, Tensors) else type(state)(parts)
    return state


def device_of(name: str) -> torch.device:
    """Return the device that a setting names; ``auto`` is CUDA if available."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        number = torch.zeros(1, device=name)
        number.item()  # fails for PyTorch's "meta"
        return number.device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise OstinatoError(f"device={name!r} cannot be used here: {reason}") from None
