"""A scripted NBD server, right in all that it is not told to do wrong.

It serves bytes on a unix socket, read-only, one thread a connection, and
refuses and notes whatever is not a read.  What to do wrong is a function:

  greet(conn)             instead of the handshake
  option(conn, opt, data) True: the option was dealt with
  fault(conn, request)    True: the request was dealt with
  extents(offset, length) [(length, flags)] of block status

They use conn's send_* and may raise Drop to close the connection.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import collections
import os
import select
import socket
import struct
import threading

IHAVEOPT = 0x49484156454F5054
OPT_REPLY = 0x3E889045565A9
REQUEST = 0x25609513
SIMPLE = 0x67446698
STRUCTURED = 0x668E33EF

OPT_EXPORT_NAME, OPT_ABORT, OPT_LIST, OPT_STARTTLS, OPT_INFO, OPT_GO, \
    OPT_STRUCTURED, OPT_LIST_META, OPT_SET_META = 1, 2, 3, 5, 6, 7, 8, 9, 10
REP_ACK, REP_INFO, REP_META = 1, 3, 4
REP_ERR_UNSUP, REP_ERR_POLICY, REP_ERR_UNKNOWN \
    = 0x80000001, 0x80000002, 0x80000006
INFO_EXPORT, INFO_BLOCK_SIZE = 0, 3
HAS_FLAGS, READ_ONLY, SEND_DF, MULTI_CONN = 1, 2, 1 << 7, 1 << 8
READ, WRITE, DISC, FLUSH, TRIM, CACHE, ZEROES, STATUS = range(8)
DONE = 1
CHUNK_NONE, CHUNK_DATA, CHUNK_HOLE, CHUNK_STATUS, CHUNK_ERROR, \
    CHUNK_ERROR_OFFSET = 0, 1, 2, 5, 32769, 32770

Request = collections.namedtuple("Request", "type cookie offset length")


class Drop(Exception):
    """Close this connection."""


class Connection:
    def __init__(self, server, sock, number):
        self.server, self.sock, self.number = server, sock, number
        self.structured = self.status = False

    def receive(self, n):
        data = b""
        while len(data) < n:
            more = self.sock.recv(n - len(data))
            if not more:
                raise Drop
            data += more
        return data

    def send(self, data):
        self.sock.sendall(data)

    def hang(self):
        """Say nothing more, until the client has gone or the server ends."""
        while not self.server.stopping:
            if select.select([self.sock], [], [], 0.05)[0] \
                    and not self.sock.recv(65536):
                break
        raise Drop

    # The handshake.

    def send_option(self, opt, reply, data=b""):
        self.send(struct.pack(">QIII", OPT_REPLY, opt, reply, len(data))
                  + data)

    def flags(self):
        return HAS_FLAGS | READ_ONLY | SEND_DF | (
            MULTI_CONN if self.server.multi_conn else 0)

    def greeting(self):
        self.send(b"NBDMAGIC" + struct.pack(">QH", IHAVEOPT, 3))
        self.receive(4)

    def options(self):
        s = self.server
        while True:
            magic, opt, length = struct.unpack(">QII", self.receive(16))
            data = self.receive(length)
            if magic != IHAVEOPT:
                raise Drop
            if s.option and s.option(self, opt, data):
                continue
            if opt == OPT_EXPORT_NAME:
                self.send(struct.pack(">QH", s.size, self.flags()))
                return
            if opt in (OPT_GO, OPT_INFO):
                self.send_option(opt, REP_INFO, struct.pack(
                    ">HQH", INFO_EXPORT, s.size, self.flags()))
                if s.block:
                    self.send_option(opt, REP_INFO, struct.pack(
                        ">HIII", INFO_BLOCK_SIZE, *s.block))
                self.send_option(opt, REP_ACK)
                if opt == OPT_GO:
                    return
            elif opt == OPT_STRUCTURED and s.structured:
                self.structured = True
                self.send_option(opt, REP_ACK)
            elif opt == OPT_SET_META and self.structured and s.status:
                self.status = True
                self.send_option(opt, REP_META, struct.pack(">I", 1)
                                 + b"base:allocation")
                self.send_option(opt, REP_ACK)
            elif opt == OPT_ABORT:
                self.send_option(opt, REP_ACK)
                raise Drop
            else:
                self.send_option(opt, REP_ERR_UNSUP)

    # Requests.

    def data(self, r):
        return self.server.data[r.offset:r.offset + r.length]

    def send_simple(self, r, error=0, data=b""):
        self.send(struct.pack(">IIQ", SIMPLE, error, r.cookie) + data)

    def send_chunk(self, r, kind, payload=b"", flags=DONE):
        self.send(struct.pack(">IHHQI", STRUCTURED, flags, kind, r.cookie,
                              len(payload)) + payload)

    def send_data(self, r, offset, data, flags=DONE):
        self.send_chunk(r, CHUNK_DATA, struct.pack(">Q", offset) + data, flags)

    def send_status(self, r, entries):
        self.send_chunk(r, CHUNK_STATUS, struct.pack(">I", 1) + b"".join(
            struct.pack(">II", *e) for e in entries))

    def send_error(self, r, error):
        if self.structured:
            self.send_chunk(r, CHUNK_ERROR, struct.pack(">IH", error, 0))
        else:
            self.send_simple(r, error)

    def answer(self, r):
        s = self.server
        if s.block and (r.offset % s.block[0] or r.length % s.block[0]
                        or (r.type == READ and r.length > s.block[2])):
            s.violations.append(r)
            self.send_error(r, 22)
        elif r.type == READ and self.structured:
            self.send_data(r, r.offset, self.data(r))
        elif r.type == READ:
            self.send_simple(r, 0, self.data(r))
        elif r.type == STATUS and self.status:
            self.send_status(r, s.extents(r.offset, r.length))
        else:
            self.send_error(r, 1)

    def requests(self):
        s = self.server
        while True:
            magic, _, kind, cookie, offset, length = struct.unpack(
                ">IHHQQI", self.receive(28))
            if magic != REQUEST or kind == DISC:
                raise Drop
            if kind == WRITE:
                self.receive(length)
            r = Request(kind, cookie, offset, length)
            s.requests.append(r)
            if not (s.fault and s.fault(self, r)):
                self.answer(r)

    def serve(self):
        try:
            if self.server.greet:
                self.server.greet(self)
            self.greeting()
            self.options()
            self.requests()
        except (Drop, OSError, struct.error):
            pass
        finally:
            self.server.connections.discard(self)
            self.sock.close()


class FakeSource:
    def __init__(self, path, data):
        self.socket, self.data, self.size = path, data, len(data)
        self.structured = self.status = self.multi_conn = True
        self.block = None       # (minimum, preferred, maximum)
        self.greet = self.option = self.fault = None
        self.extents = lambda offset, length: [(length, 0)]
        self.requests, self.violations = [], []
        self.accepted = 0
        self.connections = set()
        self.start()

    @property
    def uri(self):
        return "nbd+unix:///?socket=" + self.socket

    def start(self):
        self.stopping = False
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.socket)
        self.listener.listen(64)
        self.thread = threading.Thread(target=self.accept, daemon=True)
        self.thread.start()

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            self.accepted += 1
            conn = Connection(self, sock, self.accepted)
            self.connections.add(conn)
            threading.Thread(target=conn.serve, daemon=True).start()

    def drop_all(self):
        """Close the connections that there are."""
        for c in list(self.connections):
            try:
                c.sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def stop(self):
        """The socket's path is free for another server then."""
        self.stopping = True
        self.listener.shutdown(socket.SHUT_RDWR)
        self.thread.join()
        self.listener.close()
        self.drop_all()
        os.unlink(self.socket)
