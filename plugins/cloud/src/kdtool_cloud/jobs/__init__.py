"""Jobs on rented GPUs: the command `kdtool cloud`, which writes a job of SkyPilot or Hugging Face Jobs for a recipe."""
