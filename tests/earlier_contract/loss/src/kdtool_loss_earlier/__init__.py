import kdtool


class EarlierLoss(kdtool.TokenLoss):
    """Half the sum of absolute differences of the two distributions."""

    needs = "logits"

    def kdtool_token_loss(self, chunk):
        teacher = chunk.teacher.logits.float().softmax(-1)
        student = chunk.student_logits.float().softmax(-1)
        return (teacher - student).abs().sum(-1) / 2
