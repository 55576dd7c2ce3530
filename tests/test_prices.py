"""What tokens cost: given, published, by the size of the prompt and by the hour; and that unknown is not 0."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime

import pytest
from genai_prices import Usage
from genai_prices.data import providers
from hypothesis import given
from hypothesis import strategies as st

from agora_frames.errors import BindError
from agora_frames.prices import Prices, batch_prices_of, prices_of

OPENAI = "https://api.openai.com/v1"
DEEPSEEK = "https://api.deepseek.com/v1"


def known(endpoint: str, model: str) -> Prices:
    prices = prices_of(endpoint, model, None)
    assert prices is not None
    return prices


def test_given_prices_win_over_published_ones() -> None:
    prices = prices_of(OPENAI, "gpt-4o-mini", (1.0, 2.0))
    assert prices is not None
    assert prices.cost(1_000_000, 500_000) == 2.0
    assert prices.source == "given (1.0, 2.0)"


def test_a_third_given_price_is_that_of_cached_tokens() -> None:
    prices = prices_of("http://127.0.0.1:8000/v1", "m", (1.0, 2.0, 0.1))
    assert prices is not None
    assert prices.cost(1_000_000, 0, 400_000) == pytest.approx(0.6 + 0.04)
    assert prices.cost(1_000_000, 0, None) == 1.0


@pytest.mark.parametrize(
    "wrong", [(), (1.0,), (1.0, 2.0, 3.0, 4.0), (1.0, -2.0), (1.0, float("nan")), ("1", "2"), (True, 1.0), 1.0, "ab"]
)
def test_given_prices_that_are_none_are_an_error(wrong: object) -> None:
    with pytest.raises(BindError, match="give two or three"):
        prices_of(OPENAI, "gpt-4o-mini", wrong)  # type: ignore[arg-type]


def test_a_published_price_says_its_source() -> None:
    prices = known(OPENAI, "gpt-4o-mini-2024-07-18")
    assert prices.source.startswith("genai-prices ")
    assert prices.cost(1_000_000, 1_000_000) == pytest.approx(0.15 + 0.6)


def test_cached_tokens_are_priced_as_cached() -> None:
    assert known(OPENAI, "gpt-4o-mini").cost(1_000_000, 0, 400_000) == pytest.approx(0.6 * 0.15 + 0.4 * 0.075)


def test_no_more_tokens_can_be_cached_than_there_are() -> None:
    assert known(OPENAI, "gpt-4o-mini").cost(1_000_000, 0, 2_000_000) == pytest.approx(0.075)


def test_upper_case_and_the_usual_port_make_no_difference() -> None:
    assert prices_of("https://API.openai.com:443/v1", "GPT-4o", None) == known(OPENAI, "gpt-4o")


@pytest.mark.parametrize(
    "endpoint",
    [
        "http://127.0.0.1:8000/v1",
        "http://localhost/v1",
        "http://api.openai.com/v1",
        "https://api.openai.com:8443/v1",
        "https://api.openai.com.example.org/v1",
        "https://example.org/x.googleapis.com",
        "https://example.org:port/v1",
        "llama.cpp n_ctx=2048",
        "scripted",
        "",
    ],
)
def test_an_endpoint_of_an_unknown_host_has_no_prices(endpoint: str) -> None:
    assert prices_of(endpoint, "gpt-4o", None) is None


@pytest.mark.parametrize(
    ("endpoint", "model"),
    [
        (OPENAI, "gpt-4o-my-own"),
        (OPENAI, "moderation"),  # listed without a price
        (OPENAI, "whisper-1"),  # priced by the second
        ("https://api.perplexity.ai", "sonar-deep-research"),  # priced by parts of the reply that nobody counts
    ],
)
def test_a_model_without_prices_of_its_texts_has_none(endpoint: str, model: str) -> None:
    assert prices_of(endpoint, model, None) is None


def test_what_is_unknown_costs_nobody_knows_what() -> None:
    prices = known(OPENAI, "gpt-4o-mini")
    assert prices.cost(None, 5) is None
    assert prices.cost(5, None) is None
    assert known(OPENAI, "gpt-5.4").cost(None, None) is None


def test_what_is_free_costs_nothing_however_much_it_was() -> None:
    free = prices_of("llama.cpp", "m", (0.0, 0.0))
    assert free is not None
    assert free.cost(None, None) == 0.0
    assert free.at_most(10, None) == 0.0


def test_a_price_per_request_is_part_of_the_cost() -> None:
    priced = [
        (provider, model)
        for provider in providers
        if provider.id == "perplexity"
        for model in provider.models
        if model.get_prices(datetime.now(UTC)).requests_kcount
    ]
    provider, model = priced[0]
    expected = model.calc_price(Usage(input_tokens=100, output_tokens=10), provider).total_price
    assert known("https://api.perplexity.ai", model.id).cost(100, 10) == pytest.approx(float(expected))


CHATS = [
    (address, provider, model)
    for address, name in [
        (OPENAI, "openai"),
        ("https://api.anthropic.com/v1", "anthropic"),
        ("https://generativelanguage.googleapis.com/v1beta/openai", "google"),
        ("https://api.mistral.ai/v1", "mistral"),
        ("https://openrouter.ai/api/v1", "openrouter"),
        ("https://api.groq.com/openai/v1", "groq"),
        (DEEPSEEK, "deepseek"),
    ]
    for provider in providers
    if provider.id == name
    for model in provider.models
]


@given(st.sampled_from(CHATS), st.integers(0, 1_500_000), st.integers(0, 200_000), st.floats(0, 1))
def test_costs_are_those_of_genai_prices(
    chat: tuple[str, object, object], asked: int, written: int, share: float
) -> None:
    address, provider, model = chat
    model_id, cached, now = model.id, int(asked * share), datetime.now(UTC)  # type: ignore[attr-defined]
    prices = prices_of(address, model_id, None)
    matched = provider.find_model(model_id, all_providers=providers)  # type: ignore[attr-defined]
    if prices is None:
        return
    usage = Usage(input_tokens=asked, output_tokens=written, cache_read_tokens=cached)
    expected = matched.calc_price(usage, provider, genai_request_timestamp=now).total_price
    if matched.get_prices(now).cache_read_mtok is None:
        usage = Usage(input_tokens=asked, output_tokens=written)
        expected = matched.calc_price(usage, provider, genai_request_timestamp=now).total_price
    cost = prices.cost(asked, written, cached, at=now)
    assert cost == pytest.approx(float(expected), rel=1e-9, abs=1e-12)
    most = prices.at_most(asked, written)
    assert cost is not None
    assert most is not None
    assert cost <= most * (1 + 1e-9)


def test_all_tokens_have_the_price_of_the_tier_that_the_prompt_reaches() -> None:
    prices = known("https://generativelanguage.googleapis.com/v1beta/openai", "gemini-2.5-pro")
    below, above = prices.cost(200_000, 1_000), prices.cost(200_001, 1_000)
    assert below == pytest.approx(0.2 * 1.25 + 0.01)
    assert above == pytest.approx(0.200001 * 2.5 + 0.015)


def test_a_price_by_the_hour_is_that_of_the_hour() -> None:
    prices = known(DEEPSEEK, "deepseek-reasoner")
    day = prices.cost(1_000_000, 0, at=datetime(2026, 1, 1, 12, tzinfo=UTC))
    night = prices.cost(1_000_000, 0, at=datetime(2026, 1, 1, 20, tzinfo=UTC))
    assert day is not None
    assert night is not None
    assert day > night
    assert prices.at_most(1_000_000, 0) == pytest.approx(day)


def test_a_reply_without_bound_has_no_most() -> None:
    assert known(OPENAI, "gpt-4o-mini").at_most(100, None) is None


def test_the_most_counts_a_prompt_that_is_written_into_a_cache() -> None:
    prices = known("https://api.anthropic.com/v1", "claude-sonnet-4-5")
    cost, most = prices.cost(1000, 10), prices.at_most(1000, 10)
    assert cost is not None
    assert most is not None
    assert most > cost


@pytest.mark.parametrize("model", ["gpt-4o-mini", "gpt-5.4"])
def test_prices_pickle(model: str) -> None:
    prices = known(OPENAI, model)
    assert pickle.loads(pickle.dumps(prices)) == prices
    assert hash(prices) == hash(known(OPENAI, model))


# --- batches ---------------------------------------------------------------------------------------------------------


def test_the_published_prices_of_batches_are_taken_where_there_are_any() -> None:
    usual, batch = prices_of(OPENAI, "gpt-4o-mini", None), batch_prices_of(OPENAI, "gpt-4o-mini", None, discount=0.1)
    assert usual is not None and batch is not None
    assert batch.cost(1000, 1000) == pytest.approx((usual.cost(1000, 1000) or 0) / 2)
    assert batch.source == f"{usual.source}, batch"


def test_without_published_ones_it_is_the_usual_price_less_the_discount() -> None:
    usual, batch = (of("http://127.0.0.1/v1", "m", (2, 4, 1)) for of in (prices_of, _of_batches))
    assert usual is not None and batch is not None
    assert batch.cost(1000, 500, 100) == pytest.approx((usual.cost(1000, 500, 100) or 0) * 0.75)
    assert batch.at_most(1000, 500) == pytest.approx((usual.at_most(1000, 500) or 0) * 0.75)
    assert batch.source == "given (2, 4, 1), times 0.75 (batch)"


def _of_batches(endpoint: str, model: str, given: tuple[float, ...] | None) -> Prices | None:
    return batch_prices_of(endpoint, model, given, discount=0.25)


def test_a_model_that_has_no_prices_has_none_in_batches() -> None:
    assert batch_prices_of("http://127.0.0.1/v1", "gpt-4o-mini", None, discount=0.5) is None


def test_each_rate_of_a_tariff_is_multiplied() -> None:
    found = next(
        (prices, name)
        for name in ("gpt-5.5", "gpt-5.4", "gemini-2.5-pro")
        for endpoint in (OPENAI, "https://generativelanguage.googleapis.com/v1beta")
        if (prices := prices_of(endpoint, name, None)) is not None and len(prices.tariffs[0][1]) > 1
    )[0]
    half = found.times(0.5, "half")
    for tokens in (1_000, 1_000_000):
        assert half.cost(tokens, 10) == pytest.approx((found.cost(tokens, 10) or 0) / 2)
