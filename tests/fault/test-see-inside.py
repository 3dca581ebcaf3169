#!/usr/bin/python3
"""What shows a developer the inside of a running server: scripts/gdb.py, and
the probes.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import re
import shutil
import subprocess

from locallib import *

SIZE = 8 << 20

# From the argument of claim_drop() to the disk that it is part of.
DISK = "((char *) cs - (unsigned long) &((struct disk *) 0)->claims)"


def test_gdb(d):
    """A fetch that the source does not answer, and a write at its end."""
    if shutil.which("gdb") is None:
        raise Skip("no gdb")
    if SANITIZER != "no":
        raise Skip("not with a sanitizer")
    golden = d("golden")
    make_golden(golden, SIZE)
    source = Source(d, golden)
    s = Server(d, d("disk"), "backing=" + source.uri, "timeout=300s")
    h = s.nbd()
    h.pread(512, 0)
    source.hang()
    other = s.nbd()
    read = other.aio_pread(nbd.Buffer(512), 4 << 20)
    wait_for("the fetch", lambda: s.info()["stats"]["guest-reads"] >= 2)
    out = d("gdb.out")
    script = os.path.join(os.environ["TOP_SRCDIR"], "scripts/gdb.py")
    commands = ["set pagination off", "break claim_drop",
                'printf "it goes on\\n"', "continue",
                *["%s %s" % (c, DISK) for c in ("bf-claims", "bf-fetches",
                                                "bf-commit", "bf-job")],
                "bf-job 0", ]
    with open(out, "wb") as f:
        g = subprocess.Popen(
            ["gdb", "-nx", "-batch", "-p", str(s.pid), "-x", script,
             *[w for c in commands for w in ("-ex", c)]],
            stdin=subprocess.DEVNULL, stdout=f, stderr=f,
            env={**os.environ, "DEBUGINFOD_URLS": ""},
            preexec_fn=die_with_parent)

    def text():
        with open(out, errors="replace") as f:
            return f.read()
    wait_for("gdb", lambda: "it goes on" in text() or g.poll() is not None)
    if "Operation not permitted" in text():
        g.wait(LONG)
        raise Skip("gdb may not attach to it")
    h.pwrite(bytes(65536), 65536)
    g.wait(LONG)
    say(text()[-1500:])
    for line in (r"granules \d+ to \d+", "1 claims, 0 wait",
                 r"bytes \d+ to \d+: FETCH_\w+, error 0, refs \d+, job 0.*"
                 " demand", r"\d+ fetches, \d+ bytes of buffers",
                 r"none runs; 0 wait for the next, flags 0x0; error 0",
                 r"job 0: JOB_NONE, \w+", ".*bf-job: 0 is NULL"):
        assert re.search("^" + line, text(), re.M), line
    # The server has not noticed.
    source.resume()
    while not other.aio_command_completed(read):
        other.poll(1000)
    s.stop()


def test_probes(d):
    """They are in the plugin, if it was built with <sys/sdt.h>."""
    if os.environ.get("HAVE_SDT") != "yes":
        raise Skip("built without systemtap-sdt-dev")
    if shutil.which("readelf") is None:
        raise Skip("no readelf")
    notes = subprocess.run(["readelf", "-n", "-W", PLUGIN], check=True,
                           stdout=subprocess.PIPE, text=True).stdout
    found = set(re.findall(r"Provider: backfill\s+Name: (\w+)", notes))
    with open(os.path.join(os.environ["TOP_SRCDIR"], "HACKING.md"),
              encoding="utf-8") as f:
        told = set(re.findall(r"^    backfill:(\w+)", f.read(), re.M))
    assert len(found) >= 12 and found == told, (found - told, told - found)


main(globals())
