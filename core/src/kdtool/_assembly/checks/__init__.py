"""Checks of a recipe as a whole: one file for each requirement of one component on the others."""
