//! The powers of a root of unity that transforms multiply by, in the orders in which they are read.

#[cfg(not(compact_roots))]
use super::modulus::Factor;
use super::modulus::Modulus;

/// Largest degree the tables serve.
pub(crate) const MAX_DEGREE: usize = 8192;

/// With psi a primitive root of unity of order 2·[`MAX_DEGREE`] modulo q, entry i is psi^rev(i), rev reversing log2
/// [`MAX_DEGREE`] bits; and what products by it need. Structure of arrays. Public.
#[cfg(not(compact_roots))]
#[derive(Debug)]
pub(crate) struct Roots {
    pub(super) values: [u32; MAX_DEGREE],
    /// floor(value·2^32/q).
    pub(super) quotients: [u32; MAX_DEGREE],
    #[cfg(target_arch = "x86_64")]
    pub(super) vectors: Vectors,
    #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
    pub(super) signed: Signed,
}

/// The roots as vector instructions take them.
#[cfg(target_arch = "x86_64")]
#[derive(Debug)]
pub(super) struct Vectors {
    /// The first entries, and floor(value·2^52/q).
    pub(super) wide_values: [u64; MAX_DEGREE / 8],
    pub(super) wide_quotients: [u64; MAX_DEGREE / 8],
    /// For the last three stages: see [`Octets`].
    pub(super) values: Octets<u32>,
    pub(super) quotients: Octets<u32>,
    pub(super) octet_wide_quotients: Octets<u64>,
}

/// The roots of the last three stages of eight blocks of eight coefficients, vector by vector, lane i that of the i-th block.
///
/// With b the number of the first block's entry (N/8 + its place) over eight: vector 0 holds the entries 8b + i; vectors 1 and 2 the
/// entries 2(8b + i) and the next; vectors 3 to 6 the entries 4(8b + i) and the three next. Only b from [`FIRST_OCTET`] on.
#[cfg(target_arch = "x86_64")]
pub(super) type Octets<T> = [[[T; 8]; 7]; OCTETS];

/// b of the first block in the shortest transform with vector instructions: 4096/8/8.
#[cfg(target_arch = "x86_64")]
pub(super) const FIRST_OCTET: usize = 64;
#[cfg(target_arch = "x86_64")]
const OCTETS: usize = MAX_DEGREE / 32 - FIRST_OCTET;

/// The roots as signed multiplications take them: [`SignedFactor`]s.
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
#[derive(Debug)]
pub(super) struct Signed {
    pub(super) values: [i32; MAX_DEGREE],
    pub(super) quotients: [i32; MAX_DEGREE],
}

/// A constant factor w between -q/2 and q/2 with round(w·2^31/q), at most 2^30 in magnitude.
#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
pub(super) struct SignedFactor {
    pub(super) value: i32,
    pub(super) quotient: i32,
}

#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
impl SignedFactor {
    /// That of w in [0, q).
    pub(super) const fn new(q: Modulus, w: u32) -> Self {
        let q = q.value() as i64;
        let centred = if w as i64 > q / 2 { w as i64 - q } else { w as i64 };
        // Rounded to the nearest by a floor: q is odd, there are no ties.
        let quotient = (2 * (centred << 31) + q).div_euclid(2 * q);
        Self { value: centred as i32, quotient: quotient as i32 }
    }
}

#[cfg(not(compact_roots))]
impl Roots {
    /// The tables of a prime that is 1 modulo 2·[`MAX_DEGREE`].
    pub(crate) const fn new(q: Modulus) -> Self {
        let mut values = [0; MAX_DEGREE];
        let mut quotients = [0; MAX_DEGREE];
        let psi = primitive_root(q);
        let mut power = 1u32;
        let mut i = 0u32;
        while (i as usize) < MAX_DEGREE {
            let place = (i.reverse_bits() >> (32 - MAX_DEGREE.trailing_zeros())) as usize;
            let factor = q.factor(power);
            values[place] = factor.value;
            quotients[place] = factor.quotient;
            power = (power as u64 * psi as u64 % q.value() as u64) as u32;
            i += 1;
        }
        #[cfg(target_arch = "x86_64")]
        let vectors = Vectors::new(q, &values, &quotients);
        #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
        let signed = Signed::new(q, &values);
        Self {
            values,
            quotients,
            #[cfg(target_arch = "x86_64")]
            vectors,
            #[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
            signed,
        }
    }

    #[inline(always)]
    pub(super) fn factor(&self, index: usize) -> Factor {
        Factor { value: self.values[index], quotient: self.quotients[index] }
    }
}

#[cfg(target_arch = "x86_64")]
impl Vectors {
    const fn new(q: Modulus, values: &[u32; MAX_DEGREE], quotients: &[u32; MAX_DEGREE]) -> Self {
        let mut out = Self {
            wide_values: [0; MAX_DEGREE / 8],
            wide_quotients: [0; MAX_DEGREE / 8],
            values: [[[0; 8]; 7]; OCTETS],
            quotients: [[[0; 8]; 7]; OCTETS],
            octet_wide_quotients: [[[0; 8]; 7]; OCTETS],
        };
        let mut i = 0;
        while i < MAX_DEGREE / 8 {
            out.wide_values[i] = values[i] as u64;
            out.wide_quotients[i] = wide_quotient(q, values[i]);
            i += 1;
        }
        let mut entry = 8 * FIRST_OCTET;
        while entry < MAX_DEGREE / 4 {
            let (octet, lane) = (entry / 8 - FIRST_OCTET, entry % 8);
            let mut vector = 0usize;
            while vector < 7 {
                // Vectors 0; 1, 2; 3 to 6 are of the stages with 1, 2 and 4 roots per block.
                let stage = (vector + 1).ilog2();
                let number = (entry << stage) + vector + 1 - (1 << stage);
                out.values[octet][vector][lane] = values[number];
                out.quotients[octet][vector][lane] = quotients[number];
                out.octet_wide_quotients[octet][vector][lane] = wide_quotient(q, values[number]);
                vector += 1;
            }
            entry += 1;
        }
        out
    }
}

#[cfg(all(target_arch = "aarch64", target_feature = "neon"))]
impl Signed {
    const fn new(q: Modulus, values: &[u32; MAX_DEGREE]) -> Self {
        let mut out = Self { values: [0; MAX_DEGREE], quotients: [0; MAX_DEGREE] };
        let mut i = 0;
        while i < MAX_DEGREE {
            let factor = SignedFactor::new(q, values[i]);
            out.values[i] = factor.value;
            out.quotients[i] = factor.quotient;
            i += 1;
        }
        out
    }
}

/// floor(w·2^52/q).
#[cfg(target_arch = "x86_64")]
pub(super) const fn wide_quotient(q: Modulus, w: u32) -> u64 {
    // In two steps of 64 bits: w < q < 2^31.
    let (q, first) = (q.value() as u64, (w as u64) << 32);
    ((first / q) << 20) + ((first % q) << 20) / q
}

/// A primitive root of unity of order 2·[`MAX_DEGREE`]: its [`MAX_DEGREE`]-th power is -1.
pub(super) const fn primitive_root(q: Modulus) -> u32 {
    let mut base = 2;
    loop {
        let root = q.pow_vartime(base, (q.value() as u64 - 1) / (2 * MAX_DEGREE as u64));
        if q.pow_vartime(root, MAX_DEGREE as u64) == q.value() - 1 {
            return root;
        }
        base += 1;
    }
}
