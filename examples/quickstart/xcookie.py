#!/usr/bin/env python3
"""X cookies for containers, without xauth and without xhost.

    xcookie.py new FILE               a random cookie for an X server of our own
    xcookie.py copy DISPLAY SRC FILE  the cookies of DISPLAY, out of SRC

An Xauthority file is a row of entries: a family (two bytes, big-endian), then
address, display number, name and data, each with its length in two bytes. The
family 0xFFFF (FamilyWild) fits every host name, so that the entry also works
in a container whose host name is another.
"""

import os
import struct
import sys

FAMILY_WILD = 0xFFFF
COOKIE = b"MIT-MAGIC-COOKIE-1"


def pack(number, name, data):
    out = struct.pack(">H", FAMILY_WILD)
    for field in (b"", number, name, data):
        out += struct.pack(">H", len(field)) + field
    return out


def entries(raw):
    """(address, number, name, data) of each entry; stops at a cut-off one."""
    at = 0
    while at + 2 <= len(raw):
        at += 2
        fields = []
        for _ in range(4):
            if at + 2 > len(raw):
                return
            (length,) = struct.unpack_from(">H", raw, at)
            fields.append(raw[at + 2 : at + 2 + length])
            at += 2 + length
        if at > len(raw):
            return
        yield fields


def write(path, raw):
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as out:
        out.write(raw)


def main():
    if len(sys.argv) == 3 and sys.argv[1] == "new":
        # An empty display number fits every display.
        write(sys.argv[2], pack(b"", COOKIE, os.urandom(16)))
    elif len(sys.argv) == 5 and sys.argv[1] == "copy":
        display = sys.argv[2].rpartition(":")[2].partition(".")[0].encode()
        with open(sys.argv[3], "rb") as source:
            found = list(entries(source.read()))
        kept = [
            pack(number, name, data)
            for _, number, name, data in found
            if name == COOKIE and number in (b"", display)
        ]
        if not kept:
            sys.exit("no cookie for display %s in %s" % (sys.argv[2], sys.argv[3]))
        write(sys.argv[4], b"".join(kept))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
