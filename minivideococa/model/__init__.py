"""The network: pure functions over NumPy arrays, and nothing of files or words."""
