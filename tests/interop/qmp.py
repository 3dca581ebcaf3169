"""A QMP client as qemu.qmp and qmp-shell are: what it sends ends with the
last brace and no newline, what it reads is a stream of JSON values.

It talks to QEMU as well as to Backfill.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import json
import socket
import time

# Generous: the machine may be slow.
LONG = 120


class Error(Exception):
    def __init__(self, error):
        super().__init__("%s: %s" % (error["class"], error["desc"]))
        self.kind = error["class"]
        self.error = error


class Qmp:
    def __init__(self, path, negotiate=True):
        self.text = ""
        self.events = []
        self.number = 0
        self.socket = socket.socket(socket.AF_UNIX)
        deadline = time.monotonic() + LONG
        while True:
            try:
                self.socket.connect(path)
                break
            except (FileNotFoundError, ConnectionRefusedError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)
        self.greeting = self.read(LONG)
        if negotiate:
            self.run("qmp_capabilities")

    def close(self):
        self.socket.close()

    def read(self, seconds):
        """The next value, or None after that time."""
        deadline = time.monotonic() + seconds
        while True:
            self.text = self.text.lstrip()
            try:
                value, end = json.JSONDecoder().raw_decode(self.text)
                self.text = self.text[end:]
                return value
            except json.JSONDecodeError:
                pass
            left = deadline - time.monotonic()
            if left <= 0:
                return None
            self.socket.settimeout(left)
            try:
                more = self.socket.recv(65536)
            except TimeoutError:
                return None
            if not more:
                raise EOFError("the server closed the connection")
            self.text += more.decode("ascii")

    def send(self, command, **arguments):
        """Returns the id of the answer."""
        self.number += 1
        message = {"execute": command, "id": self.number}
        if arguments:
            message["arguments"] = {
                k.replace("_", "-"): v for k, v in arguments.items()}
        self.socket.sendall(
            json.dumps(message, separators=(",", ":")).encode())
        return self.number

    def answer(self, number):
        while True:
            value = self.read(LONG)
            assert value is not None, "no answer"
            if "event" in value:
                self.events.append(value)
                continue
            assert value.get("id") == number, value
            if "error" in value:
                raise Error(value["error"])
            return value["return"]

    def run(self, command, **arguments):
        return self.answer(self.send(command, **arguments))

    def refused(self, kind, command, **arguments):
        """It must be, with that class of error."""
        try:
            self.run(command, **arguments)
        except Error as e:
            assert e.kind == kind, e
            return e
        raise AssertionError("%s was not refused" % command)

    def wait(self, event, **data):
        """The event of that name and data, which may be here already."""
        deadline = time.monotonic() + LONG
        while True:
            for i, e in enumerate(self.events):
                if e["event"] == event and data.items() <= e["data"].items():
                    del self.events[:i + 1]
                    return e
            value = self.read(max(deadline - time.monotonic(), 0))
            assert value is not None, "no %s %s" % (event, data)
            assert "event" in value, value
            self.events.append(value)
