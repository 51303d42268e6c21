"""How a network learns: the loop, its settings, checkpoints, storage, and what it says."""
