"""`python -m kedge` is the `kedge` command."""

import sys

from kedge.own_code import keep_out_working_folder

keep_out_working_folder()  # before anything else is imported: it might be found there

from kedge.cli import main  # noqa: E402

sys.exit(main())
