"""A run: artefacts made stage by stage, each complete or absent, reused where nothing they depend on has changed."""
