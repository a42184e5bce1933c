"""The training workers: veRL's, with the engine of sgpo.

Ray loads this module in each worker's process, to make the class; that is what registers the engine there, and an error
of it reaches the trainer.
"""

from __future__ import annotations

import os
from typing import Any

from verl.single_controller.base.decorator import Dispatch, register
from verl.workers.engine_workers import ActorRolloutRefWorker

from sgpo.integrations.verl.engine import VENDOR, SGPOEngine


class SGPOWorker(ActorRolloutRefWorker):
    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self) -> Any:
        """Raises RuntimeError where veRL made another engine."""
        os.environ["VERL_ENGINE_VENDOR"] = VENDOR
        result = super().init_model()
        if not isinstance(self.actor.engine, SGPOEngine):
            raise RuntimeError(
                f"process {self.rank} trains with {type(self.actor.engine).__name__}, not with sgpo's engine"
            )
        return result
