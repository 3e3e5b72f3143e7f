"""The model: typed configs, pure operations, parts, the transformer built from them, and its directory on disk."""
