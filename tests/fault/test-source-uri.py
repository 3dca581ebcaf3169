#!/usr/bin/python3
"""Ways to name a backing store: sockets, names, commands, TLS.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import shutil
import signal
import socket
import subprocess
import time

import faultlib
from faultlib import (K, LONG, M, NBDKIT, SOON, Failed, Plugin, Process,
                      check, wait_for, within)

G = 4096


def free_port(family=socket.AF_INET):
    with socket.socket(family) as s:
        s.bind(("localhost", 0))
        return s.getsockname()[1]


class TcpServer(Process):
    def __init__(self, t, name, *args):
        self.port = free_port()
        super().__init__(name, [NBDKIT, "-f", "-i", "127.0.0.1", "-p",
                                str(self.port), *args], t(name + ".log"))

    def start(self):
        super().start()
        wait_for(self.name + " starts", self.is_up)
        return self

    def is_up(self):
        check(self.alive(), self.name + " ended", self.text())
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", self.port)) == 0


def serves(t, data, backing, name, *keys):
    """A new disk, all of it, then again with only its path."""
    store = t(name + ".img")
    p = t.plugin(store, "backing=" + backing, *keys, name=name)
    c, ctl = p.client(), p.control()
    check(c.read(M + 5, 10000) == data[M + 5:][:10000], name + ": data")
    c.close()
    p.end()
    p = t.plugin(store, name=name + "-again")
    c, ctl = p.client(), p.control()
    wait_for(name, lambda: ctl.disk()["source"] == "connected")
    ctl("block-allocate", device="")
    check("error" not in ctl.wait_event("BLOCK_JOB_COMPLETED"), name)
    check(c.read(0, len(data)) == data, name + ": disk")
    c.close()
    p.end()
    check(t.read(name + ".img") == data, name + ": store")


def refused(t, backing, *words, name="refused", timeout="10s"):
    """No volume is made of it, and it is said why."""
    p = Plugin(t, name, t(name + ".img"), "backing=" + backing,
               "timeout=" + timeout)
    with within(SOON, "the error"):
        said = p.fails()
    check(all(w in said for w in words), "what is said", said)
    check(not [f for f in os.listdir(t.path)
               if f.startswith(name + ".img")], "nothing is left")
    os.unlink(t(name + ".log"))
    print(said)
    return said


def survives(t, s, data, backing, name):
    """An outage, as test-source-outage.py has it, over this transport."""
    p = t.plugin(t(name + ".img"), "backing=" + backing, "fetch=4K",
                 "timeout=" + LONG, name=name)
    c, ctl = p.client(), p.control()
    check(c.read(0, G) == data[:G], "data")
    s.kill()
    ctl.wait_event("SOURCE_LOST")
    stuck = c.start_read(M, 5000)
    check(c.read(0, G) == data[:G], "local data")
    s.start()
    with within(SOON, "recovery"):
        check(c.finish(stuck) == data[M:M + 5000], "data")
    ctl.wait_event("SOURCE_BACK")
    s.hang()
    stuck = c.start_read(2 * M, 5000)
    check(c.read(0, G) == data[:G], "local data")
    time.sleep(0.3)
    check(not c.is_done(stuck), "it waits")
    s.resume()
    check(c.finish(stuck) == data[2 * M:2 * M + 5000], "data")
    c.close()
    p.end()


def test_tcp(t):
    image, data = t.image("golden", 4 * M)
    s = TcpServer(t, "source", "file", image).start()
    serves(t, data, "nbd://127.0.0.1:%d" % s.port, "address")
    serves(t, data, "nbd://localhost:%d/" % s.port, "host")
    survives(t, s, data, "nbd://localhost:%d" % s.port, "outage")


def test_tcp_where_nobody_listens(t):
    image, data = t.image("golden", 4 * M)
    s = TcpServer(t, "source", "file", image)
    uri = "nbd://127.0.0.1:%d" % s.port
    refused(t, uri, uri, "refused", "backing=")
    refused(t, "nbd://no-such-host.invalid", "no-such-host.invalid")
    s.start()
    p = t.plugin(t("disk"), "backing=" + uri)
    p.end()
    s.kill()
    # One that exists starts all the same, and finds it later.
    p.start()
    c = p.client()
    stuck = c.start_read(M, G)
    time.sleep(0.5)
    check(not c.is_done(stuck), "it waits")
    s.start()
    check(c.finish(stuck) == data[M:M + G], "data")
    c.close()
    p.end()


def test_tcp_host_that_does_not_answer(t):
    """Not even to the attempt to connect: as when it, or its cable, is gone."""
    image, data = t.image("golden", 4 * M)
    s = TcpServer(t, "source", "file", image).start()
    p = t.plugin(t("disk"), "backing=nbd://127.0.0.1:%d" % s.port,
                 "fetch=4K", "timeout=" + LONG)
    c = p.client()
    check(c.read(0, G) == data[:G], "data")
    c.close()
    p.end()
    s.kill()
    # A queue that is full: further SYNs are dropped.
    hole = socket.socket()
    hole.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    hole.bind(("127.0.0.1", s.port))
    hole.listen(0)
    queue = []
    for _ in range(8):
        queue.append(socket.socket())
        queue[-1].setblocking(False)
        queue[-1].connect_ex(("127.0.0.1", s.port))
    with within(SOON, "start"):
        p.start()
    c = p.client()
    stuck = c.start_read(M, G)
    with within(SOON, "local data"):
        check(c.read(0, G) == data[:G], "data")
        c.write(2 * M, b"w" * G)
        c.flush()
    check(not c.is_done(stuck), "it waits")
    # Also the attempt to connect takes no longer than it should.
    said = Plugin(t, "other", t("other"), "timeout=2s",
                  "backing=nbd://127.0.0.1:%d" % s.port)
    with within(SOON, "an error for a new volume"):
        check("no answer" in said.fails(), "what is said", said.text())
    for q in queue:
        q.close()
    hole.close()
    s.start()
    with within(SOON, "recovery"):
        check(c.finish(stuck) == data[M:M + G], "data")
    c.close()
    p.end()


def test_unix_export_names(t):
    """One server, several images: the export's name is part of the URI."""
    os.mkdir(t("images"))
    _, one = t.image("images/one", 2 * M, seed=1)
    _, two = t.image("images/two words", 2 * M, seed=2)
    s = t.serve("source", "file", "dir=" + t("images"))
    uri = "nbd+unix:///%s?socket=" + s.socket
    serves(t, one, uri % "one", "one")
    serves(t, two, uri % "two%20words", "two")
    refused(t, uri % "three", "three", "backing=")


def test_wrong_uris(t):
    for uri, word in (("nbd+unix:///?socket=" + t("none"), "none"),
                      ("nbd+unix:///", "nbd+unix"),
                      ("http://localhost/", "http")):
        refused(t, uri, word)


def have(program, package="gnutls-bin"):
    if shutil.which(program):
        return True
    print("%s is missing (apt-get install %s): not tested" % (program, package))
    return False


# Commands.

def children(pid):
    with open("/proc/%d/task/%d/children" % (pid, pid)) as f:
        own = f.read().split()
    found = list(own)
    for task in os.listdir("/proc/%d/task" % pid):
        try:
            with open("/proc/%d/task/%s/children" % (pid, task)) as f:
                found += f.read().split()
        except OSError:  # the thread has ended
            pass
    return sorted({int(x) for x in found if is_there(x)})


def others():
    """The other processes of this test, whoever is their parent."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if int(pid) != os.getpid() \
                    and os.getpgid(int(pid)) == os.getpgrp():
                found.append(int(pid))
        except ProcessLookupError:
            pass
    return found


def is_there(pid):
    try:
        with open("/proc/%s/stat" % pid) as f:
            return f.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def a_command(t, backing, data):
    """Started with the plugin, and again when it is killed or hangs; gone
    with the plugin."""
    p = t.plugin(t("disk"), "backing=" + backing, "fetch=4K",
                 "timeout=30s")
    c, ctl = p.client(), p.control()
    check(c.read(0, G) == data[:G], "data")
    absent = iter(range(M, len(data), G))
    for how in (signal.SIGKILL, signal.SIGTERM, signal.SIGSTOP):
        pids = children(p.pid)
        check(len(pids) == 1, "one command runs", pids)

        def is_gone():
            at = next(absent)
            check(c.read(at, G) == data[at:at + G], "data")
            time.sleep(0.05)
            return not is_there(pids[0])
        os.kill(pids[0], how)
        wait_for("the old one is gone", is_gone)
        wait_for("connected", lambda: ctl.disk()["source"] == "connected")
        is_gone()
    ctl("block-allocate", device="")
    check("error" not in ctl.wait_event("BLOCK_JOB_COMPLETED"), "completed")
    check(c.read(0, len(data)) == data, "disk")
    # All is local: it is not needed any more.
    wait_for("the command has ended", lambda: not children(p.pid))
    c.close()
    p.end()

    # Neither does it outlive a plugin that ends, or is killed.
    for i, end in enumerate((Plugin.end, Plugin.kill)):
        p = t.plugin(t("disk%d" % i), "backing=" + backing,
                     name="p%d" % i)
        c = p.client()
        check(c.read(0, G) == data[:G], "data")
        pids = children(p.pid)
        check(len(pids) == 1, "one command runs", pids)
        c.close()
        end(p)
        wait_for("it ends with the plugin", lambda: not is_there(pids[0]))
        if end is Plugin.end:
            left = [f for _, _, names in os.walk(t("run")) for f in names
                    if f.startswith("source-")]
            check(not left, "no socket is left", left)


def test_command(t):
    image, data = t.image("golden", 4 * M)
    a_command(t, "[ nbdkit file %s ]" % image, data)


def test_command_on_stdin(t):
    image, data = t.image("golden", 4 * M)
    a_command(t, "[ nbdkit -s file %s ]" % image, data)


def test_command_that_would_stay(t):
    """This one does not end when its client has gone, as nbdkit does."""
    if not have("qemu-nbd", "qemu-utils"):
        return
    image, data = t.image("golden", 4 * M)
    a_command(t, "[ qemu-nbd -t -r -f raw %s ]" % image, data)


def test_command_with_spaces(t):
    os.mkdir(t("some images"))
    image, data = t.image("some images/golden's", 2 * M)
    serves(t, data, "[ nbdkit file \"%s\" ]" % image, "quoted")


def test_wrong_commands(t):
    refused(t, "[ /no/such/program x ]", "/no/such/program", "not found")
    refused(t, "[ false ]", "false", "status 1")
    refused(t, "[ nbdkit file %s ]" % t("none"), "none")
    # Not NBD at all.
    refused(t, "[ echo -s hello ]", "echo")
    # It says nothing.
    refused(t, "[ sleep 1000 ]", "sleep", timeout="1s")
    wait_for("none of them is left", lambda: not others())


# TLS.

def tool(*args, text=None):
    r = subprocess.run(args, input=text, stdout=subprocess.PIPE,
                       stderr=subprocess.STDOUT, text=True, check=False)
    check(r.returncode == 0, " ".join(args), r.stdout)


def make_pki(t, name):
    """A CA, a server's and a client's certificate, as nbdkit names them."""
    d = t(name)
    os.mkdir(d)

    def key(what):
        tool("certtool", "--generate-privkey", "--ecc", "--outfile",
             "%s/%s-key.pem" % (d, what))

    def template(what, *lines):
        with open("%s/%s.info" % (d, what), "w") as f:
            f.write("\n".join(("cn = " + what,) + lines) + "\n")
        return "%s/%s.info" % (d, what)
    key("ca")
    tool("certtool", "--generate-self-signed", "--load-privkey",
         d + "/ca-key.pem", "--template",
         template("ca", "ca", "cert_signing_key"),
         "--outfile", d + "/ca-cert.pem")
    for what, use in (("server", "tls_www_server"),
                      ("client", "tls_www_client")):
        key(what)
        tool("certtool", "--generate-certificate",
             "--load-ca-certificate", d + "/ca-cert.pem",
             "--load-ca-privkey", d + "/ca-key.pem",
             "--load-privkey", "%s/%s-key.pem" % (d, what), "--template",
             template(what, use, "dns_name = localhost",
                      "ip_address = 127.0.0.1", "signing_key",
                      "encryption_key"),
             "--outfile", "%s/%s-cert.pem" % (d, what))
    return d


# Sources with TLS have one thread a connection (-t 1): several of nbdkit's may
# end the server with an assertion of the TLS library where a connection ends
# while they answer.

def test_tls_certificates(t):
    if not have("certtool"):
        return
    ours, theirs = make_pki(t, "ours"), make_pki(t, "theirs")
    image, data = t.image("golden", 4 * M)
    s = TcpServer(t, "source", "-t", "1", "--tls=require", "--tls-verify-peer",
                  "--tls-certificates=" + ours, "file", image).start()
    uri = "nbds://localhost:%d?tls-certificates=" % s.port
    serves(t, data, uri + ours, "tls")
    survives(t, s, data, uri + ours, "outage")

    s.kill()
    s.argv.remove("--tls-verify-peer")
    s.start()
    said = refused(t, uri + theirs, "certificate")
    check("localhost" in said, "which server", said)
    refused(t, "nbd://localhost:%d" % s.port, "TLS")
    # Where no CA is, libnbd would trust everybody.
    os.mkdir(t("an empty one"))
    refused(t, uri + t("an%20empty%20one"), "an empty one/ca-cert.pem",
            "CA certificate")
    refused(t, uri + t("none"), "none/ca-cert.pem")
    # Ours in the sidecar, and then theirs: not a byte of it.
    p = Plugin(t, "exchanged", t("tls2.img"), "backing=" + uri + ours,
               "fetch=4K", "timeout=60s")
    p.start().end()
    p = t.plugin(t("tls2.img"), "backing=" + uri + theirs, "timeout=1s",
                 name="exchanged")
    c = p.client()
    faultlib.fails("EIO", c.read, M, G)
    c.close()
    p.end()
    check("certificate" in p.text(), "it is said", p.text())


def test_tls_name_of_the_server(t):
    """The certificate is right, but somebody else's."""
    if not have("certtool"):
        return
    pki = make_pki(t, "pki")
    tool("certtool", "--generate-certificate",
         "--load-ca-certificate", pki + "/ca-cert.pem",
         "--load-ca-privkey", pki + "/ca-key.pem",
         "--load-privkey", pki + "/server-key.pem",
         "--template", "/dev/stdin", "--outfile", pki + "/server-cert.pem",
         text="cn = other\ntls_www_server\ndns_name = other.invalid\n"
         "signing_key\nencryption_key\n")
    image, _ = t.image("golden", 2 * M)
    s = TcpServer(t, "source", "-t", "1", "--tls=require",
                  "--tls-certificates=" + pki, "file", image).start()
    refused(t, "nbds://localhost:%d?tls-certificates=%s" % (s.port, pki),
            "certificate")


def test_tls_psk(t):
    if not have("psktool"):
        return
    for name in ("ours", "theirs"):
        tool("psktool", "-u", "guest", "-p", t(name + ".psk"))
    image, data = t.image("golden", 4 * M)
    s = t.serve("source", "-t", "1", "--tls=require",
                "--tls-psk=" + t("ours.psk"), "file", image)
    uri = "nbds+unix://%s@/?socket=" + s.socket + "&tls-psk-file="
    serves(t, data, uri % "guest" + t("ours.psk"), "psk")
    survives(t, s, data, uri % "guest" + t("ours.psk"), "outage")
    refused(t, uri % "guest" + t("theirs.psk"), "TLS")
    refused(t, uri % "nobody" + t("ours.psk"), "nobody")
    refused(t, s.uri, "TLS")


if __name__ == "__main__":
    faultlib.main()
