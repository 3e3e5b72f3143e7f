"""What a model is worth: bits per byte beside baselines, answers marked, and intervals. Import from the files."""
