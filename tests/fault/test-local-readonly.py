#!/usr/bin/python3
"""Read-only (G25): asked for, or because the files cannot be written.  What is
absent is passed through, nothing is written, and all is right.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import shutil
import subprocess

from locallib import *

SIZE = (3 << 20) + 1536
HOLES = [(1 << 20, 256 << 10)]


class Volume:
    """Some of it local, closed in order (or killed, if asked); in a folder
    of its own."""

    def __init__(self, d, kill=False):
        self.d = d
        self.data = make_golden(d("golden"), SIZE, HOLES)
        self.source = Source(d, d("golden"))
        self.folder = d.make("volume")
        self.path = os.path.join(self.folder, "disk")
        s = Server(d, self.path, "backing=" + self.source.uri)
        h = s.nbd()
        h.pwrite(pattern(2, 5000, 100000), 5000)
        h.zero(65536, 2 << 20)
        want = bytearray(self.data)
        want[5000:105000] = pattern(2, 5000, 100000)
        want[2 << 20:(2 << 20) + 65536] = bytes(65536)
        self.want = bytes(want)
        if kill:
            s.kill()
        else:
            s.stop()
        self.before = self.state()

    def state(self):
        return (snapshot(self.folder),
                [(os.stat(p).st_mtime_ns, os.stat(p).st_ctime_ns,
                  os.stat(p).st_blocks)
                 for p in (self.path, self.path + ".backfill")])

    def unchanged(self):
        assert self.state() == self.before, (self.state(), self.before)

    def look(self, s, path=None):
        """A guest and a user do what they can."""
        h = s.nbd(extents=True)
        assert h.is_read_only()
        for i in range(2):
            same(h.pread(SIZE, 0), self.want)
        assert nbd_errno(h.pwrite, bytes(4096), 0) in ("EPERM", "EROFS")
        assert nbd_errno(h.zero, 4096, 0) in ("EPERM", "EROFS")
        assert nbd_errno(h.trim, 4096, 0) in ("EPERM", "EROFS")
        seen = []
        h.block_status(1 << 20, 1 << 20, lambda c, o, e, err: seen.extend(e))
        assert seen
        if h.can_flush():
            h.flush()
        i = s.info()
        assert i["read-only"] and i["local"] + i["absent"] == SIZE, i
        assert i["absent"] > 0 and not i["complete"], i
        for command in ("block-allocate", "disk-detach"):
            try:
                s.ask(command)
                raise AssertionError(command + " went through")
            except QmpError as e:
                assert e.name == "EROFS", e.name
        assert s.ask("query-allocation-map")["regions"]
        self.unchanged()
        assert not in_run(self.d.run, (".work", ".volume"))


def test_readonly_on_writes_nothing_and_passes_through(d):
    v = Volume(d)
    one = Server(d, v.path, "readonly=on")
    two = Server(d, v.path, "readonly=on")
    v.look(one)
    v.look(two)
    # Nobody may write meanwhile.
    refused(d, v.path, words=[v.path, "in use"], files=[v.folder])
    one.stop()
    two.stop()
    v.unchanged()
    s = Server(d, v.path)
    h = s.nbd()
    refused(d, v.path, "readonly=on", words=[v.path, s.pid])
    h.pwrite(pattern(3, 0, 512), 0)
    same(h.pread(SIZE, 0), pattern(3, 0, 512) + v.want[512:])
    s.stop()


def test_readonly_on_with_the_source_gone_serves_what_is_local(d):
    v = Volume(d)
    v.source.kill()
    s = Server(d, v.path, "readonly=on", "timeout=1")
    h = s.nbd()
    same(h.pread(50000, 8192), v.want[8192:58192])
    assert nbd_errno(h.pread, 512, 1 << 20) == "EIO"
    s.stop()
    v.unchanged()


def test_nbdkit_r_a_client_cannot_write(d):
    """The exports only: what is fetched may be kept, see the manual."""
    v = Volume(d)
    s = Server(d, v.path, options=("-r",))
    h = s.nbd()
    assert h.is_read_only()
    for i in range(2):
        same(h.pread(SIZE, 0), v.want)
    assert nbd_errno(h.pwrite, bytes(4096), 0) == "EPERM"
    assert nbd_errno(h.zero, 4096, 0) == "EPERM"
    assert nbd_errno(h.trim, 4096, 0) == "EPERM"
    s.ask("block-allocate")
    assert wait_job(s, "concluded")["result"] == "completed"
    same(h.pread(SIZE, 0), v.want)
    s.stop()
    with open(v.path, "rb") as f:
        same(f.read(), v.want)


def fall_back(d, v, said, *args, **kw):
    """Without readonly=: it says so, and is read-only."""
    s = Server(d, v.path, *args, **kw)
    assert said in s.text() and "read-only" in s.text(), s.text()
    v.look(s)
    s.stop()
    v.unchanged()


def test_on_a_read_only_file_system_the_export_is_read_only(d):
    v = Volume(d)
    d.mount("volume", "--bind", v.folder)
    r = subprocess.run(["mount", "-o", "remount,bind,ro", v.folder],
                       stderr=subprocess.PIPE)
    if r.returncode != 0:
        raise Skip("mount: %s" % r.stderr)
    fall_back(d, v, v.path)
    refused(d, v.path + "new", "backing=" + v.source.uri,
            words=[v.path + "new", "Read-only"], files=[v.folder])
    d.umount(v.folder)
    # Writable again: all is as it was, and goes on.
    s = Server(d, v.path)
    h = s.nbd()
    same(h.pread(SIZE, 0), v.want)
    h.pwrite(bytes(512), 0)
    s.stop()


def test_of_an_immutable_store_or_sidecar_the_export_is_read_only(d):
    need_root()
    v = Volume(d)
    for files in ([v.path], [v.path + ".backfill"],
                  [v.path, v.path + ".backfill"]):
        r = subprocess.run(["chattr", "+i", *files], stderr=subprocess.PIPE)
        if r.returncode != 0:
            raise Skip("chattr: %s" % r.stderr)
        v.before = v.state()
        fall_back(d, v, files[0])
        subprocess.run(["chattr", "-i", *files], check=True)


def test_of_files_that_this_user_may_only_read_the_export_is_read_only(d):
    nobody = as_nobody()
    v = Volume(d)
    shutil.copy(PLUGIN, d("plugin.so"))
    run = d.make("nobody-run")
    os.chown(run, 65534, 65534)
    os.chmod(d.path, 0o777)
    os.chmod(d("source.sock"), 0o777)
    os.chmod(v.path, 0o644)
    os.chmod(v.path + ".backfill", 0o644)
    for path in (v.path, v.path + ".backfill", None):
        if path:
            os.chmod(path, 0o666)
        v.before = v.state()
        # A sidecar that others may write to does not say which socket to open.
        said = ["backing=" + v.source.uri] if path != v.path and path else []
        try:
            fall_back(d, v, v.path, *said, wrap=nobody, run=run,
                      plugin=d("plugin.so"))
        except Refused as e:
            if "plugin" in e.text or "exec" in e.text:
                raise Skip(e.text)
            raise
        if path:
            os.chmod(path, 0o644)


def test_after_sigkill_read_only_shows_all_and_writes_nothing(d):
    v = Volume(d, kill=True)
    works = snapshot(*in_run(d.run, ".work"))
    for i in range(2):
        s = Server(d, v.path, "readonly=on")
        same(s.nbd().pread(SIZE, 0), v.want)
        s.stop()
        v.unchanged()
        assert works == snapshot(*in_run(d.run, ".work"))
    s = Server(d, v.path)
    same(s.nbd().pread(SIZE, 0), v.want)
    s.stop()


def test_complete_and_read_only_it_needs_no_source(d):
    v = Volume(d)
    s = Server(d, v.path)
    s.ask("block-allocate")
    wait_job(s, "concluded")
    s.stop()
    v.source.kill()
    before = v.state()
    s = Server(d, v.path, "readonly=on")
    h = s.nbd()
    same(h.pread(SIZE, 0), v.want)
    assert nbd_errno(h.pwrite, bytes(512), 0) in ("EPERM", "EROFS")
    s.stop()
    assert v.state() == before


if __name__ == "__main__":
    main(globals(), mounts=True)
