"""From a recipe to an assembly: plugins built, configured and checked against each other."""
