from kdtool_loss_earlier import EarlierLoss
from kdtool_testing import TokenLossConformance


class TestEarlierLoss(TokenLossConformance):
    component = EarlierLoss
    entry_point = "earlier"
