"""How a recipe becomes an assembly: plugins built, configured and checked against each other."""
