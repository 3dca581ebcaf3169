#!/usr/bin/python3
"""Volumes that more than one user has to do with: what another's sidecar says is
not done, and whoever dies, the other recovers every acknowledged write.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import glob
import importlib.util
import os

from locallib import *

SIZE = 2 << 20
USER, OTHER = 65534, 65533


def place(d, uid):
    """A folder of that user, and a runtime directory for all."""
    need_root()
    os.chmod(d.path, 0o1777)
    os.chmod(d.run, 0o1777)
    for f in (d("golden"), d("source.sock")):
        if os.path.exists(f):
            os.chmod(f, 0o666)
    folder = d.make("of%d" % uid)
    os.chown(folder, uid, uid)
    return folder


def test_what_anothers_sidecar_names_is_not_run(d):
    folder = place(d, USER)
    for f in glob.glob(d("ran*")):
        os.unlink(f)
    # His own server runs it, ...
    command = "[ sh -c 'id -u >> %s; exec %s memory 1M' ]" % (
        d("ran"), NBDKIT)
    path = os.path.join(folder, "disk")
    s = Server(d, path, "backing=" + command, wrap=as_user(USER))
    same(bytes(s.nbd().pread(512, 0)), bytes(512))
    s.stop()
    with open(d("ran")) as f:
        assert set(f.read().split()) == {str(USER)}
    os.unlink(d("ran"))
    # ... root's does not, until root has said so himself.
    for i in range(2):
        refused(d, path, files=[path, path + ".backfill"],
                words=[path + ".backfill", "user %d" % USER, "backing="])
        assert not os.path.exists(d("ran"))
    s = Server(d, path, "backing=" + command)
    same(bytes(s.nbd().pread(512, 0)), bytes(512))
    s.stop()
    assert os.path.exists(d("ran"))
    os.unlink(d("ran"))
    # Taken over.
    for f in (path, path + ".backfill"):
        os.chown(f, 0, 0)
    s = Server(d, path)
    same(bytes(s.nbd().pread(512, 0)), bytes(512))
    s.stop()
    assert os.path.exists(d("ran"))


def header(meta, change):
    """As test-local-sidecar.py does it."""
    spec = importlib.util.spec_from_file_location(
        "sidecar", os.path.join(os.path.dirname(__file__),
                                "test-local-sidecar.py"))
    m = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(m)
    meta = bytearray(meta)
    for copy in (0, 16384):
        n = struct.unpack_from("<I", meta, copy + 12)[0]
        new = change(bytes(meta[copy:copy + n - 4]))
        assert len(new) == n - 4
        meta[copy:copy + n] = new + struct.pack("<I", m.crc32c(new))
    return bytes(meta)


def test_what_anothers_sidecar_names_is_not_opened(d):
    folder = place(d, USER)
    path = os.path.join(folder, "disk")
    s = Server(d, path, "size=%d" % SIZE, wrap=as_user(USER))
    s.nbd().pwrite(b"x" * 512, 0)
    s.kill()
    [work] = glob.glob(d.run + "/**/*.work", recursive=True)
    with open(path + ".backfill", "rb") as f:
        meta = f.read()
    # A fifo would have it wait, and be told of.
    trap = os.path.join(folder, "t" * (len(work) - len(folder) - 6) + ".work")
    assert len(trap) == len(work)
    os.mkfifo(trap)
    os.chown(trap, USER, USER)
    with open(path + ".backfill", "r+b") as f:
        f.write(header(meta, lambda h: h.replace(work.encode(),
                                                 trap.encode())))
    refused(d, path, files=[path, path + ".backfill"], words=["is gone"])
    # Nor a sidecar or a store that is something else.
    for what in (path, path + ".backfill"):
        os.rename(what, what + ".away")
        os.mkfifo(what)
        refused(d, path, words=["regular file"])
        os.unlink(what)
        os.rename(what + ".away", what)
    with open(path + ".backfill", "r+b") as f:
        f.write(meta)
    s = Server(d, path)
    same(bytes(s.nbd().pread(512, 0)), b"x" * 512)
    s.stop()


def test_a_file_that_anothers_sidecar_names_is_opened_as_him(d):
    """Neither root's own nor, by way of /proc, one that root's server has open."""
    folder = place(d, USER)
    path = os.path.join(folder, "disk")
    secret = d("secret")
    for f in (secret, os.path.join(folder, "mine")):
        with open(f, "wb") as image:
            image.write(b"s" * SIZE)
    os.chmod(secret, 0o600)
    mine = os.path.join(folder, "mine")
    s = Server(d, path, "backing=" + mine, "fetch=4096", wrap=as_user(USER))
    s.stop()
    with open(path + ".backfill", "rb") as f:
        meta = f.read()
    names = [os.path.relpath(secret, "/"), "proc/self/fd/0"]
    for name in names:
        # As long as the one that is there.
        name = "/" * (len(mine) - len(name)) + name
        assert len(name) == len(mine), name
        with open(path + ".backfill", "r+b") as f:
            f.write(header(meta, lambda h: h.replace(mine.encode(),
                                                     name.encode())))
        s = Server(d, path, "timeout=1s")
        try:
            got = bytes(s.nbd().pread(4096, 0))
            raise AssertionError("root's server has read %r" % got[:8])
        except nbd.Error:
            pass
        assert "as user %d" % USER in s.text(), s.text()
        s.stop()
    # His own is.
    with open(path + ".backfill", "r+b") as f:
        f.write(meta)
    s = Server(d, path)
    same(bytes(s.nbd().pread(SIZE, 0)), b"s" * SIZE)
    s.stop()


def test_names_and_settings_that_are_none(d):
    folder = place(d, USER)
    path = os.path.join(folder, "disk")
    s = Server(d, path, "size=%d" % SIZE, "name=abcdefgh", "connections=3",
               wrap=as_user(USER))
    s.stop()
    with open(path + ".backfill", "rb") as f:
        meta = f.read()
    for old, new in ((b"abcdefgh", b"../../xy"), (b"abcdefgh", b"ab\ncd\x1bef"),
                     (struct.pack("<IIQ", 8, 8, 3),
                      struct.pack("<IIQ", 8, 8, 1 << 31))):
        assert old in meta
        with open(path + ".backfill", "r+b") as f:
            f.write(header(meta, lambda h: h.replace(old, new[:len(old)])))
        s = Server(d, path)
        if old == b"abcdefgh":
            assert s.info()["name"] == "", s.info()
            assert "the name that its sidecar has" in s.text()
        same(bytes(s.nbd().pread(512, 0)), bytes(512))
        s.stop()


def dirty(s, want, tag):
    h = s.nbd()
    for i in range(4):
        at = (tag * 5 + i) * 30000
        h.pwrite(pattern(tag, at, 5000 + i), at)
        want[at:at + 5000 + i] = pattern(tag, at, 5000 + i)
    h.zero(20000, 1 << 20)
    want[1 << 20:(1 << 20) + 20000] = bytes(20000)


def test_whoever_dies_the_other_recovers(d):
    """Root (backfilld) and the guest's server, which is the store's owner's."""
    folder = place(d, USER)
    path = os.path.join(folder, "disk")
    want = bytearray(SIZE)
    s = Server(d, path, "size=%d" % SIZE, wrap=as_user(USER))
    dirty(s, want, 1)
    users = ((), as_user(USER))
    for i in range(6):
        s.kill()
        s = Server(d, path, wrap=users[i % 2])
        same(bytes(s.nbd().pread(SIZE, 0)), bytes(want))
        dirty(s, want, 2 + i)
    # Twice the same.
    for i in (0, 0, 1, 1):
        s.kill()
        s = Server(d, path, wrap=users[i])
        same(bytes(s.nbd().pread(SIZE, 0)), bytes(want))
    s.stop()
    assert not [f for f in glob.glob(d.run + "/**/*.work", recursive=True)
                if os.path.getsize(f)]


def test_the_image_goes_back_to_root(d):
    """As libvirt does it after the guest's end, also if that was a SIGKILL; and to
    the guest's user again."""
    folder = place(d, USER)
    path = os.path.join(folder, "disk")
    want = bytearray(SIZE)
    s = Server(d, path, "size=%d" % SIZE, wrap=as_user(USER))
    dirty(s, want, 1)
    s.kill()
    os.chown(path, 0, 0)
    s = Server(d, path)
    same(bytes(s.nbd().pread(SIZE, 0)), bytes(want))
    dirty(s, want, 2)
    s.kill()
    os.chown(path, USER, USER)
    s = Server(d, path, wrap=as_user(USER))
    same(bytes(s.nbd().pread(SIZE, 0)), bytes(want))
    s.stop()


def test_where_nothing_is_lost_nobody_is_told_to_give_it_up(d):
    """A map that only root may read: its volume was root's, all of it."""
    folder = place(d, USER)
    path = os.path.join(folder, "disk")
    want = bytearray(SIZE)
    s = Server(d, path, "size=%d" % SIZE)
    dirty(s, want, 1)
    s.kill()
    for f in (path, path + ".backfill"):
        os.chown(f, USER, USER)
    text = refused(d, path, words=["Nothing is lost", "have root"],
                   wrap=as_user(USER))
    assert "discard" not in text, text
    Server(d, path).stop()
    s = Server(d, path, wrap=as_user(USER))
    same(bytes(s.nbd().pread(SIZE, 0)), bytes(want))
    s.stop()


def test_a_third_users_map_is_not_believed(d):
    folder = place(d, USER)
    path = os.path.join(folder, "disk")
    s = Server(d, path, "size=%d" % SIZE, wrap=as_user(USER))
    dirty(s, bytearray(SIZE), 1)
    s.kill()
    [work] = glob.glob(d.run + "/**/*.work", recursive=True)
    os.chown(work, OTHER, OTHER)
    for wrap in ((), as_user(USER)):
        refused(d, path, words=[work, "discard-unflushed=yes" if not wrap
                                else "working map"], wrap=wrap)
    os.chown(work, USER, USER)
    Server(d, path).stop()


if __name__ == "__main__":
    main(globals())
