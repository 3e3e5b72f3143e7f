"""torch.compile as a setting of the plan, in processes without the shape checks of this suite."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import json, sys
from pathlib import Path
import torch
from trainer_tiny import ListSink, TinyModel, TinySource, evaluate, plan, trainer, weights_of
from trainer_victim import digest
from groundup.core.errors import Interrupted
from groundup.core.interrupt import StopRequest

class Stops(TinySource):
    def update(self, step):
        if step == 6:
            stop.requested = True
        return super().update(step)

results = {}
for name, compiled, stops in (("plain", False, False), ("compiled", True, False), ("resumed", True, True)):
    for attempt in range(2 if stops else 1):
        torch.compiler.reset()
        torch._dynamo.utils.counters.clear()
        stop, sink = StopRequest(), ListSink()
        model = TinyModel()
        source = Stops() if stops and attempt == 0 else TinySource()
        run = trainer(Path(sys.argv[1]) / name, model=model, plan=plan(compile=compiled), source=source,
                      sink=sink, stop=stop, evaluate=evaluate, evaluate_every=5)
        try:
            run.fit()
        except Interrupted:
            assert attempt == 0
    assert model._compiled_call_impl is None
    results[name] = {"weights": digest(model), "losses": [r["loss"] for r in sink.records if "loss" in r],
                     "graphs": torch._dynamo.utils.counters["stats"]["unique_graphs"]}
    results[name]["hidden"] = model.embed.weight.flatten()[:5].tolist()
print(json.dumps(results))
"""


@pytest.mark.slow
def test_compiled_steps_train_alike_and_resume_bit_for_bit(tmp_path: Path) -> None:
    if not any(shutil.which(name) for name in ("g++", "clang++", "c++", "cl")):
        pytest.skip("torch.compile needs a C++ compiler on the CPU, and there is none")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, env=environment, timeout=600
    )
    assert done.returncode == 0, done.stderr
    results = json.loads(done.stdout.splitlines()[-1])
    assert results["plain"]["graphs"] == 0
    assert results["compiled"]["graphs"] >= 1, "the compiled run really compiled"
    assert results["compiled"]["losses"] == pytest.approx(results["plain"]["losses"], rel=1e-3)
    assert results["compiled"]["hidden"] == pytest.approx(results["plain"]["hidden"], rel=1e-2, abs=1e-3)
    assert results["resumed"]["weights"] == results["compiled"]["weights"]
    assert results["resumed"]["losses"] == results["compiled"]["losses"][7:]
