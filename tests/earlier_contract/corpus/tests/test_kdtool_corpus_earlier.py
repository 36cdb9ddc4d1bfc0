from kdtool_corpus_earlier import EarlierCorpus
from kdtool_testing import CorpusConformance


class TestEarlierCorpus(CorpusConformance):
    component = EarlierCorpus
    entry_point = "earlier"
