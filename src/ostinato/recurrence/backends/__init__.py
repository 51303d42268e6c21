"""Paths that compute a layer, and the choice between them."""

from ostinato.recurrence.backends.dispatch import Backend, choose, run, use_backend
from ostinato.recurrence.backends.report import CompiledCell, compile_cell

__all__ = ["Backend", "CompiledCell", "choose", "compile_cell", "run", "use_backend"]
