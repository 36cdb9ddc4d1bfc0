"""One module for each kind of artefact: text, rows, signals, students, teachers, phases, exports, scores."""
