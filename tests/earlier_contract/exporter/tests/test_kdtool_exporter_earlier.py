from kdtool_exporter_earlier import EarlierExporter
from kdtool_testing import ExporterConformance


class TestEarlierExporter(ExporterConformance):
    component = EarlierExporter
    entry_point = "earlier"
    opens = False
