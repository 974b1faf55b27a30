//! How large the noise of an answer can be before flooding, in integer arithmetic.
//!
//! The noise that tells about the weights is, in each coefficient of an answer, the sum over a row of coefficients w of weight
//! polynomials of w·(error + encoding rounding). An error is a sum of 42 independent ±1/2 and a rounding of a uniform mask is uniform in
//! [-1/2, 1/2]; both are subgaussian with their variances 21/2 and 1/12, so the sum exceeds 8·sqrt((127/12)·sum of w²) with
//! probability at most 2·exp(-32) < 2^-45 (Hoeffding). All coefficients of a weight polynomial enter, also those of the
//! other output channels in it: errors, unlike messages, do not vanish outside the image.

/// log2 of the noise bound that flooding of the linear ring drowns to a statistical distance of 2^-41 per coefficient.
pub const LINEAR_NOISE_BITS: u32 = 18;

/// The bound of eight standard deviations for weights whose squares sum to `squares`, rounded up.
pub const fn bound(squares: u64) -> u64 {
    // sqrt(64·127/12·squares) = sqrt(2032·squares/3); squares below 2^64 keeps this within 2^75, its root within 2^38.
    (squares as u128 * 2032).div_ceil(3).isqrt() as u64 + 1
}

/// Bits of [`bound`]: the least b with bound <= 2^b.
pub const fn bits(bound: u64) -> u32 {
    bound.next_power_of_two().trailing_zeros()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_eight_standard_deviations() {
        // 4608 weights of ±127: 8·sqrt(10.5833·4608)·127 = 224 368.2.
        assert!((224_369..=224_370).contains(&bound(4608 * 127 * 127)));
        assert_eq!(bits(bound(4608 * 127 * 127)), 18);
        assert_eq!((bound(0), bits(1), bits(2), bits(3), bits(1 << 18)), (1, 0, 1, 2, 18));
    }
}
