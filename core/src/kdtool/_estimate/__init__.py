"""Memory, disk, tokens, time and money that a run will take, before anything is made."""
