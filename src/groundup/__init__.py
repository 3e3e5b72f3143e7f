"""groundup: one readable system from raw text to a chat model, on your own machine.

The names of the Python API are imported lazily, so that `import groundup` costs nothing.
"""

__version__ = "0.1.0"
