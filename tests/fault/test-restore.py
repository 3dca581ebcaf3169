#!/usr/bin/python3
"""Store and sidecar are restored to a moment when their server ran, after it
was killed, on the same boot: its working map belongs to a later state of them.
What was never there is never shown: the volume is refused, or shows what a
power cut at that moment would have left.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import glob
import os
import random
import shutil
import subprocess

from locallib import *

SIZE = (4 << 20) + 1536
HOLES = [(1 << 20, 256 << 10)]


class Volume:
    """.want is what it shows now; .may, of each sector, what it may show after
    a power cut."""

    def __init__(self, d, name="disk", granule=4096, folder=None):
        self.d = d
        self.granule = granule
        self.folder = folder or d.path
        self.path = os.path.join(self.folder, name)
        if not os.path.exists(d("golden")):
            make_golden(d("golden"), SIZE, HOLES)
            d.source = Source(d, d("golden"))
        with open(d("golden"), "rb") as f:
            self.want = bytearray(f.read())
        self.may = [{self.at(i)} for i in range(SIZE // SECTOR)]
        self.files = [self.path, self.path + ".backfill"]
        self.start("granule=%d" % granule, "backing=" + d.source.uri)

    def at(self, i):
        return bytes(self.want[i * SECTOR:(i + 1) * SECTOR])

    def start(self, *args, **kw):
        self.s = Server(self.d, self.path, *args, **kw)
        self.h = self.s.nbd()

    def changed(self, at, data):
        self.want[at:at + len(data)] = data
        for i in range(at // SECTOR, (at + len(data) + SECTOR - 1) // SECTOR):
            self.may[i].add(self.at(i))

    def write(self, at, n, tag=9, fill=None):
        data = pattern(tag, at, n) if fill is None else bytes([fill]) * n
        self.h.pwrite(data, at)
        self.changed(at, data)

    def zero(self, at, n):
        self.h.zero(n, at)
        self.changed(at, bytes(n))

    def read(self, at, n):
        same(bytes(self.h.pread(n, at)), bytes(self.want[at:at + n]), at)

    def flush(self):
        self.h.flush()
        self.may = [{self.at(i)} for i in range(SIZE // SECTOR)]

    def save(self, where):
        """As the files are now, while the server stands still."""
        freeze(self.s.pid)
        os.makedirs(where, exist_ok=True)
        for f in self.files:
            subprocess.check_call(["cp", "-a", "--sparse=always", f, where])
        os.kill(self.s.pid, signal.SIGCONT)
        return [set(m) for m in self.may], bytes(self.want)

    def kill(self):
        self.s.kill()

    def legal(self, saved, *args, exact=False, **kw):
        """It starts, and shows that, now and after an orderly end."""
        may, want = saved
        got = None
        for again in (False, True):
            self.start(*(args if not again else ()), **kw)
            was, got = got, bytes(self.h.pread(SIZE, 0))
            self.s.stop()
            for i in range(SIZE // SECTOR):
                s = got[i * SECTOR:(i + 1) * SECTOR]
                if s not in may[i]:
                    raise AssertionError(
                        "sector %d shows what never was: %r" % (i, s[:24]))
            assert not again or was == got
        if exact:
            same(got, want)


def put_back(v, where, how, what=(0, 1)):
    for f in [v.files[i] for i in what]:
        saved = os.path.join(where, os.path.basename(f))
        if how == "in place":
            # The inode stays.
            subprocess.check_call(["cp", "--sparse=always", saved, f])
        else:
            subprocess.check_call(["cp", "-a", "--sparse=always", saved,
                                   f + ".new"])
            os.rename(f + ".new", f)


def refused_as_another_state(v):
    refused(v.d, v.path, files=v.files,
            words=[v.path, "another state", "discard-unflushed=yes"])


A, B, C = 512 << 10, 768 << 10, 2 << 20  # where the source has data


# Before the moment, and after it.
def nothing(v):
    pass


def data(v):
    v.write(A, 40000, tag=2)
    v.write(A, 40000, tag=3)


def zeros(v):
    v.zero(A, 65536)


def zeros_at_the_end(v):
    v.zero(SIZE - 1536 - 65536, 65536 + 1536)


def written_zeros(v):
    v.write(A, 65536, fill=0)


def trimmed(v):
    v.h.trim(65536, A)
    v.changed(A, bytes(65536))


def data_then_zeros(v):
    v.write(A, 65536)
    v.zero(A, 65536)


def data_zeros_data(v):
    v.write(A, 65536)
    v.zero(A, 65536)
    v.write(A, 65536, tag=3)
    v.zero(A, 65536)


def zeros_over_a_copy(v):
    v.read(A, 65536)
    v.zero(A, 65536)


def part_of_a_granule(v):
    v.write(A + 100, 50, tag=2)
    v.write(A + 100, 50, tag=3)


def pending(v):
    v.write(A, 65536)
    v.write(B, 4096, tag=4)
    v.zero(C, 65536)


def written_twice(v):
    v.write(A, 65536, tag=5)
    v.write(A, 65536, tag=6)


def copies(v):
    v.h.cache(1 << 20, C)  # returns when it is local


CASES = [(before, after)
         for before in (nothing, pending)
         for after in (data, zeros, zeros_at_the_end, written_zeros, trimmed,
                       data_then_zeros, data_zeros_data, zeros_over_a_copy,
                       part_of_a_granule, written_twice, copies)
         if (before, after) != (pending, part_of_a_granule)]


def test_a_later_working_map_is_not_believed(d):
    for n, (before, after) in enumerate(CASES):
        how = ("in place", "moved")[n % 2]
        v = Volume(d, "disk%d" % n, granule=(4096, 512, 65536)[n % 3])
        before(v)
        saved = v.save(d("saved"))
        after(v)
        v.kill()
        put_back(v, d("saved"), how)
        try:
            refused_as_another_state(v)
            v.legal(saved, "discard-unflushed=yes")
        except AssertionError as e:
            raise AssertionError("%s, then %s, restored %s: %s" % (
                before.__name__, after.__name__, how, e))


def test_at_its_own_moment_it_is_believed_wherever_the_files_are(d):
    """Also under another inode, in another folder, from another runtime
    directory that the map was moved to."""
    for how in ("in place", "moved"):
        v = Volume(d, "disk" + how[0])
        pending(v)
        v.flush()
        data(v)
        pending(v)
        zeros_over_a_copy(v)
        saved = v.save(d("saved"))
        v.kill()
        put_back(v, d("saved"), how)
        v.legal(saved, exact=True)
    v = Volume(d, "there")
    pending(v)
    saved = v.save(d("saved"))
    v.kill()
    away = d.make("elsewhere")
    for f in v.files:
        os.rename(f, os.path.join(away, os.path.basename(f)))
    v.path = os.path.join(away, "there")
    run = d.make("run2")
    for f in glob.glob(d.run + "/**/*.work", recursive=True):
        os.makedirs(os.path.dirname(os.path.join(
            run, os.path.relpath(f, d.run))), exist_ok=True)
        os.rename(f, os.path.join(run, os.path.relpath(f, d.run)))
    v.legal(saved, exact=True, run=run)


def test_what_is_written_again_over_leftovers_does_not_prove_itself(d):
    """A power cut took writes back; their bytes are still there when the guest
    writes the same again, as its journal has it do."""
    v = Volume(d)
    v.write(A, 65536, tag=7)
    v.kill()
    for f in glob.glob(d.run + "/**/*.work", recursive=True):
        os.unlink(f)
    v.start("discard-unflushed=yes")
    with open(d("golden"), "rb") as f:
        v.want = bytearray(f.read())
    v.may = [{v.at(i)} for i in range(SIZE // SECTOR)]
    saved = v.save(d("saved"))
    v.write(A, 65536, tag=7)
    v.kill()
    put_back(v, d("saved"), "in place")
    refused_as_another_state(v)
    v.legal(saved, "discard-unflushed=yes")


def test_another_session_of_the_same_number_is_another(d):
    v = Volume(d)
    pending(v)
    first = v.save(d("first"))
    v.kill()
    put_back(v, d("first"), "in place")
    v.start()  # session 2
    zeros(v)
    saved = v.save(d("second"))
    v.kill()
    put_back(v, d("first"), "in place")
    refused(d, v.path, files=v.files, words=["is gone"])
    v.start("discard-unflushed=yes")  # session 2, again
    for i in range(0, SIZE, 65536):
        v.h.pwrite(bytes(min(65536, SIZE - i)), i)
    v.kill()
    put_back(v, d("second"), "in place")
    # Its map is still there.
    v.legal(saved, exact=True)


def test_only_one_of_the_files_is_restored(d):
    for what, after in ((0, data), (0, written_twice), (1, zeros),
                        (1, data_then_zeros)):
        v = Volume(d, "disk%d%s" % (what, after.__name__))
        pending(v)
        saved = v.save(d("saved"))
        after(v)
        v.kill()
        put_back(v, d("saved"), "in place", [what])
        refused_as_another_state(v)
    # Nothing that is pending has changed: the one file is as it was.
    for what in (0, 1):
        v = Volume(d, "same%d" % what)
        pending(v)
        saved = v.save(d("saved"))
        v.kill()
        put_back(v, d("saved"), "moved", [what])
        v.legal(saved, exact=True)


def test_a_copy_of_an_open_volume(d):
    """Its map is the living server's: with a word it goes on without."""
    v = Volume(d)
    pending(v)
    saved = v.save(d("copy"))
    v.write(A, 4096, tag=8)
    copy = Volume.__new__(Volume)
    copy.d, copy.path = d, d("copy/disk")
    copy.files = [copy.path, copy.path + ".backfill"]
    refused(d, copy.path, files=copy.files,
            words=["in use", "copy", "discard-unflushed=yes"])
    copy.legal(saved, "discard-unflushed=yes")
    same(v.h.pread(SIZE, 0), bytes(v.want))
    # And of a killed one: the first that opens it does not take it from the
    # other.
    saved = v.save(d("copy2"))
    v.kill()
    copy.path = d("copy2/disk")
    copy.legal(saved, exact=True)
    v.legal(saved, exact=True)


def image(d, name):
    path = d(name)
    with open(path, "wb") as f:
        f.truncate(64 << 20)
    if subprocess.run(["mkfs.ext4", "-q", "-F", path]).returncode:
        raise Skip("no mkfs.ext4")
    return path


def test_snapshots_of_the_file_system(d):
    """Frozen and not; and what was only unmounted, and mounted from another
    device, has lost nothing."""
    need_root()
    for freeze in (True, False):
        img = image(d, "image")
        mnt = d.mount("mnt", "-o", "loop", img)
        v = Volume(d, "disk%d" % freeze, folder=mnt)
        pending(v)
        if freeze:
            subprocess.check_call(["fsfreeze", "-f", mnt])
        shutil.copyfile(img, d("snapshot"))
        if freeze:
            subprocess.check_call(["fsfreeze", "-u", mnt])
        saved = [set(m) for m in v.may], bytes(v.want)
        zeros(v)
        data_then_zeros(v)
        v.kill()
        want = bytes(v.want)
        may = [set(m) for m in v.may]
        dev = os.stat(v.path).st_dev
        d.umount(mnt)
        other = image(d, "other")
        d.mount("other-mnt", "-o", "loop", other)
        mnt = d.mount("mnt", "-o", "loop", img)
        if os.stat(v.path).st_dev == dev:
            say("(the same device number again)")
        v.legal((may, want), exact=True)
        d.umount(mnt)
        mnt = d.mount("mnt", "-o", "loop", d("snapshot"))
        # Not frozen, it may be of before the volume was made.
        if os.path.exists(v.path + ".backfill"):
            refused(d, v.path, words=["discard-unflushed=yes"], files=v.files)
            v.legal(saved, "discard-unflushed=yes")
        else:
            assert not freeze
        d.umount(mnt)
        d.umount(d("other-mnt"))


def test_at_random(d):
    for seed in range(int(os.environ.get("SEEDS", 12))):
        rng = random.Random(seed)
        v = Volume(d, "disk%d" % seed, granule=rng.choice((512, 4096, 65536)))

        def some():
            for _ in range(rng.randrange(0, 14)):
                n = rng.choice((100, 512, 4096, 8192, 70000))
                at = rng.choice((A, B, C)) + rng.randrange(0, 16) * 4096 \
                    + rng.choice((0, 0, 512, 77))
                kind = rng.randrange(8)
                if kind < 4:
                    v.write(at, n, tag=rng.randrange(100),
                            fill=rng.choice((None, None, 0)))
                elif kind < 6:
                    v.zero(at, n)
                elif kind == 6:
                    v.read(at, n)
                else:
                    v.flush()
        some()
        saved = v.save(d("saved"))
        some()
        v.kill()
        put_back(v, d("saved"), rng.choice(("in place", "moved")))
        try:
            v.legal(saved)
        except Refused as e:
            assert "discard-unflushed=yes" in e.text, e.text
            v.legal(saved, "discard-unflushed=yes")


if __name__ == "__main__":
    main(globals(), mounts=True)
