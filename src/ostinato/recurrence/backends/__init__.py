"""Paths that compute a layer, and the choice between them."""

from ostinato.recurrence.backends.dispatch import Backend, choose, run, use_backend

__all__ = ["Backend", "choose", "run", "use_backend"]
