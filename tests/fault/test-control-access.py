#!/usr/bin/python3
"""Who may use the control socket (G36), and commands whose client or server
dies (G37): done and durable, or not done.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import json
import os
import random
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time

from locallib import *

SIZE = (8 << 20) + 1536
NOBODY = 65534

ASK = r"""
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.settimeout(60)
try:
    s.connect(sys.argv[1])
    s.send(b'{"execute": "qmp_capabilities"}{"execute": "query-disks"}')
    text = b""
    while text.count(b"\n") < 3:
        piece = s.recv(65536)
        if not piece:
            break
        text += piece
    print(len(text))
except OSError as e:
    print(e.strerror)
"""


def ask_as(path, uid, gid=None):
    """What another user gets: "refused" by the file's mode, "nothing" from
    the server, or "served"."""
    gid = uid if gid is None else gid
    r = subprocess.run(["setpriv", "--reuid=%d" % uid, "--regid=%d" % gid,
                        "--clear-groups", sys.executable, "-c", ASK, path],
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       text=True, timeout=LONG, cwd="/")
    out = r.stdout.strip()
    if out == "Permission denied":
        return "refused"
    if out in ("0", "Connection reset by peer", "Broken pipe"):
        return "nothing"
    assert out.isdigit() and int(out) > 300, r
    return "served"


def server(d, *args, **kw):
    as_nobody()  # can it be tested here?
    return Server(d, d("disk"), "size=1M", *args, **kw)


def test_by_default_only_our_user_and_root_are_served(d):
    s = server(d)
    st = os.stat(s.control)
    assert stat.S_IMODE(st.st_mode) == 0o600 and st.st_uid == 0, st
    assert ask_as(s.control, NOBODY) == "refused"
    # Whoever gets past the mode is asked who he is.
    os.chmod(s.control, 0o777)
    assert ask_as(s.control, NOBODY) == "nothing"
    assert ask_as(s.control, 12345) == "nothing"
    assert ask_as(s.control, 0) == "served"
    assert s.ask("query-version")
    s.stop()
    assert not os.path.exists(s.control)


def test_umask_opens_nothing(d):
    s = server(d, wrap=("sh", "-c", 'umask 0; exec "$@"', "sh"))
    assert stat.S_IMODE(os.stat(s.control).st_mode) == 0o600
    assert ask_as(s.control, NOBODY) == "refused"
    for f in (d("disk"), d("disk.backfill")):
        assert not stat.S_IMODE(os.stat(f).st_mode) & 0o077, f
    for f in os.listdir(d.run):
        assert not os.stat(os.path.join(d.run, f)).st_mode & 0o022, f
    s.stop()


def test_control_mode_lets_others_in(d):
    s = server(d, "control-mode=0666")
    assert stat.S_IMODE(os.stat(s.control).st_mode) == 0o666
    assert ask_as(s.control, NOBODY) == "served"
    s.stop()


def test_control_user_lets_that_user_in(d):
    for user in ("nobody", str(NOBODY)):
        s = server(d, "control-user=" + user)
        st = os.stat(s.control)
        assert st.st_uid == NOBODY and stat.S_IMODE(st.st_mode) == 0o600
        assert ask_as(s.control, NOBODY) == "served"
        assert ask_as(s.control, 12345) == "refused"
        assert s.ask("query-version")
        os.chmod(s.control, 0o777)
        assert ask_as(s.control, 12345) == "nothing"
        s.stop()


def test_control_group_lets_that_group_in(d):
    for group in ("nogroup", "4242"):
        gid = 4242 if group == "4242" else NOBODY
        s = server(d, "control-group=" + group, "control-mode=0660")
        st = os.stat(s.control)
        assert st.st_gid == gid and stat.S_IMODE(st.st_mode) == 0o660
        assert ask_as(s.control, 12345, gid) == "served"
        assert ask_as(s.control, 12345, 12345) == "refused"
        s.stop()


def test_a_user_group_or_mode_that_does_not_exist_is_refused(d):
    for key, value in (("control-user", "no-such-user"),
                       ("control-group", "no-such-group"),
                       ("control-mode", "0888"), ("control-mode", "rw")):
        refused(d, d("disk"), "size=1M", key + "=" + value,
                words=[key + "=" + value])
    assert not os.path.exists(d("disk"))


def test_a_server_of_another_user_serves_that_user_and_root(d):
    nobody = as_nobody()
    shutil.copy(PLUGIN, d("plugin.so"))
    os.chmod(d.path, 0o777)
    run = d.make("nobody-run")
    os.chown(run, NOBODY, NOBODY)
    try:
        s = Server(d, d("theirs"), "size=1M", wrap=nobody, run=run,
                   plugin=d("plugin.so"))
    except Refused as e:
        raise Skip("nobody cannot run it: " + e.text)
    assert s.ask("query-version")
    assert ask_as(s.control, NOBODY) == "served"
    os.chmod(s.control, 0o777)
    assert ask_as(s.control, 12345) == "nothing"
    s.stop()


def test_what_is_in_the_sockets_place_is_not_taken_away(d):
    s = Server(d, d("disk"), "size=1M")
    live = s.control
    q = s.qmp()
    # One that is served.
    argv = (d("other"), "size=1M", "control=" + live)
    refused(d, *argv, words=[live, s.pid], control=False)
    assert q.ask("query-version")
    # Anything that is no socket.
    for name, make in (("file", lambda p: open(p, "w").close()),
                       ("folder", os.mkdir),
                       ("link", lambda p: os.symlink(live, p)),
                       ("dangling", lambda p: os.symlink(d("nothing"), p))):
        make(d(name))
        before = snapshot(d(name))
        refused(d, d("other"), "size=1M", "control=" + d(name),
                words=[d(name)], control=False)
        assert snapshot(d(name)) == before
    assert not os.path.exists(d("nothing"))
    q.close()
    # What a killed process left is replaced.
    s.kill()
    assert os.path.exists(live)
    t = Server(d, d("disk"), "control=" + live, control=False)
    wait_for("it is served", lambda: os.path.exists(live))
    with Control(live) as q:
        assert q.negotiate().ask("query-version")
    t.stop()
    assert not os.path.exists(live)


def test_control_off_there_is_none(d):
    s = Server(d, d("disk"), "size=1M", "control=off", control=False)
    h = s.nbd()
    h.pwrite(bytes(512), 0)
    assert not in_run(d.run, "control")
    s.stop()


def test_what_strangers_leave_in_the_runtime_directory_is_in_nobodys_way(d):
    """Names that a server could want, of any kind, and of any process."""
    need_root()
    os.chmod(d.run, 0o1777)
    with open(d("victim"), "w") as f:
        f.write("untouched")
    s = Server(d, d("disk"), "size=1M", control=False)
    [entry] = in_run(d.run, ".volume")
    work = in_run(d.run, ".work")
    s.stop()
    assert not os.listdir(d.run)
    names = [os.path.basename(f) for f in [entry, *work]] + [
        "p-%08x" % i for i in range(64)] + [
        os.path.basename(os.path.dirname(entry)), "lock", "control"]
    for i, name in enumerate(names):
        path = os.path.join(d.run, name)
        if i % 3 == 0:
            os.symlink(d("victim"), path)
        elif i % 3 == 1:
            os.mkdir(path, 0o777)
        else:
            os.mkfifo(path)
        os.lchown(path, NOBODY, NOBODY)
    s = Server(d, d("disk"), control=False)
    s.nbd().pwrite(bytes(512), 0)
    r = cli("info", d("disk"), env={**os.environ,
                                    "BACKFILL_RUNTIME_DIR": d.run})
    assert r.returncode == 0, r
    assert len(in_run(d.run, ".volume")) == 1
    s.stop()
    with open(d("victim")) as f:
        assert f.read() == "untouched"
    assert not in_run(d.run, ".volume")


# --- G37 -------------------------------------------------------------------

def volume(d):
    data = make_golden(d("golden"), SIZE)
    return Source(d, d("golden")), data


def send_and_die(s, command, **args):
    """No answer is waited for, nor is the socket read."""
    q = Control(s.control)
    q.send(json.dumps({"execute": "qmp_capabilities"}).encode()
           + json.dumps({"execute": command, "arguments": args}).encode())
    return q


def die(q, rng):
    time.sleep(rng.random() * 0.01)
    if rng.randrange(2):
        q.s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER,
                       struct.pack("ii", 1, 0))
    q.close()


def defined(job):
    """A job's state that makes sense in itself."""
    if job is None:
        return
    assert job["status"] in ("created", "running", "paused", "waiting",
                             "aborting", "concluded"), job
    assert job["total"] == job["processed"] + job["remaining"], job
    assert (job["status"] == "concluded") == (job["result"] != "none"), job
    assert job["paused"] == (job["status"] == "paused"), job


def test_a_client_that_dies_in_a_command_leaves_a_defined_state(d):
    source, data = volume(d)
    rng = random.Random(8)
    s = Server(d, d("disk"), "backing=" + source.uri)
    h = s.nbd()
    for i in range(120):
        command, args = rng.choice((
            ("block-allocate", {"speed": 100000}),
            ("block-allocate", {"speed": 100000}),
            ("block-job-cancel", {"device": ""}),
            ("block-job-pause", {"device": ""}),
            ("block-job-resume", {"device": ""}),
            ("block-job-dismiss", {"device": ""}),
            ("block-job-set-speed", {"device": "", "speed": 200000}),
            ("disk-flush", {}), ("disk-detach", {}),
            ("query-allocation-map", {"states": True})))
        die(send_and_die(s, command, **args), rng)
        [o] = s.ask("query-disks")
        defined(o["job"])
        if i % 10 == 9:
            same(h.pread(70000, i * 60000), data[i * 60000:][:70000])
    s.ask("query-version")
    s.kill()
    s = Server(d, d("disk"))
    defined(s.info()["job"])
    same(s.nbd().pread(SIZE, 0), data)
    s.stop()


def test_a_command_that_was_answered_outlives_the_server(d):
    source, data = volume(d)
    b = "backing=" + source.uri
    s = Server(d, d("disk"), b)

    def again():
        s.kill()
        t = Server(d, d("disk"), b)
        job = t.info()["job"]
        defined(job)
        return t, job
    s.ask("block-allocate", offset=4096, length=SIZE - 8192, speed=50000,
          sparse=False, on_error="skip", retry=5000)
    s, job = again()
    assert job["range-offset"] == 4096, job
    assert job["range-length"] == SIZE - 8192 and job["speed"] == 50000, job
    assert not job["sparse"] and job["on-error"] == "skip", job
    assert job["result"] == "none", job
    s.ask("block-job-set-speed", device="", speed=60000)
    s, job = again()
    assert job["speed"] == 60000, job
    s.ask("block-job-pause", device="")
    s, job = again()
    assert wait_job(s, "paused")["pause-reason"] == "user"
    s.ask("block-job-resume", device="")
    s, job = again()
    assert not job["paused"], job
    before = s.info()["local"]
    s.ask("block-job-cancel", device="")
    s, job = again()
    assert job["status"] == "concluded" and job["result"] == "cancelled", job
    assert s.info()["local"] >= before
    s.ask("block-job-dismiss", device="")
    s, job = again()
    assert job is None, job
    s.ask("block-allocate")
    assert wait_job(s, "concluded")["result"] == "completed"
    s, job = again()
    assert job["result"] == "completed" and job["remaining"] == 0, job
    assert s.info()["complete"]
    s.ask("disk-detach")
    s, job = again()
    assert s.info()["complete"] and s.info()["detached"]
    same(s.nbd().pread(SIZE, 0), data)
    s.stop()
    assert not os.path.exists(d("disk.backfill"))
    with open(d("disk"), "rb") as f:
        same(f.read(), data)


def test_a_server_killed_in_a_command_has_done_it_or_not(d):
    source, data = volume(d)
    b = "backing=" + source.uri
    rng = random.Random(9)
    s = Server(d, d("disk"), b)
    speed = None
    local = 0
    for i in range(25):
        [o] = s.ask("query-disks")
        assert o["local"] >= local, "what was local is not: %s" % o
        job = o["job"]
        command, args = rng.choice((
            ("block-allocate", {"speed": 30000 + i}),
            ("block-job-set-speed", {"device": "", "speed": 30000 + i}),
            ("block-job-pause", {"device": ""}),
            ("block-job-resume", {"device": ""}),
            ("block-job-cancel", {"device": ""}),
            ("block-job-dismiss", {"device": ""})))
        q = send_and_die(s, command, **args)
        time.sleep(rng.random() * 0.004)
        local = s.info()["local"] if i % 2 else o["local"]
        s.kill()
        q.close()
        s = Server(d, d("disk"), b)
        now = s.info()["job"]
        defined(now)
        old = job or {"status": "none", "result": "none", "speed": None}
        new = now or {"status": "none", "result": "none", "speed": None}
        # Before, or after.
        if command == "block-allocate":
            assert new["speed"] in (old["speed"], 30000 + i), (old, new)
        elif command == "block-job-set-speed":
            assert new["speed"] in (old["speed"], 30000 + i), (old, new)
        elif command == "block-job-cancel":
            assert new["result"] in (old["result"], "cancelled"), (old, new)
        elif command == "block-job-dismiss":
            assert new["result"] in (old["result"], "none"), (old, new)
        else:
            assert new["result"] == old["result"], (old, new)
    same(s.nbd().pread(SIZE, 0), data)
    s.kill()


def test_progress_never_goes_back_by_more_than_a_checkpoint(d):
    source, data = volume(d)
    s = Server(d, d("disk"), "backing=" + source.uri, "allocate=on",
               "speed=1M")
    last = {"processed": 0, "bytes-read": 0, "time-elapsed": 0}
    for i in range(6):
        end = time.monotonic() + 0.6
        while time.monotonic() < end:
            job = s.info()["job"]
            defined(job)
            for k in ("processed", "time-elapsed"):
                assert job[k] >= last[k], (k, job[k], last[k])
                last[k] = job[k]
        s.kill()
        s = Server(d, d("disk"))
        job = s.info()["job"]
        # The map has it all; the clock may be one record behind.
        assert job["processed"] >= last["processed"], (job, last)
        assert job["time-elapsed"] >= last["time-elapsed"] - 6000, (job, last)
        last["time-elapsed"] = job["time-elapsed"]
    try:
        s.ask("block-job-set-speed", device="", speed=0)
    except QmpError as e:  # a slow machine: it has ended
        assert e.name == "ESRCH", e
    job = wait_job(s, "concluded")
    assert job["result"] == "completed" and job["processed"] == SIZE, job
    s.stop()


if __name__ == "__main__":
    main(globals())
