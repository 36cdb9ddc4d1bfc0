"""`python -m kdtool_teacher_smollm2`: fetch the weights ahead of a run, for instance before going offline."""

from __future__ import annotations

import sys

import kdtool


def main() -> int:
    """Fetch the weights and print where they are."""
    try:
        with kdtool.waiting("fetching SmolLM2 …"):
            from kdtool_teacher_smollm2._fetch import find_weights  # imports transformers, for seconds

            folder = find_weights(kdtool.say, offline=False)
        print(folder)
    except kdtool.KdtoolError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
