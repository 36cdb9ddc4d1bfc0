"""What runs inside the sandbox: a tester, a keeper, and for each task a candidate.

These modules are handed over when a sandbox starts, import nothing but the standard library and each other, and hold no
secrets.
"""
