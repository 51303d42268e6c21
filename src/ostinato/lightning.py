"""`Watch`, a callback for Lightning that watches the training; see `ostinato.watch`.

Needs ``ostinato[lightning]``; a `MissingExtra` error says so where it is not installed.
"""

from __future__ import annotations

import sys
from contextlib import ExitStack
from functools import cache
from importlib.util import find_spec
from typing import Any

from ostinato.errors import require
from ostinato.training.watch import watch


def __getattr__(name: str) -> Any:
    if name != "Watch":
        raise AttributeError(f"module 'ostinato.lightning' has no attribute {name!r}")
    return _callback()


@cache
def _callback() -> Any:
    old = "pytorch_lightning"
    is_old = old in sys.modules or not find_spec("lightning")
    module: Any = require(
        old if is_old and find_spec(old) else "lightning.pytorch", "lightning", "Watch"
    )

    class Watch(module.Callback):
        """Watch the training of a module, and warn once of each problem it shows.

        Args:
            share: as in `ostinato.watch`.
            monitor: name of the validation loss among the metrics that are logged.

        Attributes:
            watch: what was seen, once training has begun; its ``history`` is what
                `ostinato.diagnose` takes.
        """

        def __init__(self, share: float = 0.02, monitor: str = "val_loss") -> None:
            self.share, self.monitor = share, monitor
            self._block = ExitStack()

        def on_train_start(self, trainer: Any, pl_module: Any) -> None:
            """Begin to watch."""
            self.watch = watch(pl_module, *trainer.optimizers, share=self.share)
            self._block.enter_context(self.watch)

        def on_train_batch_end(
            self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            """Take the loss."""
            loss = outputs.get("loss") if isinstance(outputs, dict) else outputs
            if loss is not None:
                self.watch.loss(loss)

        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            """Take the validation loss."""
            loss = trainer.callback_metrics.get(self.monitor)
            if loss is not None and not trainer.sanity_checking:
                self.watch.validation(loss)

        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            """Warn of what the whole run shows."""
            self._block.close()

        def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
            """Remove the hooks."""
            self._block.__exit__(type(exception), exception, exception.__traceback__)

    return Watch
