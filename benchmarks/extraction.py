"""What strategy extraction costs its own machine: client CPU a request, and the time and memory to resume.

    python benchmarks/extraction.py requests --requests 6000
    python benchmarks/extraction.py resume --entries 50000

`requests` asks a local server (a process of its own, 50 ms latency) at concurrency 64, and takes the CPU time of the
client's process between the first and the last answer: pipeline, client, journal and checks, everything but the
start. `resume` fills a journal with the answers to problems with responses of 8,000 characters, then starts a process
that runs the whole extraction again without asking anything, and reports its time and peak memory, imports included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import os
import resource
import subprocess
import sys
import tempfile
import time
from multiprocessing.connection import Connection as Pipe
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
from chat_server import ChatServer, Reply, Request

from sgpo.chat.client import ChatClient, Question
from sgpo.chat.journal import Entry, Journal
from sgpo.chat.session import open_client
from sgpo.problems import Problem, load_problems, save_problems
from sgpo.strategies import Connection, Extraction, extract_strategies

LATENCY = 0.05  # seconds
STRATEGY = """Problem type: counting arrangements with a restriction
Strategy: count everything, then take away what breaks the restriction, since the complement has a simple structure
Steps: (a) count all arrangements without the restriction (b) describe those that break it as fewer, larger blocks \
(c) count these with the same principle (d) subtract, and check the result on a smaller case"""


def script(request: Request) -> Reply:
    if "Candidate 1:" in request.text:
        scores = [0.5 + 0.1 * i for i in range(request.text.count("\nCandidate "))]
        return Reply([json.dumps({"scores": scores})], delay=LATENCY)
    samples = request.body.get("n", 1)
    return Reply([STRATEGY.replace("a smaller", f"{'the ' * i}smaller") for i in range(samples)], delay=LATENCY)


def made_up_problems(count: int, response_length: int) -> list[Problem]:
    sentence = "Let x = 12 and y = 30; then x + y = 42, and the product is 360, so that the bound of 29 holds. "
    response = (sentence * (response_length // len(sentence) + 1))[:response_length]
    prompt = "In how many ways can {} people sit so that two of them are apart?"
    return [Problem(str(i), prompt.format(i), "7381", f"{i} {response}") for i in range(count)]


def serve(pipe: Pipe) -> None:
    with ChatServer(script) as server:
        pipe.send(server.url)
        pipe.recv()


def measure_requests(requests: int, concurrency: int) -> None:
    """CPU of this process a request; the server runs in another one."""
    ours, theirs = multiprocessing.get_context("spawn").Pipe()
    server = multiprocessing.get_context("spawn").Process(target=serve, args=(theirs,))
    server.start()
    url = ours.recv()
    with tempfile.TemporaryDirectory() as folder:
        for name, work in (("bare requests", _bare), ("extraction", _extraction)):
            connection = Connection(url, Path(folder) / f"{name}.jsonl", concurrency=concurrency)
            asyncio.run(work(connection, 2 * concurrency))  # untimed: imports and connections
            connection = Connection(url, Path(folder) / f"{name}-timed.jsonl", concurrency=concurrency)
            cpu, wall = time.process_time(), time.perf_counter()
            count = asyncio.run(work(connection, requests))
            cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
            print(
                f"{name}: {count} requests in {wall:.1f} s ({count / wall:.0f}/s), client CPU "
                f"{1000 * cpu / count:.2f} ms a request"
            )
    ours.send("end")
    server.join()


async def _bare(connection: Connection, requests: int) -> int:
    text = "Some text of a problem. " * 40
    questions = [
        Question("strong", [{"role": "user", "content": f"Problem {i}. {text}"}], {"temperature": 1.0}, 4096, "bench")
        for i in range(requests)
    ]
    async with open_client(connection, ["strong"]) as client:
        await asyncio.gather(*(client.ask(question) for question in questions))
        return client.counts.attempts


async def _extraction(connection: Connection, requests: int) -> int:
    from sgpo.chat.session import run_all
    from sgpo.strategies.extract import extract_one

    how = Extraction(model="strong")
    async with open_client(connection, ["strong"]) as client:

        async def handle(problem: Problem) -> object:
            return await extract_one(problem, client, how)

        await run_all(made_up_problems(requests // 2, 8000), handle, client, lambda outcome: None)
        return client.counts.attempts


def measure_resume(entries: int) -> None:
    """Fill a journal, then read it back in a fresh process."""
    problems = made_up_problems(entries // 6, 8000)  # five candidates and one answer of the judge for each
    how = Extraction(model="strong")
    with tempfile.TemporaryDirectory() as folder, ChatServer(script) as server:
        save_problems(problems, Path(folder) / "problems.parquet")
        asyncio.run(_fill(Path(folder) / "journal.jsonl", problems, how))
        size = (Path(folder) / "journal.jsonl").stat().st_size / 2**20
        began = time.perf_counter()
        with Journal(Path(folder) / "journal.jsonl") as journal:
            print(f"journal: {len(journal)} entries, {size:.0f} MiB, opened in {time.perf_counter() - began:.2f} s")
        arguments = [sys.executable, __file__, "_resumed", folder, server.url]
        began = time.perf_counter()
        output = subprocess.run(arguments, check=True, capture_output=True, text=True).stdout
        print(f"whole resume: {time.perf_counter() - began:.1f} s; {output.strip()}")
        assert not server.requests, "something was asked again"


async def _fill(path: Path, problems: list[Problem], how: Extraction) -> None:
    """Journal what the server would have answered, without HTTP."""

    class Direct:
        async def chat(self, body: dict, timeout: float) -> object:
            from sgpo.chat.endpoint import Choice
            from sgpo.chat.endpoint import Reply as Answered

            reply = script(Request(body, 0, {}))
            return Answered(tuple(Choice(text, "A thought. " * 50, "stop") for text in reply.texts), 3000, 900)

    from sgpo.strategies.extract import extract_one

    with Journal(path) as journal:
        client = ChatClient(Direct(), journal, concurrency=64)  # type: ignore[arg-type]
        for problem in problems:
            await extract_one(problem, client, how)
        left = 50_000 - len(journal)
        journal.append(Entry(f"filler {i}", "strong", 100, 10, 1, STRATEGY, None, "stop") for i in range(max(0, left)))


def resumed(folder: str, url: str) -> None:
    problems = load_problems(Path(folder) / "problems.parquet")
    run = extract_strategies(problems, Extraction(model="strong"), Connection(url, Path(folder) / "journal.jsonl"))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    assert not run.unfinished
    print(f"{len(run.outcomes)} problems from the journal, peak memory {peak:.0f} MiB, CPU {time.process_time():.1f} s")


def main() -> None:
    if sys.argv[1:2] == ["_resumed"]:
        resumed(*sys.argv[2:4])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["requests", "resume"])
    parser.add_argument("--requests", type=int, default=6000)
    parser.add_argument("--concurrency", type=int, default=64)
    parser.add_argument("--entries", type=int, default=50_000)
    arguments = parser.parse_args()
    print(f"{os.cpu_count()} cores, Python {sys.version.split()[0]}")
    if arguments.what == "requests":
        measure_requests(arguments.requests, arguments.concurrency)
    else:
        measure_resume(arguments.entries)


if __name__ == "__main__":
    main()
