import kdtool


class EarlierCorpus(kdtool.Corpus):
    """Lines of arithmetic."""

    def kdtool_identity(self, run):
        return {"lines": "200 squares"}  # text of another identity is made again

    def kdtool_examples(self, run):
        for number in range(200):
            split = ("test", "validation", "train", "train")[number % 4]
            text = kdtool.Text(f"assert {number} ** 2 == {number * number}\n" * 9)
            yield kdtool.Example(f"square-{number}", text, split)
