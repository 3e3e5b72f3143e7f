"""Words as vectors: learned from the words around them."""
