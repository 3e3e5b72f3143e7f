"""The interpreter of a step's plan: workers take parts of one kernel's items after the other, until all are done.

A plan is a table of int64 rows: address of a kernel, address of its arguments, how many items it has (a constant, plus
so many for each token, each group of tokens and each row of logits), how many items are one part, whether all that
stands before it must be finished first, and whether each item stands for all segments of a long text.

The workers enter once for a whole step and not once for each kernel. Parts are claimed by an atomic counter, so a
worker that comes late, or never, costs time only: whoever is there does what is left. Which worker computes a part
changes nothing in its result.
"""

from __future__ import annotations

from numba import prange

from groundup.core.jit import kernel, parallel_kernel
from groundup.core.vectors_numba import call_kernel, fetch_add, load_acquire, pause, read_i64


@kernel
def work(plan: int, num_kernels: int, counters: int, state: int, worker: int) -> None:
    """Take part in a plan until it is done.

    Args:
        plan: address of its rows.
        num_kernels: rows.
        counters: address of num_kernels + 1 int64 zeros, for this call alone.
        state: address of what the kernels share.
        worker: number of this worker, below that for which there is scratch memory.
    """
    num_tokens, num_groups, num_logits = read_i64(state), read_i64(state + 8), read_i64(state + 48)
    num_segments = read_i64(state + 80)
    before = 0  # parts of all kernels above
    for index in range(num_kernels):
        row, counter = plan + 72 * index, counters + 8 * (index + 1)
        items = read_i64(row + 16) + read_i64(row + 24) * num_tokens
        items += read_i64(row + 32) * num_groups + read_i64(row + 40) * num_logits
        if read_i64(row + 64):
            items *= num_segments
        part = read_i64(row + 48)
        parts = (items + part - 1) // part
        if read_i64(row + 56):
            while load_acquire(counters) < before:
                pause()
        claimed = fetch_add(counter, 1)
        while claimed < parts:
            start = claimed * part
            call_kernel(read_i64(row), read_i64(row + 8), start, min(start + part, items), state, worker)
            fetch_add(counters, 1)
            claimed = fetch_add(counter, 1)
        before += parts
    while load_acquire(counters) < before:
        pause()


def work_plan(plan: int, num_kernels: int, counters: int, state: int, worker: int) -> None:
    """`work`, to be called from elsewhere."""
    work(plan, num_kernels, counters, state, worker)


def take_part(call: int) -> None:
    """`work` as the next free worker of a call, at whose address stand how many came before and the arguments."""
    worker = fetch_add(call, 1)
    work(read_i64(call + 8), read_i64(call + 16), read_i64(call + 24), read_i64(call + 32), worker)


@parallel_kernel
def work_together(workers: int, plan: int, num_kernels: int, counters: int, state: int) -> None:
    """`work` by several threads at once."""
    for worker in prange(workers):
        work(plan, num_kernels, counters, state, worker)
