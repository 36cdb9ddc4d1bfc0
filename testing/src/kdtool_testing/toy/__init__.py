"""Small stand-ins for what a component meets in a run: a run, tokenizers, rows, a model, opened subjects."""
