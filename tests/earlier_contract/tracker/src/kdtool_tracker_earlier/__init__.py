import kdtool


class EarlierTracker(kdtool.Tracker):
    """Prints the loss of every logged step."""

    def kdtool_step_end(self, run, report):
        print(f"{run.arm}, step {report.step} of {report.steps}: loss {report.loss:.3f}")
