#!/usr/bin/python3
# 1,000 clients on the control socket, 100 of them sending garbage, 100 asking
# and never reading: a guest's I/O with them against without them, in turns,
# and the server's memory.
#
# The clients are a process of their own, which is stopped for the turns
# without them.  It costs processor time too, so for comparison the same
# clients are put on a socket that has nothing to do with the guest's server.
# SPDX-License-Identifier: LGPL-2.1-or-later
import gc
import json
import multiprocessing
import os
import random
import selectors
import signal
import socket
import time

from benchlib import (MiB, Backfill, folder, import_nbd, median, quantile,
                      random_file, ratios, report, scaled, title)

nbd = import_nbd()
CLIENTS, GARBAGE, MUTE = 1000, 100, 100
PAIRS = scaled(15)
SECONDS = 1.0


def connect(path):
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    s.setblocking(False)
    return s


def crowd(path, ready):
    """Each client does something once a second; one that was thrown out
    comes back."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    ask = b'{"execute":"query-disks"}'
    hello = b'{"execute":"qmp_capabilities"}'
    clients = [None] * CLIENTS
    ready_told = False
    i = 0
    while True:
        turn = time.perf_counter()
        for _ in range(CLIENTS // 20):
            try:
                if clients[i] is None:
                    clients[i] = connect(path)
                    if i >= GARBAGE:
                        clients[i].send(hello)
                s = clients[i]
                if i < GARBAGE:
                    s.send(random.randbytes(1024))
                    s.recv(65536)
                elif i < GARBAGE + MUTE:
                    s.send(ask * 16)
                else:
                    s.send(ask)
                    if not s.recv(65536):
                        raise ConnectionError
            except BlockingIOError:
                pass
            except OSError:
                if clients[i] is not None:
                    clients[i].close()
                clients[i] = None
            i += 1
            if i == CLIENTS:
                i = 0
                if not ready_told:
                    ready.set()
                    ready_told = True
        time.sleep(max(0, .05 - (time.perf_counter() - turn)))


def start_crowd(path):
    ready = multiprocessing.Event()
    p = multiprocessing.Process(target=crowd, args=(path, ready), daemon=True)
    p.start()
    ready.wait(60)
    return p


def window(h):
    times = []
    end = time.perf_counter() + SECONDS
    while True:
        offset = random.randrange(SIZE // 4096) * 4096
        t = time.perf_counter()
        if len(times) % 2:
            h.pread(4096, offset)
        else:
            h.pwrite(buf, offset)
        now = time.perf_counter()
        times.append(now - t)
        if now > end:
            return len(times), quantile(times, .99)


title('1,000 control clients, a guest\'s I/O as a part of that without them')
work = folder()
SIZE = 64 * MiB
buf = os.urandom(4096)
store, other = os.path.join(work, 'store'), os.path.join(work, 'other')
random_file(store, SIZE)
random_file(other, SIZE)
plugin = Backfill(store, 'adopt=local')
bystander = Backfill(other, 'adopt=local')
h = nbd.NBD()
h.connect_uri(plugin.uri)
window(h)
before = plugin.status('VmRSS')

result = {}
for name, server in (('bystander', bystander), ('plugin', plugin)):
    p = start_crowd(server.control)
    without, with_them = [], []
    gc.disable()
    for _ in range(PAIRS):
        os.kill(p.pid, signal.SIGSTOP)
        time.sleep(0.1)
        without.append(window(h))
        os.kill(p.pid, signal.SIGCONT)
        time.sleep(0.1)
        with_them.append(window(h))
    gc.enable()
    if name == 'plugin':
        nr = len(os.listdir('/proc/%d/fd' % plugin.pid))
    p.kill()
    p.join()
    result[name] = (ratios([a for a, _ in with_them], [b for b, _ in without]),
                    ratios([a for _, a in with_them], [b for _, b in without]))
own = result['bystander']
report('operations per second', result['plugin'][0], '>=', 0.95,
       '%d descriptors open; clients of another server: %.3f'
       % (nr, median(own[0])))
report('p99 of their latency, multiple', result['plugin'][1], '<=', 1.5,
       'clients of another server: %.3f' % median(own[1]))
report('memory that the clients cost', (plugin.status('VmHWM') - before) / MiB,
       '<', 256, 'server before: %.0f MiB' % (before / MiB), ' MiB')
