"""Explain images by counterfactuals: see ``python run_cf.py --help``."""

import sys

from cfgen.cli import main

if __name__ == "__main__":
    sys.exit(main())
