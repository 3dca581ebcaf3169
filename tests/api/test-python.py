#!/usr/bin/python3
"""The binding for Python, with real servers; and that it says the same as
backfill.h, libbackfill.syms and its manual.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import ctypes
import errno
import inspect
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

SRC = os.environ["TOP_SRCDIR"]
sys.path.insert(0, os.path.join(SRC, "tests/lib"))
sys.path.insert(0, os.path.join(SRC, "python"))
from wait import LONG, wait_for

import backfill
from backfill import _capi

NBDKIT = os.environ.get("NBDKIT") or shutil.which("nbdkit")
PLUGIN = os.environ["BACKFILL_PLUGIN"]
MIB = 1 << 20

failures = []


def check(what, ok, detail=None):
    print("%s%s" % ("ok: " if ok else "NOT OK: ", what), flush=True)
    if not ok:
        failures.append(what)
        if detail is not None:
            print("    %s" % (detail,), flush=True)


def raises(what, kind, call, *args, number=None, **keys):
    try:
        result = call(*args, **keys)
    except kind as e:
        check(what, type(e) is kind
              and (number is None or e.errno == number)
              and (number is None or (e.name == errno.errorcode[number]
                                      and str(e) == e.text and e.text)), repr(e))
        return e
    except Exception as e:  # pylint: disable=broad-except
        check(what, False, repr(e))
        return None
    check(what, False, "no error: %r" % (result,))
    return None


def test_header(d):
    """Each struct has the compiler's layout, each enum its values, and each
    function of the library a prototype."""
    with open(os.path.join(SRC, "lib/libbackfill.syms"), encoding="utf-8") as f:
        promised = f.read().split("LIBBACKFILL_PRIVATE")[0]
    names = set(re.findall(r"^    (backfill_\w+);", promised, re.M))
    check("every function has a prototype", names == set(_capi.PROTOTYPES),
          names ^ set(_capi.PROTOTYPES))
    with open(os.path.join(SRC, "lib/backfill.h"), encoding="utf-8") as f:
        header = f.read()
    arguments = {name: len(re.sub(r"\s+", " ", text).split(","))
                 if text.strip() != "void" else 0
                 for name, text in re.findall(r"(backfill_\w+) \(([^)]*)\);",
                                              header)}
    wrong = {n: (len(p[1]), arguments.get(n))
             for n, p in _capi.PROTOTYPES.items()
             if len(p[1]) != arguments.get(n)}
    check("with as many arguments", not wrong, wrong)

    enums = {backfill.JobType: "JOB", backfill.JobStatus: "STATUS",
             backfill.PauseReason: "PAUSE", backfill.OnError: "ON_ERROR"}
    lines = ["#include <backfill.h>", "#include <stddef.h>", "#include <stdio.h>",
             "int main (void) {"]
    expected = []
    for name, struct in _capi.STRUCTS.items():
        lines.append('printf ("%s %%zu\\n", sizeof (struct %s));' % (name, name))
        expected.append("%s %d" % (name, ctypes.sizeof(struct)))
        body = re.search(r"struct %s \{(.*?)\n\};" % name, header, re.S).group(1)
        body = re.sub(r"/\*.*?\*/", "", body, flags=re.S)
        members = re.findall(r"\*?(\w+)(?:\[\d+\])?(?=[,;])", body)
        check("%s has these members" % name,
              members == [m[0] for m in struct._fields_], members)
        for field in struct._fields_:
            lines.append('printf ("%s.%s %%zu\\n", offsetof (struct %s, %s));'
                         % (name, field[0], name, field[0]))
            expected.append("%s.%s %d" % (name, field[0],
                                          getattr(struct, field[0]).offset))
    for enum, prefix in enums.items():
        for value in enum:
            lines.append('printf ("%s %%d\\n", (int)BACKFILL_%s_%s);'
                         % (value.name, prefix, value.name))
            expected.append("%s %d" % (value.name, value))
    for value in backfill.State:
        lines.append('printf ("%%d\\n", (int)BACKFILL_%s);' % value.name)
        expected.append("%d" % value)
    lines += ["return 0; }"]
    cc = shutil.which("cc")
    if cc is None:
        print("no C compiler: the structs are not compared")
        return
    with open(d + "/layout.c", "w", encoding="utf-8") as f:
        f.write("\n".join(lines))
    subprocess.run([cc, "-I", os.path.join(SRC, "lib"), "-o", d + "/layout",
                    d + "/layout.c"], check=True)
    said = subprocess.run([d + "/layout"], check=True, stdout=subprocess.PIPE,
                          text=True).stdout.split("\n")[:-1]
    check("structs and enums are the compiler's", said == expected,
          set(said) ^ set(expected))


def test_older():
    """The struct of a library that has fewer members is not read beyond its
    end."""
    size = _capi.DiskInfo.unanswered.offset
    memory = ctypes.create_string_buffer(b"\xff" * ctypes.sizeof(_capi.DiskInfo))
    old = ctypes.cast(memory, ctypes.POINTER(_capi.DiskInfo))
    old.contents.struct_size, old.contents.size = size, 77
    new = _capi.read(_capi.DiskInfo, old)
    check("an older library's struct", new.size == 77 and new.unanswered is None
          and new.trace_hit == 0)


def test_manual():
    with open(os.path.join(SRC, "docs/backfill-python.pod"),
              encoding="utf-8") as f:
        manual = f.read()
    for name in backfill.__all__:
        check("the manual has " + name, re.search(r"\b%s\b" % name, manual))
    for kind in (backfill.Connection, backfill.Events):
        for name, method in inspect.getmembers(kind, inspect.isfunction):
            if name.startswith("_"):
                continue
            check("and %s()" % name, "B<%s>(" % name in manual)
            if "B<%s>(...)" % name in manual:
                continue
            documented = re.search(r"B<%s>\(([^)]*)\)" % name, manual).group(1)
            real = [p.name for p in inspect.signature(method).parameters.values()
                    if p.name != "self"]
            names = re.findall(r"\b([a-z_]+)(?==|,|$)", documented)
            check("with its arguments", names == real, (names, real))


class Server:
    """A program that is ended at the end of a with."""

    def __init__(self, ready, *args):
        self.ready, self.args = ready, args

    def __enter__(self):
        self.p = subprocess.Popen(self.args, stdin=subprocess.DEVNULL)

        def up():
            assert self.p.poll() is None, self.args
            return self.ready()
        wait_for(self.args[0], up)
        return self

    def __exit__(self, *_):
        self.p.send_signal(signal.SIGCONT)
        self.p.terminate()
        try:
            self.p.wait(LONG)
        except subprocess.TimeoutExpired:
            self.p.kill()
            self.p.wait()


def there(path):
    return lambda: os.path.exists(path)


def served(uri):
    def ask():
        try:
            with backfill.Connection(uri) as b:
                return b.disks()
        except backfill.BackfillError:
            return False
    return ask


def test_disk(d, golden, uri):
    store = d + "/a.img"
    b = backfill.Connection(uri)
    info = b.disk(store)
    check("a disk", info.name == "a" and info.store == store
          and info.size == 4 * MIB and info.local + info.absent == info.size
          and info.source == "connected" and info.granule == 4096
          and "golden.sock" in info.backing and info.unanswered is None
          and info.job.type == backfill.JobType.NONE
          and not info.read_only and info.sync_error is None, info)
    check("by bytes, by name, among all",
          b.disk(os.fsencode(store)).store == b.disk("a").store == store
          and [i.name for i in b.disks()] == ["a", "d\u00e9"]
          and store in [i.store for i in b.disks(offline=True)], b.disks())
    raises("which one?", backfill.AmbiguousDiskError, b.disk,
           number=errno.ENOTUNIQ)
    e = raises("no such disk", backfill.NoSuchDiskError, b.disk, "z",
               number=errno.ENOENT)
    check("is a FileNotFoundError", isinstance(e, FileNotFoundError)
          and isinstance(e, backfill.BackfillError))
    check("a name with more than ASCII", b.disk("d\u00e9").name == "d\u00e9")
    raises("what is not UTF-8", backfill.InvalidError, b.disk, b"d\xff",
           number=errno.EINVAL)

    check("a range", b.allocate("a", MIB, MIB) == 1
          and b.allocation_map("a") == [backfill.Region(MIB, MIB)])
    check("and the states", b.state_map("a", 0, 3 * MIB) == [
        backfill.StateRegion(0, MIB, backfill.State.ABSENT),
        backfill.StateRegion(MIB, MIB, backfill.State.LOCAL),
        backfill.StateRegion(2 * MIB, MIB, backfill.State.ABSENT)],
          b.state_map("a"))
    job = b.job("a", 1)
    check("its job", job.type == backfill.JobType.COMPLETED
          and job.status == backfill.JobStatus.CONCLUDED
          and not job.in_progress and job.data_total == MIB
          and job.range_offset == MIB and job.failed_offset is None
          and job.error == "" and job.number == 1, job)

    seen = []
    with b.events("a") as events:
        number = b.allocate("a", wait=False, speed=65536, sparse=True,
                            on_error=backfill.OnError.SKIP, retry=5)
        job = b.job("a", number)
        check("options arrive", job.speed == 65536 and job.sparse
              and job.on_error == backfill.OnError.SKIP and job.in_progress,
              job)
        raises("one job at a time", backfill.BusyError, b.allocate, "a",
               wait=False, number=errno.EBUSY)
        b.pause("a")
        paused = b.job("a")
        check("paused", paused.status == backfill.JobStatus.PAUSED
              and paused.pause_reason == backfill.PauseReason.USER, paused)
        b.resume("a", number)
        t = time.monotonic()
        raises("wait no longer", backfill.TimedOutError, b.wait, "a",
               timeout=0.3, number=errno.ETIMEDOUT)
        check("than that", 0.2 < time.monotonic() - t < 60)
        raises("until I say so", backfill.StoppedError, b.wait, "a",
               progress=lambda info: info.in_progress and seen.append(info)
               is None, number=errno.EINTR)
        check("progress is told", seen and seen[0].number == number, seen)

        def bad(_info):
            raise KeyError("mine")
        e = raises("what progress raises comes out", KeyError, b.wait, "a",
                   progress=bad)
        check("as it was", e is not None and e.args == ("mine",), e)
        raises("another job's turn", backfill.NoJobError, b.pause, "a", 77,
               number=errno.ESRCH)
        b.set_speed("a", 2 * 65536, number)
        check("faster", b.job("a").speed == 2 * 65536)

        error = []

        def waiter():
            try:
                b.wait("a")
            except backfill.BackfillError as e:
                error.append(e)
        thread = threading.Thread(target=waiter)
        thread.start()
        b.abort("a")
        thread.join(LONG)
        check("aborted, says the thread that waited",
              len(error) == 1 and type(error[0]) in (
                  backfill.JobCancelledError, backfill.NoJobError)
              and (error[0].errno == errno.ECANCELED
                   or b.job("a").type == backfill.JobType.CANCELLED), error)
        names = []
        for event in events:
            names.append((event.event, event.disk, event.number))
            if event.event == "BLOCK_JOB_CANCELLED":
                break
        check("events of it", ("JOB_STATUS_CHANGE", "a", number) in names
              and event.len == 4 * MIB and '"BLOCK_JOB_CANCELLED"' in event.json
              and event.seconds > 1e9, names)
        check("no more come", events.next_event(0.1) is None)
    raises("a closed subscription", ValueError, events.next_event, 0)
    b.dismiss("a")
    check("dismissed", b.job("a").type == backfill.JobType.NONE)
    raises("not yet", backfill.BusyError, b.detach, "a", number=errno.EBUSY)

    ends = []
    b.allocate("a", progress=ends.append)
    check("progress is told the end", ends and not ends[-1].in_progress, ends)
    b.flush("a")
    b.detach("a")
    check("filled in and detached", b.disk("a").complete
          and b.disk("a").detached and b.disk("a").absent == 0, b.disk("a"))
    with open(store, "rb") as f, open(golden, "rb") as g:
        check("it is the golden image", f.read() == g.read())

    reply = b.command("query-disks", {"device": "a"})[0]
    check("any command", reply["store"] == store, reply)
    raises("an unknown one", backfill.UnsupportedError, b.command, "nonsense",
           number=errno.EOPNOTSUPP)
    for what, call in (
            ("NUL", lambda: b.disk("a\0b")),
            ("a negative number", lambda: b.allocate("a", -1)),
            ("one too large", lambda: b.allocate("a", 0, 1 << 64)),
            ("no time", lambda: b.set_timeout(-1)),
            ("not a number", lambda: b.set_timeout(float("nan")))):
        raises(what, ValueError, call)
    e = raises("outside", backfill.InvalidError, b.allocate, "a", 1 << 40,
               number=errno.EINVAL)
    check("is a ValueError", isinstance(e, ValueError))
    events = b.events()
    b.close()
    b.close()
    raises("a closed connection", ValueError, b.disks)
    raises("and its subscriptions", ValueError, next, events)
    raises("nobody there", backfill.NoOwnerError,
           lambda: backfill.Connection().disk(d + "/golden.img"),
           number=errno.ENXIO)


def test_interrupt(uri):
    """Ctrl-C ends the waiting; the job goes on."""
    with backfill.Connection(uri) as b:
        b.allocate("d\u00e9", wait=False, speed=65536)
    p = subprocess.Popen(
        [sys.executable, "-c", "import backfill, sys\n"
         "b = backfill.Connection(sys.argv[1])\n"
         "print('ready', flush=True)\n"
         "try: b.wait('d\\u00e9')\n"
         "except KeyboardInterrupt: print('interrupted')", uri],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        env=dict(os.environ, PYTHONPATH=os.path.join(SRC, "python")),
        preexec_fn=lambda: signal.signal(signal.SIGINT,
                                         signal.default_int_handler))
    first = p.stdout.readline()
    time.sleep(0.3)
    p.send_signal(signal.SIGINT)
    rest = p.communicate(timeout=LONG)[0]
    with backfill.Connection(uri) as b:
        check("Ctrl-C is seen, and the job goes on",
              first == "ready\n" and rest == "interrupted\n"
              and b.job("d\u00e9").in_progress, rest)
        b.abort("d\u00e9")


def test_gone(d, server, uri):
    with backfill.Connection(uri, timeout=0.5) as b:
        events = b.events("a")
        server.p.send_signal(signal.SIGSTOP)
        raises("a server that hangs", backfill.TimedOutError, b.disks,
               number=errno.ETIMEDOUT)
        server.p.send_signal(signal.SIGCONT)
        wait_for("it answers", served(uri))
        server.p.kill()
        server.p.wait()
        raises("a server that has gone", backfill.ServerGoneError, next, events,
               number=errno.ECONNRESET)
    check("nothing is left behind", not [
        f for f in os.listdir("/proc/self/fd")
        if d in (os.readlink("/proc/self/fd/" + f)
                 if os.path.islink("/proc/self/fd/" + f) else "")])


def test_example(d, golden):
    """Ten disks, and once more."""
    volumes = d + "/volumes"
    os.mkdir(volumes)
    daemon = shutil.which("backfilld")
    with Server(there(d + "/run/backfilld.sock"), daemon,
                "--runtime-dir=" + d + "/run", "--state-dir=" + d + "/state",
                volumes):
        for turn in range(2):
            r = subprocess.run(
                [sys.executable, os.path.join(SRC, "examples/provision.py"),
                 volumes, "vm", "--backing",
                 "nbd+unix:///?socket=%s/golden.sock" % d],
                env=dict(os.environ, PYTHONPATH=os.path.join(SRC, "python")),
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                timeout=LONG, check=False)
            check("ten disks are provisioned, turn %d" % turn,
                  r.returncode == 0 and r.stdout.count("bytes are local") == 10,
                  r.stdout)
        with open(golden, "rb") as f:
            truth = f.read()
        for i in range(10):
            with open("%s/vm%d.img" % (volumes, i), "rb") as f:
                check("vm%d" % i, f.read() == truth)


def main():
    if not NBDKIT:
        print("nbdkit is missing")
        return 77
    check("version", re.match(r"\d+\.\d+\.\d+$", backfill.version()))
    mypy = shutil.which("mypy")
    with tempfile.TemporaryDirectory(prefix="py-", dir="/tmp") as d:
        if mypy:
            r = subprocess.run(
                [mypy, "--strict", "--cache-dir=" + d + "/mypy",
                 os.path.join(SRC, "python/backfill"),
                 os.path.join(SRC, "examples/provision.py")],
                stdout=subprocess.PIPE, text=True, check=False)
            check("types", r.returncode == 0, r.stdout)
        else:
            print("no mypy: the types are not checked")
        test_header(d)
        test_older()
        test_manual()
        os.environ["BACKFILL_RUNTIME_DIR"] = d + "/run"
        golden = d + "/golden.img"
        with open(golden, "wb") as f:
            f.write(os.urandom(4 * MIB))
        backing = "backing=nbd+unix:///?socket=%s/golden.sock" % d
        uri = "nbd:%s/disk.sock" % d
        with Server(there(d + "/golden.sock"), NBDKIT, "-f", "-r", "-U",
                    d + "/golden.sock", "file", golden):
            with Server(served(uri), NBDKIT, "-f", "-U", d + "/disk.sock",
                        PLUGIN, "name=a", "store=%s/a.img" % d, backing,
                        "name=d\u00e9", "store=%s/b.img" % d, backing) as server:
                test_disk(d, golden, uri)
                test_interrupt(uri)
                test_gone(d, server, uri)
            test_example(d, golden)
    print("%d failed" % len(failures))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
