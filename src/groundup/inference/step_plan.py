"""What the interpreter of a plan (`step_numba`) and those who write one agree on. Imports neither numba nor torch."""

from __future__ import annotations

from groundup.core.jit import StepKernel

#: int64 numbers of a row of the plan, in this order.
COLUMNS = ("kernel", "arguments", "fixed", "per_token", "per_group", "per_logit", "part", "waits", "by_segment")
#: Offsets in the state, in bytes, which the kernels know: what all of them share in a call.
STATE = {
    name: 8 * place
    for place, name in enumerate(
        (
            "num_tokens",
            "num_groups",
            "positions",
            "slots",
            "rows",
            "groups",
            "num_logits",
            "layers",
            "scratch",
            "scratch_bytes",
            "num_segments",
            "records",
        )
    )
}

#: Take part in a plan until it is done, as the worker of a number, or as the next one (`step_numba` has the arguments).
work = StepKernel("groundup.inference.step_numba:work_plan")
take_part = StepKernel("groundup.inference.step_numba:take_part", num_arguments=1)
