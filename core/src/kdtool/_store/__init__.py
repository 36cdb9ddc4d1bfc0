"""Files that stay whole: artefacts, atomic files, locks, the store that runs share, and freeing it."""
