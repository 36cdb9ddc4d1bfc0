"""Answers that are yielded while they are generated: by continuous batching, or by speculative decoding."""
