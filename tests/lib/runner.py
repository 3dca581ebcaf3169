"""runner.py - run a program's tests.

A test program defines functions test_NAME(d) and calls main() at its end.
Each function runs in a process of its own, which leads a process group, with
a folder of its own: make() makes it, and it has check(), for what must be
true after each test, and close().  What was started in it is gone afterwards,
however the test ends.

  test-x.py [-j N] [-v] [test_NAME ...]

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

SKIPPED = 77


class Skip(Exception):
    """What the test needs is not there."""


def show_logs(directory):
    for name in sorted(os.listdir(directory)):
        if name.endswith((".log", ".err")):
            with open(os.path.join(directory, name), errors="replace",
                      encoding="utf-8") as f:
                lines = f.readlines()[-40:]
            if lines:
                print("--- %s\n%s" % (name, "".join(lines)))


def run_one(function, make):
    """In the test's own process."""
    d = make()
    os.write(3, d.path.encode())
    os.close(3)
    try:
        function(d)
        d.check()
        return 0
    except Skip as e:
        print("skipped: %s" % e)
        return SKIPPED
    except BaseException:
        traceback.print_exc()
        show_logs(d.path)
        return 1
    finally:
        d.close()


class Running:
    def __init__(self, name, function, make):
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
                status = run_one(function, make)
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


def enter_namespace():
    """Mounts that do not outlive us."""
    if "PRIVATE_MOUNTS" in os.environ:
        return
    for flags in (["-m"], ["-rm"]):
        argv = ["unshare", *flags, "--propagation", "private"]
        if flags == ["-rm"] and os.geteuid() == 0:
            break
        try:
            ok = subprocess.run([*argv, "true"],
                                stderr=subprocess.DEVNULL).returncode == 0
        except FileNotFoundError:
            ok = False
        if ok:
            os.environ["PRIVATE_MOUNTS"] = "1"
            os.execvp("unshare", [*argv, sys.executable, *sys.argv])
    os.environ["PRIVATE_MOUNTS"] = "0"


def main(make, at_once=1, limit=None, mounts=False, verbose=False,
         sanitizers=True):
    """Run the test_* functions of the program, or those that its arguments
    name: so many at once, each so many seconds, with mounts of our own."""
    if not shutil.which(os.environ.get("NBDKIT") or "nbdkit") \
            or not os.environ.get("BACKFILL_PLUGIN"):
        print("skipped: no nbdkit, or not started with ./run")
        sys.exit(SKIPPED)
    if not sanitizers and os.environ.get("SANITIZER", "no") not in ("no", ""):
        print("not for sanitizer builds: nbdkit itself is not one")
        sys.exit(SKIPPED)
    if mounts:
        enter_namespace()
    args = sys.argv[1:]
    verbose = verbose or "-v" in args
    if "-j" in args:
        i = args.index("-j")
        at_once = int(args[i + 1])
        del args[i:i + 2]
    wanted = [a for a in args if not a.startswith("-")]
    tests = [(n, f) for n, f in vars(sys.modules["__main__"]).items()
             if n.startswith("test_") and (not wanted or n in wanted)]
    running, results = [], {0: [], SKIPPED: [], 1: []}
    begin = time.monotonic()

    def stop(*_):
        for r in running:
            r.finish()
        os._exit(1)
    for s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(s, stop)

    while tests or running:
        while tests and len(running) < at_once:
            running.append(Running(*tests.pop(0), make))
        time.sleep(0.02)
        for r in list(running):
            late = limit and time.monotonic() - r.started > limit
            if not late and not r.has_ended():
                continue
            status = r.finish()
            running.remove(r)
            status = status if status in results else 1
            results[status].append(r.name)
            print("%s: %s (%.1f s)" % (
                {0: "ok", SKIPPED: "skipped"}.get(status, "FAILED"), r.name,
                r.took))
            if late:
                print("it ran into the limit of %d s" % limit)
            if (status != 0 or verbose) and r.text:
                print(r.text)
            sys.stdout.flush()
    print("%d passed, %d skipped, %d failed, %.0f s %s" % (
        len(results[0]), len(results[SKIPPED]), len(results[1]),
        time.monotonic() - begin, " ".join(results[1])))
    sys.exit(1 if results[1] else 0 if results[0] else SKIPPED)
