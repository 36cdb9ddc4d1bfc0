import kdtool
import kdtool_transformers


class EarlierTeacher(kdtool.Teacher):
    """Knows which letters are frequent, and nothing else."""

    offers = frozenset({"logits"})

    def kdtool_tokenizer(self, run):
        return kdtool_transformers.byte_tokenizer()

    def kdtool_signal(self, batch, want):
        labels, tokenizer = batch.labels[batch.labels != -100], kdtool_transformers.byte_tokenizer()
        logits = labels.new_zeros((len(labels), tokenizer.vocabulary)).float()
        logits[:, tokenizer.encode(" etaoinsr")] = 3.0
        return kdtool.Signal.of_logits("letters", logits)
