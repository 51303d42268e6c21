"""The engine: cells, the scan that runs them, compiled kernels, layers and streams."""
