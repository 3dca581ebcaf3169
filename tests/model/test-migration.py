#!/usr/bin/python3
"""Migration's scenarios: all rules hold, and each one left out is seen.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import sys

import migration

sys.exit(migration.main(["--quick"]))
