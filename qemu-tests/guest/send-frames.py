"""Sends Ethernet frames of standard input, one a line in hexadecimal, as root of any machine may.

usage: send-frames.py ADDRESS PORT, of a UDP server that echoes. After every few frames it has a datagram
echoed, so that no queue on the way runs over, and at the end, so that all frames have been handled when it
ends. It must not know what the frames hold.
"""
import os
import socket
import sys

WINDOW = 32

echo = (sys.argv[1], int(sys.argv[2]))
out = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
out.bind(("eth0", 0))
probe = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
probe.settimeout(5)


def barrier():
    for _ in range(36):
        token = os.urandom(8)
        probe.sendto(token, echo)
        try:
            while probe.recv(64) != token:
                pass
            return
        except TimeoutError:
            pass
    sys.exit(f"no echo of {echo}")


sent = 0
barrier()
for line in sys.stdin:
    out.send(bytes.fromhex(line))
    sent += 1
    if sent % WINDOW == 0:
        barrier()
barrier()
print("sent", sent)
