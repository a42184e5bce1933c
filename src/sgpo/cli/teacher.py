"""`sgpo teacher serve`."""

from __future__ import annotations

import argparse
from pathlib import Path

from sgpo.errors import usage_errors
from sgpo.files import check_file_writable
from sgpo.miniworld.teacher.faults import Faults
from sgpo.miniworld.teacher.server import check_server_packages

SHARES = {
    "rate_limited": "429 with Retry-After",
    "error": "500",
    "dropped": "the connection ends within the answer",
    "hanging": "no answer at all",
    "malformed": "status 200 and no JSON",
    "truncated": "JSON that breaks off",
    "garbled": "of the candidates: not in three parts, until the client says so",
}


def main(argv: list[str]) -> None:
    parser = argparse.ArgumentParser(prog="sgpo teacher", allow_abbrev=False)
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    text = "answer solve, extract, score and quality requests for mini-world problems, as an OpenAI-compatible server"
    _options(actions.add_parser("serve", help=text, description=text, allow_abbrev=False))
    options = parser.parse_args(argv)
    with usage_errors():
        check_server_packages()
        from sgpo.miniworld.teacher.server import open_socket, serve_teacher

        faults = Faults(
            **{name: getattr(options, name) for name in SHARES},
            latency=options.latency,
            retry_after=options.retry_after,
            seed=options.fault_seed,
        )
        if options.log is not None:
            check_file_writable(options.log, "--log", appended=True)
        listening = open_socket(options.host, options.port)
    host, port = listening.getsockname()[:2]
    print(f"Serving at http://{host}:{port}/v1", flush=True)
    serve_teacher(listening, faults, options.log)


def _options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--port", type=int, default=8000, help="0 for a free one (default 8000)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--log", type=Path, default=None, help="append a line for each chat request to this JSONL file")
    group = parser.add_argument_group(
        "faults", "shares of requests, 0 to 1, decided by the request's hash and its attempt number"
    )
    for name, meaning in SHARES.items():
        group.add_argument(f"--{name.replace('_', '-')}", type=float, default=0.0, metavar="SHARE", help=meaning)
    group.add_argument("--latency", type=float, default=0.0, help="seconds before an answer, on average (default 0)")
    group.add_argument("--retry-after", type=float, default=0.1, help="seconds that a 429 asks for (default 0.1)")
    group.add_argument("--fault-seed", type=int, default=0, help="other requests meet the faults")
