"""Why a recipe is refused: one file for each question that components of a recipe ask of each other."""
