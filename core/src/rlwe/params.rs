//! The parameters of both rings. Everything here is public and fixed.
//!
//! | | [`LINEAR`] | [`SLOTS`] |
//! |---|---|---|
//! | degree N | 4096 | 8192 |
//! | modulus q | 3 primes, just below 2^93 | 4 primes, just below 2^124 |
//! | plaintext modulus t | 2^32 | [`SLOT_PRIME`], just below 2^36 |
//! | flooding, uniform in | \[-2^58, 2^58) | \[-2^85, 2^85) |
//! | modulus of answers q' | 2^41, or less | 2^47 |
//!
//! Secrets and encryption randomness are uniform in {-1, 0, 1}. Errors follow the centred binomial distribution with
//! eta = 21: the difference of the numbers of ones in two words of 21 uniform bits, sigma = sqrt(21/2) = 3.24, which is
//! drawn in constant time. The standard for homomorphic encryption (Albrecht et al., 2018) allows 109 bits of q at
//! N = 4096 and 218 at N = 8192 for 128 bits of security with ternary secrets and sigma 3.2.
//!
//! Plaintexts are encoded as round(q·m/t), not as floor(q/t)·m: the rounding error of the latter would be multiplied by
//! the number of times the product of weight and plaintext exceeds t.
//!
//! Budget of an answer, in units of q': flooding contributes up to 2^58·2^41/q = 64 of the 2^41/(2·2^32) = 256 that
//! decryption tolerates (256 of 1024 for the slots). The second half of an answer is rounded to a multiple of 2^4, an error
//! of at most 8. The rounding of the first to q' contributes an error of standard deviation sqrt((2N/3)/12) = 15.1 (21.3), so
//! the distance left is 12.1 (35) standard deviations; all other noise is smaller by 2^35. The tests compute this exactly.
//!
//! **Narrow words.** Where only the low k < 32 bits of a linear layer's output matter, the server's products, its mask and the
//! flooding are 2^(32-k) times as large, and q' is 2^(k+9). All of the budget above, relative to q', and the distance between
//! noise and flooding stay what they are; of the plaintext, the k bits times 2^(32-k) remain.

use super::modulus::{Factor, Modulus};
use super::ntt::RnsPrime;

/// The largest primes below 2^31 that are 1 modulo 16384 = 2·8192, the longest transform's root order.
pub(crate) const PRIMES: [u32; 4] = [2_147_352_577, 2_147_205_121, 2_147_074_049, 2_146_959_361];

/// The plaintext prime p of the slots: the largest below 2^36 that is 1 modulo 2^20.
///
/// p = 2^36 - 2^20 + 1: it has roots of unity for the transform of 8192 slots, and p >> g is exact for all g <= 20 up to a unit.
pub const SLOT_PRIME: u64 = 0xf_fff0_0001;

/// A ring R_q with its encryption parameters. Public; there are two, [`LINEAR`] and [`SLOTS`].
#[derive(Debug)]
pub struct RingParams {
    pub(super) name: &'static str,
    pub(super) degree: usize,
    pub(super) primes: &'static [RnsPrime],
    /// Per prime, what the change of modulus needs.
    pub(super) crt: &'static [CrtPrime],
    /// log2 of q', for whole words.
    pub(super) switched_bits: u32,
    /// The second halves of answers are sent without so many of their low bits.
    pub(super) dropped_bits: u32,
    /// Flooding is uniform in [-2^flooding_bits, 2^flooding_bits), for whole words.
    pub(super) flooding_bits: u32,
}

/// Constants of the Chinese remainder map from residues x_i to the fraction x/q = sum of (x_i·cofactor mod q_i)/q_i, modulo 1.
#[derive(Debug)]
pub(super) struct CrtPrime {
    /// (q/q_i)^-1 mod q_i.
    pub(super) cofactor: Factor,
    /// floor(2^96/q_i), as its bits from 32 up, and its low 32 bits.
    pub(super) fraction: (u64, u32),
}

/// The ring of linear layers: N = 4096, q of three primes, plaintexts modulo 2^32.
pub static LINEAR: RingParams = RingParams {
    name: "linear layers",
    degree: 4096,
    primes: &LINEAR_PRIMES,
    crt: &LINEAR_CRT,
    switched_bits: 41,
    dropped_bits: 4,
    flooding_bits: 58,
};

/// The ring of slot products: N = 8192, q of four primes, plaintexts modulo [`SLOT_PRIME`].
pub static SLOTS: RingParams = RingParams {
    name: "slot products",
    degree: 8192,
    primes: &SLOT_PRIMES,
    crt: &SLOT_CRT,
    switched_bits: 47,
    dropped_bits: 4,
    flooding_bits: 85,
};

static LINEAR_PRIMES: [RnsPrime; 3] = [RnsPrime::new(0, 4096), RnsPrime::new(1, 4096), RnsPrime::new(2, 4096)];
static SLOT_PRIMES: [RnsPrime; 4] =
    [RnsPrime::new(0, 8192), RnsPrime::new(1, 8192), RnsPrime::new(2, 8192), RnsPrime::new(3, 8192)];
static LINEAR_CRT: [CrtPrime; 3] = [crt_prime(0, 3), crt_prime(1, 3), crt_prime(2, 3)];
static SLOT_CRT: [CrtPrime; 4] = [crt_prime(0, 4), crt_prime(1, 4), crt_prime(2, 4), crt_prime(3, 4)];

const fn crt_prime(index: usize, count: usize) -> CrtPrime {
    let modulus = Modulus::new(PRIMES[index]);
    let q = PRIMES[index] as u64;
    let mut others = 1u64;
    let mut i = 0;
    while i < count {
        if i != index {
            others = others * (PRIMES[i] as u64 % q) % q;
        }
        i += 1;
    }
    let fraction = (1u128 << 96) / q as u128;
    CrtPrime {
        cofactor: modulus.factor(modulus.invert_vartime(others as u32)),
        fraction: ((fraction >> 32) as u64, fraction as u32),
    }
}

/// q mod `divisor` for the product q of the first `count` primes. For constants.
pub(super) const fn product_mod(count: usize, divisor: u64) -> u64 {
    let mut product = 1u128;
    let mut i = 0;
    while i < count {
        product = product * PRIMES[i] as u128 % divisor as u128;
        i += 1;
    }
    product as u64
}

impl RingParams {
    /// The degree N: number of coefficients of a polynomial, and of slots.
    pub fn degree(&self) -> usize {
        self.degree
    }

    /// The primes whose product is q.
    pub fn primes(&self) -> &'static [RnsPrime] {
        self.primes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_prime(n: u64) -> bool {
        n > 1 && (2..).take_while(|d| d * d <= n).all(|d| !n.is_multiple_of(d))
    }

    #[test]
    fn primes_are_the_largest_of_their_kind() {
        let mut candidates = (0..).map(|k| (1u64 << 31) - 16384 * (k + 1) + 1).filter(|&n| is_prime(n));
        assert!(PRIMES.iter().all(|&q| Some(u64::from(q)) == candidates.next()));
        let mut candidates = (0..).map(|k| (1u64 << 36) - (k + 1) * (1 << 20) + 1).filter(|&n| is_prime(n));
        assert_eq!(candidates.next(), Some(SLOT_PRIME));
        assert!((0..4).all(|i| (0..i).all(|j| PRIMES[i] != PRIMES[j])));
    }

    /// The claims of the module's text, in exact integers: `q` is q, all comparisons are cross-multiplied.
    #[test]
    fn budgets_hold() {
        for (params, t, q_bits, share) in [(&LINEAR, 1u128 << 32, 93, 4), (&SLOTS, u128::from(SLOT_PRIME), 124, 4)] {
            let q = PRIMES[..params.primes.len()].iter().map(|&p| u128::from(p)).product::<u128>();
            assert_eq!(128 - q.leading_zeros(), q_bits);
            // q exceeds 2^(bits - 1/1000): 1000·(2^bits - q) < 2^bits·ln 2.
            assert!(((1u128 << q_bits) - q) < (1 << q_bits) / 1500);
            // Security: the bound of the standard.
            assert!(q_bits <= if params.degree == 4096 { 109 } else { 218 });
            // Flooding and 2^40 times less noise take at most a quarter of what decryption tolerates, up to 2^-9.
            let flooding = (1u128 << params.flooding_bits) + (1 << (params.flooding_bits - 40 + 2));
            let tolerated = q / (2 * t);
            assert!(flooding * share * 511 / 512 < tolerated, "{}", params.name);
            // In units of q': margin left for the first half's rounding, against its standard deviation squared (2N/3/12).
            let switched = 1u128 << params.switched_bits;
            let tolerated = switched / (2 * t);
            let used = (flooding >> 20) * switched / (q >> 20) + 1 + (1 << (params.dropped_bits - 1));
            let variance = (2 * params.degree as u128 / 3) / 12 + 1;
            let sigmas_squared = (tolerated - used) * (tolerated - used) / variance;
            // Uniform roundings are subgaussian with their variance: 2·exp(-sigmas²/2), and sigmas >= 12 is below 2^-102.
            assert!(sigmas_squared >= 144, "{}: {sigmas_squared}", params.name);
        }
        // Statistical distance of flooding a value of 2^18: 2^18/2^59.
        assert_eq!(LINEAR.flooding_bits + 1 - super::super::noise::LINEAR_NOISE_BITS, 41);
    }
}
