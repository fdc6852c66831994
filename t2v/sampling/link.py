"""Connections between the processes of one run, by which each learns that another one ended."""

from __future__ import annotations

import hmac
import logging
import os
import secrets
import selectors
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from t2v.distributed import master_address, rank, world_size
from t2v.errors import UserError, shortened
from t2v.models.device import is_memory_error

logger = logging.getLogger(__name__)

MEET = 300.0  # seconds that the processes have to find each other
PLACE = "t2v/link"  # of the first process's port, in the launcher's store
TOKEN = 32  # characters that show that a connection is one of this run
DONE, ENDED = b"done", b"ended"  # the last words of the first process: all is well, or not
NOTICE = 5.0  # seconds in which a process should notice by itself that another one ended
LEAVE = 25.0  # seconds that it has then to keep what it has
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}  # for a machine that is gone


class Link:
    """The connections of one process: the first has one to each other, and they have that one.

    The system closes the connections of a process that ends, however it ends. An exchange of
    tensors may wait for hours then: one of NCCL does not notice, and one of gloo only once it is
    begun. So a thread listens. In the first process, what waits is interrupted, to keep what there
    is; the others have nothing to keep, and end.

    Args:
        lost: the message of which process ended, and why; None: all are there.
    """

    def __init__(self, peers: dict[int, socket.socket]) -> None:
        self.peers = peers
        self.lost: str | None = None
        self._is_over, self._main = False, threading.get_ident()
        self._said = dict.fromkeys(peers, b"")
        self._is_lost, self._is_noticed = threading.Event(), threading.Event()
        threading.Thread(target=self._listen, name="t2v-link", daemon=True).start()

    def wait_lost(self, seconds: float) -> bool:
        """Return whether another process is known to have ended, if need be after a while."""
        if not self._is_lost.wait(seconds):
            return False
        self._is_noticed.set()
        return True

    @contextmanager
    def heeded(self) -> Iterator[None]:
        """Turn an exchange that fails in the block, since another process ended, into the
        `UserError` that says so."""
        try:
            yield
        except RuntimeError as error:
            if is_memory_error(error) or not self.wait_lost(2 * NOTICE):
                raise
            raise UserError(str(self.lost)) from error

    def tell(self, word: bytes) -> None:
        """Say why this process ends: a message, or from the first one `ENDED`."""
        for peer in self.peers.values():
            with suppress(OSError):
                peer.sendall(word)

    def expect_ends(self) -> None:
        """Let the others end, from now on, without a word."""
        self._is_over = True

    def close(self) -> None:
        """Close the connections, which tells the others that this process ends."""
        self.expect_ends()
        for peer in self.peers.values():
            with suppress(OSError):
                peer.shutdown(socket.SHUT_RDWR)

    def _listen(self) -> None:
        with selectors.DefaultSelector() as selector:
            for number, peer in self.peers.items():
                selector.register(peer, selectors.EVENT_READ, number)
            while selector.get_map():
                for key, _ in selector.select():
                    if not self._hears(key.data):
                        selector.unregister(key.fileobj)

    def _hears(self, number: int) -> bool:
        """Take what a process says; False where it has ended."""
        try:
            word = self.peers[number].recv(4096)
        except OSError:  # its machine is gone
            word = b""
        self._said[number] += word
        if word:
            return True
        if not self._is_over and self._said[number] != DONE:
            self._lose(number, self._said[number].decode(errors="replace"))
        return False

    def _lose(self, number: int, why: str) -> None:
        if rank():
            if not why and rank() == 1:  # one says it for all
                logger.error("%s", _ended(number, why))
            os._exit(1)
        self.lost = self.lost or _ended(number, why)
        self._is_lost.set()
        threading.Thread(target=self._insist, name="t2v-link-end", daemon=True).start()

    def _insist(self) -> None:
        """End this process, which waits for one that is gone, if it does not by itself."""
        if not self._is_noticed.wait(NOTICE):  # a signal also ends waiting for a line to read
            signal.pthread_kill(self._main, signal.SIGINT)
        threading.Event().wait(LEAVE)
        logger.error("%s", self.lost)
        os._exit(1)


def _ended(number: int, why: str) -> str:
    who = f"Rank {number} of {world_size()}"
    if not why:
        return f"{who} was killed, as happens where memory ends, so all ranks end."
    return f"{who} ended, so all ranks do: {shortened(why, 1500).rstrip('.')}."


def meet(store: Any) -> Link:
    """The connections between the processes of the launcher, which find each other by its store.

    Args:
        store: of `torch.distributed`.

    Raises:
        UserError: one does not come in time.
    """
    try:
        peers = {0: _connect(store)} if rank() else _accept(store)
    except (RuntimeError, OSError) as error:
        raise UserError(
            f"Rank {rank()} of {world_size()} does not find the others within {MEET:.0f} s "
            f"({shortened(error, 300)}). Start all of them, where each reaches MASTER_ADDR."
        ) from error
    for peer in peers.values():
        peer.settimeout(None)
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):
                peer.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    return Link(peers)


def _accept(store: Any) -> dict[int, socket.socket]:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    peers: dict[int, socket.socket] = {}
    with socket.create_server(("", 0), family=family, dualstack_ipv6=both) as server:
        server.settimeout(MEET)
        token = secrets.token_hex(TOKEN // 2)
        store.set(PLACE, f"{server.getsockname()[1]} {token}")
        while len(peers) < world_size() - 1:
            peer, _ = server.accept()
            peer.settimeout(10)
            with suppress(OSError):
                word = peer.recv(TOKEN + 8, socket.MSG_WAITALL)
                if hmac.compare_digest(word[:TOKEN], token.encode()):
                    peers[int(word[TOKEN:])] = peer
                    continue
            peer.close()  # of something else that looks for ports
    return peers


def _connect(store: Any) -> socket.socket:
    port, token = store.get(PLACE).decode().split()
    peer = socket.create_connection((master_address(), int(port)), timeout=MEET)
    peer.sendall(f"{token}{rank():08d}".encode())
    return peer
