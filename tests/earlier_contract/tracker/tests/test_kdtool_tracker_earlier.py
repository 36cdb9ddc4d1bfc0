from kdtool_testing import TrackerConformance
from kdtool_tracker_earlier import EarlierTracker


class TestEarlierTracker(TrackerConformance):
    component = EarlierTracker
    entry_point = "earlier"
