"""Two ideas under an equal budget: read, planned, run by the same seeds, and told apart or not."""

from groundup.recipes.comparison.compare import compare
from groundup.recipes.comparison.setup import Request

__all__ = ["Request", "compare"]
