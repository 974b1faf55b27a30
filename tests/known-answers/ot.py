"""Computes the known answers of the tests in this folder, from the text of the definitions alone: plain integers and
bit lists, the naive sums, AES, ChaCha20 and SHA-256 of other libraries (`cryptography` on OpenSSL, `hashlib`). ChaCha12 is
ChaCha20 as RFC 8439 describes it with fewer rounds, which a comparison of 20 of them with the library's checks.

Run: python3 tests/known-answers/ot.py
"""

import hashlib

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

CONTEXT = bytes([7] * 32 + [9] * 32)  # client's nonce, server's nonce
SERVER_RECEIVES = 0
BASE_KEY, HASH_KEY, TREE_KEYS, LEAF_SALT, WIDE_HASH = 1, 2, 3, 4, 8
SOFTSPOKEN = 0  # the number of that source of wide OTs


def digest(label, *parts, suite=0):
    return hashlib.sha256(
        b"safenet-ot-v1"
        + bytes([label + 128 * suite, SERVER_RECEIVES])
        + CONTEXT
        + b"".join(parts)
    ).digest()


def aes(key, block):
    e = Cipher(algorithms.AES(key), modes.ECB()).encryptor()
    return e.update(block) + e.finalize()


def chacha_block(key, nonce, rounds):
    """A block of ChaCha; the nonce's 16 bytes are words 12 to 15 of the state."""
    start = [
        int.from_bytes((b"expand 32-byte k" + key + nonce)[4 * i : 4 * i + 4], "little")
        for i in range(16)
    ]
    x = list(start)
    for r in range(rounds):
        for i in range(4):
            a, b, c, d = (4 * row + (i + row * (r % 2)) % 4 for row in range(4))
            for s, t, u, by in (
                (a, b, d, 16),
                (c, d, b, 12),
                (a, b, d, 8),
                (c, d, b, 7),
            ):
                x[s] = (x[s] + x[t]) % 2**32
                y = x[u] ^ x[s]
                x[u] = (y << by | y >> (32 - by)) % 2**32
    return b"".join(((v + w) % 2**32).to_bytes(4, "little") for v, w in zip(x, start))


def chacha20(key, nonce, size):
    e = Cipher(algorithms.ChaCha20(key, nonce), None).encryptor()
    return e.update(bytes(size))


def keyed(bound, secret, number):
    """ChaCha's key and nonce: a secret of 16 bytes and a number, bound to a digest."""
    return secret + bound[:16], number.to_bytes(8, "little") + bound[16:24]


def wide_key(source, group, row):
    """The hash of a row of a group, with AES."""
    key = aes(digest(WIDE_HASH, bytes([source]))[:16], group.to_bytes(16, "little"))
    return xor(aes(key, row), row)


class Aes:
    """The suite with AES."""

    def hash(self, x, tweak):
        return tmmo(x, tweak)

    def children(self, node):
        expand = digest(TREE_KEYS)
        return [xor(aes(expand[16 * s : 16 * s + 16], node), node) for s in (0, 1)]

    def leaf(self, seed, group):
        return aes(seed, group.to_bytes(8, "little") + digest(LEAF_SALT)[:8])

    def wide_hash(self, row, number):
        return wide_key(SOFTSPOKEN, number // 128, row)


class ChaCha:
    """The suite with ChaCha."""

    def hash(self, x, tweak):
        bound = digest(HASH_KEY, bytes(8), suite=1)
        return chacha20(*keyed(bound, x, tweak), 16)

    def children(self, node):
        block = chacha20(*keyed(digest(TREE_KEYS, suite=1), node, 0), 32)
        return [block[:16], block[16:]]

    def leaf(self, seed, group):
        number, piece = divmod(group, 4)
        block = chacha_block(*keyed(digest(LEAF_SALT, suite=1), seed, number), 12)
        return block[16 * piece : 16 * piece + 16]

    def wide_hash(self, row, number):
        bound = digest(WIDE_HASH, bytes([SOFTSPOKEN]), suite=1)
        return chacha20(*keyed(bound, row, number), 16)


def xor(*blocks):
    return (
        bytes(a ^ b for a, b in zip(blocks[0], xor(*blocks[1:])))
        if len(blocks) > 1
        else blocks[0]
    )


def tmmo(x, tweak, label=HASH_KEY, *bound):
    key = digest(label, *bound, (tweak >> 20).to_bytes(8, "little"))[:16]
    inner = aes(key, x)
    return xor(aes(key, xor(inner, tweak.to_bytes(16, "little"))), inner)


def tree(suite, keys):
    """Leaves and corrections of a tree whose base OT for bit i of the index has keys[i]."""
    corrections = b""
    top = keys[-1]
    nodes = [top[1], top[0]]
    for k0, k1 in reversed(keys[:-1]):
        nodes = [child for node in nodes for child in suite.children(node)]
        corrections += xor(k0, *nodes[1::2]) + xor(k1, *nodes[0::2])
    return nodes, corrections


def receiver(suite, k, groups):
    """SHA-256 of the corrections, the message, the choices and the keys of 128·groups random OTs."""
    base = [[bytes([2 * i + b] * 16) for b in (0, 1)] for i in range(128)]
    trees = [tree(suite, base[i : i + k]) for i in range(0, 128, k)]
    message = choices = keys = b""
    for g in range(groups):
        sums, columns = [], []
        for leaves, _ in trees:
            r = [int.from_bytes(suite.leaf(leaf, g), "little") for leaf in leaves]
            total = 0
            column = [0] * k
            for x, r_x in enumerate(r):
                total ^= r_x
                for b in range(k):
                    if x >> b & 1:
                        column[b] ^= r_x
            sums.append(total)
            columns += column
        choices += sums[0].to_bytes(16, "little")
        for s in sums[1:]:
            message += (s ^ sums[0]).to_bytes(16, "little")
        for j in range(128):
            row = sum((column >> j & 1) << c for c, column in enumerate(columns))
            keys += suite.hash(row.to_bytes(16, "little"), 128 * g + j)
    return [
        hashlib.sha256(b).hexdigest()
        for b in (b"".join(c for _, c in trees), message, choices, keys)
    ]


def powers():
    """The powers of alpha, a root of x^5 + x^2 + 1, as polynomials of degree below 5."""
    power, out = 1, []
    for _ in range(31):
        out.append(power)
        power = power << 1 if power < 16 else (power << 1) ^ 0b100101
    return out


def product(a, b):
    """Of polynomials over GF(2)."""
    return sum_xor(a << i for i in range(b.bit_length()) if b >> i & 1)


def sum_xor(values):
    total = 0
    for value in values:
        total ^= value
    return total


def minimal_polynomial(exponent):
    """Of alpha^exponent: the one polynomial of degree 5 that has it as a root."""
    alphas = powers()
    for polynomial in range(1 << 5, 1 << 6):
        terms = (i for i in range(6) if polynomial >> i & 1)
        if sum_xor(alphas[exponent * i % 31] for i in terms) == 0:
            return polynomial
    raise AssertionError


def compress(columns):
    """128 of 248 columns: the code's generator polynomial, moved along, position by position."""
    generator = product(
        product(minimal_polynomial(3), minimal_polynomial(11)), minimal_polynomial(15)
    )
    taps = [i for i in range(16) if generator >> i & 1]
    return [
        sum_xor(columns[8 * (r + tap) + b] for tap in taps)
        for r in range(16)
        for b in range(8)
    ]


def wide_receiver(suite, k, groups):
    """SHA-256 of the corrections, the message, the indices and the keys of 128·groups wide OTs."""
    base = [[(2 * i + b).to_bytes(2, "little") * 8 for b in (0, 1)] for i in range(248)]
    trees = [tree(suite, base[i : i + k]) for i in range(0, 248, k)]
    alphas, copies = powers(), 8 // k
    message = indices = keys = b""
    for g in range(groups):
        sums, columns = [], []
        for leaves, _ in trees:
            r = [int.from_bytes(suite.leaf(leaf, g), "little") for leaf in leaves]
            sums.append(sum_xor(r))
            columns += [
                sum_xor(r_x for x, r_x in enumerate(r) if x >> b & 1) for b in range(k)
            ]
        index = [sums[b * copies] for b in range(5)]
        for i, total in enumerate(sums):
            position, copy = divmod(i, copies)
            if position >= 5 or copy > 0:
                word = sum_xor(index[b] for b in range(5) if alphas[position] >> b & 1)
                message += (total ^ word).to_bytes(16, "little")
        columns = compress(columns)
        for j in range(128):
            indices += bytes([sum((index[b] >> j & 1) << b for b in range(5))])
            row = sum((column >> j & 1) << c for c, column in enumerate(columns))
            keys += suite.wide_hash(row.to_bytes(16, "little"), 128 * g + j)
    return [
        hashlib.sha256(b).hexdigest()
        for b in (b"".join(c for _, c in trees), message, indices, keys)
    ]


def main():
    x = bytes(range(16))
    key, nonce = keyed(bytes(range(50, 82)), x, (1 << 40) + 3)
    assert chacha_block(key, nonce, 20) == chacha20(key, nonce, 64)
    for suite in (Aes(), ChaCha()):
        for tweak in (0, 5, (1 << 20) + 5):
            print("hash", type(suite).__name__, tweak, suite.hash(x, tweak).hex())
    generator = bytes.fromhex(
        "e2f2ae0a6abc4e71a884a961c500515f58e30b6aa582dd8db6a65945e08d2d76"
    )
    print(
        "base",
        digest(
            BASE_KEY,
            (3).to_bytes(8, "little"),
            bytes([1] * 32),
            bytes([2] * 32),
            generator,
        )[:16].hex(),
    )
    for suite in (Aes(), ChaCha()):
        for k in (2, 4, 8):
            print("extension", type(suite).__name__, k, *receiver(suite, k, 5))
        for k in (2, 4, 8):
            print("wide", type(suite).__name__, k, *wide_receiver(suite, k, 3))


if __name__ == "__main__":
    main()
