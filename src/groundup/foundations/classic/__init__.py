"""Models from before deep learning, each with what language models took from it."""
