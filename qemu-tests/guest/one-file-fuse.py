"""A file system in user space with one file: the program that it is told, with the label that it is told.

usage: one-file-fuse.py DIRECTORY PROGRAM LABEL [ROOM]. Mounts itself on DIRECTORY, for everybody and without nosuid, as
only root can, and prints "serving". It must not know what becomes of the label.

With ROOM there is also an empty file "gate". Who closes it waits: ROOM/gate-reached is there then, until somebody
makes ROOM/gate-open; both are gone when he goes on.
"""
import ctypes
import os
import struct
import sys
import time

directory, program, label, *gate = sys.argv[1:]
name, content = os.path.basename(program).encode(), open(program, "rb").read()
ROOT, FILE, GATE = 1, 2, 3
ENOENT, ENODATA, ERANGE, ENOSYS = 2, 61, 34, 38
LOOKUP, FORGET, GETATTR, OPEN, READ, STATFS, RELEASE, GETXATTR, FLUSH = 1, 2, 3, 14, 15, 17, 18, 22, 25
INIT, OPENDIR, RELEASEDIR = 26, 27, 29
BATCH_FORGET, ACCESS = 42, 34
LONG = 1 << 20


def attributes(node):
    size, mode = {FILE: (len(content), 0o100755), GATE: (0, 0o100644)}.get(node, (0, 0o040755))
    return struct.pack("<6Q10I", node, size, (size + 511) // 512, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def wait_at_gate():
    reached, opened = (os.path.join(gate[0], file) for file in ("gate-reached", "gate-open"))
    open(reached, "w").close()
    deadline = time.monotonic() + 120
    while not os.path.exists(opened) and time.monotonic() < deadline:
        time.sleep(0.01)
    os.remove(reached)
    if os.path.exists(opened):
        os.remove(opened)


def answer(opcode, node, body):
    if opcode == INIT:
        readahead = struct.unpack_from("<I", body, 8)[0]
        return struct.pack("<4I2H2I2H8I", 7, 31, readahead, 0, 12, 9, 131072, 1, 32, 0, *[0] * 8)
    if opcode == LOOKUP:
        found = {name: FILE, b"gate": GATE if gate else None}.get(body.rstrip(b"\0"))
        if not found:
            return ENOENT
        return struct.pack("<4Q2I", found, 0, LONG, LONG, 0, 0) + attributes(found)
    if opcode == GETATTR:
        return struct.pack("<Q2I", LONG, 0, 0) + attributes(node)
    if opcode in (OPEN, OPENDIR):
        return struct.pack("<Q2I", 0, 0, 0)
    if opcode == READ:
        _, offset, size = struct.unpack_from("<2QI", body)
        return content[offset:offset + size]
    if opcode == STATFS:
        return struct.pack("<5Q10I", *[0] * 5, 4096, 255, 4096, *[0] * 7)
    if opcode == GETXATTR:
        room = struct.unpack_from("<I", body)[0]
        if node != FILE or body[8:].rstrip(b"\0") != b"security.dsi":
            return ENODATA
        if room == 0:
            return struct.pack("<2I", len(label), 0)
        return label.encode() if room >= len(label) else ERANGE
    if opcode == FLUSH and node == GATE:
        wait_at_gate()
    if opcode in (RELEASE, RELEASEDIR, FLUSH, ACCESS):
        return b""
    return ENOSYS


device = os.open("/dev/fuse", os.O_RDWR)
libc = ctypes.CDLL(None, use_errno=True)
options = f"fd={device},rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions"
if libc.mount(b"one-file", directory.encode(), b"fuse", ctypes.c_ulong(0), options.encode()) < 0:
    raise OSError(ctypes.get_errno(), "mount")
print("serving", flush=True)
while True:
    request = os.read(device, 1 << 18)
    _, opcode, unique, node = struct.unpack_from("<2I2Q", request)
    if opcode in (FORGET, BATCH_FORGET):
        continue
    reply = answer(opcode, node, request[40:])
    error, data = (-reply, b"") if isinstance(reply, int) else (0, reply)
    try:
        os.write(device, struct.pack("<IiQ", 16 + len(data), error, unique) + data)
    except FileNotFoundError:
        pass  # Who asked was interrupted.
