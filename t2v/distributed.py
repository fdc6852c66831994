"""The other processes of this run, as the launcher (torchrun, accelerate launch) names them."""

import os

from t2v.errors import UserError


def world_size() -> int:
    """Return the number of processes of this run; 1 without a launcher."""
    return int(os.environ.get("WORLD_SIZE") or 1)


def rank() -> int:
    """Return the number of this process, from 0."""
    return int(os.environ.get("RANK") or 0)


def local_rank() -> int:
    """Return its number among those on this machine, from 0: the number of its GPU."""
    return int(os.environ.get("LOCAL_RANK") or 0)


def machines() -> int:
    """Return how many machines this run has, where the launcher says how many processes each."""
    return -(-world_size() // int(os.environ.get("LOCAL_WORLD_SIZE") or world_size()))


def check_launcher() -> None:
    """Raise `UserError` where WORLD_SIZE names several processes that cannot find each other."""
    needed = ("RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if missing := [name for name in needed if not os.environ.get(name)]:
        raise UserError(
            f"WORLD_SIZE={world_size()}, but {', '.join(missing)} is not set. Start several "
            "processes with torchrun or accelerate launch; for one, unset WORLD_SIZE."
        )
    if os.environ["MASTER_PORT"] == "0":
        raise UserError(
            "MASTER_PORT=0: processes cannot meet at port 0. Give another: --master-port=29501."
        )


def master_address() -> str:
    """Return the address of the machine of the first process."""
    return os.environ["MASTER_ADDR"]
