"""stream.py - a QMP client as qemu.qmp and qmp-shell are: what it sends ends with the
last brace and no newline, what it reads is a stream of JSON values.

It talks to QEMU as well as to Backfill.

SPDX-License-Identifier: LGPL-2.1-or-later
"""

import json
import os
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)),
                                "../lib"))
from qmp import Qmp, QmpError, arguments_of
from wait import LONG


class Stream(Qmp):
    # The server may be about to start.
    again = (BlockingIOError, FileNotFoundError, ConnectionRefusedError)

    def __init__(self, path, negotiate=True):
        super().__init__(path)
        self.number = 0
        self.greeting = self.read(LONG)
        if negotiate:
            self.run("qmp_capabilities")

    def read(self, seconds):
        """The next value, or None after that time."""
        end = time.monotonic() + seconds
        while True:
            text = self.buf.decode("ascii").lstrip()
            try:
                value, at = json.JSONDecoder().raw_decode(text)
                self.buf = text[at:].encode()
                return value
            except json.JSONDecodeError:
                pass
            try:
                self.wait_readable(end)
            except TimeoutError:
                return None
            self.receive()

    def start(self, name, **arguments):
        """Returns the id of the answer."""
        self.number += 1
        message = {"execute": name, "id": self.number}
        if arguments:
            message["arguments"] = arguments_of(arguments)
        self.send(json.dumps(message, separators=(",", ":")).encode())
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
                raise QmpError(value["error"])
            return value["return"]

    def run(self, command, **arguments):
        return self.answer(self.start(command, **arguments))

    def refused(self, kind, command, **arguments):
        """It must be, with that class of error."""
        try:
            self.run(command, **arguments)
        except QmpError as e:
            assert e.cls == kind, e
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
