"""`python -m adhmr.cli`: the command by the path of its module, as launchers start it in a snapshot of the code."""

from adhmr.cli import main

if __name__ == "__main__":
    main()
