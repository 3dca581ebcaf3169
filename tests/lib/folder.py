"""folder.py - a test's folder, and what was started and mounted in it.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import shutil
import subprocess
import tempfile
import traceback

from proc import Process
from runner import Skip


class Dir:
    """d("x") is the path of x in it.  Other users may look into it."""

    def __init__(self):
        self.path = tempfile.mkdtemp(prefix="bf-")
        os.chmod(self.path, 0o755)
        self.run = self.make("run")
        self.processes = []
        self.mounts = []

    def __call__(self, *names):
        return os.path.join(self.path, *names)

    def make(self, *names):
        path = self(*names)
        os.makedirs(path)
        return path

    def mount(self, name, *args):
        """Needs a namespace of our own: see runner.main.  The mount point."""
        if os.environ.get("PRIVATE_MOUNTS") != "1":
            raise Skip("no private mount namespace to be had")
        path = self(name)
        if not os.path.isdir(path):
            os.mkdir(path)
        r = subprocess.run(["mount", *args, path], stderr=subprocess.PIPE,
                           text=True)
        if r.returncode != 0:
            raise Skip("mount %s: %s" % (" ".join(args), r.stderr.strip()))
        self.mounts.append(path)
        return path

    def umount(self, path):
        subprocess.run(["umount", "-l", path], stderr=subprocess.DEVNULL)
        self.mounts.remove(path)

    def end(self):
        """Nothing of the test runs, or is mounted, any more."""
        for p in reversed(self.processes):
            try:
                Process.kill(p)
            except Exception:
                traceback.print_exc()
        for m in reversed(self.mounts[:]):
            self.umount(m)

    def close(self):
        self.end()
        # A file that a test made immutable and did not come to free.
        subprocess.run(["chattr", "-R", "-i", self.path],
                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        shutil.rmtree(self.path, ignore_errors=True)

    def check(self):
        for p in self.processes:
            p.check()
