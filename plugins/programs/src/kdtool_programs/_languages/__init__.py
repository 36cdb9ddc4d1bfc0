"""Programming languages, one a module. Each is found through the entry-point group `kdtool_programs.languages`."""
