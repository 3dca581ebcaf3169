#!/usr/bin/python3
"""The cut-over's messages: all rules hold, and each one left out is seen.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import sys

import messages

sys.exit(messages.main(["--quick"]))
