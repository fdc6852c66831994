"""The log of a run: lines on stderr, from the first rank."""

import logging
import sys
import warnings

from t2v.io.addresses import shown


class _Formatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return shown(super().format(record))


def setup(rank: int = 0) -> None:
    """Show the package's log on stderr: its words alone at a terminal, else with the time.

    Ranks other than 0 show warnings only. Called by the command line, never by the library.
    """
    handler = logging.StreamHandler(sys.stderr)
    plain = "%(message)s" if sys.stderr.isatty() else "%(asctime)s %(levelname)s %(message)s"
    handler.setFormatter(_Formatter(plain))
    logger = logging.getLogger("t2v")
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(logging.INFO if rank == 0 else logging.WARNING)
    # torch says so wherever autocast meets a norm whose weights stay in fp32, as they should
    warnings.filterwarnings("ignore", message="Mismatch dtype between input and weight")
