"""Pure tensor functions: a readable reference of each, and the fast path beside it (registered in `pairs`).

Imports nothing, so that what works on numpy arrays alone (`blocks`, `tiles`, the kernels) needs no torch.
"""
