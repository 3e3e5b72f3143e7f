"""A training run in a process of its own, to be killed: FOLDER [seconds that each update waits]."""

from __future__ import annotations

import hashlib
import sys
import time
from pathlib import Path

from torch import nn
from trainer_tiny import TinyModel, TinySource, evaluate, trainer

from groundup.core.errors import GroundupError
from groundup.core.interrupt import stop_on_signal
from groundup.core.metrics import JsonlSink
from groundup.data.batch import Batch
from groundup.train.trainer import Trainer

NUM_STEPS = 40


class SlowSource(TinySource):
    """Waits before each update, so that a kill meets the run at a random place."""

    wait_s = 0.0

    def update(self, step: int) -> list[Batch]:
        time.sleep(self.wait_s)
        return super().update(step)


def victim(folder: Path, wait_s: float = 0.0, **options: object) -> Trainer:
    source = SlowSource()
    source.wait_s = wait_s
    sink = JsonlSink(folder / "metrics.jsonl")
    settings = {"num_steps": NUM_STEPS, "checkpoint_every": 2, "evaluate_every": 10} | options
    return trainer(folder, model=TinyModel(dropout=0.1), source=source, sink=sink, evaluate=evaluate, **settings)


def digest(model: nn.Module) -> str:
    content = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        content.update(name.encode() + tensor.numpy().tobytes())
    return content.hexdigest()


def main() -> int:
    with stop_on_signal() as stop:
        print("started", flush=True)
        run = victim(Path(sys.argv[1]), float(sys.argv[2]), stop=stop)
        try:
            run.fit()
        except GroundupError as error:
            print(error, file=sys.stderr)
            return error.exit_code
    print("weights", digest(run.model), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
