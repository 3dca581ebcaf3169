"""What the fault tests share: servers, clients, the control socket.

A test program defines functions test_NAME(t) and ends with faultlib.main().
runner.py says how they run; each has a Place.

Limits are there so that a hang fails, not to measure: LIMIT is for what
should come at once, and SOON for what must not have waited for a backing
store that is away.  Tests set the plugin's timeout= far above SOON.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import collections
import contextlib
import errno
import os
import random
import shutil
import socket
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "../lib"))
import runner
import wait
from folder import Dir
from proc import Process
from qmp import Qmp, QmpError as ControlError
from wait import TooLate

try:
    import nbd
except ImportError:
    print("python3-libnbd is missing: apt-get install python3-libnbd")
    sys.exit(77)

LIMIT = wait.LONG   # seconds
SOON = 30
LONG = "300s"   # the plugin's timeout=, where nothing shall wait so long
K = 1024
M = 1024 * K
NBDKIT = os.environ.get("NBDKIT") or shutil.which("nbdkit")
PLUGIN = os.environ.get("BACKFILL_PLUGIN")


Request = collections.namedtuple("Request",
                                 "connection action offset count line")


class Failed(Exception):
    pass


def check(condition, what, detail=None):
    if not condition:
        raise Failed(what if detail is None
                     else "%s: %s" % (what, repr(detail)[:2000]))


def wait_for(what, condition, limit=LIMIT, state=None):
    return wait.wait_for(what, condition, limit, state, pause=0.01)


@contextlib.contextmanager
def within(seconds, what):
    start = time.monotonic()
    yield
    took = time.monotonic() - start
    print("%s: %.2f s" % (what, took))
    check(took <= seconds, "%s took %.2f s" % (what, took))


def fails(error, function, *args, **kw):
    """It must fail with that errno name, which is returned."""
    try:
        function(*args, **kw)
    except OSError as e:
        name = errno.errorcode.get(e.errno, e.errno)
        check(name == error, "%s, not %s" % (name, error))
        return name
    raise Failed("worked, but should fail with %s" % error)


class Server(Process):
    """nbdkit on a unix socket, as a backing store."""

    def __init__(self, place, name, *args):
        self.socket = place(name + ".sock")
        super().__init__(name, [NBDKIT, "-f", "-U", self.socket, *args],
                         place(name + ".log"))

    @property
    def uri(self):
        return "nbd+unix:///?socket=" + self.socket

    def start(self):
        remove(self.socket)
        super().start()
        wait_for(self.name + " starts", self.is_up)
        return self

    def is_up(self):
        check(self.alive(), self.name + " ended", self.text())
        return can_connect(self.socket)


class Plugin(Process):
    """nbdkit with the plugin.  Words that begin with '-' are nbdkit's own."""

    def __init__(self, place, name, *keys):
        options = [k for k in keys if k.startswith("-")]
        keys = [k for k in keys if k not in options]
        self.socket = place(name + ".sock")
        self.control_path = place(name + ".control")
        super().__init__(
            name, [NBDKIT, "-f", "-U", self.socket, *options, PLUGIN, *keys,
                   "control=" + self.control_path], place(name + ".log"),
            # Memory that was never written is not zeros.
            {"BACKFILL_RUNTIME_DIR": place("run"),
             "GLIBC_TUNABLES": "glibc.malloc.perturb=165"})

    def start(self):
        remove(self.socket)
        super().start()
        wait_for(self.name + " starts", self.is_up)
        self.control().close()
        return self

    def is_up(self):
        check(self.alive(), self.name + " ended", self.text())
        return can_connect(self.socket) and can_connect(self.control_path)

    def fails(self, limit=LIMIT):
        """It must not come up: returns what it says."""
        remove(self.socket)
        Process.start(self)
        check(self.wait(limit) == 1, "exit status of a start that fails",
              self.process.returncode)
        return self.text()

    def client(self, export=""):
        return Client(self.socket, export)

    def control(self):
        return Control(self.control_path)

    def end(self, limit=LIMIT):
        status = super().end(limit)
        check(status == 0, "exit status", status)
        return status


def remove(path):
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def can_connect(path):
    with socket.socket(socket.AF_UNIX) as s:
        try:
            s.connect(path)
        except OSError:
            return False
    return True


class Client:
    """One NBD connection.  start_X returns what finish takes; X is both."""

    def __init__(self, path, export=""):
        self.h = nbd.NBD()
        self.h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
        self.h.set_export_name(export)
        self.h.connect_uri("nbd+unix:///%s?socket=%s" % (export, path))

    def start_read(self, offset, length):
        buf = nbd.Buffer(length)
        return self.h.aio_pread(buf, offset), buf

    def start_write(self, offset, data, flags=0):
        buf = nbd.Buffer.from_bytearray(bytearray(data))
        return self.h.aio_pwrite(buf, offset, flags=flags), None

    def start_zero(self, offset, length, flags=0):
        return self.h.aio_zero(length, offset, flags=flags), None

    def start_trim(self, offset, length):
        return self.h.aio_trim(length, offset), None

    def start_flush(self):
        return self.h.aio_flush(), None

    def start_cache(self, offset, length):
        return self.h.aio_cache(length, offset), None

    def is_done(self, pending):
        """Without waiting.  The result is still to be asked for."""
        self.h.poll(0)
        return self.h.aio_peek_command_completed() == pending[0]

    def finish(self, pending, limit=LIMIT):
        cookie, buf = pending
        end = time.monotonic() + limit
        try:
            while not self.h.aio_command_completed(cookie):
                left = end - time.monotonic()
                check(left > 0, "no answer")
                self.h.poll(int(left * 1000) + 1)
        except nbd.Error as e:
            raise OSError(getattr(errno, e.errno or "", errno.ENOTCONN),
                          str(e)) from None
        return bytes(buf.to_bytearray()) if isinstance(buf, nbd.Buffer) else buf

    def start_extents(self, offset, length):
        """Block status: [(length, flags)]."""
        found = []

        def note(_context, _offset, entries, _error):
            found.extend(zip(entries[::2], entries[1::2]))
        return self.h.aio_block_status(length, offset, note), found

    def close(self):
        self.h.shutdown()

    def __getattr__(self, name):
        start = getattr(type(self), "start_" + name, None)
        if start is None:
            raise AttributeError(name)

        def call(*args, limit=LIMIT, **kw):
            return self.finish(start(self, *args, **kw), limit)
        return call


class Control(Qmp):
    """The control socket: control("query-disks", device="")."""

    def __init__(self, path):
        super().__init__(path, LIMIT)
        self.seen = 0       # events that wait_event has passed
        self.negotiate()

    def __call__(self, command, limit=LIMIT, **arguments):
        return self.ask(command, limit, **arguments)

    def wait_event(self, name, limit=LIMIT):
        """The next of that name; those before it are passed over."""
        end = time.monotonic() + limit
        while True:
            while self.seen < len(self.events):
                self.seen += 1
                if self.events[self.seen - 1]["event"] == name:
                    return self.events[self.seen - 1]["data"]
            try:
                self.events.append(self.message(end - time.monotonic()))
            except TimeoutError:
                raise TooLate("event " + name, limit,
                              self.events[-8:]) from None

    def saw(self, name):
        """How many of these have come."""
        self("query-version")
        return sum(e["event"] == name for e in self.events)

    def disk(self, device=""):
        return self("query-disks", device=device)[0]

    def job(self, device=""):
        return self.disk(device)["job"]

    def wait_status(self, *statuses, limit=LIMIT):
        """Until the job has one of these; returns it."""
        return wait_for("job is " + " or ".join(statuses), lambda: next(
            (j for j in [self.job()] if j and j["status"] in statuses), None),
                        limit, self.job)


class Named(str):
    """t.path("x") is t("x"), for tests that were begun before folder.py."""

    def __call__(self, name):
        return os.path.join(self, name)


class Place(Dir):
    """A test's folder, with the servers that a backing store's tests need."""

    def __init__(self):
        super().__init__()
        self.path = Named(self.path)

    def image(self, name, size, seed=1):
        """A file of random bytes, and these."""
        data = random.Random(seed).randbytes(size)
        with open(self(name), "wb") as f:
            f.write(data)
        return self(name), data

    def read(self, name):
        with open(self(name), "rb") as f:
            return f.read()

    def serve(self, name, *args):
        return Server(self, name, *args).start()

    def plugin(self, *keys, name="plugin"):
        return Plugin(self, name, *keys).start()

    def requests(self, log):
        """What nbdkit's log filter noted, in order."""
        found = []
        with open(self(log)) as f:
            for line in f:
                words = line.split()
                # DATE TIME connection=N ACTION key=value ...
                if len(words) < 4 or not words[2].startswith("connection=") \
                        or words[3].startswith("..."):
                    continue
                values = dict(w.split("=", 1) for w in words if "=" in w)
                found.append(Request(int(values["connection"]), words[3],
                                     int(values.get("offset", "0"), 16),
                                     int(values.get("count", "0"), 16),
                                     line))
        return found


def main():
    runner.main(Place, at_once=3, limit=400, sanitizers=False)
