"""What the headers of an endpoint's answer say about time: when to ask again, and when more is left."""

from __future__ import annotations

import contextlib
import math
import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

__all__ = ["asked_s", "seconds"]

_UNITS_S = {"d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_PART = re.compile(r"(\d+(?:\.\d+)?)(d|h|ms|m|s|us|µs|ns)")


def asked_s(headers: Mapping[str, str]) -> float | None:
    """The seconds that the endpoint asks to wait; None where it does not say, or says 0 and means nothing by it."""
    if asked_ms := seconds(headers.get("retry-after-ms")):
        return asked_ms / 1000
    return seconds(headers.get("retry-after"), headers.get("date")) or None


def seconds(text: str | None, date: str | None = None) -> float | None:
    """The seconds of "12.5", "1h2m" or "20ms", or until a time as HTTP or ISO 8601 write it; None for all else. date:
    when the endpoint wrote that, as its clock may not be ours."""
    if not text:
        return None
    try:
        found = float(text)
    except ValueError:
        parts = _PART.findall(text)
        if parts and "".join(map("".join, parts)) == text.strip():
            found = sum(float(number) * _UNITS_S[unit] for number, unit in parts)
        else:
            then, sent = _epoch_s(text), _epoch_s(date or "")
            found = math.nan if then is None else then - (time.time() if sent is None else sent)
    # More than 30 years is no duration, but a date in seconds since 1970, or in who knows what.
    return found if 0 <= found < 1e9 else None


def _epoch_s(text: str) -> float | None:
    for read in (parsedate_to_datetime, datetime.fromisoformat):
        with contextlib.suppress(ValueError, OverflowError):  # the latter for a time zone of very many digits
            when = read(text)
            return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    return None
