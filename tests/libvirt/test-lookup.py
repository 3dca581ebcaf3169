#!/usr/bin/python3
"""Which disk is meant, the eight calls, and every error, with libvirt's test
driver: its domains have disks that real servers serve, and no guests.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile

import common
from common import Disks, Nbdkit, calls, check, freeze, run

MIB = 1 << 20
SIZE = 16 * MIB
NONBLOCK, SPARSE = 1, 2
NONE, BOUNDED, COMPLETED, FAILED, CANCELLED = 0, 1, 3, 4, 5


def nbd_disk(target, name, socket, above=""):
    source = ("<source protocol='nbd'%s><host transport='unix' socket='%s'/>"
              "</source>" % (" name='%s'" % name if name else "", socket))
    if above:
        return ("<disk type='file' device='disk'><driver name='qemu' "
                "type='qcow2'/><source file='%s'/><backingStore "
                "type='network'><format type='raw'/>%s<backingStore/>"
                "</backingStore><target dev='%s' bus='virtio'/></disk>"
                % (above, source, target))
    return ("<disk type='network' device='disk'><driver name='qemu' "
            "type='raw'/>%s<target dev='%s' bus='virtio'/></disk>"
            % (source, target))


def tcp_disk(target, name):
    return ("<disk type='network' device='disk'><driver name='qemu' "
            "type='raw'/><source protocol='nbd' name='%s'><host "
            "name='images' port='10809'/></source><target dev='%s' "
            "bus='virtio'/></disk>" % (name, target))


def domain(name, disks, metadata="", off=False):
    return ("<domain type='test' xmlns:test='http://libvirt.org/schemas/"
            "domain/test/1.0'><name>%s</name><memory unit='MiB'>64</memory>"
            "<os><type>hvm</type></os><metadata>%s</metadata><devices>%s"
            "</devices>%s</domain>"
            % (name, metadata, "".join(disks),
               "<test:runstate>5</test:runstate>" if off else ""))


class Node:
    """A test driver's host: a file that its URI names."""

    def __init__(self, d, domains, volumes=(), name="node.xml"):
        self.path = os.path.join(d, name)
        self.uri = "test://" + self.path
        volumes = "".join(
            "<volume type='file'><name>%s</name><capacity>%d</capacity>"
            "<target><path>%s</path></target></volume>"
            % (os.path.basename(v), SIZE, v) for v in volumes)
        with open(self.path, "w", encoding="utf-8") as f:
            f.write("<node>%s<pool type='dir'><name>p</name><target><path>%s"
                    "</path></target>%s</pool></node>"
                    % ("".join(domains), d, volumes))

    def domain(self, path, *args, name="g1", **kwargs):
        return calls(self.uri, "domain", name, path, *args, **kwargs)

    def volume(self, name, *args, **kwargs):
        return calls(self.uri, "volume", "p", name, *args, **kwargs)


def refused(what, answer, errno, *words, libvirt=None):
    ok = (not answer.ok and answer["errno"] == errno
          and all(w in answer["text"] for w in words))
    if libvirt is not None:
        ok = ok and answer["libvirt"] == libvirt
    check("refused: %s (%s)" % (what, errno), ok, answer.value)


def is_disk(what, answer, name):
    check("%s is %s" % (what, name), answer.ok and answer["disk"] == name,
          answer.value)


def test_find(d, vms, spare):
    a, b, only = (os.path.join(d, n) for n in ("a.img", "b.img", "only.img"))
    overlay = os.path.join(d, "overlay.qcow2")
    st = os.stat(only)
    [entry] = glob.glob("%s/*/%x-%x.volume" % (
        os.environ["BACKFILL_RUNTIME_DIR"], st.st_dev, st.st_ino))
    with open(entry, encoding="utf-8") as f:
        spare_control = [line.split(" ", 1)[1].strip() for line in f
                         if line.startswith("control ")][0]
    link = os.path.join(d, "link.sock")
    os.symlink(vms.socket, link)
    metadata = (
        "<x:disks xmlns:x='urn:backfill:1.0'>"
        "<x:disk target='vdf' control='%s' name='only'/>"
        "<x:disk target='vdg' store='%s'/>"
        "<x:disk target='vdh' control='%s'/>"
        "</x:disks><y:disks xmlns:y='urn:other'><y:disk target='vda' "
        "control='/nonexistent'/></y:disks>"
        % (spare_control, b, spare_control))
    node = Node(d, [domain("g1", [
        nbd_disk("vda", "disk-a", vms.socket),
        nbd_disk("vdb", "disk-b", vms.socket, above=overlay),
        nbd_disk("vdc", "", spare.socket),
        nbd_disk("vdd", "disk-a", link),
        tcp_disk("vde", "t"), tcp_disk("vdf", "t"), tcp_disk("vdg", "u"),
        nbd_disk("vdh", "wrong", vms.socket),
        "<disk type='file' device='disk'><driver name='qemu' type='raw'/>"
        "<source file='%s/plain.img'/><target dev='vdi' bus='virtio'/></disk>"
        % d,
        nbd_disk("vdj", "gone", d + "/gone.sock"),
        nbd_disk("vdk", "x", d + "/plain.img"),
        nbd_disk("vdl", "no-such", vms.socket),
    ], metadata), domain("off", [nbd_disk("vda", "disk-a", vms.socket)],
                         off=True),
        domain("one", [nbd_disk("sda", "disk-b", vms.socket)]),
        domain("bare", [])], [a])
    with open(d + "/plain.img", "w") as f:
        f.truncate(MIB)
    with open(overlay, "w") as f:
        f.truncate(MIB)

    is_disk("a target", node.domain("vda", "find"), "disk-a")
    is_disk("a target above a backing chain", node.domain("vdb", "find"),
            "disk-b")
    is_disk("a source without a name", node.domain("vdc", "find"), "only")
    is_disk("a socket by another path", node.domain("vdd", "find"), "disk-a")
    is_disk("a source's name", node.domain("disk-b", "find"), "disk-b")
    is_disk("an overlay's path", node.domain(overlay, "find"), "disk-b")
    is_disk("a store's path", node.domain(only, "find"), "only")
    os.symlink(only, d + "/only-link")
    is_disk("a link to a store", node.domain(d + "/only-link", "find"), "only")
    is_disk("metadata with control and name", node.domain("vdf", "find"),
            "only")
    is_disk("metadata with a store", node.domain("vdg", "find"), b)
    check("metadata with a store reaches it",
          node.domain("vdg", "info").ok and node.domain("vdg", "map").ok)

    refused("a server that has not what the source names",
            node.domain("vdh", "info"), "ENOENT", "vdh", "g1", "'wrong'",
            "'only'")
    refused("an export that is not there", node.domain("vdl", "info"),
            "ENOENT", "vdl", "'no-such'", "'disk-a', 'disk-b'")
    refused("an unknown disk", node.domain("vdz", "info"), "ENOENT", "vdz",
            "g1", "vda, vdb, vdc", libvirt=8)
    refused("an empty path", node.domain("", "info"), "ENOENT", "g1", "vda")
    refused("a file that is no store", node.domain(d + "/node.xml", "info"),
            "ENOENT", "node.xml", "g1")
    refused("a source's name that two disks have",
            node.domain("disk-a", "info"), "ENOTUNIQ", "disk-a", "vda")
    refused("a plain file", node.domain("vdi", "info"), "EOPNOTSUPP", "vdi", "g1",
            "NBD", "file")
    refused("NBD over TCP", node.domain("vde", "info"), "EOPNOTSUPP", "vde",
            "unix", "metadata")
    refused("no server", node.domain("vdj", "info"), "ENXIO", "vdj", "g1",
            "gone.sock")
    refused("what is no socket", node.domain("vdk", "info"), "ENOTSOCK", "vdk",
            "plain.img")
    refused("a domain that is off", node.domain("vda", "info", name="off"),
            "EHOSTDOWN", "off", "not running")
    for call in (["allocate", 0, 0, 0], ["abort"], ["map"], ["find"]):
        refused("the same: %s" % call[0],
                node.domain("vda", *call, name="off"), "EHOSTDOWN")
        refused("unknown: %s" % call[0], node.domain("vdz", *call), "ENOENT")
    check("pointers that are NULL", calls(node.uri, "misuse", "g1").ok)

    # The command.
    def tool(*args):
        return run("backfill", "--connect", node.uri, *args)

    def about(r):
        return json.loads(r.stdout)["name"] if r.returncode == 0 else r

    for args in (["--domain", "g1", "vda", "info", "--json"],
                 ["--domain", "g1", "info", "vda", "--json"],
                 ["--json", "info", "--domain", "g1", "vda"],
                 ["--domain", "g1", "--json", a, "info"],
                 ["--pool", "p", "--volume", "a.img", "info", "--json"],
                 ["--volume", a, "info", "--json"]):
        r = tool(*args)
        check("backfill %s" % " ".join(args), about(r) == "disk-a", r)
    r = tool("--domain", "one", "info", "--json")
    check("a domain's only disk need not be named", about(r) == "disk-b", r)
    r = tool("--domain", "g1", "info")
    check("of several it must be", r.returncode == 1 and "vda" in r.stderr, r)
    r = tool("--domain", "bare", "info")
    check("a domain without disks", r.returncode == 1 and "none" in r.stderr,
          r)
    r = tool("--domain", "g1", "vda", "speed", "--json", "1M")
    check("a DISK before the command leaves LIMIT alone",
          r.returncode == 1 and "job" in r.stderr, r)
    for args, word in ((["--domain", "nobody", "vda", "info"], "nobody"),
                       (["--domain", "g1", "vdz", "info"], "vdz"),
                       (["--pool", "q", "--volume", "a.img", "info"], "'q'"),
                       (["--pool", "p", "--volume", "z.img", "info"], "z.img"),
                       (["--volume", d + "/z.img", "info"], "z.img")):
        r = tool(*args)
        check("backfill %s: 1, and it is named" % " ".join(args),
              r.returncode == 1 and word in r.stderr
              and r.stderr.count("\n") == 1, r)
    for args in (["--domain", "g1", "vda"], ["--domain", "g1", "list"],
                 ["--domain", "g1", "check", a], ["list", "--domain", "g1"],
                 ["--domain", "g1", "vda", "info", "vdb"],
                 ["--pool", "p", "info"], ["info"],
                 ["--pool", "p", "--volume", "a.img", "info", "x"],
                 ["--domain", "g1", "--volume", "a.img", "info"],
                 ["-c", "x", "--domain", "g1", "vda", "info"]):
        r = tool(*args)
        check("backfill %s: usage" % " ".join(args), r.returncode == 2
              and r.stderr.startswith("backfill: ") and not r.stdout, r)
    r = run("backfill", "--connect", "test:///nonexistent.xml", "--domain",
            "g1", "vda", "info")
    check("libvirt that cannot be had: 1, named", r.returncode == 1
          and "nonexistent" in r.stderr and "libvirt" in r.stderr, r)
    # Without the library beside it.
    r = run(os.path.join(common.BUILD, "cli/backfill"), "--domain", "g1",
            "vda", "info", env={"PATH": os.environ["PATH"]})
    check("a build without libvirt says what is missing", r.returncode == 1
          and "libbackfill-libvirt" in r.stderr, r)
    r = run("ldd", os.path.join(common.BUILD, "cli/.libs/backfill"))
    check("the command is not linked with libvirt", "libvirt" not in r.stdout,
          r)
    return node


def test_calls(d, node, backing):
    """The four calls, of a disk and of a volume: what the proposal says."""
    def domain_call(*args):
        return node.domain("vda", *args)

    def volume_call(*args):
        return node.volume("a.img", *args)

    for what, call, base in (("domain", domain_call, 0),
                             ("volume", volume_call, 8 * MIB)):
        # One byte in the middle of nowhere: its granule.
        a = call("allocate", base + 5 * MIB + 4097, 1, 0)
        check(what + ": one byte", a.ok, a.value)
        a = call("info")
        check(what + ": it completed, whole granules",
              a["type"] == COMPLETED and a["total"] == 4096
              and a["processed"] == 4096, a.value)
        a = call("map")
        check(what + ": the map has it", a.ok
              and [base + 5 * MIB + 4096, 4096] in a.value, a.value)
        # A copy that goes on for as long as the backing store hangs.
        backing.hang(True)
        a = call("allocate", base, 4 * MIB, NONBLOCK | SPARSE)
        check(what + ": NONBLOCK returns once it has started", a.ok, a.value)
        a = call("info")
        check(what + ": it is in progress", a["type"] == BOUNDED
              and a["total"] == 4 * MIB and a["remaining"] > 0, a.value)
        refused(what + ": a second job", call("allocate", 0, 0, NONBLOCK),
                "EBUSY", "disk-a")
        a = call("abort")
        check(what + ": abort", a.ok, a.value)
        a = call("info")
        check(what + ": it was cancelled, and says how much was copied",
              a["type"] == CANCELLED and a["remaining"] > 0, a.value)
        backing.hang(False)
        refused(what + ": abort again", call("abort"), "ESRCH", "disk-a")
        refused(what + ": out of the disk", call("allocate", SIZE + 1, 0, 0),
                "EINVAL", "disk-a")
    a = node.volume("a.img", "allocate", 0, 0, 0)
    check("the whole of it", a.ok, a.value)
    a = node.volume("a.img", "map")
    check("is one region then", a.value == [[0, SIZE]], a.value)
    st = os.stat(d + "/a.img")
    check("and allocated, as SPARSE was not asked for",
          st.st_blocks * 512 >= SIZE, st)
    a = node.domain("vdb", "map")
    check("the other disk has nothing", a.ok and a.value == [], a.value)
    a = node.domain("vdb", "info")
    check("nor a job", a.ok and a["type"] == NONE, a.value)
    # Many threads, on two disks, one with a job.
    a = node.domain("vdb", "allocate", 0, 0, NONBLOCK)
    check("a job on the other", a.ok, a.value)
    a = calls(node.uri, "threads", "g1", "vda", "vdb", "vdd")
    check("16 threads", a.ok, a.value)


def test_failure(d, backing):
    """A backing store that gives errors: failed part way."""
    with Disks(d + "/f.sock", "name=f", "store=%s/f.img" % d,
               "backing=nbd+unix:///?socket=" + backing.server.socket,
               "connections=1") as server:
        node = Node(d, [domain("g1", [nbd_disk("vda", "f", server.socket)])],
                    name="failure.xml")
        a = node.domain("vda", "allocate", 12 * MIB, MIB, 0)
        check("a part of it", a.ok, a.value)
        backing.fail(True)
        a = node.domain("vda", "allocate", 12 * MIB, 0, 0)
        check("a job that fails: the blocking call says why",
              not a.ok and a["errno"] == "EIO" and "vda" in a["text"], a.value)
        a = node.domain("vda", "info")
        check("and the info says FAILED, and how much was copied",
              a["type"] == FAILED and a["total"] == 4 * MIB
              and a["processed"] >= MIB and a["remaining"] > 0, a.value)
        backing.fail(False)


def test_volumes(d, node):
    refused("a volume whose file is gone: libvirt's own words",
            calls(node.uri, "volume", "p", "a.img", "delete"), "ENOENT",
            "libvirt says", "a.img", libvirt=50)


def test_remote(d, node):
    # (A connection that is really remote is in test-qemu.py.)
    for uri in ("qemu+ssh://nobody@127.0.0.1/system", "qemu://127.0.0.1/"):
        r = run("backfill", "--connect", uri + "?no_tty=1", "--domain", "g1",
                "vda", "info")
        check("%s: no more than an error" % uri, r.returncode == 1
              and "libvirt" in r.stderr, r)


def test_trust(d, vms, node):
    """An entry that somebody else made for a socket is not believed, though
    his server is there and answers."""
    if os.geteuid() != 0:
        return
    theirs = d + "/theirs"
    os.mkdir(theirs)
    os.chmod(d, 0o755)
    plugin = shutil.copy(common.PLUGIN, theirs)
    os.chown(theirs, 12345, 12345)
    control = theirs + "/x.control"
    process = subprocess.Popen(
        ["setpriv", "--reuid=12345", "--regid=12345", "--clear-groups",
         common.NBDKIT, "-f", "-U", theirs + "/x.sock", plugin, "name=disk-a",
         "store=%s/x.img" % theirs, "size=1M", "control=" + control,
         "runtime-dir=%s/run" % theirs], stdin=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL)
    try:
        common.wait_for("their server", lambda: process.poll() is not None
                        or run("backfill", "-c", control, "list"
                               ).returncode == 0)
        check("a stranger's server runs", process.poll() is None)
        st = os.stat(vms.socket)
        # Of the process that really is there.
        [own] = os.listdir(theirs + "/run")
        process_dir = os.path.join(os.environ["BACKFILL_RUNTIME_DIR"], own)
        os.mkdir(process_dir)
        os.chown(process_dir, 12345, 12345)
        mine = process_dir + "/1-1.volume"
        with open(mine, "w", encoding="utf-8") as f:
            f.write("store %s/x.img\ncontrol %s\npid %d\nname disk-a\n"
                    "listen %x-%x %s\n" % (theirs, control, process.pid,
                                           st.st_dev, st.st_ino, vms.socket))
        os.chown(mine, 12345, 12345)
        a = node.domain("vda", "info")
        check("his entry for our socket is not believed", a.ok, a.value)
        st = os.stat(theirs + "/x.sock")
        with open(mine, "w", encoding="utf-8") as f:
            f.write("store %s/x.img\ncontrol %s\npid %d\nname disk-a\n"
                    "listen %x-%x %s/x.sock\n"
                    % (theirs, control, process.pid, st.st_dev, st.st_ino,
                       theirs))
        r = run("backfill", "-c", "nbd:" + theirs + "/x.sock", "list")
        check("but for his own it is", r.returncode == 0, r)
        shutil.rmtree(process_dir)
    finally:
        process.terminate()
        process.wait()


class Backing:
    """16 MiB of data, with a server that can be made to fail and to hang."""

    def __init__(self, d):
        self.trigger = d + "/trigger"
        image = d + "/golden.img"
        with open(image, "wb") as f:
            f.write(os.urandom(SIZE))
        self.server = Nbdkit(
            d + "/golden.sock", "--filter=error", "file", image, "error-pread=EIO", "error-pread-rate=100%",
            "error-pread-file=" + self.trigger)

    def hang(self, on):
        if on:
            freeze(self.server.process.pid)
        else:
            self.server.process.send_signal(signal.SIGCONT)

    def fail(self, on):
        if on:
            open(self.trigger, "w").close()
        else:
            os.unlink(self.trigger)


def main():
    common.need("backfill", "ldd", "setpriv")
    with tempfile.TemporaryDirectory(prefix="lv-", dir="/tmp") as d:
        os.environ["BACKFILL_RUNTIME_DIR"] = d + "/run"
        backing = Backing(d)
        uri = "backing=nbd+unix:///?socket=" + backing.server.socket
        try:
            with Disks(d + "/vms.sock", "name=disk-a", "store=%s/a.img" % d,
                       uri, "name=disk-b", "store=%s/b.img" % d,
                       uri) as vms, \
                 Disks(d + "/spare.sock", "name=only", "store=%s/only.img" % d,
                       uri) as spare:
                node = test_find(d, vms, spare)
                test_trust(d, vms, node)
                test_calls(d, node, backing)
                test_failure(d, backing)
                test_remote(d, node)
                test_volumes(d, node)
        finally:
            backing.hang(False)
            backing.server.end()
    return common.finish()


if __name__ == "__main__":
    sys.exit(main())
