"""Servers on this machine for tests: the Messages API of Claude with faults and a bill, and a real one of llama.cpp."""
