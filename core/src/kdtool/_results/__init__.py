"""The results of a finished run: its record, comparisons, verdict and model cards."""
