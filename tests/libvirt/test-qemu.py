#!/usr/bin/python3
"""The calls, the command and the hook with a real libvirtd and a guest that
runs and writes.

All of it is in namespaces of its own: libvirtd finds empty folders where its
configuration and state are, its hostname and its network are its own, and
whatever is left running ends with the first process.  The guest is guest.s, a
boot sector.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import json
import os
import pwd
import shutil
import struct
import subprocess
import sys
import tempfile
import time

import common
from common import Disks, Nbdkit, calls, check, run, wait_for

MIB = 1 << 20
SIZE = 64 * MIB
NONBLOCK, SPARSE = 1, 2
NONE, BOUNDED, COMPLETED, FAILED, CANCELLED = 0, 1, 3, 4, 5
URI = "qemu:///system"
SOCKET = "/run/backfill-libvirt/g1.sock"
USER = "libvirt-qemu"
# As in guest.s.
WRITE_BASE, GRANULES, NOTE, MAGIC = 8 * MIB, 1024, 2 * 512, 0x42460000


def domain_xml(name, d, metadata, socket=SOCKET, targets=("vda", "vdb")):
    disks = "".join(
        "<disk type='network' device='disk'><driver name='qemu' type='raw'/>"
        "<source protocol='nbd' name='g1-%s'><host transport='unix' "
        "socket='%s'/></source><target dev='%s' bus='virtio'/></disk>"
        % (t, socket, t) for t in targets)
    xml = ("<domain type='qemu'><name>%s</name><memory unit='MiB'>32</memory>"
           "<vcpu>1</vcpu><os><type arch='x86_64' machine='q35'>hvm</type>"
           "<boot dev='hd'/></os><metadata>%s</metadata><devices>"
           "<emulator>%s</emulator>%s<memballoon model='none'/><video><model "
           "type='none'/></video></devices></domain>"
           % (name, metadata, shutil.which("qemu-system-x86_64"), disks))
    path = os.path.join(d, name + ".xml")
    with open(path, "w", encoding="utf-8") as f:
        f.write(xml)
    return path


def metadata_xml(d, backing):
    return ("<b:disks xmlns:b='urn:backfill:1.0' total-speed='256k'>"
            + "".join("<b:disk target='%s' store='%s/pool/g1-%s.img' "
                      "backing='%s'/>" % (t, d, t, backing)
                      for t in ("vda", "vdb")) + "</b:disks>")


def virsh(*args):
    return run("virsh", "-q", "-c", URI, *args)


def must(r):
    if r.returncode != 0:
        raise RuntimeError("%s: %s%s" % (r.args, r.stdout, r.stderr))
    return r.stdout


def tool(*args):
    return run("backfill", "--connect", URI, *args)


def info(target="vda"):
    return json.loads(must(tool("--domain", "g1", target, "info", "--json")))


def guest_writes():
    return info()["stats"]["guest-writes"]


def disk(target, *args, **kwargs):
    return calls(URI, "domain", "g1", target, *args, **kwargs)


def volume(name, *args):
    return calls(URI, "volume", "p", name, *args)


def refused(what, answer, errno, *words):
    check("refused: %s (%s)" % (what, errno), not answer.ok
          and answer["errno"] == errno
          and all(w in answer["text"] for w in words), answer.value)


def make_golden(d):
    """Each sector begins with its number; the first is the guest."""
    guest = os.path.join(d, "guest")
    must(run("as", "--32", "-o", guest + ".o",
             os.path.join(common.TOP, "tests/libvirt/guest.s")))
    must(run("ld", "-m", "elf_i386", "--oformat", "binary", "-Ttext", "0x7c00",
             "-e", "_start", "-o", guest + ".bin", guest + ".o"))
    with open(guest + ".bin", "rb") as f:
        boot = f.read()
    assert len(boot) == 512
    noise = os.urandom(508)
    golden = bytearray(b"".join(struct.pack("<I", n) + noise
                                for n in range(SIZE // 512)))
    golden[:512] = boot
    # A hole.
    golden[16 * MIB:24 * MIB] = bytes(8 * MIB)
    path = os.path.join(d, "golden.img")
    with open(path, "wb") as f:
        f.write(golden)
    must(run("fallocate", "-d", path))
    return golden


def check_disk(golden, path):
    """What the guest was told is written is there; else the golden image."""
    with open(path, "rb") as f:
        got = f.read()
    count, errors = struct.unpack_from("<II", got, NOTE)
    check("the guest wrote %d times, and met no error" % count,
          count > 0 and errors == 0, (count, errors))
    # The last that was acknowledged, of each granule.
    last = {n * 7 % GRANULES: n for n in range(max(0, count - GRANULES), count)}
    bad = []
    for i in range(GRANULES):
        at = WRITE_BASE + i * 4096
        written = got[at + 512:at + 2048]
        allowed = {last.get(i)}
        if count * 7 % GRANULES == i:
            allowed.add(count)  # perhaps on its way when the guest was ended
        good = [golden[at + 512:at + 2048] if n is None
                else struct.pack("<I", MAGIC + n) * 384 for n in allowed]
        if count * 7 % GRANULES == i:
            # Cut off between two sectors is allowed too.
            old, new = good[0], good[-1]
            good += [new[:512] + old[512:], new[:1024] + old[1024:]]
        if (written not in good
                or got[at:at + 512] != golden[at:at + 512]
                or got[at + 2048:at + 4096] != golden[at + 2048:at + 4096]):
            bad.append(i)
    check("what it wrote is what is there, and nothing beside it", not bad,
          bad[:10])
    end = WRITE_BASE + GRANULES * 4096
    rest = (got[:NOTE] == golden[:NOTE]
            and got[NOTE + 512:WRITE_BASE] == golden[NOTE + 512:WRITE_BASE]
            and got[end:] == golden[end:])
    check("the rest is the golden image", rest and len(got) == SIZE)


def prepare_host(d):
    for path in ("/run", "/etc/libvirt", "/var/lib/libvirt",
                 "/var/cache/libvirt", "/var/log/libvirt"):
        os.makedirs(path, exist_ok=True)
        must(run("mount", "-t", "tmpfs", "-o", "mode=755", "none", path))
    run("ip", "link", "set", "lo", "up")
    # The guest is emulated.  A host that has this device, and a QEMU that
    # cannot use it, would be probed anew for each domain.
    if os.path.exists("/dev/kvm"):
        with open(d + "/no-kvm", "w", encoding="utf-8") as f:
            os.fchmod(f.fileno(), 0)
        must(run("mount", "--bind", d + "/no-kvm", "/dev/kvm"))
    must(run("hostname", "host-of-the-test"))
    for path in ("/run/lock", "/etc/libvirt/hooks/qemu.d"):
        os.makedirs(path)
    with open("/etc/libvirt/qemu.conf", "w", encoding="utf-8") as f:
        f.write('security_driver="none"\nstdio_handler="file"\n'
                "cgroup_controllers=[]\nnamespaces=[]\n")
    with open("/etc/libvirt/libvirtd.conf", "w", encoding="utf-8") as f:
        f.write('unix_sock_dir="/run/libvirt"\nauth_unix_rw="none"\n'
                'listen_tls=0\nlisten_tcp=1\nauth_tcp="none"\n'
                'listen_addr="127.0.0.1"\ntcp_port="16509"\n')
    # The build's folder may not be QEMU's user to look into.
    plugin = os.path.join(d, os.path.basename(common.PLUGIN))
    shutil.copy(common.PLUGIN, plugin)
    shutil.copy(os.path.join(common.TOP, "scripts/libvirt-hook"),
                "/etc/libvirt/hooks/qemu.d/backfill")
    os.chmod("/etc/libvirt/hooks/qemu.d/backfill", 0o755)
    with open("/etc/libvirt/backfill-hook.conf", "w", encoding="utf-8") as f:
        f.write("# of the test\nplugin=%s\nnbdkit = %s\nbackfill=%s\n"
                % (plugin, common.NBDKIT, shutil.which("backfill")))
    os.makedirs(d + "/pool")
    shutil.chown(d + "/pool", USER, "kvm")
    with open(d + "/libvirtd.log", "w", encoding="utf-8") as f:
        return subprocess.Popen(["libvirtd", "-l"], stdin=subprocess.DEVNULL,
                                stdout=f, stderr=f)


def test_running(d):
    """The four calls while the guest runs and writes, on two disks at once."""
    wait_for("the guest's first writes", lambda: guest_writes() > 20)
    with open(SOCKET + ".pid", encoding="utf-8") as f:
        pid = f.read().strip()
    check("the hook started the server as QEMU's user",
          os.stat("/proc/" + pid).st_uid == pwd.getpwnam(USER).pw_uid)
    check("no job yet", disk("vda", "info")["type"] == NONE)
    check("what it has read and written is in the map",
          len(disk("vda", "map").value) > 0)

    for target in ("vda", "vdb"):
        a = disk(target, "allocate", 0, 0, NONBLOCK | SPARSE)
        check(target + ": NONBLOCK returns", a.ok, a.value)
    before = guest_writes()
    both = [disk(t, "info") for t in ("vda", "vdb")]
    check("both are in progress at once", all(
        a.ok and a["type"] == BOUNDED and a["remaining"] > 0
        and a["total"] == SIZE for a in both), [a.value for a in both])
    wait_for("more writes", lambda: guest_writes() > before + 20)
    wait_for("progress of both", lambda: all(
        b["type"] == BOUNDED and b["processed"] > a["processed"]
        and b["elapsed"] > a["elapsed"]
        for a, b in zip(both, (disk(t, "info") for t in ("vda", "vdb")))))
    check("they go on, and so does the guest", True)
    refused("a second job", disk("vda", "allocate", 0, 0, 0), "EBUSY",
            "g1-vda")
    check("16 threads", calls(URI, "threads", "g1", "vda", "vdb").ok)

    a = disk("vdb", "abort")
    check("abort of the one", a.ok, a.value)
    a = disk("vdb", "info")
    check("it was cancelled part way", a["type"] == CANCELLED
          and a["processed"] > 0 and a["remaining"] > 0, a.value)
    check("the other goes on", disk("vda", "info")["type"] == BOUNDED)
    a = disk("vdb", "allocate", 63 * MIB + 1, 1, 0)
    check("one byte, blocking, while the other goes on", a.ok, a.value)
    a = disk("vdb", "info")
    check("which is one granule", a["type"] == COMPLETED
          and a["total"] == 4096, a.value)
    check("and in the map", any(
        o <= 63 * MIB and o + n >= 63 * MIB + 4096
        for o, n in disk("vdb", "map").value))

    # By the command.
    r = tool("--domain", "g1", "vda", "info")
    check("backfill --domain g1 vda info", r.returncode == 0
          and "running" in r.stdout, r)
    r = tool("--domain", "g1", "vda", "map", "--totals")
    check("backfill --domain g1 vda map --totals", r.returncode == 0
          and "absent" in r.stdout, r)
    r = tool("--domain", "g1", "vdb", "allocate", "--length", "64K", "--wait")
    check("backfill --domain g1 vdb allocate --wait", r.returncode == 0, r)
    must(run("backfill", "-c", "nbd:" + SOCKET, "speed", "--total", "none"))
    a = disk("vdb", "allocate", 0, 0, 0)
    check("all of vdb, blocking and fully allocated", a.ok, a.value)
    wait_for("vda's job", lambda: disk("vda", "info")["type"] != BOUNDED)
    for target in ("vda", "vdb"):
        a = disk(target, "info")
        check(target + ": completed", a["type"] == COMPLETED
              and a["processed"] == SIZE and a["remaining"] == 0, a.value)
        a = disk(target, "map")
        check(target + ": one region", a.value == [[0, SIZE]], a.value)
    refused("nothing is left to abort", disk("vda", "abort"), "ESRCH")

    # The same disk as a volume.
    must(virsh("pool-refresh", "p"))
    a = volume("g1-vda.img", "info")
    check("as a volume it is the guest's disk", a["type"] == COMPLETED
          and a["total"] == SIZE, a.value)
    a = volume("g1-vda.img", "map")
    check("with the same map", a.value == [[0, SIZE]], a.value)
    r = tool("--pool", "p", "--volume", "g1-vda.img", "info", "--json")
    check("and for the command too", r.returncode == 0
          and json.loads(r.stdout)["name"] == "g1-vda", r)
    a = disk(d + "/pool/g1-vdb.img", "find")
    check("a store's path is the domain's disk", a["disk"] == "g1-vdb",
          a.value)


def test_errors(d):
    a = disk("vdz", "info")
    refused("an unknown disk", a, "ENOENT", "vdz", "g1", "vda, vdb")
    check("and libvirt has an error of its own", a["libvirt"] == 8
          and "vdz" in a["message"], a.value)
    r = run("virsh", "-c", "qemu+tcp://127.0.0.1/system", "list")
    if r.returncode != 0:
        check("libvirtd listens on the network", False, r)
        return
    for args in (["domain", "g1", "vda", "info"],
                 ["domain", "g1", "vda", "allocate", 0, 0, 0],
                 ["domain", "g1", "vda", "abort"],
                 ["domain", "g1", "vda", "map"],
                 ["volume", "p", "g1-vda.img", "info"],
                 ["volume", "p", "g1-vda.img", "map"]):
        refused("over the network: %s %s" % (args[0], args[3]),
                calls("qemu+tcp://127.0.0.1/system", *args), "EREMOTE",
                "qemu+tcp", "remote")
    r = run("backfill", "--connect", "qemu+tcp://127.0.0.1/system", "--domain",
            "g1", "vda", "info")
    check("the command says so too", r.returncode == 1
          and "remote" in r.stderr, r)
    # As with a socket that was forwarded from elsewhere.
    r = run("unshare", "--uts", "sh", "-c", 'hostname elsewhere; exec "$@"',
            "sh", common.CALLS, URI, "domain", "g1", "vda", "info")
    refused("a local URI of another host", common.Answer(r), "EREMOTE",
            "host-of-the-test")


def test_hook(d, backing):
    """Mistakes in a domain: it does not start, and nobody else is hurt."""
    before = guest_writes()
    for name, metadata, word in (
            ("clone", metadata_xml(d, backing), "listens there already"),
            ("bracket", metadata_xml(d, "[ sh -c id ]"), "is a command"),
            ("key", metadata_xml(d, backing).replace("target='vdb'",
                                                     "target='vdb' sice='1'"),
             "'sice'"),
            ("nothing", metadata_xml(d, backing).replace("target='vdb'",
                                                         "target='vdq'"),
             "'vdq'")):
        must(virsh("define", domain_xml(name, d, metadata)))
        r = virsh("start", name)
        check("a domain with a mistake (%s) does not start, and says why"
              % name, r.returncode != 0 and word in r.stderr, r)
        must(virsh("undefine", name))
    wait_for("more writes", lambda: guest_writes() > before + 20)
    check("the guest whose socket it was goes on", True)
    for xml, status in (("<domain><name>x</name></domain>", 0), ("", 1)):
        r = subprocess.run(["/etc/libvirt/hooks/qemu.d/backfill", "x",
                            "prepare", "begin", "-"], input=xml, text=True,
                           stderr=subprocess.PIPE, check=False)
        check("the hook's status for %r is %d" % (xml, status),
              r.returncode == status, r)


def test_ended(d, golden):
    with open(SOCKET + ".pid", encoding="utf-8") as f:
        pid = f.read().strip()
    must(virsh("destroy", "g1"))
    check("the hook ended the server", not os.path.exists(SOCKET))
    # It may have to be reaped yet.
    wait_for("its process", lambda: not os.path.exists("/proc/" + pid))
    for call in (["info"], ["map"], ["abort"], ["allocate", 0, 0, 0]):
        refused("a domain that is off: " + call[0], disk("vda", *call),
                "EHOSTDOWN", "g1", "not running")
    check_disk(golden, d + "/pool/g1-vda.img")
    with open(d + "/pool/g1-vdb.img", "rb") as f:
        check("vdb is the golden image", f.read() == golden)
    refused("its volume: nobody has it", volume("g1-vda.img", "info"), "ENXIO",
            "g1-vda.img")


def test_again(d):
    """The same domain once more, on what it had."""
    store = d + "/pool/g1-vda.img"
    before = os.stat(store).st_ino
    with open(store, "rb") as f:
        had = f.read()
    must(virsh("start", "g1"))
    wait_for("the guest's writes", lambda: guest_writes() > 20)
    a = disk("vda", "map")
    check("started again: all is still local", a.value == [[0, SIZE]], a.value)
    check("in the same file", os.stat(store).st_ino == before)
    # Who changes a running domain's metadata must not keep its server.
    must(virsh("metadata", "g1", "urn:backfill:1.0", "--remove", "--live"))
    must(virsh("destroy", "g1"))
    check("the hook ended its server all the same", not os.path.exists(SOCKET))
    check_disk(had, store)


def test_volume(d, backing):
    """A volume that libvirt made, before, while and after somebody has it."""
    must(virsh("vol-create-as", "p", "v3", "64M"))
    for call in (["info"], ["map"], ["abort"], ["allocate", 0, 0, 0]):
        refused("a volume that nobody has: " + call[0], volume("v3", *call),
                "ENXIO", "v3")
    with Disks(d + "/v3.sock", "store=%s/pool/v3" % d, "adopt=absent",
               "backing=" + backing, "total-speed=256k"):
        a = volume("v3", "map")
        check("a volume in use: its map", a.ok and a.value == [], a.value)
        check("no job", volume("v3", "info")["type"] == NONE)
        a = volume("v3", "allocate", 1 * MIB, 32 * MIB, NONBLOCK)
        check("NONBLOCK returns", a.ok, a.value)
        a = volume("v3", "info")
        check("it is in progress", a["type"] == BOUNDED
              and a["total"] == 32 * MIB, a.value)
        a = volume("v3", "abort")
        check("abort", a.ok, a.value)
        check("it was cancelled", volume("v3", "info")["type"] == CANCELLED)
        must(run("backfill", "-c", "nbd:" + d + "/v3.sock", "speed", "--total",
                 "none"))
        a = volume("v3", "allocate", 0, 0, SPARSE)
        check("all of it, blocking", a.ok, a.value)
        check("it completed", volume("v3", "info")["type"] == COMPLETED)
        check("the map", volume("v3", "map").value == [[0, SIZE]])
    refused("and after: nobody", volume("v3", "info"), "ENXIO", "v3")
    with open(d + "/pool/v3", "rb") as f, open(d + "/golden.img", "rb") as g:
        check("it is the golden image", f.read() == g.read())
    must(virsh("vol-delete", "v3", "--pool", "p"))


def test_offline(d, golden, backing):
    """One job of one disk: begun before the domain runs, gone on with while it
    does, and ended after it."""
    store = d + "/pool/off.img"
    control = "/run/backfill/backfilld.sock"
    with open(d + "/backfilld.log", "w", encoding="utf-8") as f:
        daemon = subprocess.Popen(
            ["backfilld", "--state-dir=" + d + "/state", "--speed=256k",
             "--grace=1", "--idle=1", "--socket-mode=0660",
             "--socket-group=kvm", d + "/pool"],
            stdin=subprocess.DEVNULL, stdout=f, stderr=f)
    wait_for("backfilld", lambda: daemon.poll() is None
             and os.path.exists(control))

    a = volume("g1-vda.img", "map")
    check("a volume that nobody has open is backfilld's",
          a.value == [[0, SIZE]], a.value)
    check("and its job is on record",
          volume("g1-vda.img", "info")["type"] == COMPLETED)

    must(run("backfill", "create", store, "--backing", backing))
    for path in (store, store + ".backfill"):
        shutil.chown(path, USER, "kvm")
    must(virsh("pool-refresh", "p"))
    a = volume("off.img", "allocate", 0, 0, NONBLOCK | SPARSE)
    check("a job before there is a guest", a.ok, a.value)
    before = wait_for("its progress", lambda: [
        a for a in [volume("off.img", "info")] if a["processed"] > 0])[0]
    check("it is in progress", before["type"] == BOUNDED
          and before["total"] == SIZE, before.value)

    must(virsh("define", domain_xml(
        "off", d, "<b:disks xmlns:b='urn:backfill:1.0' total-speed='256k'>"
        "<b:disk target='vda' store='%s'/></b:disks>" % store,
        socket="/run/backfill-libvirt/off.sock", targets=["vda"])))
    must(virsh("start", "off"))
    during = calls(URI, "domain", "off", "vda", "info")
    check("the guest's server goes on with it", during["type"] == BOUNDED
          and during["total"] == SIZE
          and during["processed"] >= before["processed"]
          and during["elapsed"] >= before["elapsed"], during.value)
    a = volume("off.img", "info")
    check("which the volume's call tells too", a["type"] == BOUNDED
          and a["processed"] >= during["processed"], a.value)
    wait_for("the guest's writes", lambda: json.loads(must(tool(
        "--domain", "off", "vda", "info", "--json")))["stats"]["guest-writes"]
        > 20)
    during = calls(URI, "domain", "off", "vda", "info")
    must(virsh("destroy", "off"))

    wait_for("backfilld to go on", lambda: volume("off.img", "info").get(
        "processed", 0) > during["processed"])
    a = volume("off.img", "info")
    check("after the guest backfilld goes on with it", a["type"] == BOUNDED
          and a["elapsed"] >= during["elapsed"], a.value)
    must(run("backfill", "-c", control, "speed", "--total", "none"))
    wait_for("its end",
             lambda: volume("off.img", "info")["type"] != BOUNDED)
    a = volume("off.img", "info")
    check("to its end", a["type"] == COMPLETED and a["processed"] == SIZE,
          a.value)
    a = volume("off.img", "map")
    check("when all is local", a.value == [[0, SIZE]], a.value)
    daemon.terminate()
    check("(backfilld ends well)", daemon.wait(60) == 0)
    check_disk(golden, store)


def inside(d):
    try:
        failed = test_all(d)
    except Exception:
        failed = 1
        raise
    finally:
        if failed:
            with open(d + "/libvirtd.log", encoding="utf-8") as f:
                print("--- libvirtd ---\n" + f.read()[-20000:])
    return failed


def test_all(d):
    golden = make_golden(d)
    libvirtd = prepare_host(d)
    with Nbdkit(d + "/golden.sock", "file", d + "/golden.img") as server:
        os.chmod(server.socket, 0o777)
        backing = "nbd+unix:///?socket=" + server.socket
        wait_for("libvirtd", lambda: libvirtd.poll() is None
                 and virsh("uri").returncode == 0)
        must(virsh("pool-define-as", "p", "dir", "--target", d + "/pool"))
        must(virsh("pool-start", "p"))
        must(virsh("define", domain_xml("g1", d, metadata_xml(d, backing))))
        test_volume(d, backing)
        must(virsh("start", "g1"))
        check("the domain runs", True)
        test_running(d)
        test_errors(d)
        test_hook(d, backing)
        test_ended(d, golden)
        test_again(d)
        test_offline(d, golden, backing)
    return common.finish()


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "inside":
        return inside(sys.argv[2])
    common.need("backfill", "backfilld", "libvirtd", "virsh", "qemu-system-x86_64", "as",
                "ld", "unshare", "hostname", "fallocate")
    if os.geteuid() != 0:
        common.skip("it needs root")
    try:
        pwd.getpwnam(USER)
    except KeyError:
        common.skip("there is no user " + USER)
    separate = ["unshare", "--mount", "--pid", "--net", "--uts", "--fork",
                "--kill-child", "--mount-proc"]
    r = run(*separate, "mount", "-t", "tmpfs", "none", "/run")
    if r.returncode != 0:
        common.skip("no namespaces here: " + r.stderr.strip())
    with tempfile.TemporaryDirectory(prefix="lv-", dir="/tmp") as d:
        os.chmod(d, 0o755)
        env = {k: v for k, v in os.environ.items()
               if k not in ("BACKFILL_RUNTIME_DIR", "LIBVIRT_DEFAULT_URI")}
        # The first process has to reap orphans: libvirtd waits for daemons that
        # it killed to be gone.
        init = ["bash", "-c", '"$@"; exit $?', "init"]
        return subprocess.run(separate + init + [sys.executable, __file__,
                                                 "inside", d],
                              env=env, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
