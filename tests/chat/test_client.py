"""The chat client against a real server on this machine that answers, fails and hangs as told."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from chat_server import ChatServer, Reply, Request, Script

from sgpo.chat.client import Answer, ChatClient, FailedError, Question, StoppedError, Timeouts
from sgpo.chat.costs import Budget, BudgetError, Prices, Usage
from sgpo.chat.endpoint import Endpoint, FatalError
from sgpo.chat.journal import Journal
from sgpo.chat.pacing import Pacer

SECRET = "sk-sentinel-0123456789abcdef"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGPO_API_KEY", SECRET)


def question(number: int = 0, **changes: Any) -> Question:
    values = {"model": "strong", "messages": [{"role": "user", "content": f"q{number}"}], "parameters": {}}
    return Question(**{**values, "max_tokens": 100, "prompt_version": "test", **changes})


def ask(
    script: Script, journal: Path, work: Callable[[ChatClient], Coroutine[Any, Any, Any]], **options: Any
) -> tuple[Any, ChatServer, ChatClient]:
    """What `work` returns with a client of a server that follows the script."""
    options = {"concurrency": 8, "timeouts": Timeouts(1.0, 10.0), **options}

    async def main(url: str) -> tuple[Any, ChatClient]:
        endpoint = Endpoint(url, connections=options["concurrency"])
        with Journal(journal) as opened:
            client = ChatClient(endpoint, opened, **options)
            try:
                return await work(client), client
            finally:
                await endpoint.close()

    with ChatServer(script) as server:
        result, client = asyncio.run(main(server.url))
    return result, server, client


def once(faulty: Reply) -> Script:
    """The first attempt gets the fault, the second an answer."""
    return lambda request: faulty if request.attempt == 0 else Reply(["good"])


def echo(request: Request) -> Reply:
    return Reply([f"{request.text}.{i}" for i in range(request.body.get("n", 1))])


@pytest.mark.parametrize(
    "fault",
    [
        *(Reply(status=status, content='{"error": {"message": "later"}}') for status in (408, 409, 429, 500, 503)),
        Reply(drop=True),
        Reply(hang=True),
        Reply(content="<html>not JSON"),
        Reply(content='{"choices": [{"mess'),
        Reply(content='{"object": "something else"}'),
        Reply(content='{"choices": []}'),
        Reply(content='{"error": {"code": 502, "message": "provider"}}'),
    ],
)
def test_faults_are_asked_again(fault: Reply, tmp_path: Path) -> None:
    answers, server, client = ask(once(fault), tmp_path / "j", lambda client: client.ask(question()))
    assert [answer.text for answer in answers] == ["good"]
    assert len(server.requests) == 2
    assert server.requests[0].headers["authorization"] == f"Bearer {SECRET}"
    billed = fault.hang or fault.drop or (fault.content or "").startswith(("<", '{"cho', '{"obj'))
    assert client.counts.perhaps_billed.requests == int(billed)


def test_answers_are_read_in_every_form(tmp_path: Path) -> None:
    replies = {
        "q0": Reply(["text"], reasoning="thought", finish_reason="length"),
        "q1": Reply(["<think>thought</think>\n text "]),
        "q2": Reply(content='{"choices":[{"message":{"content":[{"type":"text","text":"te"},{"text":"xt"}]}}]}'),
        "q3": Reply(content='{"choices":[{"message":{"content":null,"reasoning":"thought"},"finish_reason":"stop"}]}'),
    }

    async def work(client: ChatClient) -> list[Answer]:
        return [(await client.ask(question(number)))[0] for number in range(4)]

    answers, _, _ = ask(lambda request: replies[request.text], tmp_path / "j", work)
    assert [(a.text, a.reasoning, a.truncated) for a in answers] == [
        ("text", "thought", True),
        ("text", "thought", False),
        ("text", None, False),
        ("", "thought", False),
    ]
    assert answers[0].usage == Usage(1, 100, 10, 0.0)
    assert answers[2].usage == Usage(1, 302, 4, 0.0)  # not counted by the server: at most a token a byte


def test_several_samples_in_one_request(tmp_path: Path) -> None:
    async def work(client: ChatClient) -> list[list[str]]:
        return [[a.text for a in await client.ask(question(n), 5)] for n in range(3)]

    texts, server, client = ask(echo, tmp_path / "j", work, prices={"strong": Prices(1e4, 1e5)})
    assert texts == [[f"q{n}.{i}" for i in range(5)] for n in range(3)]
    assert [r.body.get("n") for r in server.requests] == [5, 5, 5]
    assert client.counts.usage == Usage(3, 300, 150, pytest.approx(3 + 15))


@pytest.mark.parametrize("refused", [True, False])
def test_five_requests_where_the_server_gives_one_sample(refused: bool, tmp_path: Path) -> None:
    """Found out once, by the first request, while others wait."""

    def script(request: Request) -> Reply:
        if refused and "n" in request.body:
            return Reply(status=400, content='{"error": {"message": "n must be 1"}}')
        return Reply(["one"], delay=0.02)

    async def work(client: ChatClient) -> list[list[Answer]]:
        return list(await asyncio.gather(*(client.ask(question(n), 5) for n in range(4))))

    answers, server, _ = ask(script, tmp_path / "j", work)
    assert [len(of_one) for of_one in answers] == [5] * 4
    assert [r.body.get("n") for r in server.requests].count(5) == 1
    assert len(server.requests) == (21 if refused else 20)


def test_the_journal_answers_what_was_answered_before(tmp_path: Path) -> None:
    async def two(client: ChatClient) -> list[str]:
        return [a.text for a in await client.ask(question(), 2)]

    async def five(client: ChatClient) -> list[str]:
        return [a.text for a in await client.ask(question(), 5)]

    assert ask(echo, tmp_path / "j", two)[0] == ["q0.0", "q0.1"]
    texts, server, _ = ask(lambda r: Reply(["new"] * r.body.get("n", 1)), tmp_path / "j", five)
    assert texts == ["q0.0", "q0.1", "new", "new", "new"]
    assert [r.body.get("n") for r in server.requests] == [3]
    texts, server, _ = ask(echo, tmp_path / "j", five)
    assert texts == ["q0.0", "q0.1", "new", "new", "new"]
    assert server.requests == []


def test_equal_questions_at_the_same_time_are_asked_once(tmp_path: Path) -> None:
    async def work(client: ChatClient) -> list[Any]:
        return list(await asyncio.gather(*(client.ask(question(), 3) for _ in range(4))))

    answers, server, _ = ask(lambda r: Reply(["x", "y", "z"], delay=0.05), tmp_path / "j", work)
    assert len(server.requests) == 1
    assert all([a.text for a in of_one] == ["x", "y", "z"] for of_one in answers)


def test_equal_questions_after_a_failure_are_asked_once(tmp_path: Path) -> None:
    """The second question waits for the first, which fails; the third comes while the second is under way."""

    def script(request: Request) -> Reply:
        if request.attempt == 0:
            return Reply(status=400, content="too long", delay=0.05)
        return Reply([f"answer {request.attempt}"], delay=0.2)

    async def work(client: ChatClient) -> list[str]:
        first, second = (asyncio.create_task(client.ask(question())) for _ in range(2))
        with pytest.raises(FailedError, match="HTTP 400: too long"):
            await first
        answers = await asyncio.gather(second, *(client.ask(question()) for _ in range(2)))
        return [answer.text for [answer] in answers]

    texts, server, client = ask(script, tmp_path / "j", work)
    assert (texts, len(server.requests)) == (["answer 1"] * 3, 2)
    assert client.counts.usage == Usage(1, 100, 10, 0.0)


def test_failures_are_not_journalled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of 10 to 20 ms, 20 to 40 ms, ... fit eight times at most into two seconds."""
    monkeypatch.setattr("sgpo.chat.client.FIRST_BACKOFF", 0.02)

    async def fails(client: ChatClient) -> str:
        with pytest.raises(FailedError) as caught:
            await client.ask(question())
        return str(caught.value)

    error, server, _ = ask(
        lambda r: Reply(status=500, content="down"), tmp_path / "j", fails, timeouts=Timeouts(2.0, 2.0)
    )
    assert error == "HTTP 500: down"
    assert 2 <= len(server.requests) <= 8
    error, server, _ = ask(lambda r: Reply(status=400, content="too long"), tmp_path / "j", fails)
    assert (error, len(server.requests)) == ("HTTP 400: too long", 1)
    assert ask(echo, tmp_path / "j", lambda client: client.ask(question()))[0][0].text == "q0.0"


def test_everybody_waits_as_long_as_the_server_asks(tmp_path: Path) -> None:
    began, arrivals = time.monotonic(), []

    def script(request: Request) -> Reply:
        arrivals.append(time.monotonic() - began)
        if len(arrivals) == 1:
            return Reply(status=429, headers={"Retry-After": "1.0"}, content="slow down")
        return Reply(["x"])

    async def work(client: ChatClient) -> float:
        first = asyncio.create_task(client.ask(question(0)))
        while not client.pacer.pause_left:
            await asyncio.sleep(0.01)
        await asyncio.gather(first, *(client.ask(question(n)) for n in range(1, 6)))
        return client.pacer.limit

    limit, server, _ = ask(script, tmp_path / "j", work)
    assert len(server.requests) == 7
    assert min(arrivals[1:]) - arrivals[0] >= 0.99
    assert limit == pytest.approx(5.3, abs=0.2)  # halved to 4, then 1/limit more for each of 6 answers


def test_concurrency_falls_under_429_and_rises_again() -> None:
    async def main() -> None:
        pacer = Pacer(16)
        for _ in range(16):
            await pacer.start()
        sent_at = time.monotonic()
        for _ in range(16):  # of one round: they lower the limit once
            pacer.refused(sent_at, 0.05)
            pacer.end()
        assert pacer.limit == 8
        assert 0 < pacer.pause_left <= 0.05
        began = time.monotonic()
        await pacer.start()
        assert time.monotonic() - began >= 0.04
        pacer.end()
        pacer.refused(time.monotonic(), None)
        assert pacer.limit == 4
        assert 1.5 < pacer.pause_left <= 2.0  # the second pause in a row, twice as long as the first
        for _ in range(200):
            pacer.answered()
        assert pacer.limit == 16

    asyncio.run(main())


def test_no_more_requests_at_once_than_allowed(tmp_path: Path) -> None:
    async def work(client: ChatClient) -> None:
        await asyncio.gather(*(client.ask(question(n)) for n in range(40)))

    _, server, _ = ask(lambda r: Reply(["x"], delay=0.02), tmp_path / "j", work, concurrency=5)
    assert server.most_open == 5
    assert len(server.requests) == 40


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            Reply(status=401, content=f"bad key {SECRET[:12]}"),
            "does not accept the key in",
        ),
        (Reply(status=402, content=f"no money for {SECRET}"), r"HTTP 402: no money for \[key\]"),
        (Reply(status=404, content="no such model"), "HTTP 404: no such model"),
        (Reply(status=429, content='{"error": {"code": "insufficient_quota"}}'), "insufficient_quota"),
    ],
)
def test_what_no_request_will_change_stops_the_run(reply: Reply, message: str, tmp_path: Path) -> None:
    async def work(client: ChatClient) -> ChatClient:
        with pytest.raises(StoppedError):
            await client.ask(question())
        with pytest.raises(StoppedError):
            await client.ask(question(1))
        return client

    client, server, _ = ask(lambda r: reply, tmp_path / "j", work)
    assert len(server.requests) == 1
    with pytest.raises(FatalError, match=message):
        raise client.stop_reason
    assert SECRET[:12] not in str(client.stop_reason)


def test_a_server_that_always_fails_stops_the_run(tmp_path: Path) -> None:
    async def work(client: ChatClient) -> list[Any]:
        return await asyncio.gather(*(client.ask(question(n)) for n in range(60)), return_exceptions=True)

    results, server, client = ask(lambda r: Reply(status=400, content="no"), tmp_path / "j", work)
    assert "the last 20 requests all failed, the last one so: HTTP 400: no" in str(client.stop_reason)
    assert len(server.requests) <= 20 + 8
    assert {type(result) for result in results} == {FailedError, StoppedError}


def test_requests_under_way_are_journalled_after_a_stop(tmp_path: Path) -> None:
    async def work(client: ChatClient) -> int:
        asking = [asyncio.create_task(client.ask(question(n))) for n in range(20)]
        await asyncio.sleep(0.15)
        client.stop(RuntimeError("enough"))
        results = await asyncio.gather(*asking, return_exceptions=True)
        assert sum(isinstance(result, StoppedError) for result in results) == 12
        return len(client.journal)

    kept, server, _ = ask(lambda r: Reply(["x"], delay=0.4), tmp_path / "j", work)
    assert kept == len(server.requests) == 8


def test_the_budget_is_not_exceeded(tmp_path: Path) -> None:
    """Each request costs $0.011 and may cost up to $0.0402: 302 bytes in, 100 tokens out."""
    prices = {"strong": Prices(100.0, 100.0)}

    async def work(client: ChatClient) -> list[Any]:
        return await asyncio.gather(*(client.ask(question(n)) for n in range(40)), return_exceptions=True)

    results, server, client = ask(echo, tmp_path / "j", work, prices=prices, max_cost=0.2)
    answered = sum(isinstance(result, list) for result in results)
    assert answered == len(server.requests) == 15  # 14 x 0.011 + 0.0402 <= 0.2 < 15 x 0.011 + 0.0402
    assert client.budget.spent == pytest.approx(15 * 0.011)
    assert isinstance(client.stop_reason, BudgetError)
    _, server, client = ask(echo, tmp_path / "j", work, prices=prices, max_cost=0.2)
    assert server.requests == []  # what earlier runs spent counts
    assert client.budget.spent == pytest.approx(15 * 0.011)


def test_a_request_without_an_answer_counts_at_its_most(tmp_path: Path) -> None:
    prices = {"strong": Prices(100.0, 100.0)}
    asked = ask(once(Reply(drop=True)), tmp_path / "j", lambda c: c.ask(question()), prices=prices, max_cost=1.0)
    assert asked[2].budget.spent == pytest.approx(0.0402 + 0.011)
    with Journal(tmp_path / "j") as journal:
        assert journal.totals["strong"].completion_tokens == 110


def test_budget_waits_for_what_is_under_way() -> None:
    async def main() -> None:
        budget = Budget(1.0)
        await budget.set_aside(0.9)
        waiting = asyncio.create_task(budget.set_aside(0.5))
        await asyncio.sleep(0.01)
        assert not waiting.done()
        budget.settle(0.9, 0.1)
        await waiting
        budget.settle(0.5, 0.6)
        with pytest.raises(BudgetError, match=r"\$0.7000 is spent, and the next request may cost up to \$0.4000"):
            await budget.set_aside(0.4)

    asyncio.run(main())


def test_newer_models_want_another_name_for_the_limit(tmp_path: Path) -> None:
    def script(request: Request) -> Reply:
        if "max_tokens" in request.body:
            return Reply(status=400, content="use max_completion_tokens instead of max_tokens")
        return Reply(["x"])

    async def work(client: ChatClient) -> None:
        await client.ask(question(0))
        await client.ask(question(1))

    _, server, _ = ask(script, tmp_path / "j", work)
    assert [r.body.get("max_completion_tokens") for r in server.requests] == [None, 100, 100]


def test_the_key_is_in_no_answer_and_no_journal(tmp_path: Path) -> None:
    answers, _, _ = ask(lambda r: Reply([f"your key is {SECRET}"]), tmp_path / "j", lambda c: c.ask(question()))
    assert answers[0].text == "your key is [key]"
    assert SECRET.encode() not in (tmp_path / "j").read_bytes()


@pytest.mark.parametrize(
    ("url", "key", "message"),
    [
        ("api.deepseek.com", SECRET, "is no address"),
        ("https://user:pass@host/v1", SECRET, "must not hold a user name"),
        ("https://host/v1/chat/completions", SECRET, "ends before /chat/completions: https://host/v1"),
        ("https://host/v1", "", "set the environment variable SGPO_API_KEY"),
        ("https://host/v1", "‘quoted’", "has characters that no key has"),
    ],
)
def test_addresses_and_keys_that_cannot_work(url: str, key: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SGPO_API_KEY", key)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(ValueError, match=message) as caught:
        Endpoint(url, connections=1)
    assert not key or key not in str(caught.value)


def test_without_openai_the_error_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(ValueError, match=r"pip install 'sgpo\[strategies\]'"):
        Endpoint("https://host/v1", connections=1)
