"""Settings of all tests: no case of a property has a time limit, since a busy machine would break it."""

from importlib.util import find_spec

if find_spec("hypothesis"):
    from hypothesis import settings

    settings.register_profile("kdtool", deadline=None)
    settings.load_profile("kdtool")
