from kdtool_testing import TrackerConformance
from kdtool_tracker_wandb import WandbTracker


class TestWandbTracker(TrackerConformance):
    component = WandbTracker
    entry_point = "wandb"
