#!/usr/bin/python3
"""What comes between the opening of a volume and the first client: the address
is taken, the user changes, a signal meets the parent of --run.  The volume is
left closed, or served.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import glob
import os
import pwd
import subprocess

from locallib import *

SIZE = 4 << 20


def left(run):
    return [f for f in glob.glob(run + "/**/*", recursive=True)
            if not os.path.isdir(f)]


def nbdkit(d, *args, **kw):
    return subprocess.run([NBDKIT, *args], stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, timeout=LONG,
                          env={**os.environ, **sanitizer_env()}, **kw)


def is_closed(path):
    text = cli("check", path).stdout
    assert "not closed" not in text, text


def test_an_address_in_use_leaves_nothing_open(d):
    with socket.socket(socket.AF_UNIX) as taken:
        taken.bind(d("taken"))
        taken.listen()
        path = d("disk")
        for options in ((), ("-f",)):
            for args in (("size=%d" % SIZE,), (), ("readonly=on",)):
                r = nbdkit(d, *options, "-U", d("taken"), PLUGIN, path,
                           "runtime-dir=" + d.run, *args)
                assert r.returncode == 1, r
                assert "in use" in r.stdout, r.stdout
                assert not left(d.run), left(d.run)
                is_closed(path)
        # What a killed server left is still there.
        s = Server(d, path)
        h = s.nbd()
        h.pwrite(pattern(1, 0, 8192), 0)
        h.zero(4096, 65536)
        s.kill()
        for i in range(2):
            r = nbdkit(d, "-U", d("taken"), PLUGIN, path,
                       "runtime-dir=" + d.run)
            assert r.returncode == 1, r
    s = Server(d, path)
    same(bytes(s.nbd().pread(8192, 0)), pattern(1, 0, 8192))
    s.stop()
    is_closed(path)
    assert not [f for f in left(d.run) if f.endswith(".work")], left(d.run)


def test_a_signal_to_the_parent_of_run(d):
    path = d("disk")
    with open(d("client"), "w") as f:
        f.write("import nbd, os, sys, time\n"
                "h = nbd.NBD()\n"
                "h.connect_uri(sys.argv[1])\n"
                "h.pwrite(b'x' * 4096, 0)\n"
                "open(%r, 'w').close()\n"
                "while not os.path.exists(%r):\n"
                "    time.sleep(0.1)\n" % (d("up"), d("go")))
    p = Process(d, [NBDKIT, "-U", "-", PLUGIN, path, "size=%d" % SIZE,
                    "runtime-dir=" + d.run, "--run",
                    '/usr/bin/python3 %s "$uri"' % d("client")],
                "run", env=sanitizer_env())
    wait_for("the command runs", lambda: os.path.exists(d("up")))
    os.kill(p.pid, signal.SIGTERM)
    time.sleep(0.3)
    open(d("go"), "w").close()
    p.process.wait(LONG)
    assert "Assertion" not in p.text(), p.text()
    # The child ends after its parent has told it to.
    wait_for("nothing is left", lambda: not left(d.run))
    is_closed(path)
    s = Server(d, path)
    same(bytes(s.nbd().pread(4096, 0)), b"x" * 4096)
    s.stop()


def test_another_user(d):
    need_root()
    os.chmod(d.path, 0o755)
    os.chmod(d.run, 0o1777)
    user = pwd.getpwuid(65534).pw_name
    data = make_golden(d("golden"), SIZE)
    source = Source(d, d("golden"))
    # Whom a sidecar belongs to must be able to reach what it names.
    os.chmod(source.socket, 0o777)
    path = d("disk")
    sock = d.make("socket") + "/s"
    pid = d("socket/pid")
    os.chown(os.path.dirname(sock), 65534, 65534)

    def start(option, *args):
        if os.path.exists(pid):
            os.unlink(pid)
        p = Process(d, [NBDKIT, "-f", "-P", pid, "-U", sock, *option, PLUGIN,
                        path, "runtime-dir=" + d.run, *args], "as-user",
                    env=sanitizer_env())
        wait_for("it starts", lambda: not p.alive() or (
            os.path.exists(pid) and os.path.getsize(pid) > 0))
        assert p.alive(), p.text()
        return p

    env = {**os.environ, "BACKFILL_RUNTIME_DIR": d.run}

    def backfill(*args):
        return cli(*args, env=env)

    p = start(("-u", user), "backing=" + source.uri)
    # Its pid is written before it is ready.
    wait_for("it is listed",
             lambda: path in backfill("list").stdout)
    for f in left(d.run):
        assert os.stat(f).st_uid == 65534, f
    h = nbd.NBD()
    h.connect_unix(sock)
    h.pwrite(pattern(3, 4096, 10000), 4096)
    want = data[:4096] + pattern(3, 4096, 10000) + data[14096:]
    # SIGKILL: root begins the next one, too, and recovers it.
    p.kill()
    os.unlink(sock)
    p = start(("--user=" + user,))
    h = nbd.NBD()
    h.connect_unix(sock)
    same(bytes(h.pread(SIZE, 0)), want)
    wait_for("it is listed", lambda: path in backfill("list").stdout)
    r = backfill("allocate", "--wait", "--quiet", path)
    assert r.returncode == 0, r
    assert '"complete": true' in backfill("info", "--json", path).stdout
    h.shutdown()
    p.stop()
    # The killed one's directory goes when the next one comes.
    assert all(f.endswith("/lock") for f in left(d.run)), left(d.run)
    is_closed(path)

    r = nbdkit(d, "-f", "-u", user, "-U", sock, PLUGIN, d("other"),
               "runtime-dir=" + d.run, "backing=[ cat /dev/null ]")
    assert r.returncode == 1 and "-u" in r.stdout \
        and "start nbdkit as that user" in r.stdout, r
    assert not left(d.run), left(d.run)
    assert not os.path.exists(d("other"))


if __name__ == "__main__":
    main(globals())
