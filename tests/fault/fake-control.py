#!/usr/bin/python3
"""A control server that can be told to misbehave, to test clients with.

    fake-control.py SOCKET [MODE] [--disk NAME=STORE]... [--regions N]
                    [--register DIR] [--job-ms MS] [--end fail|abort|ok]
                    [--as UID]

It models disks, their maps and one job each (the protocol's good side), so
that a client can be tested without nbdkit, and then does one thing wrong:

    good           nothing wrong
    silent         accepts, and never says anything
    no-qmp         a greeting that is not QMP's
    garbage-first  bytes that are not JSON instead of the greeting
    garbage        the same instead of the answer to any command
    half           half an answer, then nothing
    hang           no answer
    drop           closes the connection instead of answering
    half-drop      half an answer, then closes
    huge           an answer of 8 MiB
    deep           an answer nested 100,000 deep
    wrong-id       an answer to another question
    no-return      an answer that is neither return nor error
    wrong-types    answers of the right shape with members of wrong types
    flood          events without end instead of an answer
    map-loop       a map whose pages do not go forward
    map-order      a map whose regions overlap
    bad-sum        counters that do not add up
    dismissed      the job is gone as soon as it has ended
    stop-JOB       the server goes away in the middle of the job

With --as the socket is that user's: root alone can say so.
Its pid is the process's own; it prints "ready" when it can be connected to.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import argparse
import json
import os
import socket
import sys
import threading
import time

GREETING = {"QMP": {"version": {
    "qemu": {"major": 7, "minor": 2, "micro": 0},
    "package": "backfill 0.1.0",
    "backfill": {"major": 0, "minor": 1, "micro": 0}}, "capabilities": [],
    "process": "p-%08x" % os.getpid()}}


class Refusal(Exception):
    """An error answer: class, text, errno."""


class Disk:
    def __init__(self, name, store, options):
        self.name, self.store = name, store
        self.granule = 4096
        self.size = options.size
        self.nregions = options.regions
        self.job_ms = options.job_ms
        self.end = options.end
        self.job = None
        self.local_all = False
        self.detached = False

    def regions(self):
        """(offset, length, state) over the whole disk."""
        if self.size == 0:
            return
        if self.local_all:
            yield 0, self.size, "local"
            return
        states = ("local", "absent", "zero", "absent")
        n = max(1, min(self.nregions, self.size // self.granule))
        step = self.size // n // self.granule * self.granule
        for i in range(n):
            end = self.size if i == n - 1 else (i + 1) * step
            yield i * step, end - i * step, states[i % 4]

    def local(self):
        return sum(l for _, l, s in self.regions() if s != "absent")

    def object(self):
        local = self.local()
        d = {"name": self.name, "store": self.store,
             "metadata": self.store + ".backfill",
             "backing": "nbd+unix:///?socket=/none",
             "size": self.size, "granule": self.granule, "local": local,
             "absent": self.size - local, "source": "connected",
             "complete": self.local_all, "detached": self.detached,
             "read-only": False,
             "stats": {k: 1 for k in (
                 "bytes-fetched", "demand-fetches", "ahead-fetches",
                 "background-fetches", "guest-reads", "guest-writes",
                 "flushes", "commits")},
             "job": self.job.object() if self.job else None}
        return d


class Job:
    def __init__(self, disk, args):
        self.disk = disk
        self.offset = args.get("offset", 0)
        self.length = args.get("length", 0) or disk.size - self.offset
        self.speed = args.get("speed", 0)
        self.sparse = args.get("sparse", True)
        self.on_error = args.get("on-error", "report")
        self.start = time.monotonic()
        self.status, self.type, self.error = "created", "bounded", None
        self.paused_at = None
        self.paused_for = 0.0

    def done(self):
        if self.type == "completed":
            return self.length
        now = self.paused_at or time.monotonic()
        part = ((now - self.start - self.paused_for) * 1000
                / max(1, self.disk.job_ms))
        return min(self.length, int(self.length * min(part, 0.99)))

    def object(self):
        done = self.done()
        d = {"device": self.disk.name, "type": "allocate", "len": self.length,
             "offset": done, "busy": self.status == "running",
             "paused": self.status == "paused", "ready": False,
             "speed": self.speed, "io-status": "ok", "status": self.status,
             "auto-finalize": True, "auto-dismiss": False,
             "job-type": self.type,
             "result": "none" if self.type == "bounded" else self.type,
             "pause-reason": "user" if self.status == "paused" else "none",
             "range-offset": self.offset, "range-length": self.length,
             "total": self.length, "processed": done,
             "remaining": self.length - done, "local-at-start": 0,
             "time-elapsed": int((time.monotonic() - self.start) * 1000),
             "time-remaining": 1000 if self.type == "bounded" else 0,
             "bytes-read": done, "current-speed": 123456789,
             "sparse": self.sparse, "on-error": self.on_error,
             "failed-ranges": 0, "errno": 5 if self.error else 0}
        if self.error:
            d["error"] = self.error
            d["errno-name"] = "EIO"
            d["failed-offset"] = self.offset + done
        return d


class Server:
    def __init__(self, options):
        self.options = options
        self.mode = options.mode
        self.lock = threading.RLock()
        self.sessions = []
        self.disks = []
        self.total_speed = 0
        for spec in options.disk or ["=" + os.path.abspath("store.img")]:
            name, _, store = spec.partition("=")
            self.disks.append(Disk(name, store, options))

    def register(self, directory):
        own = os.path.join(directory, "p-%08x" % os.getpid())
        os.makedirs(own, exist_ok=True)
        for d in self.disks:
            st = os.stat(d.store)
            path = os.path.join(own, "%x-%x.volume" % (st.st_dev, st.st_ino))
            with open(path, "w") as f:
                f.write("store %s\ncontrol %s\npid %d\nname %s\n" % (
                    d.store, os.path.abspath(self.options.socket),
                    os.getpid(), d.name))

    def find(self, args):
        name = args.get("device")
        if name is None:
            if len(self.disks) == 1:
                return self.disks[0]
            raise Refusal("GenericError", "Parameter 'device' is missing", 22)
        for d in self.disks:
            if name in (d.name, d.store):
                return d
        raise Refusal("DeviceNotFound", "no disk is named '%s'" % name, 19)

    def event(self, name, **data):
        now = time.time()
        message = {"event": name, "data": data, "timestamp": {
            "seconds": int(now), "microseconds": int(now % 1 * 1e6)}}
        for s in list(self.sessions):
            s.send(message)

    def status(self, job, status):
        job.status = status
        self.event("JOB_STATUS_CHANGE", id=job.disk.name,
                   device=job.disk.name, status=status)

    def finish(self, job, kind, error=None):
        with self.lock:
            if job.type != "bounded":
                return
            done = job.done()
            job.type, job.error = kind, error
            if kind == "completed":
                job.disk.local_all = done = True
                done = job.length
            name = ("BLOCK_JOB_CANCELLED" if kind == "cancelled"
                    else "BLOCK_JOB_COMPLETED")
            extra = {"error": error} if error else {}
            self.event(name, device=job.disk.name, type="allocate",
                       len=job.length, offset=done, speed=job.speed, **extra)
            self.status(job, "concluded")
            if self.mode == "dismissed":
                job.disk.job = None

    def run_job(self, job):
        while job.type == "bounded":
            time.sleep(0.005)
            with self.lock:
                late = ((time.monotonic() - job.start - job.paused_for) * 1000
                        >= job.disk.job_ms)
                if job.status == "paused" or not late:
                    continue
                if self.mode == "stop-JOB":
                    os._exit(0)
                end = job.disk.end
                if end == "ok":
                    self.finish(job, "completed")
                elif end == "fail":
                    self.finish(job, "failed",
                                "reading at offset 4096: Input/output error")
                else:
                    self.finish(job, "cancelled")

    def active(self, args):
        d = self.find(args)
        if d.job is None or d.job.type != "bounded":
            raise Refusal("DeviceNotActive",
                          "disk '%s' has no job in progress" % d.name, 3)
        return d.job

    def execute(self, name, args):
        if name == "query-version":
            return GREETING["QMP"]["version"]
        if name == "query-disks":
            if "device" in args:
                return [self.find(args).object()]
            return [d.object() for d in self.disks]
        if name == "query-block-jobs":
            disks = [self.find(args)] if "device" in args else self.disks
            return [d.job.object() for d in disks if d.job]
        if name == "block-allocate":
            d = self.find(args)
            if d.job and d.job.type == "bounded":
                raise Refusal("GenericError", "disk '%s' has a job already"
                              % d.name, 16)
            if args.get("offset", 0) > d.size:
                raise Refusal("GenericError", "the range is outside of disk "
                              "'%s'" % d.name, 22)
            d.job = Job(d, args)
            self.status(d.job, "created")
            self.status(d.job, "running")
            threading.Thread(target=self.run_job, args=(d.job,),
                             daemon=True).start()
            return {}
        if name == "block-job-set-speed":
            self.active(args).speed = args["speed"]
            return {}
        if name == "block-job-pause":
            job = self.active(args)
            if job.status == "paused":
                raise Refusal("GenericError", "the job is paused already", 114)
            job.paused_at = time.monotonic()
            self.status(job, "paused")
            return {}
        if name == "block-job-resume":
            job = self.active(args)
            if job.status != "paused":
                raise Refusal("GenericError", "the job is not paused", 114)
            job.paused_for += time.monotonic() - job.paused_at
            job.paused_at = None
            self.status(job, "running")
            return {}
        if name == "block-job-cancel":
            self.finish(self.active(args), "cancelled")
            return {}
        if name == "block-job-dismiss":
            d = self.find(args)
            if d.job is None:
                raise Refusal("DeviceNotActive", "disk '%s' has no job"
                              % d.name, 3)
            self.status(d.job, "null")
            d.job = None
            return {}
        if name == "query-allocation-map":
            return self.map(self.find(args), args)
        if name == "disk-flush":
            self.find(args)
            return {}
        if name == "disk-detach":
            d = self.find(args)
            if not d.local_all:
                raise Refusal("GenericError", "%d bytes of disk '%s' are "
                              "absent: allocate it first"
                              % (d.size - d.local(), d.name), 16)
            d.detached = True
            return {}
        if name == "query-total-speed":
            return {"speed": self.total_speed}
        if name == "set-total-speed":
            self.total_speed = args["speed"]
            return {}
        if name == "quit":
            threading.Timer(0.05, os._exit, (0,)).start()
            return {}
        raise Refusal("CommandNotFound", "The command %s has not been found"
                      % name, 95)

    def map(self, d, args):
        offset = args.get("offset", 0)
        end = offset + args.get("length", 0)
        end = d.size if end == offset else min(end, d.size)
        # Pages as a server's that has little room.
        limit = min(args.get("max-regions", 1000), 4000)
        states = args.get("states", False)
        packed = args.get("packed", False)
        out, after = [], None
        if not hasattr(d, "cached") or d.cached[0] != d.local_all:
            d.cached = (d.local_all, list(d.regions()))
        regions = d.cached[1]
        step = regions[0][1] if regions else 0
        first = min(offset // step, len(regions) - 1) if step else 0
        for o, l, s in regions[first:]:
            e = min(o + l, end)
            o = max(o, offset)
            if o >= e or (not states and not packed and s == "absent"):
                if o >= end:
                    break
                continue
            if len(out) == limit:
                after = o
                break
            r = {"offset": o, "length": e - o}
            if states or packed:
                r["state"] = s
            out.append(r)
        m = {"size": d.size, "granule": d.granule}
        # Both forms are answers that a client must be ready for.
        if packed and self.mode != "map-order":
            m["packed"] = "".join("%s%d" % (r["state"][0], r["length"])
                                  for r in out)
        else:
            m["regions"] = out
        if after is not None:
            m["next"] = after
        if self.mode == "map-loop":
            m["next"] = offset
        if self.mode == "map-order":
            out.append({"offset": 0, "length": 4096, "state": "local"})
            out.append({"offset": 0, "length": 4096, "state": "local"})
        return m


class Session:
    def __init__(self, server, sock):
        self.server, self.sock = server, sock
        self.negotiated = False
        self.lock = threading.Lock()

    def raw(self, data):
        with self.lock:
            self.sock.sendall(data)

    def send(self, message):
        try:
            self.raw(json.dumps(message).encode() + b"\r\n")
        except OSError:
            self.close()

    def close(self):
        if self in self.server.sessions:
            self.server.sessions.remove(self)
        try:
            self.sock.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass

    def wreck(self, value, ident):
        """Answer wrongly.  False: this mode answers rightly here."""
        mode = self.server.mode
        good = json.dumps({"return": value, "id": ident}).encode() + b"\r\n"
        if mode == "hang":
            pass
        elif mode == "garbage":
            self.raw(b"\x00\xff<html>this is not JSON</html>]}\r\n")
        elif mode == "half":
            self.raw(good[:len(good) // 2])
        elif mode == "drop":
            self.close()
        elif mode == "half-drop":
            self.raw(good[:len(good) // 2])
            self.close()
        elif mode == "huge":
            self.raw(b'{"return": "' + b"x" * (8 << 20) + b'"}\r\n')
        elif mode == "deep":
            self.raw(b'{"return": ' + b"[" * 100000 + b"]" * 100000 + b"}\r\n")
        elif mode == "wrong-id":
            self.send({"return": value, "id": "another"})
        elif mode == "no-return":
            self.send({"id": ident})
        elif mode == "wrong-types":
            wrong = {"size": "big", "regions": 7, "name": 5, "job-type": 1}
            self.send({"return": [wrong] if isinstance(value, list) else wrong,
                       "id": ident})
        elif mode == "bad-sum" and isinstance(value, list) and value:
            for v in value:
                if "local" in v:
                    v["local"] += 1
                elif "total" in v:
                    v["total"] += 1
            self.send({"return": value, "id": ident})
        elif mode == "flood":
            while True:
                self.raw(b'{"event": "X", "data": {}, "timestamp": '
                         b'{"seconds": 1, "microseconds": 1}}\r\n' * 100)
        else:
            return False
        return True

    def command(self, message):
        server, ident = self.server, message.get("id")
        name = message["execute"]
        if not self.negotiated:
            self.negotiated = name == "qmp_capabilities"
            self.send({"return": {}, "id": ident})
            with server.lock:
                server.sessions.append(self)
            return
        with server.lock:
            try:
                value = server.execute(name, message.get("arguments", {}))
            except Refusal as e:
                self.send({"error": {"class": e.args[0], "desc": e.args[1],
                                     "errno": e.args[2]}, "id": ident})
                return
        if not self.wreck(value, ident):
            self.send({"return": value, "id": ident})

    def run(self):
        mode = self.server.mode
        try:
            if mode == "silent":
                time.sleep(3600)
            if mode == "garbage-first":
                self.raw(b"220 mail.example.com ESMTP\r\n")
                time.sleep(3600)
            self.send({"hello": 1} if mode == "no-qmp" else GREETING)
            decoder, text = json.JSONDecoder(), ""
            while True:
                data = self.sock.recv(65536)
                if not data:
                    break
                text += data.decode()
                while text.lstrip():
                    text = text.lstrip()
                    try:
                        message, used = decoder.raw_decode(text)
                    except ValueError:
                        break
                    text = text[used:]
                    self.command(message)
        except OSError:
            pass
        self.close()
        self.sock.close()


def main():
    p = argparse.ArgumentParser()
    p.add_argument("socket")
    p.add_argument("mode", nargs="?", default="good")
    p.add_argument("--disk", action="append")
    p.add_argument("--size", type=int, default=1 << 30)
    p.add_argument("--regions", type=int, default=8)
    p.add_argument("--register")
    p.add_argument("--job-ms", type=int, default=300)
    p.add_argument("--end", choices=("ok", "fail", "abort"), default="ok")
    p.add_argument("--as", dest="user", type=int, default=os.getuid())
    options = p.parse_args()
    server = Server(options)
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(options.socket)
    # Whoever has it listen is who is at the other end.
    os.seteuid(options.user)
    listener.listen(64)
    os.seteuid(os.getuid())
    if options.register:
        server.register(options.register)
    print("ready", flush=True)
    while True:
        sock, _ = listener.accept()
        threading.Thread(target=Session(server, sock).run,
                         daemon=True).start()


if __name__ == "__main__":
    sys.exit(main())
