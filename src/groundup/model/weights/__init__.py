"""Weights on disk: Hugging Face's tensor names to ours and back, safetensors files read strictly."""
