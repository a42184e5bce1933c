"""Which model is evaluated, exactly, and the engines that run it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from sgpo.chat_templates import fit_template
from sgpo.evaluation.arguments import EvalArguments
from sgpo.evaluation.engines import LocalEngine
from sgpo.evaluation.http import HttpEngine
from sgpo.hub import commit_of
from sgpo.models.adapters import ADAPTER_CONFIG, adapter_file, chain_of
from sgpo.models.checkpoint import check_model, context_length, floating_type, open_checkpoint, say_loading
from sgpo.models.weights import load_weights
from sgpo.runs.folder import WEIGHTS
from sgpo.tokenizers import end_token_ids

if TYPE_CHECKING:
    from sgpo.sampling.records import Sampler

REPEATABLE = (
    "each sample has random numbers of its own, whatever is sampled beside it; logits of another batch shape or device "
    "may differ in their last bits, which now and then changes a token"
)


class Model:
    """A checkpoint before its weights are loaded. Raises ValueError for one that cannot be used."""

    def __init__(self, args: EvalArguments) -> None:
        self.name = args.model
        self.config, self.tokenizer = open_checkpoint(args.model)
        self.chain = chain_of(args.model)
        self.dtype = args.dtype or floating_type(self.config)
        check_model(self.config, self.tokenizer, args.pad_token)
        for said in fit_template(self.tokenizer, args.chat_template_kwargs, args.system_prompt):
            print(said)
        self.positions = context_length(self.config)
        if args.vllm_max_model_length is not None:
            self.positions = min(args.vllm_max_model_length, self.positions or args.vllm_max_model_length)

    @property
    def revision(self) -> str | None:
        """The commit on the Hub; of a folder a hash of its weights: the same path may hold another model tomorrow.

        Of an adapter it is that of each model of its chain: ``sha256:... of sha256:...``.
        """
        found = [_revision(name) for name in self.chain]
        return found[0] if len(found) == 1 else " of ".join(str(each) for each in found)

    def identity(self, args: EvalArguments) -> dict[str, Any]:
        import torch

        template = self.tokenizer.get_chat_template()
        return {
            "name": args.sampler,
            "model": self.name,
            "revision": self.revision,
            "chat_template": sha256(template.encode()).hexdigest()[:16],
            "dtype": self.dtype,
            "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        }

    def engine(self, args: EvalArguments) -> LocalEngine:
        """Load the weights. Raises EngineError if vLLM does not start."""
        say_loading(self.name, self.config, self.dtype)
        sampler = self._vllm(args) if args.sampler == "vllm" else self._transformers(args)
        return LocalEngine(sampler, self.tokenizer, self.identity(args), REPEATABLE, args.tokens_at_once)

    def _transformers(self, args: EvalArguments) -> Sampler:
        import torch

        from sgpo.sampling.transformers import TransformersSampler

        device = "cuda" if torch.cuda.is_available() else "cpu"
        # In a short type an adapter would be rounded away in part; beside its base it stays what was trained.
        model = load_weights(self.name, self.dtype, merged=self.dtype == "float32").to(device)
        return TransformersSampler.of(model, self.tokenizer, args.tokens_at_once)

    def _vllm(self, args: EvalArguments) -> Sampler:
        from sgpo.sampling.vllm import VLLMSampler
        from sgpo.sampling.vllm_engines import CheckpointEngine

        with self._full_model() as name:
            engine = CheckpointEngine(
                name,
                dtype=self.dtype,
                gpu_memory_utilization=args.vllm_gpu_memory_utilization,
                max_model_length=args.vllm_max_model_length,
            )
        described = SimpleNamespace(generation_config=_generation_config(self.chain[-1], self.config))
        return VLLMSampler(engine, end_token_ids(described, self.tokenizer))

    @contextmanager
    def _full_model(self) -> Iterator[str]:
        """A full model for an engine that reads one: of an adapter the merged one, while it is read."""
        if len(self.chain) == 1:
            yield self.name
            return
        with tempfile.TemporaryDirectory(prefix="sgpo-merged-") as folder:
            load_weights(self.name, self.dtype).save_pretrained(folder)
            self.tokenizer.save_pretrained(folder)
            yield folder


def http_engine(args: EvalArguments) -> HttpEngine:
    """Raises ValueError for an address, key or number that cannot work, or without the package openai."""
    from sgpo.chat.client import Timeouts
    from sgpo.chat.endpoint import checked_address, key_from_environment, require_openai
    from sgpo.chat.session import Connection

    require_openai()
    assert args.base_url is not None
    assert args.output is not None
    address = checked_address(args.base_url)
    key_from_environment(address)
    connection = Connection(
        address,
        Path(args.output),
        concurrency=args.concurrency,
        timeouts=Timeouts(args.timeout, args.deadline),
    )
    return HttpEngine(connection, args.model, send_seed=args.send_seed, extra_body=args.extra_body)


def _generation_config(name: str, config: Any) -> Any:
    """As transformers finds it when it loads the weights."""
    from transformers import GenerationConfig

    try:
        return GenerationConfig.from_pretrained(name)
    except OSError:
        return GenerationConfig.from_model_config(config)


def _revision(name: str) -> str | None:
    """Of one model of a chain."""
    folder = Path(name)
    if folder.is_dir():
        files = sorted({path for pattern in (*WEIGHTS, ADAPTER_CONFIG) for path in folder.glob(pattern)})
        return f"sha256:{_hash_of(tuple((path, _state(path)) for path in files))}"
    if (file := adapter_file(name)) is not None:
        return file.parent.name  # of a snapshot of the Hub
    return commit_of(name)


def _state(path: Path) -> tuple[int, ...]:
    """What changes with a file's content: the time of its last change (ctime) cannot be set back, as mtime can."""
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


@lru_cache(maxsize=16)
def _hash_of(files: tuple[tuple[Path, tuple[int, ...]], ...]) -> str:
    """16 hexadecimal digits over names and contents; read once by a process as long as the files' states stay."""
    digest = sha256()
    for path, _ in files:
        digest.update(path.name.encode())
        with path.open("rb") as file:
            while block := file.read(1 << 24):
                digest.update(block)
    return digest.hexdigest()[:16]
