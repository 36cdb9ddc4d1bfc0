"""`python -m kdtool` is the command line."""

from kdtool._cli import main

if __name__ == "__main__":
    main()
