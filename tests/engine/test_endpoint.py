"""A service of this network as an engine: a real server on loopback that speaks, stumbles, refuses and drops."""

import asyncio
import threading
from typing import Any

import pytest

from llumi.config import EndpointConfig
from llumi.engine import Request, Sampling
from llumi.engine.endpoint import ATTEMPTS, EndpointEngine, check_in_house
from llumi.errors import ConfigError, EngineError, PromptRefusedError
from llumi.prompts import gm_prompt
from tests.service import Service, said

POST = "The evenings in this town are long."


def ask(endpoint: EndpointConfig, *posts: str) -> list[list[Any]]:
    """What comes for each post, all asked at once."""

    async def all_of_them() -> list[list[Any]]:
        engine = EndpointEngine(endpoint, pause_seconds=0.001)

        async def one(post: str) -> list[Any]:
            return [delta async for delta in engine.generate(Request(tuple(gm_prompt(post)), Sampling(seed=5)))]

        try:
            return list(await asyncio.gather(*(one(post) for post in posts)))
        finally:
            await engine.close()

    return asyncio.run(all_of_them())


def test_a_reply_comes_as_one_delta_with_its_counts(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOUSE_KEY", "secret")
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    [[delta]] = ask(EndpointConfig(url=service.url, model="in-use", key_variable="HOUSE_KEY"), POST)
    assert (delta.text, delta.finish_reason, delta.num_prompt_tokens, delta.num_completion_tokens) == (
        "You are not alone.", "stop", 30, 5
    )  # fmt: skip
    [asked] = service.asked
    assert asked == {
        "path": "/v1/chat/completions", "model": "in-use", "messages": gm_prompt(POST), "max_tokens": 200,
        "temperature": 0.7, "top_p": 0.95, "seed": 5,
    }  # fmt: skip
    assert service.keys == ["Bearer secret"]


def test_a_reply_that_is_cut_or_empty_says_so(service: Service) -> None:
    service.answers = [(200, said(None, "length"))]
    [[delta]] = ask(EndpointConfig(url=service.url, model="m"), POST)
    assert (delta.text, delta.finish_reason) == ("", "length")


def test_a_busy_service_is_asked_again(service: Service) -> None:
    service.answers = [(503, {}), (429, {}), (200, said("Here."))]
    [[delta]] = ask(EndpointConfig(url=service.url, model="m"), POST)
    assert delta.text == "Here."
    assert len(service.asked) == 3


def test_a_service_that_stays_busy_is_given_up(service: Service) -> None:
    service.answers = [(500, {})]
    with pytest.raises(EngineError, match=rf"/v1: answers HTTP 500, {ATTEMPTS} times"):
        ask(EndpointConfig(url=service.url, model="m"), POST)


def test_a_refusal_is_not_asked_again_and_not_quoted(service: Service) -> None:
    service.answers = [(400, {"error": f"cannot take {POST}"})]
    with pytest.raises(PromptRefusedError, match="answers HTTP 400 to this prompt") as problem:
        ask(EndpointConfig(url=service.url, model="m"), POST)
    assert POST not in str(problem.value)
    assert len(service.asked) == 1


@pytest.mark.parametrize("answer", [b"<html>", {"choices": []}, {"choices": [{"message": {}}]}, [1]])
def test_a_service_that_speaks_otherwise_is_named(service: Service, answer: Any) -> None:
    service.answers = [(200, answer)]
    with pytest.raises(EngineError, match="answers otherwise than OpenAI's chat route"):
        ask(EndpointConfig(url=service.url, model="m"), POST)


def test_where_nobody_listens(service: Service) -> None:
    service.shutdown()
    service.server_close()
    with pytest.raises(EngineError, match="does not answer"):
        ask(EndpointConfig(url=service.url, model="m"), POST)


def test_no_more_are_in_flight_than_allowed(service: Service) -> None:
    both_there = threading.Barrier(2, timeout=30)
    service.wait = both_there.wait
    assert len(ask(EndpointConfig(url=service.url, model="m", max_in_flight=2), *[POST] * 8)) == 8
    assert service.most_at_once == 2


def test_a_public_address_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"x\.url: 8\.8\.8\.8 is 8\.8\.8\.8, a public address; text of people must not leave"):
        check_in_house("x", EndpointConfig(url="http://8.8.8.8/v1", model="m"))
    for url in ("http://127.0.0.1:8000/v1", "http://10.1.2.3/v1", "http://[fd00::7]/v1", "http://localhost/v1"):
        check_in_house("x", EndpointConfig(url=url, model="m"))


def test_an_unknown_host_and_a_missing_key_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"x\.url: no host nowhere\.invalid in this network"):
        check_in_house("x", EndpointConfig(url="http://nowhere.invalid/v1", model="m"))
    monkeypatch.delenv("HOUSE_KEY", raising=False)
    with pytest.raises(ConfigError, match=r"x\.key_variable: HOUSE_KEY is not in the environment"):
        check_in_house("x", EndpointConfig(url="http://127.0.0.1/v1", model="m", key_variable="HOUSE_KEY"))
