"""How vocabularies and token boundaries of two tokenizers relate."""
