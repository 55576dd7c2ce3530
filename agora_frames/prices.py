"""What tokens cost: prices that were given, or those that the endpoint's provider publishes."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import urlsplit

from agora_frames.errors import BindError

__all__ = ["Prices", "batch_prices_of", "prices_of"]


class _Rates(NamedTuple):
    """US dollars per million tokens, and per request; `dearest`: the dearest thing that happens to a prompt token.

    They hold for requests of more than `above` prompt tokens, and then for all tokens of the request.
    """

    above: int
    prompt: float
    cached: float
    dearest: float
    completion: float
    request: float = 0.0


# Parts of a completion with a price of their own, whose number no reply tells us.
_UNCOUNTED = {"output_reasoning_mtok", "output_citation_mtok"}

# When it holds (a constraint of genai-prices, None for always), and its rates, by rising `above`.
_Tariff: TypeAlias = tuple[Any, tuple[_Rates, ...]]


@dataclass(frozen=True)
class Prices:
    """What a request costs, in US dollars. source: where the prices are from, for the ledger's `priced_by`.

    A tariff may have several rates, by the size of the prompt; of several tariffs the first that holds at the hour
    counts.
    What an endpoint charges for keeping a prompt in its cache, for searches or tools, is not in a cost.
    """

    source: str
    tariffs: tuple[_Tariff, ...] = field(repr=False, hash=False)

    def cost(
        self,
        prompt_tokens: float | None,
        completion_tokens: float | None,
        cached_tokens: float | None = None,
        *,
        at: datetime | None = None,
    ) -> float | None:
        """US dollars of one request; None when a number of tokens that costs something is unknown.

        cached_tokens: those of the prompt that the endpoint had in its cache; None counts as none. at: when it was
        asked, by default now.
        """
        tariffs = self.tariffs
        bands = tariffs[0][1] if len(tariffs) == 1 else _holding(tariffs, at or datetime.now(UTC))
        if prompt_tokens is None or completion_tokens is None:
            return _of_unknown(bands, prompt_tokens, completion_tokens)
        rates = bands[0]
        if len(bands) > 1:
            rates = next(band for band in reversed(bands) if prompt_tokens > band.above or not band.above)
        cached = min(cached_tokens, prompt_tokens) if cached_tokens else 0
        tokens = (prompt_tokens - cached) * rates.prompt + cached * rates.cached + completion_tokens * rates.completion
        return tokens / 1_000_000 + rates.request

    def times(self, share: float, why: str) -> Prices:
        """The same, each multiplied."""
        rates = [
            (when, tuple(_Rates(r.above, *(price * share for price in r[1:])) for r in bands))
            for when, bands in self.tariffs
        ]
        return Prices(f"{self.source}, times {share:g} ({why})", tuple(rates))

    def at_most(self, prompt_tokens: int, completion_tokens: int | None) -> float | None:
        """US dollars that a request of at most so many tokens can cost, at whatever hour and in whatever tier.

        Each prompt token counts as the dearest that may happen to it (new, cached, or written into the cache).
        None when the completion has no bound and is not free.
        """
        found = [_most(rates, prompt_tokens, completion_tokens) for _, bands in self.tariffs for rates in bands]
        return None if None in found else max(cost for cost in found if cost is not None)


def batch_prices_of(endpoint: str, model: str, given: tuple[float, ...] | None, *, discount: float) -> Prices | None:
    """The prices of a model in batches: those that the list has for them, or else the usual ones less the discount.

    discount: the share of the usual price that is taken off, 0.5 for half. given: the usual prices; they win.
    """
    if given is None and (listed := _prices_of_batches(endpoint, model)) is not None:
        return listed
    usual = prices_of(endpoint, model, given)
    return None if usual is None else usual.times(1 - discount, "batch")


def _prices_of_batches(endpoint: str, model: str) -> Prices | None:
    """Those of genai-prices; None where it has none for batches."""
    found, now = _found(endpoint, model), datetime.now(UTC)
    of_batches = {"processing": "batch"}
    if found is None or not any(variant.when == of_batches for variant in found.price_variants or ()):
        return None
    bands = _bands(found.get_prices(now, of_batches))
    return Prices(f"{_source()}, batch", ((None, bands),)) if bands else None


def prices_of(endpoint: str, model: str, given: tuple[float, ...] | None) -> Prices | None:
    """The prices of a model at an endpoint; None when nobody knows them.

    given: US dollars per million tokens of prompt and completion, and of cached prompt where these are cheaper; it
    wins. Else the list of the package genai-prices, as it was installed (no network), matched by the endpoint's
    address and the model's name: the same model at an address of nobody in that list has no price.
    Raises: BindError when `given` is not two or three numbers of dollars.
    Source: https://github.com/pydantic/genai-prices

    >>> prices_of("http://127.0.0.1:8000/v1", "gpt-4o", None)
    >>> prices = prices_of("http://127.0.0.1:8000/v1", "gpt-4o", (0.15, 0.6))
    >>> prices, prices.cost(1_000_000, 1_000_000)
    (Prices(source='given (0.15, 0.6)'), 0.75)
    """
    if given is not None:
        return _given(given)
    found = _found(endpoint, model)
    if found is None:
        return None
    tariffs = _tariffs(found, datetime.now(UTC))
    return Prices(_source(), tariffs) if all(bands for _, bands in tariffs) else None


def _found(endpoint: str, model: str) -> Any:
    """What genai-prices knows of the model at that address; None where it knows nothing."""
    address = _address(endpoint)
    if address is None:
        return None
    from genai_prices import data  # not its snapshot, which may have come over the network

    listed: Any = data  # a literal of 1.6 MB, whose type no checker should work out
    providers = listed.providers
    of_address = (provider for provider in providers if _is_of(provider.api_pattern, address))
    return next((found for each in of_address if (found := each.find_model(model, all_providers=providers))), None)


def _source() -> str:
    return f"genai-prices {metadata.version('genai-prices')}"


def _given(given: object) -> Prices:
    right = isinstance(given, tuple | list) and len(given) in (2, 3) and all(map(_is_price, given))
    if not right or not isinstance(given, tuple | list):
        raise BindError(
            f"prices={given!r}: give two or three, US dollars per million tokens of prompt, of completion, and of "
            "cached prompt: (0.15, 0.60) or (0.15, 0.60, 0.075)."
        )
    prompt, completion, cached = (*map(float, given), float(given[0]))[:3]
    rates = _Rates(0, prompt, cached, max(prompt, cached), completion)
    return Prices(f"given {tuple(given)}", ((None, (rates,)),))


def _is_price(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _address(endpoint: str) -> str | None:
    """Scheme, host and path as providers write them; None when it is no address of a provider (all have TLS)."""
    try:
        parts = urlsplit(endpoint)
        host = parts.hostname if parts.port in (None, 443) else None
    except ValueError:  # a port that is no number
        return None
    return f"https://{host}{parts.path}" if parts.scheme == "https" and host else None


def _is_of(pattern: str, address: str) -> bool:
    """Does the pattern match the whole name of the host? `https://api.openai.com.example.org` is not OpenAI's."""
    found = re.match(pattern.replace(".*", "[^/]*"), address)
    return found is not None and (found.group().endswith((".", "/")) or address[found.end() :][:1] in ("", "/"))


def _tariffs(model: Any, now: datetime) -> tuple[_Tariff, ...]:
    """Those that hold now or may come to, the first one that holds counting (in genai-prices, the last does)."""
    prices = model.prices if isinstance(model.prices, list) else []
    if not prices:
        return ((None, _bands(model.prices)),)
    found: list[_Tariff] = []
    for each in reversed(prices):
        since = getattr(each.constraint, "start_date", None)
        always = each.constraint is None or (since is not None and since <= now.date())
        found.append((None if always else each.constraint, _bands(each.prices)))
        if always:
            return tuple(found)
    return (*found, (None, _bands(prices[0].prices)))


def _bands(price: Any) -> tuple[_Rates, ...]:
    """The rates, by rising size of the prompt; none where a text cannot be priced by its prompt and completion."""
    held = {name: value for name, value in vars(price).items() if value is not None}
    if not {"input_mtok", "output_mtok"} <= held.keys() or not _UNCOUNTED.isdisjoint(held):
        return ()
    starts = {0, *(tier.start for value in held.values() for tier in getattr(value, "tiers", ()))}

    def rates(above: int) -> _Rates:
        def at(name: str, other: float) -> float:
            value = held.get(name, other)
            passed = [tier.price for tier in getattr(value, "tiers", ()) if tier.start <= above]
            return float([getattr(value, "base", value), *passed][-1])

        prompt = at("input_mtok", 0.0)
        cached, written = at("cache_read_mtok", prompt), at("cache_write_mtok", prompt)
        request = at("requests_kcount", 0.0) / 1000
        return _Rates(above, prompt, cached, max(prompt, cached, written), at("output_mtok", 0.0), request)

    return tuple(map(rates, sorted(starts)))


def _holding(tariffs: tuple[_Tariff, ...], now: datetime) -> tuple[_Rates, ...]:
    return next(bands for when, bands in tariffs if when is None or when.active(now))


def _of_unknown(bands: tuple[_Rates, ...], prompt: float | None, completion: float | None) -> float | None:
    """What is free costs 0, however much of it there was; all else is unknown."""
    rates = bands[0]
    paid = (prompt is None and rates.dearest) or (completion is None and rates.completion)
    if paid or len(bands) > 1:
        return None
    return ((prompt or 0) * rates.prompt + (completion or 0) * rates.completion) / 1_000_000 + rates.request


def _most(rates: _Rates, prompt: int, completion: int | None) -> float | None:
    if rates.above and prompt <= rates.above:
        return 0.0
    if completion is None and rates.completion:
        return None
    return (prompt * rates.dearest + (completion or 0) * rates.completion) / 1_000_000 + rates.request
