"""After pretraining: each method is a loss and, where it needs one, a source of batches."""
