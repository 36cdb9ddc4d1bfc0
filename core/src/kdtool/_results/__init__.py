"""What a finished run says: its record, comparisons, verdict and model cards."""
