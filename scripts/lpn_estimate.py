"""Estimates what attacks cost on the LPN problem of the silent OT extension.

The problem: n samples of a secret of k bits over F_2, noise of weight t with one error in each of t
blocks of n/t samples (regular noise). All costs are base-2 logarithms of the number of bit
operations. `docs/parameters.md` says what the formulas leave out.

Run: python3 scripts/lpn_estimate.py            the sets of the library
     python3 scripts/lpn_estimate.py n k t      one instance
     python3 scripts/lpn_estimate.py --check    compares with published figures
"""

import sys
from collections.abc import Callable, Iterable
from functools import cache
from math import comb, inf, lgamma, log, log1p, log2, sqrt

# The exponent of Gaussian elimination, as in the papers.
OMEGA = 2.8

# The library's sets: name, k, number of trees, depth, whether the OTs are wide.
SETS = [
    ("Small", 9 << 12, 640, 9, False),
    ("Large", 1 << 18, 1280, 12, False),
    ("WideSmall", 10 << 12, 1408, 8, True),
    ("WideLarge", 9 << 15, 2816, 11, True),
]


def form_weight(t: int) -> int:
    """The noise of wide OTs as a linear form over F_2 sees it.

    In each of t trees the noise is a uniform index of five bits, so a form is 1 in about half of
    them. The attacker takes the best of 31 forms: four standard deviations less, which one in a
    thousand iterations has. (Liu et al. treat LPN over the integers modulo 2^e likewise.) The
    instance is then costed as if its noise were regular, one error in each of so many blocks, which
    tells the attacker more than it knows.
    """
    return int(t / 2 - 2 * sqrt(t))


def log2_binomial(a: float, b: float) -> float:
    """The logarithm of a over b, for any 0 <= b <= a."""
    if b < 0 or b > a:
        return -inf
    return (lgamma(a + 1) - lgamma(b + 1) - lgamma(a - b + 1)) / log(2)


def log2_sum(*terms: float) -> float:
    """The logarithm of a sum, of logarithms."""
    top = max(terms)
    return top if top in (inf, -inf) else top + log2(sum(2 ** (x - top) for x in terms))


def least(costs: Iterable[float]) -> float:
    """The smallest cost, infinite if there is none."""
    return min(costs, default=inf)


def descend(cost: Callable[[int], float], low: int, high: int) -> float:
    """The minimum over an interval of a function that falls and then rises, up to small steps."""
    cost = cache(cost)
    while high - low > 12:
        third = (high - low) // 3
        if cost(low + third) > cost(high - third):
            low += third
        else:
            high -= third
    return least(cost(x) for x in range(max(low - 6, 0), high + 7))


def gauss(n: int, k: int, t: int) -> float:
    """Pooled Gauss: k samples without error give the secret by elimination.

    Esser, Kuebler, May (CRYPTO 2017), with the exact probability as in Liu, Wang, Yang, Yu
    (EUROCRYPT 2024).
    """
    return OMEGA * log2(min(k, n - k)) + log2_binomial(n, t) - log2_binomial(n - k, t)


def statistical_decoding(n: int, k: int, t: int) -> float:
    """Statistical decoding with parity checks of weight k + 1 (Liu et al., EUROCRYPT 2024)."""
    if n - k - t <= 0:
        return inf
    return log2(k + 1) + 2 * t * log2((n - t + 1) / (n - k - t))


def statistical_decoding_2(n: int, k: int, t: int) -> float:
    """SD 2.0 (Carrier et al., ASIACRYPT 2022), bounded from below as by Liu et al.

    As many of the secret's bits as Gauss has bits of cost are guessed for free.
    """
    return statistical_decoding(n, k - int(gauss(n, k, t)), t)


def stern_dumer(n: int, k: int, t: int) -> float:
    """Information set decoding after Stern and Dumer, as costed by Liu et al.

    After Hamdaoui and Sendrier (ePrint 2013/162): p errors among the places guessed, found by a
    meeting in the middle.
    """

    def cost(p: int, bits: int) -> float:
        places = k + bits + (k + bits) % 2
        if n - places < 2 or p > places:
            return inf
        half = log2_binomial(places / 2, p / 2)
        matches = 2 * half - (places - k)
        elimination = log2((n - places) * n) - log2(log2(n - places))
        turn = log2(n) + log2_sum(elimination, 1 + half, 1 + matches)
        chance = log2_binomial(n - places, t - p) + 2 * half - log2_binomial(n, t)
        return turn - min(chance, 0)

    return least(
        descend(lambda bits, p=p: cost(p, bits), 0, min(n - k - 2, 400)) for p in range(0, 24, 2)
    )


def regular_permutation(n: int, k: int, t: int) -> float:
    """Prange's decoding that spreads its guess over the blocks.

    Esser and Santini (CRYPTO 2024), appendix A.1; each block's parity is one equation more.
    """
    k -= t
    return 2 * log2(n - k) + log2(n) - t * log2(1 - k / n)


def regular_enumeration(n: int, k: int, t: int) -> float:
    """Esser and Santini's enumeration-based decoding: p of the blocks err inside the guess."""
    k, block = k - t, n // t

    def cost(p: int, bits: int) -> float:
        v = (k + bits) / t
        if v >= block or p > t or n - k - bits < 2:
            return inf
        pairs = log2_binomial(t / 2, p / 2)
        chance = 2 * pairs + p * log2(v / block) + (t - p) * log2(1 - v / block)
        size = pairs + p / 2 * log2(v)
        return log2(n) + max(2 * log2(n - k), 1 + size, 2 * size - bits) - chance

    return least(descend(lambda bits, p=p: cost(p, bits), 0, 400) for p in range(0, 32, 2))


def regular_representation(n: int, k: int, t: int) -> float:
    """Esser and Santini's representation-based decoding of depth 2."""
    k, block = k - t, n // t

    def cost(p: int, extra: int, bits: int) -> float:
        v = (k + bits) / t
        weight = p / 2 + extra
        if v >= block or p > t or weight > t / 2 or n - k - bits < 2:
            return inf
        count = 2 * (log2_binomial(p / 2, p / 4) + log2_binomial(t / 2 - p / 2, extra / 2))
        first = min(int(count), bits)
        base = log2_binomial(t / 2, weight / 2) + weight / 2 * log2(v)
        second = 2 * base - first
        last = 2 * second - (bits - first)
        chance = (
            2 * log2_binomial(t / 2, p / 2) + p * log2(v / block) + (t - p) * log2(1 - v / block)
        )
        return log2(n) + max(2 * log2(n - k), 2 + base, 1 + second, last) - chance

    return least(
        descend(lambda bits, p=p, extra=extra: cost(p, extra, bits), 0, 400)
        for p in range(0, 24, 4)
        for extra in range(0, 12, 2)
    )


def staged_prange(n: int, k: int, t: int) -> float:
    """Prange's decoding that uses each elimination for many guesses ("reduce and Prange").

    The guess grows in stages; each right guess so far is extended as often as it takes on average
    for one extension to be right. Here the attacker keeps just twice as many samples as unknowns
    remain (published estimates keep all, which costs more), a stage is as long as is best, and the
    chance that the chain of right guesses does not break off is taken as 2 / stages, that of a
    critical branching process. A stage of s unknowns out of d costs s * d * 2d bit operations.
    """
    block = n // t

    def cost(stage: int) -> float:
        rate = -log2(1 - 1 / block)
        stages = max(2, k // stage)
        total = -inf
        left = k
        while left > 0:
            now = min(stage, left)
            total = log2_sum(total, (k - left) * rate + log2(2 * now * left * left))
            left -= now
        return total + log2(stages / 2)

    return least(cost(max(1, int(block * factor))) for factor in (0.35, 0.7, 1.4, 2.8, 5.6))


def series(factors: list[tuple[int, int]], degree: int) -> list[int]:
    """Coefficients up to a degree of the product of (1 + c z)^e over pairs (c, e)."""
    product = [1] + [0] * degree
    for c, e in factors:
        power = [
            (comb(e, i) if e >= 0 else (-1) ** i * comb(i - e - 1, i)) * c**i
            for i in range(degree + 1)
        ]
        product = [sum(product[j] * power[i - j] for j in range(i + 1)) for i in range(degree + 1)]
    return product


# The largest degree of equations looked at.
DEGREE = 5


class Algebraic:
    """The algebraic attacks, with mu places guessed free of error in each of f blocks.

    Briaud and Oygarden (EUROCRYPT 2023), section 5: linear algebra on the Macaulay matrix of the
    least degree d for which the truncated Hilbert series falls below 1.
    """

    def __init__(self, n: int, k: int, t: int) -> None:
        """For an instance; blocks have floor(n / t) places, as the papers take it."""
        self.n, self.k, self.t, self.block = n, k, t, n // t
        self.monomials = cache(self.monomials)
        self.remaining = cache(self.remaining)

    def blocks(self, f: int, mu: int) -> list[tuple[int, int]]:
        """The factors of the generating function of square-free monomials."""
        return [(self.block - mu - 1, f), (self.block - 1, self.t - f)]

    def monomials(self, f: int, mu: int) -> list[int]:
        """How many monomials there are up to each degree, 1 left out."""
        return running(series(self.blocks(f, mu), DEGREE))

    def remaining(self, f: int, mu: int) -> list[int]:
        """How many monomials the equations leave free up to each degree, 1 left out."""
        return running(series([*self.blocks(f, mu), (1, self.k + 1 - self.n)], DEGREE))

    def degree(self, f: int, mu: int) -> int | None:
        """The degree that solves the system."""
        remaining = self.remaining(f, mu)
        return next((d for d in range(2, DEGREE + 1) if remaining[d] < 1), None)

    def guess(self, f: int, mu: int) -> float:
        """How many guesses it takes."""
        return -f * log2(1 - mu / self.block)

    def best(self, f: int) -> dict[int, int]:
        """For each degree the least mu that reaches it."""
        found = {}
        top = min(self.k // f if f else 0, self.block - 1)
        for d in range(2, DEGREE + 1):
            low, high = 0, top
            if (self.degree(f, high) or inf) > d:
                continue
            while low < high:
                middle = (low + high) // 2
                if (self.degree(f, middle) or inf) <= d:
                    high = middle
                else:
                    low = middle + 1
            found[d] = low
        return found

    def wiedemann(self, f: int, mu: int, d: int) -> float:
        """Sparse linear algebra at a degree."""
        return 2 * log2(self.monomials(f, mu)[d]) + log2(3 * max(self.k + 1 - f * mu, 1))

    def cost(self) -> float:
        """The attack of 2023."""
        best = inf
        for f in self.steps():
            for d, mu in self.best(f).items():
                best = min(best, self.wiedemann(f, mu, d) + self.guess(f, mu))
        return best

    def cost_2(self) -> float:
        """AGB 2.0 (ePrint 2025/1476): monomials are eliminated before most of the guessing.

        With mu' <= mu places guessed in f' <= f blocks the matrix is reduced once, to the monomials
        that the equations leave free; the rest of the guess is tried on what is left.
        """
        best = self.cost()
        for f in self.steps():
            for d, mu in self.best(f).items():
                for part in {f, f * 3 // 4, f // 2, f // 4} - {0}:
                    for early in sorted({mu * i // 24 for i in range(25)}):
                        size = self.monomials(part, early)[d]
                        free = max(self.remaining(part, early)[d], 1)
                        gone = max(size - free, 2)
                        first = min(
                            self.wiedemann(part, early, d),
                            log2(size) + 2 * log2(gone) - log2(log2(gone)),
                        )
                        second = log2(5.64) + OMEGA * log2(min(free, gone))
                        best = min(
                            best,
                            log2_sum(first + self.guess(part, early), second + self.guess(f, mu)),
                        )
        return best

    def steps(self) -> list[int]:
        """The numbers of blocks to guess in."""
        return sorted({0, *(self.t * i // 64 for i in range(1, 65))})


def running(coefficients: list[int]) -> list[int]:
    """Sums of the coefficients from the first degree on."""
    return [sum(coefficients[1 : d + 1]) for d in range(len(coefficients))]


def hybrid(n: int, k: int, t: int) -> float:
    """The hybrid attack of Wang et al. (ASIACRYPT 2025, ePrint 2025/1284) over F_2.

    u places are guessed free of error in each block, one more in f blocks, and g blocks wholly; the
    products of two places of a block, which are 0, then give quadratic equations enough to be
    linearised.
    """
    block = n // t
    n, k = block * t, k - (n - block * t)

    def cost(u: int, f: int, g: int) -> float:
        rest = t - f - g
        unknowns = k - t - (u + 1) * f - u * rest
        guess = -f * log1p(-(u + 1) / block) / log(2) - rest * log1p(-u / block) / log(2)
        known = (n - k) // (block - 1) * (block - u - 2)
        rows = max(n - k - known, 1)
        linear = log2(rows) + log2(n - k) + log2(max(rows + unknowns, 1))
        if unknowns <= 0:
            return guess + linear
        equations = (
            rest * (block - u - 2) * (block - u - 1) / 2 + f * (block - u - 2) * (block - u - 3) / 2
        )
        w = (block - 1) * g
        v = unknowns - w
        if v < 0 or v > sqrt(2 * equations) - 2:
            return inf
        first = second = 0.0
        if v:
            first = log2(max(v**4 * unknowns**2 / 8 / log2(max(v * v / 2, 2)), 1))
            last = (2.5 * v) ** 3 / log2(max(2.5 * v, 2))
            second = log2(max(1.25 * (2 * v * v * w + v * w * w) + last, 1))
        return guess + log2_sum(linear, first, second + g * log2(block))

    def best_f(u: int, g: int) -> float:
        """More blocks with one more guess cost more, so the least number that works is best."""
        low, high = 0, t - g
        if cost(u, high, g) == inf:
            return inf
        while low < high:
            middle = (low + high) // 2
            if cost(u, middle, g) < inf:
                high = middle
            else:
                low = middle + 1
        return cost(u, low, g)

    best = inf
    for g in range(0, min(t, 40)):
        best = min(best, least(best_f(u, g) for u in range(0, min(block - 3, 2000))))
        if best_f(0, g) < inf and g > 0:
            break
    return best


def fewer(attack: Callable[[int, int, int], float], n: int, k: int, t: int) -> float:
    """The least cost of an attack that may leave out blocks."""
    block = n // t
    low = k // block + 2
    return least(
        attack(b * block, k, b) for b in {t, *(low + (t - low) * i // 40 for i in range(41))}
    )


def all_attacks(n: int, k: int, t: int) -> dict[str, float]:
    """Every attack's cost. Those on exact noise get the problem without its regularity.

    The parities of the blocks turn regular noise into exact noise with t fewer samples and unknowns
    (Liu et al., theorem 11). An attack whose cost grows with n may leave out blocks.
    """
    exact = (n - t, k - t, t)
    algebraic = Algebraic(n, k, t)
    return {
        "Gauss": gauss(*exact),
        "SD": statistical_decoding(*exact),
        "SD 2.0": statistical_decoding_2(*exact),
        "Stern-Dumer": stern_dumer(*exact),
        "Stern-Dumer, fewer": fewer(lambda n, k, t: stern_dumer(n - t, k - t, t), n, k, t),
        "regular Prange": fewer(regular_permutation, n, k, t),
        "regular enum.": fewer(regular_enumeration, n, k, t),
        "regular repr.": fewer(regular_representation, n, k, t),
        "staged Prange": staged_prange(n, k, t),
        "algebraic": algebraic.cost(),
        "algebraic 2.0": algebraic.cost_2(),
        "hybrid": fewer(hybrid, n, k, t),
    }


# Published figures over F_2: n, k, t and bits.
# Exact noise, pooled Gauss being the best attack (Liu et al., as "reduce and Prange" quotes them):
EXACT = [
    (1 << 10, 652, 57, 111),
    (1 << 12, 1589, 98, 100),
    (1 << 14, 3482, 198, 101),
    (1 << 16, 7391, 389, 103),
    (1 << 18, 15336, 760, 105),
    (1 << 20, 32771, 1419, 107),
    (1 << 22, 67440, 2735, 108),
    (1 << 12, 1321, 172, 128),
    (1 << 16, 6005, 667, 128),
    (1 << 20, 25346, 2467, 128),
    (1 << 22, 50854, 4788, 128),
]
# Regular noise, the least cost known in 2023, from the same tables; later attacks cost less:
REGULAR = [
    (1 << 14, 3482, 338, 149),
    (1 << 18, 15336, 1312, 133),
    (1 << 20, 32771, 2467, 131),
    (1 << 22, 67440, 4788, 110),
    (1 << 20, 32771, 1419, 102),
    (1 << 22, 67440, 2735, 104),
    (1 << 18, 14796, 1312, 128),
    (1 << 20, 30978, 2467, 128),
    (1 << 22, 75396, 4788, 128),
]
# The first sets of Ferret against the algebraic attack:
FERRET = [(10180608, 124000, 4971, 110), (10268672, 238000, 2507, 121)]
# Sets of emp-ot (2026), chosen as the largest t for which the hybrid attack costs 128 bits:
FLOOR = [
    (870400, 65536, 850, 128),
    (2396160, 131072, 1170, 128),
    (6225920, 262144, 1520, 128),
    (15564800, 524288, 1900, 128),
]


def check() -> None:
    """Compares with published figures.

    Fails if one of an attack's own is off by more than a bit, or the least cost here is above the
    least one published.
    """
    own = [
        (EXACT, gauss, "Gauss"),
        (FERRET, lambda n, k, t: Algebraic(n, k, t).cost(), "algebraic"),
        (FLOOR, hybrid, "hybrid"),
    ]
    bad = False
    for rows, attack, name in own:
        for n, k, t, bits in rows:
            cost = attack(n, k, t)
            bad |= abs(cost - bits) > 1
            print(f"{n:9} {k:7} {t:5}  {name:9}  published {bits}, here {cost:6.1f}")
    for n, k, t, bits in REGULAR:
        cost = min(stern_dumer(n - t, k - t, t), Algebraic(n, k, t).cost())
        bad |= cost > bits
        print(f"{n:9} {k:7} {t:5}  least      published {bits}, here {cost:6.1f}")
    sys.exit(bad)


def main() -> None:
    """Prints what was asked for."""
    if sys.argv[1:] == ["--check"]:
        check()
    if sys.argv[1:]:
        instances = [("", *map(int, sys.argv[1:4]))]
    else:
        instances = [
            (name, t << depth, k, form_weight(t) if wide else t) for name, k, t, depth, wide in SETS
        ]
    for name, n, k, t in instances:
        print(name, f"n = {n}, k = {k}, t = {t}")
        for attack, cost in sorted(all_attacks(n, k, t).items(), key=lambda item: item[1]):
            print(f"  {attack:20} {cost:6.1f}")


if __name__ == "__main__":
    main()
