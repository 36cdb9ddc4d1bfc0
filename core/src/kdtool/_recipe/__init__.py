"""From a recipe's text to a checked `Recipe`: layers are read, composed and parsed before any plugin is imported."""
