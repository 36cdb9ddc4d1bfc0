"""Shared vocabularies and token boundaries of two tokenizers."""
