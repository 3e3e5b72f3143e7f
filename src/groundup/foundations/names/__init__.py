"""Models of names, one character after the other: from counted pairs to a network that joins its context step by step."""
