"""A foreign sender: makes one labelled UDP datagram with scapy, the label's code computed here.

usage: scapy-label.py KEY SNID SCID EPOCH SOURCE SPORT DESTINATION DPORT PAYLOAD; KEY in hexadecimal. It
follows the description of the wire format and shares no code with the module or the tests.
"""
import socket
import sys
import time

from scapy.layers.inet import IP, UDP
from scapy.packet import Raw
from scapy.layers.inet import IPOption

MASK = (1 << 64) - 1


def siphash24(key, data):
    """SipHash-2-4 as its authors describe it."""
    k0, k1 = (int.from_bytes(key[at : at + 8], "little") for at in (0, 8))
    v = [k0 ^ 0x736F6D6570736575, k1 ^ 0x646F72616E646F6D, k0 ^ 0x6C7967656E657261, k1 ^ 0x7465646279746573]

    def rotate(x, bits):
        return (x << bits | x >> (64 - bits)) & MASK

    def rounds(count):
        for _ in range(count):
            v[0] = (v[0] + v[1]) & MASK
            v[2] = (v[2] + v[3]) & MASK
            v[1] = rotate(v[1], 13) ^ v[0]
            v[3] = rotate(v[3], 16) ^ v[2]
            v[0] = rotate(v[0], 32)
            v[2] = (v[2] + v[1]) & MASK
            v[0] = (v[0] + v[3]) & MASK
            v[1] = rotate(v[1], 17) ^ v[2]
            v[3] = rotate(v[3], 21) ^ v[0]
            v[2] = rotate(v[2], 32)

    tail = len(data) % 8
    blocks = data[: len(data) - tail]
    last = data[len(blocks) :].ljust(7, b"\0") + bytes([len(data) % 256])
    for at in range(0, len(blocks) + 8, 8):
        word = int.from_bytes((blocks + last)[at : at + 8], "little")
        v[3] ^= word
        rounds(2)
        v[0] ^= word
    v[2] ^= 0xFF
    rounds(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def address(text):
    return int.from_bytes(socket.inet_aton(text), "big")


key, snid, scid, epoch, source, sport, destination, dport, payload = sys.argv[1:]
snid, scid, epoch, sport, dport = map(int, (snid, scid, epoch, sport, dport))
words = (
    1 << 60 | epoch << 48 | 17 << 32 | snid,
    scid << 32 | address(source),
    address(destination) << 32 | sport << 16 | dport,
)
code = siphash24(bytes.fromhex(key), b"".join(word.to_bytes(8, "little") for word in words))
value = bytes([0x10, epoch]) + snid.to_bytes(4, "big") + scid.to_bytes(4, "big") + code.to_bytes(8, "big")
option = IPOption(copy_flag=1, optclass=0, option=30, length=20, value=value)
packet = IP(src=source, dst=destination, options=[option]) / UDP(sport=sport, dport=dport) / Raw(payload.encode())

def neighbour(address):
    """Device and hardware address by which the kernel reaches an address of this link."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as discard:
        for _ in range(1200):
            # Whatever goes there makes the kernel ask for the hardware address.
            discard.sendto(b"", (address, 9))
            with open("/proc/net/arp", encoding="ascii") as table:
                for line in table.readlines()[1:]:
                    found, _, _, hardware, _, device = line.split()
                    if found == address and hardware != "00:00:00:00:00:00":
                        return device, bytes.fromhex(hardware.replace(":", ""))
            time.sleep(0.05)
    sys.exit(f"the kernel found no hardware address of {address}")


# Past the module of the node that sends, which would write that node's own label.
device, hardware = neighbour(destination)
link = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
link.sendto(bytes(packet), (device, 0x0800, 0, 0, hardware))
print("sent", bytes(packet)[20:40].hex())
