#!/usr/bin/python3
"""Plants one bug after the other, and runs the tests that should see it.

A mutant is killed if one of its tests fails, and lives if all pass.  The list
is true to the code: a mutant whose text is not found exactly once, that does
not build, or whose tests fail without it, is a failure as one that lives is.

    mutants.py [--jobs N] [--resume] [--list] [--check] [--promises FILE]
               [NAME ...]

NAME may have wildcards.  --resume passes over those that are known to be
killed: the same mutant, in a source file that has not changed since.  --check
only looks whether each text is found, --promises whether the table of promises
names for each promise the tests that see its mutants.  Trees, logs and results are below
./work; two runs at the same time take different trees.

mutants.list, one mutant:

    = NAME FILE[:FUNCTION] PROMISE
    - text that goes (more lines of it, each with its dash)
    + text that comes
    @ tests/TEST [ARGUMENT ...]

FILE is the end of a path.  White space counts as a space, so that formatting
changes nothing.  A line that begins with # is a remark.  A mutant may change
several places: each "-" after a "+" begins the next one.

SPDX-License-Identifier: LGPL-2.1-or-later
"""
import argparse
import ctypes
import fcntl
import filecmp
import fnmatch
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.environ.get("TOP_SRCDIR") or os.path.dirname(os.path.dirname(HERE))
WORK = os.environ.get("MUTANTS_WORK") or os.path.join(os.getcwd(), "work")
CODE = ("common", "server", "plugin", "lib", "cli")
TEST_LIMIT = int(os.environ.get("MUTANTS_LIMIT", "240"))   # seconds
BUILD_LIMIT = 900
output = threading.Lock()


def say(text):
    with output:
        print(text, flush=True)


class Bad(Exception):
    """The mutant cannot be tried as it stands."""


class Mutant:
    def __init__(self, words, line):
        if len(words) != 3:
            raise SystemExit("mutants.list:%d: = NAME FILE PROMISE" % line)
        self.name, place, self.promise = words
        self.file, _, self.function = place.partition(":")
        self.changes, self.tests = [], []

    def key(self, source):
        h = hashlib.sha256(source.encode())
        h.update(repr((self.function, self.changes, self.tests)).encode())
        return h.hexdigest()[:16]

    def plant(self, text):
        start, end = 0, len(text)
        if self.function:
            found = re.findall(r"^%s \(" % re.escape(self.function), text,
                               re.M)
            if len(found) != 1:
                raise Bad("function %s is there %d times"
                          % (self.function, len(found)))
            start = re.search(r"^%s \(" % re.escape(self.function), text,
                              re.M).start()
            end = text.index("\n}", start) + 3
        body = text[start:end]
        for old, new in self.changes:
            pattern = r"\s+".join(re.escape(w) for w in old.split())
            found = list(re.finditer(pattern, body))
            if len(found) != 1:
                raise Bad("this text is there %d times: %s"
                          % (len(found), old))
            at = found[0]
            body = body[:at.start()] + new + body[at.end():]
        return text[:start] + body + text[end:]


def read_list(path):
    mutants, names = [], set()
    last = None
    with open(path) as f:
        for nr, line in enumerate(f, 1):
            line = line.rstrip("\n")
            kind, text = line[:1], line[2:]
            if not line.strip() or kind == "#":
                continue
            if kind == "=":
                m = Mutant(text.split(), nr)
                if m.name in names:
                    raise SystemExit("mutants.list:%d: %s again"
                                     % (nr, m.name))
                names.add(m.name)
                mutants.append(m)
            elif kind == "-":
                if last == "-":
                    m.changes[-1][0] += "\n" + text
                else:
                    m.changes.append([text, ""])
            elif kind == "+" and m.changes:
                m.changes[-1][1] += ("\n" if last == "+" else "") + text
            elif kind == "@":
                m.tests.append(text.split())
            else:
                raise SystemExit("mutants.list:%d: what is this?" % nr)
            last = kind
    for m in mutants:
        if not m.changes or not m.tests:
            raise SystemExit("mutants.list: %s has no change or no test"
                             % m.name)
    return mutants


def sources(top):
    for code in CODE:
        for folder, _, files in os.walk(os.path.join(top, code)):
            for name in files:
                if name.endswith((".c", ".h")):
                    yield os.path.relpath(os.path.join(folder, name), top)


def find_source(top, m):
    found = [p for p in sources(top) if ("/" + p).endswith("/" + m.file)]
    if len(found) != 1:
        raise Bad("%s is %s" % (m.file, " and ".join(found) or "not there"))
    return found[0]


# --- processes -----------------------------------------------------------

def descendants():
    """Of this process, as (pid, parent)."""
    parent = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/stat" % pid) as f:
                parent[int(pid)] = int(f.read().rpartition(")")[2].split()[1])
        except OSError:
            pass
    for pid in parent:
        at = pid
        while at in parent and at != os.getpid():
            at = parent[at]
        if at == os.getpid() and pid != at:
            yield pid


def belongs_to(pid, mark):
    try:
        with open("/proc/%d/environ" % pid, "rb") as f:
            return mark in f.read().split(b"\0")
    except OSError:
        return False


def run(argv, log, limit, tree, env=None):
    """The exit status; None if it took too long.  What it leaves behind is
    ended: those of its tree, as this process adopts orphans."""
    mark = "MUTANTS_TREE=" + tree.path
    with open(log, "ab") as f:
        f.write(("$ %s\n" % " ".join(argv)).encode())
        f.flush()
        p = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=f,
                             stderr=f, cwd=tree.build, start_new_session=True,
                             env={**os.environ, **(env or {}),
                                  "MUTANTS_TREE": tree.path})
        try:
            status = p.wait(limit)
        except subprocess.TimeoutExpired:
            status = None
        for sig in (signal.SIGTERM, signal.SIGKILL):
            left = [pid for pid in descendants()
                    if belongs_to(pid, mark.encode())]
            for pid in left:
                try:
                    os.kill(pid, sig)
                except OSError:
                    pass
            if not left:
                break
            time.sleep(0.3)
        if status is None:
            p.wait()
    return status


def copy_source(top, copy):
    """What has changed, so that little is built again."""
    there = set()
    for folder, folders, files in os.walk(top):
        inside = os.path.relpath(folder, top)
        folders[:] = [d for d in folders
                      if d not in (".git", "autom4te.cache", "__pycache__")
                      and not (inside == "." and d.startswith("build")
                               and d != "build-aux")
                      and os.path.join(folder, d) != WORK]
        os.makedirs(os.path.join(copy, inside), exist_ok=True)
        for name in files:
            path = os.path.join(inside, name)
            old, new = os.path.join(copy, path), os.path.join(top, path)
            there.add(os.path.normpath(path))
            if os.path.islink(new) or not os.path.exists(old) \
                    or not filecmp.cmp(old, new, shallow=False):
                if os.path.lexists(old):
                    os.unlink(old)
                shutil.copy2(new, old, follow_symlinks=False)
                # One that was planted, and not taken back, has been built.
                if name.endswith((".c", ".h")):
                    os.utime(old)
    for folder, _, files in os.walk(copy):
        for name in files:
            path = os.path.join(folder, name)
            if os.path.relpath(path, copy) not in there:
                os.unlink(path)


class Tree:
    """A copy of the source with a build of its own, under a lock."""

    def __init__(self):
        os.makedirs(WORK, exist_ok=True)
        for nr in range(64):
            self.path = os.path.join(WORK, "tree-%d" % nr)
            os.makedirs(self.path, exist_ok=True)
            self.lock = open(os.path.join(self.path, "lock"), "w")
            try:
                fcntl.flock(self.lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                self.lock.close()
        self.source = os.path.join(self.path, "source")
        self.build = os.path.join(self.path, "build")
        self.log = os.path.join(self.path, "build.log")
        self.good = {}

    def prepare(self):
        """The source as it is now, built."""
        os.makedirs(self.build, exist_ok=True)
        if os.path.exists(self.log):
            os.unlink(self.log)
        copy_source(TOP, self.source)
        if not os.path.exists(os.path.join(self.build, "Makefile")):
            cc = "gcc"
            if shutil.which("ccache"):
                cc = "ccache gcc"
            if run([os.path.join(self.source, "configure"), "-q", "CC=" + cc,
                    "CFLAGS=-g -O1"], self.log, BUILD_LIMIT, self) != 0:
                raise SystemExit("configure fails: see " + self.log)
        if not self.make("all") or not self.make_test_programs():
            raise SystemExit("the source does not build: see " + self.log)

    def make(self, *args):
        return run(["make", "-s", *args], self.log, BUILD_LIMIT, self) == 0

    def make_test_programs(self):
        return all(self.make("-C", d, *self.programs(d))
                   for d in ("tests", "tests/unit", "tests/crash",
                             "tests/fuzz", "tests/api", "tests/libvirt"))

    def programs(self, folder):
        """What its Makefile has "make check" build."""
        return subprocess.run(
            ["make", "-s", "-f", "-", "print"], text=True, check=True,
            input="include Makefile\nprint: ; "
            "@echo $(check_PROGRAMS) $(check_LTLIBRARIES) Makefile\n",
            stdout=subprocess.PIPE,
            cwd=os.path.join(self.build, folder)).stdout.split()

    def build_for(self, tests):
        """What these tests run, and no more."""
        parts = ["common", "lib", "server/engine", "server/control"]
        if not all(t[0].startswith("unit/") for t in tests):
            parts = ["common", "lib", "server", "plugin", "cli"]
        if not all(self.make("-C", part) for part in parts):
            return False
        for folder in sorted({t[0].partition("/")[0] for t in tests
                              if "/" in t[0]}):
            # What holds a copy of the code, and not the plugin alone.
            names = [t[0].partition("/")[2] for t in tests
                     if t[0].startswith(folder + "/")]
            if folder == "unit":
                if not self.make("-C", "tests/unit", *names):
                    return False
            elif folder in ("fuzz", "api", "libvirt"):
                if not self.make("-C", "tests/" + folder,
                                 *self.programs("tests/" + folder)):
                    return False
        return True

    def command(self, test):
        name, args = test[0], test[1:]
        path = os.path.join(self.source, "tests", name)
        built = os.path.join(self.build, "tests", name)
        env = dict(a.split("=", 1) for a in args if re.match("[A-Z_]+=", a))
        args = [a for a in args if not re.match("[A-Z_]+=", a)]
        env.setdefault("NBDKIT", shutil.which("nbdkit") or "nbdkit")
        env.update(SANITIZER="no", TOP_SRCDIR=self.source,
                   TOP_BUILDDIR=self.build, PYTHONDONTWRITEBYTECODE="1",
                   srcdir=os.path.dirname(path),
                   CRASH_BIN=os.path.join(self.build, "tests/crash"),
                   NBDKIT_RUN=os.path.join(self.build, "run"))
        prefix = [os.path.join(self.build, "run")]
        if name.endswith(".t"):
            argv = prefix + ["sh", os.path.join(self.source, "tests",
                                                "run-cram.sh"), path]
        elif name.endswith(".py"):
            argv = prefix + ["/usr/bin/python3", path]
        elif name.startswith("crash/"):
            argv = ["bash", path]
        elif name.endswith(".sh"):
            argv = prefix + ["bash", path]
        else:
            argv = prefix + [built]
        return argv + args, env

    def passes(self, test, log, limit=TEST_LIMIT):
        """True, or why not: a word."""
        argv, env = self.command(test)
        status = run(argv, log, limit, self, env)
        if status == 77:
            raise Bad("%s was skipped" % test[0])
        if status in (126, 127):
            raise Bad("%s cannot be run" % test[0])
        return True if status == 0 else "slow" if status is None else "failed"

    def check_good(self, m, log):
        """The tests pass as the source is: else a kill means nothing."""
        new = [t for t in m.tests if " ".join(t) not in self.good]
        if new and not self.build_for(new):
            raise Bad("the tree does not build: see " + self.log)
        for test in m.tests:
            key = " ".join(test)
            for _ in range(2):
                if not self.good.get(key):
                    start = time.monotonic()
                    passed = self.passes(test, log) is True
                    self.good[key] = passed and time.monotonic() - start
            if not self.good[key]:
                raise Bad("%s fails without it: see %s" % (key, log))

    def attempt(self, m):
        """The test that killed it, or None."""
        log = os.path.join(self.path, m.name + ".log")
        if os.path.exists(log):
            os.unlink(log)
        name = find_source(self.source, m)
        path = os.path.join(self.source, name)
        with open(path) as f:
            was = f.read()
        changed = m.plant(was)
        self.check_good(m, log)
        try:
            with open(path, "w") as f:
                f.write(changed)
            if not self.build_for(m.tests):
                raise Bad("it does not build: see " + self.log)
            for test in m.tests:
                # Many a mutant shows by a test that waits for ever.
                limit = min(TEST_LIMIT, 30 + 5 * self.good[" ".join(test)])
                how = self.passes(test, log, limit)
                if how is not True:
                    return "%s%s" % (" ".join(test),
                                     " (time)" if how == "slow" else "")
            return None
        finally:
            with open(path, "w") as f:
                f.write(was)


# --- the table of promises -----------------------------------------------

def check_promises(mutants, path):
    """Its row names the tests that see a promise's mutants, and each promise
    has some."""
    with open(path) as f:
        rows = {m.group(1): m.group(0)
                for m in re.finditer(r"^\| ([GM][0-9]+) \|.*$", f.read(), re.M)}
    bad = 0
    for name in sorted(rows, key=lambda g: (g[0], int(g[1:]))):
        tests = {t[0] for m in mutants if m.promise == name for t in m.tests}
        if not tests:
            print("%s: no mutant" % name)
            bad += 1
        for test in sorted(tests):
            if test.replace("interop/", "") not in rows[name]:
                print("%s: its row does not name %s" % (name, test))
                bad += 1
    for m in mutants:
        if m.promise[0] in "GM" and m.promise not in rows:
            print("%s: there is no promise %s" % (m.name, m.promise))
            bad += 1
    return 1 if bad else 0


# --- all of them ---------------------------------------------------------

class Results:
    """Lines of NAME KEY, of those that were killed."""

    def __init__(self):
        self.path = os.path.join(WORK, "killed")
        self.lock = threading.Lock()
        self.killed = set()
        if os.path.exists(self.path):
            with open(self.path) as f:
                self.killed = set(f.read().splitlines())

    def add(self, line):
        with self.lock, open(self.path, "a") as f:
            f.write(line + "\n")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--promises", metavar="FILE")
    parser.add_argument("names", nargs="*")
    args = parser.parse_args()
    mutants = [m for m in read_list(os.path.join(HERE, "mutants.list"))
               if not args.names
               or any(fnmatch.fnmatch(m.name, n) for n in args.names)]
    if not mutants:
        raise SystemExit("no such mutant")
    if args.promises:
        return check_promises(mutants, args.promises)
    if args.list:
        for m in mutants:
            print("%-30s %-24s %-10s %s" % (m.name, m.file, m.promise,
                                            m.tests[0][0]))
        return 0

    keys, bad = {}, []
    for m in mutants:
        try:
            with open(os.path.join(TOP, find_source(TOP, m))) as f:
                text = f.read()
            m.plant(text)
            keys[m.name] = m.name + " " + m.key(text)
        except Bad as e:
            bad.append(m.name)
            say("BAD    %s: %s" % (m.name, e))
    if args.check:
        print("%d mutants, %d bad" % (len(mutants), len(bad)))
        return 1 if bad else 0
    todo = [m for m in mutants if m.name not in bad]

    # Orphans of tests come to this process, which ends them.
    ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)
    results = Results() if os.makedirs(WORK, exist_ok=True) is None else None
    killed, living = [], []
    if args.resume:
        killed = [m.name for m in todo if keys[m.name] in results.killed]
        todo = [m for m in todo if m.name not in killed]
    queue, lock = list(todo), threading.Lock()

    def work():
        tree = Tree()
        tree.prepare()
        while True:
            with lock:
                if not queue:
                    return
                m = queue.pop(0)
            start = time.monotonic()
            try:
                by = tree.attempt(m)
            except Bad as e:
                with lock:
                    bad.append(m.name)
                say("BAD    %s: %s" % (m.name, e))
                continue
            took = time.monotonic() - start
            with lock:
                (killed if by else living).append(m.name)
            if by:
                results.add(keys[m.name])
                say("killed %s by %s (%.0f s)" % (m.name, by, took))
            else:
                say("LIVES  %s, %s: %s" % (m.name, m.promise, tree.path))

    threads = [threading.Thread(target=work)
               for _ in range(max(1, min(args.jobs, len(todo))))]
    if todo:
        for t in threads:
            t.start()
        for t in threads:
            t.join()
    tried = len(killed) + len(living) + len(bad)
    if living:
        print("living: " + " ".join(living))
    if bad:
        print("bad: " + " ".join(bad))
    print("%d killed, %d living%s" % (
        len(killed), len(living), ", %d bad" % len(bad) if bad else ""))
    return 1 if living or bad or tried < len(mutants) else 0


if __name__ == "__main__":
    sys.exit(main())
