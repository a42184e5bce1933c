"""`python -m sgpo`: the same as the command `sgpo`."""

from __future__ import annotations

import sys

from sgpo.cli import main

if __name__ == "__main__":
    sys.exit(main())
