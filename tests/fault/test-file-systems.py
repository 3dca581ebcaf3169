#!/usr/bin/python3
"""A store on each kind of file system: what one cannot do is done in another
way, what it says of holes is believed only where it may be, and what is thin
stays thin.

On each: a volume is made of a source with holes and data; leftovers of a crash
are put where it is absent; random operations of a guest, and what is said of
them; sparse and full jobs; SIGKILL and restart; and in the end the raw file
alone is the disk.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import random
import shutil
import subprocess

from locallib import *

MIB = 1 << 20
SIZE = 96 * MIB + 1536
DATA = [(0, 2 * MIB), (3 * MIB, MIB), (94 * MIB, 2 * MIB + 1536)]
GROUND = 16 * MIB  # the guest's
LEFT = (10 * MIB, 2 * MIB)  # where leftovers are, of which the source has none


def make_source(path):
    data = bytearray(SIZE)
    with open(path, "wb") as f:
        f.truncate(SIZE)
        for at, n in DATA:
            data[at:at + n] = pattern(1, at, n)
            f.seek(at)
            f.write(data[at:at + n])
    return data


class Guest:
    def __init__(self, data, h):
        self.want = data
        self.h = h

    def write(self, tag, at, n, flags=0):
        data = pattern(tag, at, n)
        self.h.pwrite(data, at, flags)
        self.want[at:at + n] = data

    def zero(self, at, n, flags=0):
        self.h.zero(n, at, flags)
        self.want[at:at + n] = bytes(n)

    def trim(self, at, n):
        self.h.trim(n, at)
        got = bytes(self.h.pread(n, at))
        for i in range(n):
            if got[i] != 0 and got[i] != self.want[at + i]:
                raise AssertionError("trim: byte %d is neither old nor zero"
                                     % (at + i))
        self.want[at:at + n] = got

    def check(self, start=0, end=SIZE):
        for at in range(start, end, 8 * MIB):
            n = min(8 * MIB, end - at)
            same(bytes(self.h.pread(n, at)), bytes(self.want[at:at + n]), at)

    def status(self, start=0, end=SIZE):
        """No block status calls data a hole, or zeros."""
        found = []

        def extent(context, offset, entries, error):
            at = offset
            for length, flags in zip(entries[::2], entries[1::2]):
                found.append((at, length, flags))
                at += length
            return 0
        at = start
        while at < end:
            self.h.block_status(end - at, at, extent)
            at = found[-1][0] + found[-1][1]
        for at, n, flags in found:
            if flags & (nbd.STATE_ZERO | nbd.STATE_HOLE):
                n = min(n, end - at)
                assert not self.want[at:at + n].strip(b"\0"), \
                    "data at %d+%d is called %d" % (at, n, flags)


def blocks(path):
    """Bytes that it has; not what a cache remembers of that."""
    with open(path, "rb") as f:
        os.fsync(f.fileno())
    return 512 * int(subprocess.run(["stat", "--cached=never", "-L", "-c", "%b",
                                     path], stdout=subprocess.PIPE,
                                    check=True).stdout)


def job(s, **kw):
    s.ask("block-allocate", device="", **kw)
    j = wait_job(s, "concluded")
    assert not j.get("error"), j


def random_operations(g, seed):
    rng = random.Random(seed)
    for i in range(120):
        at = rng.randrange(0, GROUND - 300000)
        n = rng.choice((1, 511, 512, 4096, 4608, 65536, 262144))
        what = rng.randrange(6)
        if what < 3:
            g.write(100 + i, at, n, rng.choice((0, 0, nbd.CMD_FLAG_FUA)))
        elif what == 3:
            g.zero(at, n, rng.choice((0, nbd.CMD_FLAG_NO_HOLE)))
        elif what == 4:
            try:
                g.zero(at, n, nbd.CMD_FLAG_FAST_ZERO)
            except nbd.Error as e:
                assert e.errno in ("ENOTSUP", "EOPNOTSUPP"), e
        else:
            g.trim(at, n)
        # Unflushed: dirty pages are not holes.
        if i % 8 == 0:
            g.status(at, at + n)
        if i % 40 == 39:
            g.h.flush()


def leftovers(path):
    """What a crash has left where nothing is local.  Not synced."""
    with open(path, "r+b", buffering=0) as f:
        f.seek(LEFT[0])
        f.write(pattern(666, *LEFT))


def on(d, path, sparse=True, full=True, args=(), store=None):
    """sparse: holes are kept; full: blocks are told."""
    data = make_source(d("golden"))
    source = Source(d, d("golden"))
    keys = ("backing=" + source.uri, *args)

    s = Server(d, path, *keys)
    if sparse:
        assert blocks(path) <= MIB, "new: %d" % blocks(path)
        # What is known to be zeros, by a process that has made the store...
        job(s, offset=40 * MIB, length=32 * MIB)
        assert blocks(path) <= MIB, "zeros cost %d" % blocks(path)
    # (where not all is zeros any more)
    g = Guest(data, s.nbd(extents=True))
    g.write(4, 90 * MIB + 5, 70000)
    g.status(88 * MIB, 92 * MIB)
    g.zero(90 * MIB, MIB)
    g.check(90 * MIB, 91 * MIB)
    s.stop()
    leftovers(store or path)
    before = blocks(path)

    s = Server(d, path, *keys)
    g.h = s.nbd(extents=True)
    if sparse:
        # ... and by one that has found it.
        job(s, offset=72 * MIB, length=16 * MIB)
        assert blocks(path) <= before + MIB, "zeros cost %d" % blocks(path)
    g.check(LEFT[0], LEFT[0] + MIB)
    random_operations(g, path)
    g.check(0, GROUND)
    g.status(0, GROUND)
    s.kill()

    s = Server(d, path, *keys)
    g.h = s.nbd(extents=True)
    g.check(0, GROUND)
    job(s)
    g.status()
    if sparse:
        assert blocks(path) <= 30 * MIB, "sparse: %d" % blocks(path)
    g.write(5, MIB, 100000)
    g.write(6, 50 * MIB, 100000)
    job(s, sparse=False)
    if full:
        assert blocks(path) >= SIZE // 4096 * 4096, "full: %d" % blocks(path)
    s.kill()

    source.stop()
    s = Server(d, path, *args)
    g.h = s.nbd(extents=True)
    g.check()
    g.status()
    s.stop()
    with open(store or path, "rb") as f:
        same(f.read(SIZE), bytes(g.want), 0, "the raw file")


# --- file systems ------------------------------------------------------------

def tool(name):
    if not shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin"):
        raise Skip("no %s" % name)
    return shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")


def image(d, size, *mkfs):
    need_root()
    path = d("image")
    with open(path, "wb") as f:
        f.truncate(size)
    r = subprocess.run([tool(mkfs[0]), *mkfs[1:], path],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       text=True)
    if r.returncode != 0:
        raise Skip("%s: %s" % (mkfs[0], r.stdout))
    return path


def loop(path):
    r = subprocess.run(["losetup", "-f", "--show", path],
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                       text=True)
    if r.returncode != 0:
        raise Skip("losetup: " + r.stderr)
    return r.stdout.strip()


def is_mounted(path):
    with open("/proc/self/mounts") as f:
        return any(l.split()[1] == path for l in f)


def program(d, *argv):
    """A file system in a program; the last argument is where."""
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise Skip("no /dev/fuse")
    if os.environ.get("PRIVATE_MOUNTS") != "1":
        raise Skip("no private mount namespace to be had")
    p = Process(d, argv, "fs")
    wait_for("the file system", lambda: is_mounted(argv[-1]) or not p.alive())
    if not p.alive() and not is_mounted(argv[-1]):
        raise Skip("%s: %s" % (argv[0], p.text()))
    d.mounts.append(argv[-1])
    return p


def odd(d, options):
    program(d, built("crash/oddfs"), options, d.make("below"), d.make("mnt"))
    return d("mnt", "disk")


def test_ext4(d):
    i = image(d, 200 * MIB, "mkfs.ext4", "-q", "-F")
    on(d, d.mount("mnt", "-o", "loop", i) + "/disk")


def test_ext2_has_no_fallocate(d):
    i = image(d, 200 * MIB, "mkfs.ext2", "-q", "-F")
    on(d, d.mount("mnt", "-t", "ext2", "-o", "loop", i) + "/disk")


def test_xfs(d):
    i = image(d, 320 * MIB, "mkfs.xfs", "-q")
    on(d, d.mount("mnt", "-o", "loop", i) + "/disk")


def test_btrfs(d):
    i = image(d, 320 * MIB, "mkfs.btrfs", "-q")
    on(d, d.mount("mnt", "-o", "loop", i) + "/disk")


def test_tmpfs(d):
    on(d, d.mount("mnt", "-t", "tmpfs", "tmpfs") + "/disk")


def test_overlay(d):
    top = d.mount("top", "-t", "tmpfs", "tmpfs")
    for name in ("lower", "upper", "work"):
        os.mkdir(os.path.join(top, name))
    on(d, d.mount("mnt", "-t", "overlay", "-o",
                  "lowerdir={0}/lower,upperdir={0}/upper,workdir={0}/work"
                  .format(top), "overlay") + "/disk")


def test_fuse(d):
    on(d, odd(d, "-"))


def test_fuse_with_a_write_back_cache(d):
    on(d, odd(d, "w"))


def test_fuse_with_a_write_back_cache_and_no_fallocate(d):
    on(d, odd(d, "wf"))


def test_fuse_that_says_einval_and_tells_no_holes(d):
    on(d, odd(d, "is"))


def test_fuse_that_says_it_did_and_did_not(d):
    on(d, odd(d, "n"), full=False)


def test_fuse_that_leaves_the_edges(d):
    """fuse2fs does, and the page cache hides that until the next opening."""
    on(d, odd(d, "e"))


def test_fuse_without_links(d):
    on(d, odd(d, "l"))


def test_fuse_without_links_and_renames_with_flags(d):
    on(d, odd(d, "wlrf"))


def with_dirty_pages(d, options):
    """A server that has found its store, its guest; the disk is absent, and
    reads as zeros."""
    path = odd(d, options)
    Server(d, path, "size=%d" % (8 * MIB)).stop()
    s = Server(d, path)
    return s, s.nbd(), path


def test_a_full_job_writes_over_nothing_dirty(d):
    for options in "w", "wf", "wis":
        x = Dir()
        try:
            s, h, path = with_dirty_pages(x, options)
            data = pattern(3, MIB + 4096, MIB)
            h.pwrite(data, MIB + 4096)
            job(s, sparse=False)
            same(bytes(h.pread(MIB, MIB + 4096)), data, MIB + 4096, options)
            assert blocks(path) >= 8 * MIB
            s.kill()
        finally:
            x.close()


def test_dirty_leftovers_are_no_holes(d):
    for options in "w", "wf", "wis":
        for sparse in True, False:
            x = Dir()
            try:
                s, h, path = with_dirty_pages(x, options)
                with open(path, "r+b", buffering=0) as f:
                    f.seek(2 * MIB)
                    f.write(pattern(666, 2 * MIB, MIB))
                    # As long as it is open nothing writes them back.
                    job(s, sparse=sparse)
                same(bytes(h.pread(8 * MIB, 0)), bytes(8 * MIB), 0, options)
                s.kill()
            finally:
                x.close()


def test_bindfs(d):
    program(d, tool("bindfs"), "-f", d.make("below"), d.make("mnt"))
    on(d, d("mnt", "disk"))


def test_fuse2fs(d):
    i = image(d, 200 * MIB, "mkfs.ext4", "-q", "-F")
    program(d, tool("fuse2fs"), "-f", "-o", "fakeroot", i, d.make("mnt"))
    on(d, d("mnt", "disk"))


def test_vfat(d):
    """Files without holes."""
    i = image(d, 200 * MIB, "mkfs.vfat", "-F", "32")
    on(d, d.mount("mnt", "-t", "vfat", "-o", "loop", i) + "/disk",
       sparse=False)


def test_exfat(d):
    i = image(d, 200 * MIB, "mkfs.exfat")
    on(d, d.mount("mnt", "-t", "exfat", "-o", "loop", i) + "/disk",
       sparse=False)


def test_exfat_in_a_program(d):
    i = image(d, 200 * MIB, "mkfs.exfat")
    dev = loop(i)
    try:
        program(d, tool("mount.exfat-fuse"), "-d", dev, d.make("mnt"))
        on(d, d("mnt", "disk"), sparse=False)
    finally:
        d.end()
        subprocess.run(["losetup", "-d", dev])


# --- block devices -----------------------------------------------------------

def device(d, path):
    """A loop device full of what was never written."""
    need_root()
    with open(path, "wb") as f:
        junk = pattern(777, 0, MIB)
        for at in range(0, SIZE, MIB):
            f.write(junk)
        f.truncate(SIZE + 4096 - SIZE % 4096)
    return loop(path)


def on_a_device(d, path):
    dev = device(d, path)
    try:
        on(d, dev, sparse=False, full=False,
           args=("metadata=" + d("disk.backfill"), "adopt=absent"))
    finally:
        d.end()
        subprocess.run(["losetup", "-d", dev])


def test_device(d):
    on_a_device(d, d("device"))


def test_device_without_discard(d):
    on_a_device(d, odd(d, "f"))


# --- making ------------------------------------------------------------------

def test_making_that_was_cut_short_is_finished(d):
    """Without links and renames with flags an empty file takes the name first:
    what a power cut leaves of that is no obstacle."""
    path = odd(d, "lr")
    with open(path + ".backfill", "w"):
        pass
    s = Server(d, path, "size=1M")
    h = s.nbd()
    h.pwrite(b"x" * 4096, 0)
    s.stop()
    # A store that is there is not taken for one that is to be made.
    os.truncate(path + ".backfill", 0)
    refused(d, path, "size=1M", words=("is empty", path + ".backfill"),
            files=(path, path + ".backfill"))


def test_a_file_that_is_too_large(d):
    """FAT's limit, here by rlimit."""
    path = d("disk")
    try:
        Server(d, path, "size=64M", wrap=("prlimit", "--fsize=%d" % MIB))
    except Refused as e:
        assert "cannot hold so large a file" in e.text, e.text
    else:
        raise AssertionError("it was made")
    assert not os.path.exists(path) and not os.path.exists(path + ".backfill")


if __name__ == "__main__":
    main(globals(), mounts=True)
