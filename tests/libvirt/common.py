"""common.py - what the tests of libbackfill-libvirt share.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import json
import os
import shutil
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "../lib"))
import proc
import wait
from checks import check, finish
from proc import freeze

TOP = os.environ["TOP_SRCDIR"]
BUILD = os.environ["TOP_BUILDDIR"]
NBDKIT = os.environ.get("NBDKIT") or shutil.which("nbdkit")
PLUGIN = os.environ["BACKFILL_PLUGIN"]
CALLS = os.path.join(BUILD, "tests/libvirt/calls")
LONG = 300  # seconds, for what ends by itself


def skip(why):
    print("skipped: " + why)
    sys.exit(77)


def need(*programs):
    if os.environ.get("HAVE_LIBVIRT") != "yes":
        skip("built without libvirt")
    for p in programs:
        if not shutil.which(p):
            skip(p + " is missing")
    if not NBDKIT:
        skip("nbdkit is missing")


def run(*args, **kwargs):
    return subprocess.run(args, stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                          text=True, timeout=LONG, **kwargs)


class Answer(dict):
    """What calls printed; .ok tells whether the call succeeded."""

    def __init__(self, r):
        value = json.loads(r.stdout)
        super().__init__(value if isinstance(value, dict) else {})
        self.value = value
        self.ok = r.returncode == 0


def calls(*args, **kwargs):
    r = run(CALLS, *[str(a) for a in args], **kwargs)
    if r.returncode not in (0, 1):
        raise RuntimeError("calls %s: %s %s" % (args, r.stdout, r.stderr))
    return Answer(r)


def wait_for(what, condition):
    return wait.wait_for(what, condition, LONG, pause=0.05)


class Nbdkit(proc.Nbdkit):
    """One that ends with this object."""

    def __init__(self, socket, *args, env=None):
        super().__init__("nbdkit", socket, socket + ".log", args, env=env)
        try:
            self.start()
            self.must_live()
        except BaseException:
            self.end()
            raise

    def must_live(self):
        if not self.alive():
            raise RuntimeError("nbdkit ended: " + self.text())
        return True

    def end(self, limit=60):
        try:
            super().end(limit)
        except AssertionError:
            self.kill()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.end()


class Disks(Nbdkit):
    """One with the plugin: it can be asked when this returns."""

    def __init__(self, socket, *args, env=None):
        super().__init__(socket, PLUGIN, *args, env=env)
        try:
            wait_for("control socket", lambda: self.must_live() and run(
                "backfill", "-c", "nbd:" + socket, "list").returncode == 0)
        except BaseException:
            self.end()
            raise
