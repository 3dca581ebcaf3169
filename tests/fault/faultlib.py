"""What the fault tests share: servers, clients, the control socket.

A test program defines functions test_NAME(t) and ends with faultlib.main().
Each function runs in a process of its own, a few at a time, with a Place: a
folder, and whatever was started in it.  All of it is gone afterwards, however
the test ends.

Limits are there so that a hang fails, not to measure: LIMIT is for what
should come at once, and SOON for what must not have waited for a backing
store that is away.  Tests set the plugin's timeout= far above SOON.

  faultlib.py's options: test-x.py [-j N] [-v] [test_NAME ...]

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import collections
import contextlib
import errno
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "../lib"))
import wait
from proc import freeze, spawn
from qmp import Qmp, QmpError as ControlError
from wait import TooLate

try:
    import nbd
except ImportError:
    print("python3-libnbd is missing: apt-get install python3-libnbd")
    sys.exit(77)

LIMIT = int(os.environ.get("FAULT_LIMIT", "120"))   # seconds
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


class Process:
    """A server.  What it says is in a file."""

    def __init__(self, name, args, log, env=None):
        self.name, self.args, self.log_path, self.env = name, args, log, env
        self.process = None

    def start(self):
        self.process = spawn(self.args, self.log_path, self.env)
        return self

    @property
    def pid(self):
        return self.process.pid

    def log(self):
        with open(self.log_path, errors="replace") as f:
            return f.read()

    def is_alive(self):
        return self.process is not None and self.process.poll() is None

    def hang(self):
        """No answers, and all connections stay open."""
        freeze(self.pid)

    def go_on(self):
        self.process.send_signal(signal.SIGCONT)

    def kill(self):
        self.process.kill()
        self.process.wait()

    def wait(self, limit=LIMIT):
        """Its exit status; -N for a signal."""
        try:
            return self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise Failed("%s does not end" % self.name) from None

    def end(self, limit=LIMIT):
        self.process.terminate()
        return self.wait(limit)


class Server(Process):
    """nbdkit on a unix socket, as a backing store."""

    def __init__(self, place, name, *args):
        self.socket = place.path(name + ".sock")
        super().__init__(name, [NBDKIT, "-f", "-U", self.socket, *args],
                         place.path(name + ".log"))

    @property
    def uri(self):
        return "nbd+unix:///?socket=" + self.socket

    def start(self):
        remove(self.socket)
        super().start()
        wait_for(self.name + " starts", self.is_up)
        return self

    def is_up(self):
        check(self.is_alive(), self.name + " ended", self.log())
        return can_connect(self.socket)


class Plugin(Process):
    """nbdkit with the plugin.  Words that begin with '-' are nbdkit's own."""

    def __init__(self, place, name, *keys):
        options = [k for k in keys if k.startswith("-")]
        keys = [k for k in keys if k not in options]
        self.socket = place.path(name + ".sock")
        self.control_path = place.path(name + ".control")
        super().__init__(
            name, [NBDKIT, "-f", "-U", self.socket, *options, PLUGIN, *keys,
                   "control=" + self.control_path], place.path(name + ".log"),
            # Memory that was never written is not zeros.
            {"BACKFILL_RUNTIME_DIR": place.path("run"),
             "GLIBC_TUNABLES": "glibc.malloc.perturb=165"})

    def start(self):
        remove(self.socket)
        super().start()
        wait_for(self.name + " starts", self.is_up)
        self.control().close()
        return self

    def is_up(self):
        check(self.is_alive(), self.name + " ended", self.log())
        return can_connect(self.socket) and can_connect(self.control_path)

    def fails(self, limit=LIMIT):
        """It must not come up: returns what it says."""
        remove(self.socket)
        Process.start(self)
        check(self.wait(limit) == 1, "exit status of a start that fails",
              self.process.returncode)
        return self.log()

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


class Place:
    """A test's folder."""

    def __init__(self, directory):
        self.directory = directory
        self.verbose = False
        os.mkdir(self.path("run"))

    def path(self, name):
        return os.path.join(self.directory, name)

    def image(self, name, size, seed=1):
        """A file of random bytes, and these."""
        data = random.Random(seed).randbytes(size)
        with open(self.path(name), "wb") as f:
            f.write(data)
        return self.path(name), data

    def read(self, name):
        with open(self.path(name), "rb") as f:
            return f.read()

    def serve(self, name, *args):
        return Server(self, name, *args).start()

    def plugin(self, *keys, name="plugin"):
        return Plugin(self, name, *keys).start()

    def requests(self, log):
        """What nbdkit's log filter noted, in order."""
        found = []
        with open(self.path(log)) as f:
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


# Running.

def run_one(function, verbose):
    """In the test's own process, which leads a process group."""
    directory = tempfile.mkdtemp(prefix="bf-")
    os.write(3, directory.encode())
    os.close(3)
    t = Place(directory)
    t.verbose = verbose
    try:
        function(t)
    except BaseException:
        traceback.print_exc()
        for name in sorted(os.listdir(directory)):
            if name.endswith(".log"):
                print("--- " + name)
                with open(t.path(name), errors="replace") as f:
                    print("".join(f.readlines()[-40:]), end="")
        return 1
    return 0


class Running:
    def __init__(self, name, function, verbose):
        self.name, self.started = name, time.monotonic()
        self.output = tempfile.TemporaryFile()
        tell, hear = os.pipe()
        sys.stdout.flush()
        self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                os.setpgid(0, 0)
                for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    signal.signal(s, signal.SIG_DFL)
                os.dup2(self.output.fileno(), 1)
                os.dup2(1, 2)
                os.dup2(hear, 3)
                sys.stdout = os.fdopen(1, "w", buffering=1)
                status = run_one(function, verbose)
            finally:
                sys.stdout.flush()
                os._exit(status)
        with contextlib.suppress(OSError):
            os.setpgid(self.pid, self.pid)
        os.close(hear)
        self.directory = os.read(tell, 4096).decode()
        os.close(tell)

    def has_ended(self):
        return os.waitid(os.P_PID, self.pid,
                         os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def finish(self):
        """End all that it started; its exit status."""
        with contextlib.suppress(OSError):
            os.killpg(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        self.took = time.monotonic() - self.started
        shutil.rmtree(self.directory, ignore_errors=True)
        self.output.seek(0)
        self.text = self.output.read().decode(errors="replace")
        self.output.close()
        return os.waitstatus_to_exitcode(status)


def main(at_once=3, limit=400):
    if not PLUGIN or not NBDKIT:
        print("run this with ./run")
        sys.exit(77)
    if os.environ.get("SANITIZER", "no") not in ("no", ""):
        print("not for sanitizer builds: nbdkit itself is not one")
        sys.exit(77)
    module = sys.modules["__main__"]
    args = sys.argv[1:]
    verbose = "-v" in args
    if "-j" in args:
        at_once = int(args.pop(args.index("-j") + 1))
    wanted = [a for a in args if not a.startswith("-")]
    tests = [(n, f) for n, f in vars(module).items()
             if n.startswith("test_") and (not wanted or n in wanted)]
    running, failed = [], []

    def stop(*_):
        for r in running:
            r.finish()
        os._exit(1)
    for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(s, stop)

    while tests or running:
        while tests and len(running) < at_once:
            running.append(Running(*tests.pop(0), verbose))
        time.sleep(0.02)
        for r in list(running):
            late = time.monotonic() - r.started > limit
            if not late and not r.has_ended():
                continue
            status = r.finish()
            running.remove(r)
            print("%s: %s (%.1f s)" % ("ok" if status == 0 else "FAILED",
                                       r.name, r.took))
            if status != 0:
                failed.append(r.name)
                if late:
                    print("it ran into the limit of %d s" % limit)
            if status != 0 or verbose:
                print(r.text)
            sys.stdout.flush()
    print("%d failed %s" % (len(failed), " ".join(failed)))
    sys.exit(1 if failed else 0)
