"""Documents -> corpus -> token shards -> batches. Import from the files; nothing is loaded here."""
