"""``python -m cfgen``."""

import sys

from cfgen.cli import main

sys.exit(main())
