"""Is a training run well? Measurements taken while it runs, and rules that read them, then or afterwards."""
