"""Tokens out of a model: filters, the reference and the cached loop, text and chat. Import from the files."""
