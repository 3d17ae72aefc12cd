"""``python -m rdm_batch.cli`` is ``rdm-batch``."""

import sys

from rdm_batch.cli import main

sys.exit(main())
