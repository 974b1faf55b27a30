//! The roundings of the protocol and the functions between them, on integers and on intervals of integers.

use safenet_core::model::{Channel, ChannelSecret, Kind};

/// p = 2^36 − 2^20 + 1: the largest prime below 2^36 that is 1 modulo 2^20 (hence modulo 2^14), in whose field squares and cubes are computed.
pub const FIELD_PRIME: i64 = 68_718_428_161;

/// A closed interval of integers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Interval {
    pub(crate) low: i64,
    pub(crate) high: i64,
}

impl Interval {
    pub(crate) fn new(low: i64, high: i64) -> Self {
        Self { low, high }
    }

    pub(crate) fn holds(self, value: i64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    fn plus(self, offset: i64) -> Self {
        Self::new(self.low + offset, self.high + offset)
    }

    fn negated(self) -> Self {
        Self::new(-self.high, -self.low)
    }

    /// The end that is farther from 0, which is where symmetric bounds are violated first.
    pub(crate) fn farthest(self) -> i64 {
        if self.high.abs() >= self.low.abs() { self.high } else { self.low }
    }
}

/// Why a channel's value is outside what the protocol computes rightly: the offending value and the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Excess {
    pub(crate) what: &'static str,
    pub(crate) value: i128,
    pub(crate) limit: i128,
}

/// What T allows for linear outputs within `y`: floor of the low end to ceiling of the high end.
pub(crate) fn truncated(y: Interval, shift: u8) -> Interval {
    Interval::new(y.low >> shift, -((-y.high) >> shift))
}

/// What the way back allows for field values within `z`: floor, or one more even where 2^g divides z.
fn returned(z: Interval, back_shift: u8) -> Interval {
    Interval::new(z.low >> back_shift, (z.high >> back_shift) + i64::from(back_shift > 0))
}

/// |y| must be below this: 2^(b−1) − 2^f.
pub(crate) fn linear_limit(channel: &Channel) -> i64 {
    (1i64 << (channel.bound_bits - 1)) - (1i64 << channel.shift)
}

/// Largest |v³ + λ·v| of a cubic channel: with the way back's offset of 2^33 and 2^g − 1 it stays in [0, p/4), and
/// p/4 is just above 2^34 − 2^18.
fn cubic_limit(back_shift: u8) -> i64 {
    (1 << 33) - (1 << 18) - (1 << back_shift)
}

/// v³ + λ·v; saturates far outside the protocol's range, so that a wild value stays wild.
fn cubic(v: i64, lambda: i64) -> i64 {
    // |λ| is below 2^34: beyond 2^40 the cube decides, and is out of range already.
    let v = i128::from(v.clamp(-(1 << 40), 1 << 40));
    let z = v * v * v + i128::from(lambda) * v;
    z.clamp(-(1 << 62), 1 << 62) as i64
}

/// v², with the same saturation.
fn square(v: i64) -> i64 {
    v.saturating_mul(v).min(1 << 62)
}

/// Exact extremes of v² over an interval.
fn square_range(v: Interval) -> Interval {
    let (a, b) = (square(v.low), square(v.high));
    Interval::new(if v.holds(0) { 0 } else { a.min(b) }, a.max(b))
}

/// Exact extremes of v³ + λ·v over the integers of an interval: at its ends, or next to ±sqrt(−λ/3), where the slope is 0.
fn cubic_range(v: Interval, lambda: i64) -> Interval {
    let mut range = Interval::new(cubic(v.low, lambda), cubic(v.low, lambda));
    let root = if lambda < 0 { (lambda.unsigned_abs() / 3).isqrt() as i64 } else { 0 };
    for candidate in [v.high, root, root + 1, -root, -root - 1] {
        if v.holds(candidate) {
            let z = cubic(candidate, lambda);
            range = Interval::new(range.low.min(z), range.high.max(z));
        }
    }
    range
}

/// What a channel's activation allows for linear outputs within `y`, and the first bound that some value of it violates.
#[inline]
pub(crate) fn activated(y: Interval, channel: &Channel, secret: &ChannelSecret) -> (Interval, Option<Excess>) {
    let offset = i64::from(secret.offset);
    if channel.kind == Kind::Zero {
        return (Interval::new(offset, offset), None);
    }
    let mut excess = None;
    let mut note = |what, value: i64, limit: i64, beyond: bool| {
        if beyond && excess.is_none() {
            excess = Some(Excess { what, value: value.into(), limit: limit.into() });
        }
    };
    let limit = linear_limit(channel);
    let far = y.farthest();
    note("|y| < 2^(b-1) - 2^f", far, limit, far.abs() >= limit);
    let v = truncated(y, channel.shift);
    let g = channel.back_shift;
    let result = match channel.kind {
        Kind::Relu => Interval::new(v.low.max(0), v.high.max(0)),
        Kind::Linear => v.plus(offset),
        Kind::Zero => Interval::new(offset, offset),
        Kind::Square { .. } => {
            let z = square_range(v);
            let reached = z.high.saturating_add(1 << g);
            note("v^2 + 2^g < p/4", reached, FIELD_PRIME / 4, reached > FIELD_PRIME / 4);
            let q = returned(z, g);
            if secret.negative { q.negated() } else { q }.plus(offset)
        }
        Kind::Cubic => {
            let z = cubic_range(v, secret.lambda);
            let (far, limit) = (z.farthest(), cubic_limit(g));
            note("|v^3 + lambda v| <= 2^33 - 2^18 - 2^g", far, limit, far.abs() > limit);
            returned(z, g).plus(offset)
        }
    };
    (result, excess)
}

/// The result for one linear output with each rounding chosen by `round`: floor(z / 2^bits) or one more, for bits > 0.
pub(crate) fn rounded(y: i64, channel: &Channel, secret: &ChannelSecret, mut round: impl FnMut(i64, u8) -> i64) -> i64 {
    let offset = i64::from(secret.offset);
    if channel.kind == Kind::Zero {
        return offset;
    }
    let mut drop_bits = |z, bits| if bits == 0 { z } else { round(z, bits) };
    let v = drop_bits(y, channel.shift);
    match channel.kind {
        Kind::Zero => offset,
        Kind::Relu => v.max(0),
        Kind::Linear => v + offset,
        Kind::Square { .. } => {
            let q = drop_bits(square(v), channel.back_shift);
            offset + if secret.negative { -q } else { q }
        }
        Kind::Cubic => offset + drop_bits(cubic(v, secret.lambda), channel.back_shift),
    }
}

/// z / 2^bits rounded to the nearest integer, half up: one of the two that every rounding of the protocol allows.
pub(crate) fn nearest(z: i64, bits: u8) -> i64 {
    (z >> bits) + ((z >> (bits - 1)) & 1)
}

/// z / 2^bits rounded up with the probability of its fraction, exactly, for a uniform word.
pub(crate) fn at_random(z: i64, bits: u8, word: u64) -> i64 {
    let low = |z: u64| z & ((1 << bits) - 1);
    (z >> bits) + i64::from(low(word) < low(z as u64))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn power(base: u128, mut exponent: u128, modulus: u128) -> u128 {
        let (mut result, mut base) = (1, base % modulus);
        while exponent > 0 {
            if exponent & 1 == 1 {
                result = result * base % modulus;
            }
            base = base * base % modulus;
            exponent >>= 1;
        }
        result
    }

    /// Miller-Rabin with the first twelve primes as bases, which is a proof below 3.3 · 10^24 (Sorenson and Webster, 2015).
    fn is_prime(n: u128) -> bool {
        let bases = [2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37];
        if bases.contains(&n) {
            return true;
        }
        let twos = (n - 1).trailing_zeros();
        bases.iter().all(|&base| {
            let mut x = power(base, (n - 1) >> twos, n);
            x == 1
                || (0..twos).any(|_| {
                    let hit = x == n - 1;
                    x = x * x % n;
                    hit
                })
        })
    }

    #[test]
    fn the_field_is_the_largest_that_the_design_allows() {
        let step = 1u128 << 20;
        let largest = (1..).map(|k| (1u128 << 36) - k * step + 1).find(|&n| is_prime(n));
        assert_eq!(largest, Some(FIELD_PRIME as u128));
        assert_eq!(FIELD_PRIME % 16384, 1);
        // Written down twice, so that neither side can change it unnoticed.
        assert_eq!(FIELD_PRIME as u64, safenet_core::rlwe::SLOT_PRIME);
    }

    /// The shares of the largest values, wherever the server's lies, still tell whether their sum wraps.
    #[test]
    fn the_way_back_is_right_up_to_the_limits_and_not_beyond() {
        // As in docs/protocol.md: the server's share, the client's share with the offset, and what the client makes of the wrap.
        let back = |z: i64, offset: i64, g: u8, server: i64| {
            let client = (z + offset + (1 << g) - 1 - server).rem_euclid(FIELD_PRIME);
            let wraps = i64::from(!(server <= FIELD_PRIME / 4 && client <= FIELD_PRIME / 2));
            (server >> g) + (client >> g) - wraps * (FIELD_PRIME >> g) - (offset >> g)
        };
        let right = |z: i64, offset: i64, g: u8| {
            let quarter = (FIELD_PRIME / 4 - 2..FIELD_PRIME / 4 + (1 << 21)).step_by(97);
            let mut servers = quarter.chain([0, 1, FIELD_PRIME / 2, FIELD_PRIME / 2 + 1, FIELD_PRIME - 1]);
            servers.all(|s| returned(Interval::new(z, z), g).holds(back(z, offset, g, s)))
        };
        for g in 0..=20 {
            let (square, cubic) = (FIELD_PRIME / 4 - (1 << g), cubic_limit(g));
            assert!(right(square, 0, g) && right(0, 0, g), "{g}");
            assert!(right(cubic, 1 << 33, g) && right(-cubic, 1 << 33, g), "{g}");
            assert!(!right(square + 200, 0, g) && !right(cubic + 200, 1 << 33, g), "{g}");
        }
    }

    fn brute(v: Interval, function: impl Fn(i64) -> i64) -> Interval {
        let values: Vec<i64> = (v.low..=v.high).map(function).collect();
        Interval::new(*values.iter().min().unwrap(), *values.iter().max().unwrap())
    }

    proptest! {
        #[test]
        fn extremes_are_exact(low in -3000i64..3000, length in 0i64..2000, lambda in -(1i64 << 24)..(1 << 24)) {
            let v = Interval::new(low, low + length);
            prop_assert_eq!(square_range(v), brute(v, |v| v * v));
            prop_assert_eq!(cubic_range(v, lambda), brute(v, |v| v * v * v + lambda * v));
        }

        #[test]
        fn truncation_allows_floor_and_ceiling(y in -(1i64 << 30)..(1 << 30), shift in 0u8..28, word: u64) {
            let v = truncated(Interval::new(y, y), shift);
            let floor = y.div_euclid(1 << shift);
            let ceiling = floor + i64::from(y.rem_euclid(1 << shift) != 0);
            prop_assert_eq!(v, Interval::new(floor, ceiling));
            prop_assert!(shift == 0 || v.holds(nearest(y, shift)) && v.holds(at_random(y, shift, word)));
        }

        #[test]
        fn nominal_is_allowed(
            y in -(1i64 << 16)..(1 << 16), shift in 0u8..8, back_shift in 0u8..20, kind in 0usize..5, negative: bool,
            offset in -1000i32..1000, lambda in -(1i64 << 20)..(1 << 20),
        ) {
            let kind = [Kind::Relu, Kind::Linear, Kind::Zero, Kind::Square { secret_sign: true }, Kind::Cubic][kind];
            let channel = Channel { kind, bound_bits: 20, shift, back_shift };
            let secret = ChannelSecret { offset, lambda, negative };
            let (range, _) = activated(Interval::new(y, y), &channel, &secret);
            prop_assert!(range.holds(rounded(y, &channel, &secret, nearest)));
        }

        #[test]
        fn random_roundings_go_up_as_often_as_the_fraction_says(z in -(1i64 << 40)..(1 << 40), bits in 1u8..12) {
            let unit = 1i64 << bits;
            // Every word's low bits once, under some others.
            let ups = (0..1u64 << bits).filter(|word| at_random(z, bits, word | 5 << 40) == z.div_euclid(unit) + 1).count();
            let floors = (0..1u64 << bits).filter(|word| at_random(z, bits, word | 5 << 40) == z.div_euclid(unit)).count();
            prop_assert_eq!((ups as i64, floors as i64), (z.rem_euclid(unit), unit - z.rem_euclid(unit)));
        }
    }
}
