"""Messages over a socket or pipe: their length, and then themselves; and the types of data that they may hold."""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import os
import socket
import struct
from typing import Any

__all__ = ["DATA", "LENGTHS", "PLAIN", "kept", "read_exactly", "receive", "send"]

# Types that hold data, and do nothing when they are made; what inherits from one of `PLAIN` travels as that.
PLAIN: tuple[Any, ...] = (bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset)
DATA: tuple[Any, ...] = (
    *(*PLAIN, range, slice, collections.Counter, collections.OrderedDict, collections.defaultdict, collections.deque),
    *(datetime.date, datetime.datetime, datetime.time, datetime.timedelta, datetime.timezone),
    *(decimal.Decimal, fractions.Fraction),
)

# A program on the way to a worker: how many bytes of code, and of tests.
LENGTHS = struct.Struct(">QQ")
_LENGTH = struct.Struct(">Q")


def kept(number: int) -> None:
    """Stands in a message for what cannot travel, and lives with the candidate: its place in a list there."""


def read_exactly(fd: int, size: int) -> bytes:
    """So many bytes; EOFError when there are not."""
    parts = []
    while size:
        part = os.read(fd, min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def send(channel: socket.socket, message: bytes) -> None:
    channel.sendall(_LENGTH.pack(len(message)) + message)


def receive(channel: socket.socket) -> bytes:
    return read_exactly(channel.fileno(), *_LENGTH.unpack(read_exactly(channel.fileno(), _LENGTH.size)))
