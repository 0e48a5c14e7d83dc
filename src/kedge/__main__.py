"""`python -m kedge` is the `kedge` command."""

import sys

from kedge.cli import main

sys.exit(main())
