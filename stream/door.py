"""Door: calls from one process of a host to another through a Unix socket, for what is too frequent for a cluster's own calls.

A call through Ray Serve costs 3 to 5 ms of CPU in both processes together, one of a plain actor 1 to 2 ms, one through a
door 0.2 ms. A door has a random name in the kernel's own namespace, so no file is left behind; whoever should know it is told
by the cluster's calls, which also remain the way between hosts. Both sides talk only to processes of their own user.

A connection carries one call at a time; a thread of the door's process answers it. So as many calls are answered at once as
there are connections (``MAX_CONNECTIONS`` at most), each where it came in.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
import threading
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

from stream.errors import DoorUnavailable, FramewatchError
from stream.redact import redact
from stream.ring import host_id

MAX_CONNECTIONS = 64
MAX_MESSAGE_BYTES = 64 << 20  # a longer one is taken for a broken peer; images do not travel this way
CONNECT_S = 2.0
_PEER = struct.Struct("3i")  # pid, uid, gid


@dataclass(frozen=True, slots=True)
class Address:
    """Where a door is: ``host`` as of ``ring.host_id``, ``name`` in the kernel's namespace of Unix sockets."""

    host: str
    name: str


class Door:
    """The answering side. ``close`` ends its threads.

    Attributes:
        address: for those who call.

    Args:
        answer: called with each request on its connection's thread, several at a time; what it returns or raises goes back.

    Raises:
        OSError: the system has no such sockets.
    """

    def __init__(self, answer: Callable[[Any], Any]):
        self._answer = answer
        self.address = Address(host_id(), f"framewatch-{uuid.uuid4().hex}")
        self._listener = _socket()
        try:
            self._listener.bind(f"\0{self.address.name}")
            self._listener.listen()
        except OSError:
            self._listener.close()
            raise
        self._lock = threading.Lock()
        self._callers: set[socket.socket] = set()
        self._closed = False
        self._thread = threading.Thread(target=self._admit, name="door", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Take no more calls, and end the connections; a call that is being answered gets no answer."""
        with self._lock:
            self._closed = True
            for one in [self._listener, *self._callers]:
                with suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)  # wakes the thread that reads it
        self._thread.join()
        self._listener.close()

    def _admit(self) -> None:
        while True:
            try:
                caller, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                welcome = not self._closed and len(self._callers) < MAX_CONNECTIONS and _is_ours(caller)
                if welcome:
                    self._callers.add(caller)
            if welcome:
                threading.Thread(target=self._serve, args=(caller,), name="door-caller", daemon=True).start()
            else:
                caller.close()

    def _serve(self, caller: socket.socket) -> None:
        with Connection(os.dup(caller.fileno())) as connection, suppress(EOFError, OSError):
            while True:
                connection.send_bytes(self._answered(connection.recv_bytes(MAX_MESSAGE_BYTES)))
        with self._lock:
            self._callers.discard(caller)
            caller.close()

    def _answered(self, request: bytes) -> bytes:
        try:
            answer = self._answer(pickle.loads(request))  # noqa: S301 - of our own user, see _is_ours
            return pickle.dumps((True, answer), pickle.HIGHEST_PROTOCOL)
        except FramewatchError as error:
            return pickle.dumps((False, error))
        except Exception as error:  # noqa: BLE001 - the caller hears of it, as of an actor's call
            return pickle.dumps((False, RuntimeError(redact(f"{type(error).__name__}: {error}"))))


class Caller:
    """The calling side. Safe for any threads.

    Args:
        address: of the door.

    Raises:
        DoorUnavailable: it is on another host, or nobody is behind it.
    """

    def __init__(self, address: Address):
        self.address = address
        self._free: deque[Connection] = deque()
        self._closed = False
        if address.host != host_id():
            raise DoorUnavailable(f"the door is on another host ({address.host})")
        self._free.append(self._connect())

    def call(self, request: object) -> Call:
        """Send a request; returns at once.

        Raises:
            DoorUnavailable: nobody is behind the door any more.
        """
        try:
            connection = self._free.pop()
        except IndexError:
            connection = self._connect()
        try:
            connection.send_bytes(pickle.dumps(request, pickle.HIGHEST_PROTOCOL))
        except OSError as error:
            connection.close()
            raise DoorUnavailable(f"the door is closed: {error}") from error
        return Call(connection, self._give_back)

    def close(self) -> None:
        """End the connections; calls that wait for their answer may do so."""
        self._closed = True
        with suppress(IndexError):
            while True:
                self._free.pop().close()

    def _connect(self) -> Connection:
        with _socket() as door:
            door.settimeout(CONNECT_S)
            try:
                door.connect(f"\0{self.address.name}")
            except OSError as error:
                raise DoorUnavailable(f"the door cannot be opened: {error}") from error
            if not _is_ours(door):
                raise DoorUnavailable("another user is behind the door")
            door.settimeout(None)
            return Connection(os.dup(door.fileno()))

    def _give_back(self, connection: Connection) -> None:
        if self._closed:
            connection.close()
        else:
            self._free.append(connection)


class Call:
    """A request whose answer is on its way."""

    def __init__(self, connection: Connection, give_back: Callable[[Connection], None]):
        self._connection, self._give_back = connection, give_back

    def result(self, timeout_s: float) -> Any:
        """Wait for the answer; to be asked once.

        Raises:
            DoorUnavailable: there will be none, or it took longer than ``timeout_s``.
            Exception: what the other side raised: a FramewatchError as it was, all else as a RuntimeError.
        """
        try:
            if not self._connection.poll(timeout_s):
                raise DoorUnavailable(f"no answer within {timeout_s:g} s")
            well, answer = pickle.loads(self._connection.recv_bytes(MAX_MESSAGE_BYTES))  # noqa: S301 - as above
        except (EOFError, OSError) as error:
            self._connection.close()
            raise DoorUnavailable(f"no answer: {type(error).__name__}") from error
        except DoorUnavailable:
            self._connection.close()
            raise
        self._give_back(self._connection)
        if not well:
            raise answer
        return answer


def _socket() -> socket.socket:
    if not hasattr(socket, "SO_PEERCRED"):
        raise OSError("doors need Linux")
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)


def _is_ours(peer: socket.socket) -> bool:
    """Whether the process at the other end is of this process's user: what it sends is unpickled."""
    _, uid, _ = _PEER.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
    return bool(uid == os.getuid())
