"""The command line: python -m pipeline COMMAND. The commands are those of cli/main.py."""

from __future__ import annotations

import os
import sys

from .signals import leave_at_once

if __name__ == "__main__":
    leave_at_once()  # before torch is imported, which takes seconds

from .cli.main import main

if __name__ == "__main__":
    code = main()
    if code > 128:  # interrupted, and all is cleaned up: threads that try rows and compile kernels are not waited for
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)
