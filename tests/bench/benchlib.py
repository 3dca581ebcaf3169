# benchlib.py - what the benchmarks share: a place, servers, pairs, verdicts.
#
# A figure is a ratio of two things that were measured in the same run, one
# after the other and again (A B A B ...), and the median of the pairs' ratios:
# other work on the machine then falls on both.  Where a target is a time and
# no ratio, the time is printed, and beside it what it can be compared with.
#
# Nothing here fails because a figure was missed: a benchmark ends with 0
# unless it could not measure at all.
#
# BENCH_DIR=PATH names a folder for the images (default /var/tmp): the file
# system under test.  BENCH_PAIRS=F multiplies the number of pairs.
#
# SPDX-License-Identifier: LGPL-2.1-or-later
import atexit
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                '../lib'))
from qmp import Qmp

NBDKIT = os.environ.get('NBDKIT', 'nbdkit')
PLUGIN = os.environ['BACKFILL_PLUGIN']
# The program itself: what lies in a build's folder may be libtool's script.
BACKFILL = shutil.which('backfill')
_real = os.path.join(os.path.dirname(BACKFILL or ''), '.libs', 'backfill')
if os.path.exists(_real):
    BACKFILL = _real
MiB = 1 << 20
GiB = 1 << 30


def skip(why):
    print('  skipped: ' + why)
    sys.exit(0)


def need(*programs):
    for p in programs:
        if not shutil.which(p):
            skip(p + ' is not installed')


def import_nbd():
    try:
        import nbd
    except ImportError:
        skip('python3-libnbd is not installed')
    return nbd


# Places.

_servers = []
_folders = []


def _end():
    for s in list(_servers):
        s.stop()
    for f in _folders:
        shutil.rmtree(f, ignore_errors=True)


atexit.register(_end)
for _s in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(_s, lambda *a: sys.exit(1))


def folder(parent=None):
    """A folder of our own on the disk under test."""
    f = tempfile.mkdtemp(prefix='bb-', dir=parent or
                         os.environ.get('BENCH_DIR', '/var/tmp'))
    _folders.append(f)
    return f


def runtime_folder():
    """One on a tmpfs, where working maps and sockets belong."""
    for d in (os.environ.get('XDG_RUNTIME_DIR'), '/dev/shm', '/run'):
        if d and os.access(d, os.W_OK):
            return folder(d)
    return folder()


def random_file(path, size, at=0):
    """Data that is no zeros and does not compress."""
    with open(path, 'r+b' if os.path.exists(path) else 'wb') as f:
        f.seek(at)
        while size > 0:
            n = min(size, 4 * MiB)
            f.write(os.urandom(n))
            size -= n


def warm(path):
    with open(path, 'rb', buffering=0) as f:
        while f.read(4 * MiB):
            pass


# Servers.

class Server:
    """An nbdkit of ours at the unix socket self.path."""

    def __init__(self, *args, threads=None, sock=None):
        # A path is short, also where the disk under test is not.
        self.path = sock or tempfile.mktemp(prefix='s', dir=_sockets())
        args = [BACKFILL_IS.get(a, a) for a in args]
        if threads:
            args = ['-t', str(threads)] + args
        self.argv = [NBDKIT, '-f', '-U', self.path] + args
        self.log = self.path + '.log'
        self.started = time.perf_counter()
        with open(self.log, 'w') as log:
            self.proc = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL,
                                         stdout=log, stderr=log)
        self.pid = self.proc.pid
        _servers.append(self)
        self._wait()

    def _wait(self):
        # A server listens at its socket's path before it can serve: then
        # this connection waits in its queue.
        while time.perf_counter() < self.started + 60:
            try:
                with socket.socket(socket.AF_UNIX) as s:
                    s.connect(self.path)
                    s.recv(8)
                    return
            except OSError:
                if self.proc.poll() is not None:
                    break
                time.sleep(0.001)
        with open(self.log) as log:
            sys.exit('cannot start %s:\n%s' % (' '.join(self.argv), log.read()))

    @property
    def uri(self):
        return 'nbd+unix:///?socket=' + self.path

    def export(self, name):
        return 'nbd+unix:///%s?socket=%s' % (name, self.path)

    def since_start(self):
        return time.perf_counter() - self.started

    def cpu(self):
        """Seconds of processor time so far."""
        return time.clock_gettime((~self.pid << 3) | 2)

    def status(self, key):
        with open('/proc/%d/status' % self.pid) as f:
            for line in f:
                if line.startswith(key + ':'):
                    return int(line.split()[1]) * 1024
        raise KeyError(key)

    def stop(self, sig=signal.SIGTERM):
        if self in _servers:
            _servers.remove(self)
        if self.proc.poll() is None:
            self.proc.send_signal(sig)
            try:
                self.proc.wait(30)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()
        if os.path.exists(self.path):
            os.unlink(self.path)


BACKFILL_IS = {'backfill': PLUGIN}
_socket_folder = []


def _sockets():
    if not _socket_folder:
        _socket_folder.append(runtime_folder())
    return _socket_folder[0]


class Backfill(Server):
    """nbdkit with the plugin, and its control socket self.control."""

    def __init__(self, *args, **kw):
        self.control = tempfile.mktemp(prefix='c', dir=_sockets())
        super().__init__('backfill', 'runtime-dir=' + _sockets(),
                         'control=' + self.control, *args, **kw)

    def cli(self, *args, **kw):
        return subprocess.run([BACKFILL, '-c', self.control, *args],
                              check=True, stdin=subprocess.DEVNULL,
                              stdout=kw.pop('stdout', subprocess.PIPE), **kw)

    def info(self, disk=''):
        r = self.cli('--json', 'info', disk)
        return json.loads(r.stdout)


def drop_volume(store):
    for f in (store, store + '.backfill'):
        if os.path.exists(f):
            os.unlink(f)


def Control(path):
    """A client of the control socket, for many commands."""
    return Qmp(path).negotiate()


# Numbers.

def scaled(n):
    """So many pairs, or as BENCH_PAIRS= would have it."""
    return max(1, round(n * float(os.environ.get('BENCH_PAIRS', '1'))))


def quantile(values, q):
    v = sorted(values)
    if not v:
        return float('nan')
    at = q * (len(v) - 1)
    i = int(at)
    return v[i] + (v[min(i + 1, len(v) - 1)] - v[i]) * (at - i)


def median(values):
    return quantile(values, 0.5)


def timed(fn, *args):
    t = time.perf_counter()
    fn(*args)
    return time.perf_counter() - t


def pairs(n, a, b):
    """Call both n times, A B A B; the two lists of what they returned."""
    ra, rb = [], []
    for _ in range(n):
        ra.append(a())
        rb.append(b())
    return ra, rb


def ratios(a, b):
    return [x / y for x, y in zip(a, b)]


def title(text):
    with open('/proc/loadavg') as f:
        load = f.read().split()[0]
    print('%s  (load before: %s)' % (text, load), flush=True)


def report(what, value, op, target, note='', unit=''):
    """One figure's line.  value: a number, or a list of pairs' ratios, whose
    median counts."""
    spread = ''
    if isinstance(value, list):
        spread = '%d pairs, quartiles %.3g to %.3g' % (
            len(value), quantile(value, .25), quantile(value, .75))
        value = median(value)
    ok = {'>=': value >= target, '<=': value <= target,
          '<': value < target}[op]
    note = '; '.join(x for x in (spread, note) if x)
    print('  %-44s %8.3f%s  target %-2s %g%s  %s%s' % (
        what, value, unit, op, target, unit,
        'reached' if ok else 'not reached',
        '  (%s)' % note if note else ''), flush=True)
    return ok


def say(text):
    print('  ' + text, flush=True)
