//! What the machine does at most: bytes moved, and multiplications in registers.

use safenet_core::simd::Level;
use std::hint::black_box;
use std::time::Instant;

/// Bytes a second that a = b + 3c reads and writes, the three arrays together of so many bytes.
pub(crate) fn bandwidth(level: Level, bytes: usize) -> f64 {
    let count = bytes / 3 / 64;
    let (mut a, b, c) = (vec![[0u64; 8]; count], vec![[1u64; 8]; count], vec![[2u64; 8]; count]);
    let passes = (16usize << 20).div_ceil(bytes);
    let moved = (passes * count * 3 * 64) as f64;
    let time = least(12, || {
        for _ in 0..passes {
            triad(level, black_box(&mut a), black_box(&b), black_box(&c));
        }
    });
    moved / time
}

fn triad(level: Level, a: &mut [[u64; 8]], b: &[[u64; 8]], c: &[[u64; 8]]) {
    #[inline(always)]
    fn body(a: &mut [[u64; 8]], b: &[[u64; 8]], c: &[[u64; 8]]) {
        for ((a, b), c) in a.iter_mut().zip(b).zip(c) {
            for i in 0..8 {
                a[i] = b[i].wrapping_add(c[i] << 1).wrapping_add(c[i]);
            }
        }
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2")]
    fn avx2(a: &mut [[u64; 8]], b: &[[u64; 8]], c: &[[u64; 8]]) {
        body(a, b, c);
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn avx512(a: &mut [[u64; 8]], b: &[[u64; 8]], c: &[[u64; 8]]) {
        body(a, b, c);
    }
    match level {
        // SAFETY: the level is one that the processor has.
        #[cfg(target_arch = "x86_64")]
        Level::Avx512 => unsafe { avx512(a, b, c) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Level::Avx2 => unsafe { avx2(a, b, c) },
        _ => body(a, b, c),
    }
}

/// Multiplications a second of words of 32 bits to 64, in registers: ten independent chains, so that their latency does not count.
pub(crate) fn multiplications(level: Level) -> f64 {
    const ROUNDS: usize = 20_000;
    macro_rules! chains {
        ($name:ident, $feature:literal, $lanes:literal) => {
            #[cfg_attr(target_arch = "x86_64", target_feature(enable = $feature))]
            fn $name(seed: u64) -> [[u64; $lanes]; 10] {
                let w = black_box([seed | 0x1234_5677; $lanes]);
                let mut x = [w; 10];
                for _ in 0..ROUNDS {
                    for x in &mut x {
                        for i in 0..$lanes {
                            x[i] = (x[i] & 0xffff_ffff) * (w[i] & 0xffff_ffff);
                        }
                    }
                }
                x
            }
        };
    }
    chains!(base, "sse2", 2);
    chains!(avx2, "avx2", 4);
    chains!(avx512, "avx512f", 8);
    // SAFETY: the level is one that the processor has; SSE2 is part of the target.
    #[allow(unused_unsafe, reason = "elsewhere than on x86-64 the functions are safe")]
    let run = |level| unsafe {
        match level {
            #[cfg(target_arch = "x86_64")]
            Level::Avx512 => (8, black_box(avx512(black_box(5)))[0][0]),
            #[cfg(target_arch = "x86_64")]
            Level::Avx2 => (4, black_box(avx2(black_box(5)))[0][0]),
            _ => (2, black_box(base(black_box(5)))[0][0]),
        }
    };
    let (lanes, _) = run(level);
    (10 * ROUNDS * lanes) as f64 / least(60, || _ = black_box(run(level)))
}

fn least(runs: usize, mut run: impl FnMut()) -> f64 {
    let times = (0..runs).map(|_| {
        let start = Instant::now();
        run();
        start.elapsed().as_secs_f64()
    });
    times.fold(f64::MAX, f64::min)
}
