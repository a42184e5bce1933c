"""`sgpo teacher serve`."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path

from sgpo.errors import usage_errors
from sgpo.files import check_file_writable
from sgpo.miniworld.teacher.faults import Faults
from sgpo.miniworld.teacher.server import check_server_packages


@dataclass(frozen=True)
class AddressArguments:
    """Where the teacher answers."""

    port: int = field(default=8000, metadata={"help": "0 for a free one."})
    host: str = field(default="127.0.0.1", metadata={"help": "Address to listen on."})
    log: Path | None = field(default=None, metadata={"help": "JSONL file that gets a line for each request."})


@dataclass(frozen=True)
class FaultArguments:
    """Faults: times, and shares of requests, 0 to 1, decided by the request's hash and its attempt number."""

    rate_limited: float = field(default=0.0, metadata={"help": "429 with Retry-After."})
    error: float = field(default=0.0, metadata={"help": "500."})
    dropped: float = field(default=0.0, metadata={"help": "The connection ends within the answer."})
    hanging: float = field(default=0.0, metadata={"help": "No answer at all."})
    malformed: float = field(default=0.0, metadata={"help": "Status 200 and no JSON."})
    truncated: float = field(default=0.0, metadata={"help": "JSON that breaks off."})
    garbled: float = field(default=0.0, metadata={"help": "Candidates not in three parts, till that is said."})
    latency: float = field(default=0.0, metadata={"help": "Seconds before an answer, on average."})
    retry_after: float = field(default=0.1, metadata={"help": "Seconds that a 429 asks for."})
    fault_seed: int = field(default=0, metadata={"help": "Other requests meet the faults."})


def teacher_serve(address: AddressArguments, shares: FaultArguments) -> None:
    """Answer solve, extract, score and quality requests for mini-world problems."""
    with usage_errors():
        check_server_packages()
        from sgpo.miniworld.teacher.server import open_socket, serve_teacher

        values = dataclasses.asdict(shares)
        faults = Faults(seed=values.pop("fault_seed"), **values)
        if address.log is not None:
            check_file_writable(address.log, "--log", appended=True)
        listening = open_socket(address.host, address.port)
    host, port = listening.getsockname()[:2]
    print(f"Serving at http://{host}:{port}/v1", flush=True)
    serve_teacher(listening, faults, address.log)
