"""qmp.py - a client of a control socket.

It keeps the events that come between answers, in order.  TimeoutError says
that the server did not answer in time, Closed that it closed the connection,
QmpError that it refused a command.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import json
import select
import socket
import time

from wait import LONG


class Closed(ConnectionResetError, EOFError):
    """The server closed the connection."""


class QmpError(Exception):
    """The server refused the command."""

    def __init__(self, error):
        super().__init__(error["desc"])
        self.error = error
        self.cls = error["class"]
        self.name = error.get("errno-name")


def arguments_of(names):
    """Python's names as the protocol's: disk_size is disk-size."""
    return {k.replace("_", "-"): v for k, v in names.items()}


class Qmp:
    """A connection.  Nothing was said yet, before negotiate()."""

    # Errors of connect() after which another try may help.  BlockingIOError:
    # the server's backlog is full.
    again = (BlockingIOError,)

    def __init__(self, path, limit=LONG):
        self.buf = b""
        self.events = []
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(limit)
        end = time.monotonic() + limit
        try:
            while True:
                try:
                    self.s.connect(path)
                    break
                except self.again:
                    if time.monotonic() > end:
                        raise
                    time.sleep(0.005)
        except BaseException:
            self.s.close()
            raise

    def close(self):
        self.s.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def negotiate(self):
        assert "QMP" in self.message(), "no greeting"
        self.ask("qmp_capabilities")
        return self

    def send(self, data):
        self.s.sendall(data)

    def message(self, limit=None):
        """The next one, whatever it is.  Without a limit the socket's own
        timeout counts, which a test may have set."""
        end = time.monotonic() + (limit or 0)
        while b"\n" not in self.buf:
            if limit is not None:
                self.wait_readable(end)
            self.receive()
        line, self.buf = self.buf.split(b"\n", 1)
        return json.loads(line)

    def wait_readable(self, end):
        p = select.poll()
        p.register(self.s, select.POLLIN)
        left = max(end - time.monotonic(), 0)
        if not p.poll(int(left * 1000) + 1):
            raise TimeoutError("the control socket says nothing")

    def receive(self):
        piece = self.s.recv(65536)
        if not piece:
            raise Closed("the control socket was closed")
        self.buf += piece

    def answer(self, limit=None):
        """The next one that is no event."""
        while True:
            m = self.message(limit)
            if "event" not in m:
                return m
            self.events.append(m)

    def command(self, name, limit=None, **arguments):
        """Send it; the answer, whether it worked or not."""
        m = {"execute": name}
        if arguments:
            m["arguments"] = arguments_of(arguments)
        self.send(json.dumps(m).encode())
        return self.answer(limit)

    def ask(self, name, limit=None, **arguments):
        """What the command returns."""
        m = self.command(name, limit, **arguments)
        if "error" in m:
            raise QmpError(m["error"])
        return m["return"]

    def wait_event(self, name, limit=LONG):
        """The data of the next event of that name; it is taken out of the
        list, and others stay."""
        end = time.monotonic() + limit
        while True:
            for e in self.events:
                if e["event"] == name:
                    self.events.remove(e)
                    return e["data"]
            m = self.message(max(end - time.monotonic(), 0))
            assert "event" in m, m
            self.events.append(m)
