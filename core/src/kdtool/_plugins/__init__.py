"""Which plugins are installed, how they are imported, validated and called, and who is to blame when one fails."""
