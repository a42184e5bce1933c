"""What a terminal shows while a run trains: the few numbers that matter, and every evaluation; and the last one."""

from __future__ import annotations

import re
import resource
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from tqdm.auto import tqdm
from transformers import TrainerCallback

from sgpo.files import readable_size
from sgpo.screen import LINE_SECONDS, Meter

AVERAGE = re.compile(r"eval_avg_at_(\d+)")


class RunProgress(TrainerCallback):
    """A bar in a terminal; elsewhere, and with ``disable_tqdm``, a line now and then.

    Example of a line: ``40/200 updates, 1.2/s, 2 min 13 s left; reward 0.312, guided 0.750``

    Args:
        shown: which metrics stand beside the bar, and under which name.
        bar: whether there may be one.
        clock: in seconds.
    """

    def __init__(self, shown: Mapping[str, str], *, bar: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self.shown = dict(shown)
        self.with_bar = bar and sys.stderr.isatty()
        self.clock = clock
        self.bar: Any = None
        self.meter: Meter | None = None
        self.numbers, self.last_line = "", 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not state.is_world_process_zero:
            return
        self.meter, self.last_line = Meter(state.max_steps, "updates", clock=self.clock), self.clock()
        self.meter.known(state.global_step)
        if self.with_bar:
            total, before = state.max_steps, state.global_step
            self.bar = tqdm(total=total, initial=before, unit=" updates", dynamic_ncols=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.meter is None:
            return
        new = state.global_step - self.meter.done
        self.meter.add(new)
        if self.bar is not None:
            self.bar.update(new)
        elif self.clock() - self.last_line >= LINE_SECONDS:
            self.last_line = self.clock()
            self._say(self.meter.text)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if not state.is_world_process_zero or logs is None:
            return
        if line := evaluation_line(logs):
            tqdm.write(f"After {state.global_step} updates: {line}")
        numbers = {short: f"{logs[name]:.3f}" for name, short in self.shown.items() if name in logs}
        if numbers:
            self.numbers = ", ".join(f"{name} {number}" for name, number in numbers.items())
            if self.bar is not None:
                self.bar.set_postfix(numbers)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.bar is not None:
            self.bar.close()
        elif self.meter is not None:
            self._say(self.meter.summary)
        self.bar = self.meter = None

    def _say(self, text: str) -> None:
        print(f"{text}; {self.numbers}" if self.numbers else text, file=sys.stderr, flush=True)


class FirstUpdate(TrainerCallback):
    """Says what the first update took: who asks too much of a device, or of patience, knows it then.

    Example: ``First update: 14.1 s (sample 8.8 s, optimise 5.2 s); memory at most 31.4 GB of the GPU's 79.2 GB``

    Args:
        phases: seconds of each phase of the updates so far, by name.
        clock: in seconds.
    """

    def __init__(self, phases: Callable[[], Mapping[str, float]], clock: Callable[[], float] = time.monotonic) -> None:
        self.phases, self.clock = phases, clock
        self.began: float | None = None
        self.said = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began, self.said = None, not state.is_world_process_zero

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.began is None:
            self.began = self.clock()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.said or self.began is None:
            return
        self.said = True
        parts = ", ".join(f"{name} {seconds:.1f} s" for name, seconds in self.phases().items())
        of_phases = f" ({parts})" if parts else ""
        tqdm.write(f"First update: {self.clock() - self.began:.1f} s{of_phases}; {peak_memory(args.device)}")


def peak_memory(device: torch.device) -> str:
    """The most that this process has held so far: of a GPU what torch has reserved there, else of the machine's memory.

    Example: ``memory at most 31.4 GB of the GPU's 79.2 GB``
    """
    if device.type == "cuda":
        held, total = torch.cuda.max_memory_reserved(device), torch.cuda.get_device_properties(device).total_memory
        return f"memory at most {readable_size(held)} of the GPU's {readable_size(total)}"
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, kilobytes elsewhere
    held = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return f"memory of the process at most {readable_size(held)}"


class EvaluateAtEnd(TrainerCallback):
    """An evaluation after the last update, before its checkpoint is written and before trackers are closed.

    Trainer has one of its own with the strategies steps and epoch.
    """

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step >= state.max_steps or control.should_training_stop:
            control.should_evaluate = True


def evaluation_line(logs: Mapping[str, float]) -> str | None:
    """What an evaluation during training found; None for another line of the log.

    Example: ``avg@4 19.7 ± 1.1 %``, or ``loss 0.0829``
    """
    if "eval_loss" in logs:
        return f"loss {logs['eval_loss']:.4f} on the problems that choose the checkpoint"
    for name, average in logs.items():
        if found := AVERAGE.fullmatch(name):
            return f"avg@{found[1]} {100 * average:.1f} ± {100 * logs['eval_standard_error']:.1f} %"
    return None
