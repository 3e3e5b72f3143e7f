"""One training loop for every method: batches from a source, a loss from an objective, exact resume."""
