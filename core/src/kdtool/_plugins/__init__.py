"""Find, import, validate and call plugins, and name the one that fails."""
