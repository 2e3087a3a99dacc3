"""Run the command line as ``python -m tracksided``."""

import sys

from tracksided.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
