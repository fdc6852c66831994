"""What the launcher that started this process says of the others."""

import os


def world_size() -> int:
    """How many processes the launcher (torchrun and its like) started for this run; 1 without."""
    return int(os.environ.get("WORLD_SIZE") or 1)
