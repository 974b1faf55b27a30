"""Computes the known answers of the silent extension's tests, from the definitions alone: node by node, bit by bit, with
the helpers of ot.py.

Run: python3 tests/known-answers/silent.py
"""

import hashlib

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from ot import digest, sum_xor, tmmo, wide_key

SILENT_HASH, SILENT_TREES, SILENT_COLUMNS = 5, 6, 7
SMALL = 1  # the set's number
K, TREES, DEPTH = 9 << 12, 640, 9
SAMPLES = TREES << DEPTH
SEED = -(-(K + TREES * DEPTH) // 128) * 128
WIDE_SMALL = 3
WIDE_K, WIDE_TREES, WIDE_DEPTH = 10 << 12, 1408, 8
WIDE_SAMPLES = WIDE_TREES << WIDE_DEPTH
WIDE_SEED = -(-(WIDE_K + WIDE_TREES) // 128) * 128
DELTA = int.from_bytes(b"a secret delta 1", "little")
LOW = (1 << 64) - 1


class Aes:
    """AES-128 on integers, little-endian."""

    def __init__(self, key):
        self.encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()

    def __call__(self, x):
        return int.from_bytes(self.encryptor.update(x.to_bytes(16, "little")), "little")


def public_cipher(label, iteration, number=SMALL):
    return Aes(digest(label, bytes([number]), iteration.to_bytes(8, "little"))[:16])


def children(pi, x):
    low, high = x & LOW, x >> 64
    sigma = (low ^ high) | low << 64
    left = pi(sigma) ^ sigma
    return left, x ^ left


def tree(pi, root, depth=DEPTH):
    """All levels of the sender's tree, the left nodes of each in front."""
    levels = [[root, root ^ DELTA]]
    for _ in range(1, depth):
        pairs = [children(pi, x) for x in levels[-1]]
        levels.append([left for left, _ in pairs] + [right for _, right in pairs])
    return levels


def iteration(number, q, t):
    """The message, and functions that give output j as (q, t), from a seed."""
    trees, columns = (
        public_cipher(label, number) for label in (SILENT_TREES, SILENT_COLUMNS)
    )
    message, leaves, points = b"", [], []
    for i in range(TREES):
        rows = range(K + i * DEPTH, K + (i + 1) * DEPTH)
        levels = tree(Aes(trees(i).to_bytes(16, "little")), q[rows[0]])
        for level, row in zip(levels[1:], rows[1:]):
            total = q[row]
            for node in level[: len(level) // 2]:
                total ^= node
            message += total.to_bytes(16, "little")
        leaves.append(levels[-1])
        points.append(sum((~t[row] & 1) << bit for bit, row in enumerate(rows)))

    def output(j):
        words = b"".join(
            columns(5 * (j // 2) + b).to_bytes(16, "little") for b in range(5)
        )
        words = words[40 * (j % 2) :][:40]
        places = [
            int.from_bytes(words[4 * w :][:4], "little") * K >> 32 for w in range(10)
        ]
        index, place = j >> DEPTH, j % (1 << DEPTH)
        sent = leaves[index][place] & ~1
        received = sent ^ DELTA if place == points[index] else sent
        for place in places:
            sent ^= q[place]
            received ^= t[place]
        return sent, received

    return message, output


def places(columns, k, j):
    """The ten columns of row j."""
    words = b"".join(columns(5 * (j // 2) + b).to_bytes(16, "little") for b in range(5))
    words = words[40 * (j % 2) :][:40]
    return [int.from_bytes(words[4 * w :][:4], "little") * k >> 32 for w in range(10)]


def wide_iteration(number, offsets, q, indices, single):
    """The message, and a function that gives output j as (q, index), from a seed and single rows (q, bit)."""
    trees, columns = (
        public_cipher(label, number, WIDE_SMALL)
        for label in (SILENT_TREES, SILENT_COLUMNS)
    )
    message, leaves, points = b"", [], []
    for i in range(WIDE_TREES):
        rows = single[i * WIDE_DEPTH : (i + 1) * WIDE_DEPTH]
        levels = tree(Aes(trees(i).to_bytes(16, "little")), rows[0][0], WIDE_DEPTH)
        for level, row in zip(levels[1:], rows[1:]):
            total = row[0] ^ sum_xor(level[: len(level) // 2])
            message += total.to_bytes(16, "little")
        pi = Aes(trees(WIDE_TREES + i).to_bytes(16, "little"))
        leaves.append([pi(x) ^ x for x in levels[-1]])
        message += (sum_xor(leaves[-1]) ^ q[WIDE_K + i]).to_bytes(16, "little")
        points.append(sum((1 - bit) << level for level, (_, bit) in enumerate(rows)))

    def output(j):
        index, place = j >> WIDE_DEPTH, j % (1 << WIDE_DEPTH)
        ones = places(columns, WIDE_K, j)
        sent = leaves[index][place] ^ sum_xor(q[one] for one in ones)
        noise = indices[WIDE_K + index] if place == points[index] else 0
        return sent, noise ^ sum_xor(indices[one] for one in ones)

    return message, output


def wide():
    """SHA-256 of the message, and of 1280 OTs' lowest words of all entries' keys, indices and chosen keys, of two
    iterations."""

    def block(name, i):
        return hashlib.sha256(name + i.to_bytes(4, "little")).digest()

    basis = [int.from_bytes(block(b"basis", b)[:16], "little") for b in range(5)]
    offsets = [sum_xor(basis[b] for b in range(5) if i >> b & 1) for i in range(32)]
    q = [int.from_bytes(block(b"row", i)[:16], "little") for i in range(WIDE_SEED)]
    indices = [block(b"row", i)[16] & 31 for i in range(WIDE_SEED)]
    made = 0
    for number in range(2):
        rows = [
            block(b"single", number << 16 | i) for i in range(WIDE_TREES * WIDE_DEPTH)
        ]
        single = [
            (int.from_bytes(row[:16], "little") & ~1, row[16] & 1) for row in rows
        ]
        message, output = wide_iteration(number, offsets, q, indices, single)
        sent = chosen = b""
        outputs = [output(j) for j in range(1280)]
        for j, (row, index) in enumerate(outputs):
            group = (made + j) // 128
            keys = [
                wide_key(WIDE_SMALL, group, (row ^ d).to_bytes(16, "little"))
                for d in offsets
            ]
            sent += b"".join(key[:4] for key in keys)
            chosen += keys[index]
        made += WIDE_SAMPLES - WIDE_SEED
        for part in (message, sent, bytes(index for _, index in outputs), chosen):
            print("wide", number, hashlib.sha256(part).hexdigest())
        kept = [output(j) for j in range(WIDE_SAMPLES - WIDE_SEED, WIDE_SAMPLES)]
        q, indices = zip(*kept)


def main():
    wide()
    q, t = [], []
    for i in range(SEED):
        row = hashlib.sha256(b"row" + i.to_bytes(4, "little")).digest()
        q.append(int.from_bytes(row[:16], "little") & ~1)
        t.append(q[-1] ^ (DELTA if row[16] & 1 else 0))
    for number in range(2):
        message, output = iteration(number, q, t)
        # The outputs of the iteration before are all used up first.
        made = number * (SAMPLES - SEED)
        sent, choices, received = b"", 0, b""
        for j in range(1280):
            a, b = output(j)
            for key in (a, a ^ DELTA):
                sent += tmmo(
                    key.to_bytes(16, "little"), made, SILENT_HASH, bytes([SMALL])
                )
            choices |= (b & 1) << j
            received += tmmo(
                b.to_bytes(16, "little"), made, SILENT_HASH, bytes([SMALL])
            )
            made += 1
        parts = (message, sent, choices.to_bytes(160, "little"), received)
        for part in parts:
            print(number, hashlib.sha256(part).hexdigest())
        q, t = zip(*(output(j) for j in range(SAMPLES - SEED, SAMPLES)))


if __name__ == "__main__":
    main()
