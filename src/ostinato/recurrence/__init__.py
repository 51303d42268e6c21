"""The engine: cells, the scan that runs them, faster paths, layers and streams."""
