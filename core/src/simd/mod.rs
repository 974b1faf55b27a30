//! Kernels for wide instruction sets, and the only unsafe code of the crate.
//!
//! Every kernel exists in portable form, which is its definition: the other forms compute the same for all inputs, and the
//! tests compare them on each instruction set that the machine has. Which one runs is chosen by [`level`], once per process.
//!
//! Most kernels need no intrinsics: `multiversion!` compiles one portable body once per instruction set, and the compiler's
//! vectoriser does the rest. The others have a file per instruction set.

pub(crate) mod aes;
pub(crate) mod chacha;
#[cfg(thumb2)]
mod chacha_arm;
pub(crate) mod residues;
pub(crate) mod samples;
pub(crate) mod words;

use core::sync::atomic::{AtomicU8, Ordering};

/// What the processor offers, from least to most.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Level {
    /// What the target has in any case: SSE2 on x86-64, NEON on AArch64.
    Base = 1,
    /// AVX2 and BMI2 (x86-64 from 2013 on).
    Avx2 = 2,
    /// AVX-512 F, BW, CD, DQ and VL (x86-64 servers from 2017 on, AMD from 2022 on).
    Avx512 = 3,
}

/// The level in force; 0 before it was found out.
static LEVEL: AtomicU8 = AtomicU8::new(0);

/// The level that kernels run at: the processor's, unless [`limit`] set a lower one.
#[inline]
pub fn level() -> Level {
    match LEVEL.load(Ordering::Relaxed) {
        1 => Level::Base,
        2 => Level::Avx2,
        3 => Level::Avx512,
        _ => limit(Level::Avx512),
    }
}

/// Sets the level for the whole process: `most`, or the processor's where that is lower. For tests and measurements.
#[cold]
pub fn limit(most: Level) -> Level {
    let level = most.min(detected());
    LEVEL.store(level as u8, Ordering::Relaxed);
    level
}

/// Whether the level is [`Level::Avx512`] and the processor multiplies 52-bit integers too (Intel from 2019, AMD from 2022 on).
#[cfg(target_arch = "x86_64")]
#[inline]
pub(crate) fn has_ifma() -> bool {
    cpufeatures::new!(ifma, "avx512f", "avx512ifma");
    level() == Level::Avx512 && ifma::get()
}

#[cfg(target_arch = "x86_64")]
fn detected() -> Level {
    cpufeatures::new!(has_avx2, "avx2", "bmi1", "bmi2");
    cpufeatures::new!(has_avx512, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl");
    match (has_avx2::get(), has_avx512::get()) {
        (true, true) => Level::Avx512,
        (true, false) => Level::Avx2,
        _ => Level::Base,
    }
}

#[cfg(not(target_arch = "x86_64"))]
fn detected() -> Level {
    Level::Base
}

/// Defines functions whose portable body is compiled once per instruction set, and which run the version of [`level`].
///
/// What the body calls must be `#[inline(always)]` to be compiled with it. For use in the submodules of this one.
macro_rules! multiversion {
    ($($(#[$meta:meta])* $vis:vis fn $name:ident($($arg:ident: $type:ty),* $(,)?) $(-> $result:ty)? $body:block)*) => {$(
        $(#[$meta])*
        $vis fn $name($($arg: $type),*) $(-> $result)? {
            #[inline(always)]
            fn portable($($arg: $type),*) $(-> $result)? $body

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,bmi1,bmi2")]
            fn avx2($($arg: $type),*) $(-> $result)? {
                portable($($arg),*)
            }

            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,bmi1,bmi2,avx512f,avx512bw,avx512cd,avx512dq,avx512vl")]
            fn avx512($($arg: $type),*) $(-> $result)? {
                portable($($arg),*)
            }

            match $crate::simd::level() {
                // SAFETY: the processor has what the level stands for.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Level::Avx512 => unsafe { avx512($($arg),*) },
                // SAFETY: as above.
                #[cfg(target_arch = "x86_64")]
                $crate::simd::Level::Avx2 => unsafe { avx2($($arg),*) },
                _ => portable($($arg),*),
            }
        }
    )*};
}
#[allow(unused_imports)]
pub(crate) use multiversion;

/// Runs a test's body once at each level that the machine has. Other tests may run beside it: at any level they get the same.
#[cfg(test)]
pub(crate) fn at_each_level(mut body: impl FnMut(Level)) {
    for most in [Level::Base, Level::Avx2, Level::Avx512] {
        if limit(most) == most {
            body(most);
        }
    }
    limit(Level::Avx512);
}

#[cfg(test)]
mod tests {
    use super::*;

    multiversion! {
        /// Sum of products, modulo 2^32.
        fn dot(a: &[u32], b: &[u32]) -> u32 {
            a.iter().zip(b).fold(0, |sum, (&a, &b)| sum.wrapping_add(a.wrapping_mul(b)))
        }
    }

    #[test]
    fn all_versions_compute_the_same() {
        let a: alloc::vec::Vec<u32> = (0..1000u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
        let expected = a.iter().fold(0u32, |sum, &x| sum.wrapping_add(x.wrapping_mul(x)));
        at_each_level(|level| assert_eq!(dot(&a, &a), expected, "{level:?}"));
    }
}
