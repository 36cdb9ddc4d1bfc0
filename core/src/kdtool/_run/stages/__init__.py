"""How each kind of artefact is made: text, rows, signals, students, teachers, phases, exports, scores."""
