"""What runs inside the sandbox: a server, and for each task a candidate and a tester.

These modules reach the sandbox as text, import nothing but the standard library and each other, and hold no secrets.
"""
