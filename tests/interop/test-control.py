#!/usr/bin/python3
"""The control socket as QMP's tools use it: no newlines, a stream of JSON, in
pieces or all at once; negotiation, jobs, events to all clients; socat and jq.
Where qemu-storage-daemon is there the same messages go to it, and the answers
must be alike.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

from stream import LONG, Stream
from wait import wait_for

NBDKIT = os.environ["NBDKIT"]
PLUGIN = os.environ["BACKFILL_PLUGIN"]
MIB = 1 << 20
running = []


def start(path, *command):
    log = open(path + ".err", "w")
    p = subprocess.Popen(command, stderr=log)
    running.append(p)
    wait_for("a server starts", lambda: os.path.exists(path)
             or p.poll() is not None)
    assert p.poll() is None, "a server did not start"
    return p


def nbdkit(d, name, *args):
    return start(os.path.join(d, name + ".sock"), NBDKIT, "-f", "-U",
                 os.path.join(d, name + ".sock"), *args)


def read_raw(s, values):
    """So many values, and the bytes that they came in."""
    raw, text, out = b"", "", []
    s.settimeout(LONG)
    while len(out) < values:
        more = s.recv(65536)
        assert more, "closed"
        raw += more
        text += more.decode("ascii")
        while True:
            text = text.lstrip()
            try:
                v, end = json.JSONDecoder().raw_decode(text)
            except json.JSONDecodeError:
                break
            text = text[end:]
            out.append(v)
    return out, raw


def connect(path):
    s = socket.socket(socket.AF_UNIX)
    s.connect(path)
    return s


def shape(answer):
    """What QEMU's and ours must have in common."""
    if "error" in answer:
        assert isinstance(answer["error"]["desc"], str)
        return ("error", answer["error"]["class"], answer.get("id", "none"))
    return ("return", answer.get("id", "none"))


CONVERSATION = [
    b'{"execute":"query-version"}',
    b'{"execute":"qmp_capabilities","id":1}',
    b'{"execute":"qmp_capabilities","id":2}',
    b'{"execute":"query-version","id":{"any":["thing",null,1.5,"\\u00e9"]}}',
    b'{"execute":"query-block-jobs","id":""}',
    b'{"execute":"no-such-command","id":3}',
    b'{"execute":"query-version","arguments":{},"id":4}',
    b'{"execute":"query-version","arguments":{"bogus":1},"id":5}',
    b'{"execute":"block-job-set-speed","arguments":{"device":"x"},"id":6}',
    b'{"execute":"block-job-set-speed","arguments":'
    b'{"device":"x","speed":"fast"},"id":7}',
    b'{"execute":"block-job-set-speed","arguments":'
    b'{"device":"x","speed":1,"more":2},"id":8}',
    b'{"id":9}',
    b'{"execute":"query-version","bogus":1,"id":10}',
    b'{"execute":5,"id":11}',
    b'{"execute":"query-version","arguments":[],"id":12}',
    b'[]',
    b'{"execute": }\n',
    b'{"execute":"query-version","id":13}',
]


def test_shape(path, other):
    """The same conversation: each message on its own, all in one piece, and
    byte by byte."""
    def converse(p, how):
        s = connect(p)
        [greeting], raw = read_raw(s, 1)
        # QMP lets servers add members: ours is "process".
        assert set(greeting["QMP"]) - {"process"} == {"version",
                                                      "capabilities"}
        qemu = greeting["QMP"]["version"]["qemu"]
        assert all(isinstance(qemu[k], int)
                   for k in ("major", "minor", "micro"))
        answers, allraw = [], raw
        if how == "each":
            for message in CONVERSATION:
                s.sendall(message)
                out, raw = read_raw(s, 1)
                answers += out
                allraw += raw
        else:
            stream = b"".join(CONVERSATION)
            if how == "bytes":
                for i in range(len(stream)):
                    s.sendall(stream[i:i + 1])
            else:
                s.sendall(stream)
            answers, raw = read_raw(s, len(CONVERSATION))
            allraw += raw
        s.close()
        # One line for each, with CR LF at its end.
        lines = allraw.split(b"\r\n")
        assert lines[-1] == b"" and len(lines) == len(CONVERSATION) + 2
        assert all(b"\n" not in li and b"\r" not in li for li in lines)
        return [shape(a) for a in answers]

    ours = converse(path, "each")
    assert converse(path, "all") == ours
    assert converse(path, "bytes") == ours
    if other is None:
        print("alone: in one piece, and byte by byte")
        return
    theirs = converse(other, "each")
    for message, a, b in zip(CONVERSATION, ours, theirs):
        assert a == b, "%s: %s, QEMU's %s" % (message.decode(), a, b)
    print("as QEMU's: in one piece, and byte by byte")


def test_job(path, store):
    a, b = Stream(path), Stream(path)
    late = Stream(path, negotiate=False)
    [disk] = a.run("query-disks", device="vda")
    size = disk["size"]
    assert disk["local"] == 0 and disk["absent"] == size
    assert disk["job"] is None and disk["source"] == "connected"
    assert a.run("query-block-jobs") == []
    e = a.refused("DeviceNotActive", "block-job-pause", device="vda")
    assert e.error["errno-name"] == "ESRCH"
    a.refused("DeviceNotFound", "block-job-pause", device="nobody")
    a.refused("GenericError", "block-allocate", device="vda",
              offset=size + 1)
    a.refused("GenericError", "block-allocate", device="vda", speed=-1)

    # Slow at first; what else it is asked for meanwhile is answered.
    a.run("block-allocate", device="vda", speed=MIB)
    for q in (a, b):
        q.wait("JOB_STATUS_CHANGE", id="vda", status="running")
    e = b.refused("GenericError", "block-allocate", device="vda")
    assert "vda" in str(e) and e.error["errno-name"] == "EBUSY"
    [job] = b.run("query-block-jobs")
    assert job["type"] == "allocate" and job["speed"] == MIB
    assert job["len"] == size == job["offset"] + job["remaining"]
    assert job["status"] == "running" and job["busy"] and not job["paused"]
    # The store is as good as the name.
    assert b.run("query-block-jobs", device=store)[0]["device"] == "vda"

    b.run("block-job-pause", device="vda")
    for q in (a, b):
        q.wait("JOB_STATUS_CHANGE", id="vda", status="paused")
    e = a.refused("GenericError", "block-job-pause", device="vda")
    assert e.error["errno-name"] == "EALREADY"
    before = a.run("query-block-jobs")[0]["offset"]
    time.sleep(0.5)
    job = a.run("query-block-jobs")[0]
    # (What it had asked for may still come in.)
    assert job["paused"] and job["offset"] <= before + 16 * MIB < size
    a.run("block-job-resume", device="vda")
    for q in (a, b):
        q.wait("JOB_STATUS_CHANGE", id="vda", status="running")
    b.run("block-job-set-speed", device="vda", speed=2 * MIB)
    assert a.run("query-block-jobs")[0]["speed"] == 2 * MIB

    # Cancelled: what it did stays, and its record until it is dismissed.
    a.run("block-job-cancel", device="vda")
    for q in (a, b):
        q.wait("JOB_STATUS_CHANGE", id="vda", status="concluded")
        e = q.wait("BLOCK_JOB_CANCELLED", device="vda")
        assert {"type", "len", "offset", "speed"} <= set(e["data"])
    [job] = a.run("query-block-jobs")
    assert job["result"] == "cancelled" and job["status"] == "concluded"
    a.refused("DeviceNotActive", "block-job-cancel", device="vda")
    a.run("block-job-dismiss", device="vda")
    b.wait("JOB_STATUS_CHANGE", id="vda", status="null")
    assert a.run("query-block-jobs") == []

    # To the end.
    number = b.start("block-allocate", device="vda")
    b.answer(number)
    for q in (a, b):
        e = q.wait("BLOCK_JOB_COMPLETED", device="vda")
        assert e["data"]["len"] == e["data"]["offset"] == size
        assert "error" not in e["data"]
        q.wait("DISK_LOCAL", device="vda")
    assert isinstance(e["timestamp"]["seconds"], int)
    [disk] = a.run("query-disks", device="vda")
    assert disk["local"] == size and disk["complete"]

    # Who has not negotiated has been told nothing.
    assert late.read(0.2) is None
    assert late.run("qmp_capabilities") == {}
    assert late.events == []
    for q in (a, b, late):
        q.close()
    print("a job, seen by two clients")


def test_map(path, size):
    """A map of many regions comes in pages, each below 256 KiB."""
    q = Stream(path)
    regions, offset, pages = [], 0, 0
    while offset is not None:
        page = q.run("query-allocation-map", device="many", offset=offset,
                     states=True, max_regions=300)
        regions += page["regions"]
        offset = page.get("next")
        pages += 1
    q.close()
    at = 0
    for r in regions:
        assert r["offset"] == at
        at += r["length"]
    assert at == size and pages > 3
    # Every second granule was written.
    assert sum(r["length"] for r in regions if r["state"] == "local") \
        == sum(r["length"] for r in regions if r["state"] == "absent") \
        == size // 2
    print("a map in %d pages" % pages)


def test_socat(path):
    """As the manual says; and without any newline."""
    if not shutil.which("socat") or not shutil.which("jq"):
        print("no socat or jq, left out")
        return
    r = subprocess.run(
        "printf '%%s' '{\"execute\":\"qmp_capabilities\"}' "
        "'{\"execute\":\"query-disks\",\"id\":1}' | "
        "socat -t 60 - UNIX-CONNECT:%s | "
        "jq -r 'select(.id == 1).return[].name'" % path,
        shell=True, stdout=subprocess.PIPE, text=True, timeout=LONG)
    assert r.stdout.split() == ["many", "vda"] and r.returncode == 0, r
    print("socat and jq")


def main():
    d = tempfile.mkdtemp(prefix="bfi-", dir="/tmp")
    os.environ["BACKFILL_RUNTIME_DIR"] = os.path.join(d, "run")
    try:
        run(d)
    finally:
        for p in running:
            p.kill()
            p.wait()
        shutil.rmtree(d)


def run(d):
    image = os.path.join(d, "golden")
    store = os.path.join(d, "vda.img")
    control = os.path.join(d, "control")
    with open(image, "wb") as f:
        f.write(os.urandom(48 * MIB))
    nbdkit(d, "source", "-r", "file", image)
    size = 16 * MIB
    with open(os.path.join(d, "small"), "wb") as f:
        f.truncate(size)
        f.write(b"x" * size)
    nbdkit(d, "small", "-r", "file", os.path.join(d, "small"))
    uri = "backing=nbd+unix:///?socket=" + d
    disk = nbdkit(
        d, "disk", PLUGIN, "control=" + control,
        "name=many", "store=" + os.path.join(d, "many.img"),
        uri + "/small.sock",
        "name=vda", "store=" + store, uri + "/source.sock")
    other = None
    if shutil.which("qemu-storage-daemon"):
        other = os.path.join(d, "qmp")
        start(other, "qemu-storage-daemon", "--chardev",
              "socket,id=c,path=%s,server=on,wait=off" % other,
              "--monitor", "chardev=c")
    test_shape(control, other)

    # A disk whose map is as scattered as can be.
    script = "".join("aio_write -q -P 1 %d 4096\n" % at
                     for at in range(0, size, 8192)) + "aio_flush\n"
    subprocess.run(["qemu-io", "-f", "raw",
                    "nbd+unix:///many?socket=%s/disk.sock" % d],
                   input=script, text=True, check=True,
                   stdout=subprocess.DEVNULL)
    test_map(control, size)
    test_socat(control)

    test_job(control, store)

    q = Stream(control)
    assert q.run("quit") == {}
    q.close()
    assert disk.wait(LONG) == 0
    running.remove(disk)
    print("quit")


if not shutil.which("qemu-io"):
    print("skipped: no qemu-io")
    sys.exit(77)
signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
main()
