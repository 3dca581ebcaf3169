#!/usr/bin/python3
"""Another backing store in the place of the one we know (G29, G30, I9).

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import os
import time

import faultlib
from faultlib import (K, LONG, M, SOON, Plugin, check, fails, nbd, wait_for,
                      within)

G = 4096
SIZE = 4 * M


def images(t):
    """The right one, one of other content, a longer one, a shorter one."""
    right, data = t.image("right", SIZE)
    other, other_data = t.image("other", SIZE, seed=2)
    check(not any(data[i:i + 64] == other_data[i:i + 64]
                  for i in range(0, SIZE, 64)), "they differ everywhere")
    # As of a disk that went on to be used: a table at its end has changed.
    with open(t("end"), "wb") as f:
        f.write(data[:-G] + bytes(G))
    for name, size in (("longer", SIZE + G), ("shorter", SIZE - G)):
        with open(t(name), "wb") as f:
            f.write((data + bytes(G))[:size])
    return data, other_data


def exchange(t, s, name):
    """Another image on the same socket."""
    s.kill()
    s.argv[-1] = t(name)
    s.start()


def files(t):
    return {n: t.read(n) for n in ("disk", "disk.backfill")}


def refused_on_reconnect(t, wrong, why):
    data, _ = images(t)
    s = t.serve("source", "file", t("right"))
    p = t.plugin(t("disk"), "backing=" + s.uri, "fetch=4K",
                 "timeout=" + LONG)
    c, ctl, model = p.client(), p.control(), bytearray(data)
    check(c.read(0, 64 * K) == data[:64 * K], "data")
    c.write(M + 10, b"before")
    model[M + 10:M + 16] = b"before"
    ctl("block-allocate", device="", offset=2 * M, speed=64 * K)
    # Further connections, too, are of the old server.
    wait_for("the job runs", lambda: ctl.job()["processed"] >= 64 * K)
    exchange(t, s, wrong)
    wait_for("it is said", lambda: why in p.text())
    check(ctl.disk()["source"] == "lost", "it is not used", ctl.disk())
    check(why in ctl.disk()["source-reason"], "and why", ctl.disk())
    wait_for("event", lambda: why in ctl.wait_event("SOURCE_LOST")["reason"])
    with within(SOON, "errors, and local data"):
        for at in (M // 2, M + 50, 2 * M - 100, SIZE - 5000):
            fails("EIO", c.read, at, 5000)
        fails("EIO", c.write, M // 2, b"part of an absent granule")
        check(c.read(0, 64 * K) == data[:64 * K], "local data")
        check(c.read(M, G) == model[M:M + G], "local data")
        c.write(M + 20, b"after")
        c.write(M + 2 * G, b"w" * G)
        c.zero(M + 4 * G, G)
        c.flush()
        check(not any(f & nbd.STATE_ZERO for _, f in c.extents(M // 2, 64 * K)),
              "what is not known is data")
    model[M + 20:M + 25] = b"after"
    model[M + 2 * G:M + 3 * G] = b"w" * G
    model[M + 4 * G:M + 5 * G] = bytes(G)
    again = p.client()
    check(again.h.get_size() == SIZE, "the disk's size", again.h.get_size())
    again.close()
    local = ctl.disk()["local"]
    time.sleep(1.5)
    check(ctl.disk()["local"] == local, "nothing of it becomes local")
    check(ctl.job()["status"] == "waiting", "the job waits", ctl.job())

    exchange(t, s, "right")
    with within(SOON, "the right one is picked up"):
        wait_for("it is back", lambda: ctl.disk()["source"] == "connected")
        check(c.read(M // 2, 10000) == data[M // 2:][:10000], "data")
    ctl("block-job-set-speed", device="", speed=0)
    check("error" not in ctl.wait_event("BLOCK_JOB_COMPLETED"), "completed")
    check(c.read(0, SIZE) == model, "the disk")
    ctl("block-allocate", device="")
    check("error" not in ctl.wait_event("BLOCK_JOB_COMPLETED"), "completed")
    c.close()
    p.end()
    check(t.read("disk") == model, "the store")


def test_longer_one_is_refused_on_reconnect(t):
    refused_on_reconnect(t, "longer", "its size is %d bytes, not %d"
                         % (SIZE + G, SIZE))


def test_shorter_one_is_refused_on_reconnect(t):
    refused_on_reconnect(t, "shorter", "its size is %d bytes, not %d"
                         % (SIZE - G, SIZE))


def test_other_content_is_refused_on_reconnect(t):
    refused_on_reconnect(t, "other", "its content differs")


def test_wrong_one_is_refused_on_restart(t):
    data, _ = images(t)
    s = t.serve("source", "file", t("right"))
    p = t.plugin(t("disk"), "backing=" + s.uri, "fetch=4K")
    c = p.client()
    c.write(M, b"w" * G)
    c.read(0, G)
    c.close()
    p.end()
    before = files(t)
    for wrong, words in (("longer", [str(SIZE + G), str(SIZE)]),
                         ("shorter", [str(SIZE - G), str(SIZE)]),
                         ("other", ["content"]), ("end", ["content"])):
        exchange(t, s, wrong)
        for keys in ([], ["backing=" + s.uri], ["backing=" + s.uri,
                                                "identity=content"]):
            said = Plugin(t, "wrong", t("disk"), *keys).fails()
            check(all(w in said for w in words + [s.uri, "disk"]),
                  "what is wrong", said)
            check(files(t) == before, "store and sidecar are as they were")
            os.unlink(t("wrong.log"))
    # With identity=size it is the size all the same.
    for wrong in ("longer", "shorter"):
        exchange(t, s, wrong)
        said = Plugin(t, "wrong", t("disk"), "identity=size").fails()
        check(str(SIZE) in said, "what is wrong", said)
        check(files(t) == before, "store and sidecar are as they were")
    exchange(t, s, "right")
    p.start()
    c = p.client()
    check(c.read(0, SIZE) == data[:M] + b"w" * G + data[M + G:], "the disk")
    c.close()
    p.end()


def test_wrong_one_that_comes_later_is_refused(t):
    """Nobody was there at the start, so that nothing was compared yet."""
    data, _ = images(t)
    s = t.serve("source", "file", t("right"))
    p = t.plugin(t("disk"), "backing=" + s.uri, "fetch=4K",
                 "timeout=" + LONG)
    c = p.client()
    c.read(0, G)
    c.close()
    p.end()
    s.kill()
    p.start()
    c, ctl = p.client(), p.control()
    for wrong in ("other", "longer", "shorter"):
        exchange(t, s, wrong)
        with within(SOON, "it is refused"):
            fails("EIO", c.read, M, G)
        check(c.read(0, G) == data[:G], "local data")
        s.kill()
        s.argv[-1] = t("right")
        s.start()
        wait_for("connected", lambda: ctl.disk()["source"] == "connected")
        s.kill()
        wait_for("lost", lambda: ctl.disk()["source"] == "lost")
    s.start()
    check(c.read(0, SIZE) == data, "the disk")
    c.close()
    p.end()


def test_size_is_enough_where_that_was_said(t):
    data, other = images(t)
    s = t.serve("source", "file", t("right"))
    p = t.plugin(t("disk"), "backing=" + s.uri, "fetch=4K",
                 "identity=size")
    c, ctl = p.client(), p.control()
    check(c.read(0, G) == data[:G], "data")
    exchange(t, s, "other")
    check(c.read(G, G) == other[G:2 * G], "of the new one")
    check(c.read(0, G) == data[:G], "what is local stays")
    exchange(t, s, "longer")
    wait_for("a size is refused", lambda: "its size is" in p.text())
    fails("EIO", c.read, 2 * G, G)
    exchange(t, s, "right")
    wait_for("connected", lambda: ctl.disk()["source"] == "connected")
    c.close()
    p.end()
    # It is remembered.
    exchange(t, s, "other")
    p = t.plugin(t("disk"), name="again")
    c = p.client()
    check(c.read(2 * G, G) == other[2 * G:3 * G], "of the new one")
    check(c.read(0, 2 * G) == data[:G] + other[G:2 * G], "local")
    c.close()
    p.end()


def test_size_may_be_said_later(t):
    """And content again after that: then it is the content of that day."""
    data, other = images(t)
    s = t.serve("source", "file", t("right"))
    t.plugin(t("disk"), "backing=" + s.uri).end()
    exchange(t, s, "other")
    Plugin(t, "refused", t("disk")).fails()
    p = t.plugin(t("disk"), "identity=size", name="size")
    c = p.client()
    check(c.read(0, G) == other[:G], "of the new one")
    c.close()
    p.end()


def test_same_content_may_move(t):
    data, _ = images(t)
    s = t.serve("source", "file", t("right"))
    t.plugin(t("disk"), "backing=" + s.uri, "fetch=4K").end()
    s.kill()
    with open(t("copy"), "wb") as f:
        f.write(data)
    moved = t.serve("moved", "file", t("copy"))
    p = t.plugin(t("disk"), "backing=" + moved.uri, name="p1")
    check(p.control().disk()["backing"] == moved.uri, "the new place")
    p.end()
    p = t.plugin(t("disk"), name="p2")
    check(p.control().disk()["backing"] == moved.uri, "it is remembered")
    c = p.client()
    check(c.read(M, M) == data[M:2 * M], "data")
    c.close()
    p.end()
    other = t.serve("elsewhere", "file", t("other"))
    said = Plugin(t, "p3", t("disk"), "backing=" + other.uri).fails()
    check(other.uri in said, "the wrong one is named", said)
    # And it was not remembered.
    p = t.plugin(t("disk"), name="p4")
    check(p.control().disk()["backing"] == moved.uri, "as before")
    p.end()


def test_complete_disk_does_not_look_at_its_source(t):
    data, _ = images(t)
    s = t.serve("source", "file", t("right"))
    p = t.plugin(t("disk"), "backing=" + s.uri, "allocate=on")
    p.control().wait_status("concluded")
    p.end()
    exchange(t, s, "longer")
    p = t.plugin(t("disk"), name="again")
    c, disk = p.client(), p.control().disk()
    check(disk["complete"] and disk["source"] == "none", "complete", disk)
    check(c.read(0, SIZE) == data, "data")
    c.close()
    p.end()


if __name__ == "__main__":
    faultlib.main()
