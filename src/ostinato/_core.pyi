"""The compiled core of Ostinato."""

def version() -> str:
    """Return the version of the package that this core was built for."""

def instruction_set() -> str:
    """Return the instruction set that the core runs with on this CPU.

    The best of `x86-64-v4`, `x86-64-v3` and `x86-64` that the CPU can run, or `generic` where it is
    no x86. It is chosen once, when first needed; the environment variable `OSTINATO_ISA` names
    another.

    Raises:
        ValueError: `OSTINATO_ISA` names an instruction set that this build does not have or this
            CPU cannot run.
    """
