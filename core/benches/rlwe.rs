//! Times of the ring-LWE kernels at each level of instruction sets, each on one core: transforms, one ciphertext through every step of both
//! protocols, the generator and bit packing; and what the machine could do at most, to compare with.
//!
//! Throughputs are of butterflies (transforms: three multiplications of 32 bits each), of products of residues (answers: two per coefficient, prime
//! and product), of bytes, or of multiplications (ceilings).
#![allow(clippy::expect_used, missing_docs, reason = "a benchmark may stop, and its groups are made by a macro")]

use criterion::{
    BatchSize, BenchmarkGroup, Criterion, Throughput, criterion_group, criterion_main, measurement::WallTime,
};
use safenet_core::prg::{Prg, Seed};
use safenet_core::rlwe::{
    ConvShape, Keep, LINEAR, LinearPacking, LinearResponder, LinearWeights, PublicKey, RingParams, SLOT_PRIME, SLOTS,
    SecretKey, decrypt_response, decrypt_slots, encrypt_request, encrypt_slots, multiply_slots,
};
use safenet_core::simd::{self, Level};
use safenet_core::wire::bits::{BitReader, BitWriter};
use std::hint::black_box;

fn prg() -> Prg {
    Prg::new(&Seed::from_bytes([1; 32]))
}

fn keys(params: &'static RingParams, prg: &mut Prg) -> (SecretKey, PublicKey) {
    let key = SecretKey::generate(params, prg);
    let bytes = key.public_key(prg);
    let public = PublicKey::from_bytes(params, &bytes).expect("a key just made");
    (key, public)
}

/// A group of measurements at each level that the machine has.
fn at_each_level(c: &mut Criterion, mut measure: impl FnMut(&mut BenchmarkGroup<'_, WallTime>)) {
    for most in [Level::Base, Level::Avx2, Level::Avx512] {
        if simd::limit(most) == most {
            let mut group = c.benchmark_group(format!("rlwe, {most:?}"));
            measure(&mut group);
            group.finish();
        }
    }
    simd::limit(Level::Avx512);
}

fn transforms(c: &mut Criterion) {
    at_each_level(c, |group| {
        for (params, n) in [(&LINEAR, 4096u32), (&SLOTS, 8192)] {
            let prime = &params.primes()[0];
            let mut a: Vec<u32> = (0..n).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 1) % prime.value()).collect();
            group.throughput(Throughput::Elements(u64::from(n / 2 * n.ilog2())));
            group.bench_function(format!("transform of {n}"), |b| b.iter(|| prime.forward(black_box(&mut a))));
            group.bench_function(format!("inverse transform of {n}"), |b| b.iter(|| prime.inverse(black_box(&mut a))));
        }
    });
}

/// Images of `size` x `size`, a kernel of `kernel` x `kernel`, padded.
fn convolution(channels: usize, size: usize, outputs: usize, kernel: usize) -> ConvShape {
    ConvShape {
        in_channels: channels,
        in_height: size,
        in_width: size,
        out_channels: outputs,
        groups: 1,
        kernel_height: kernel,
        kernel_width: kernel,
        dilation_height: 1,
        dilation_width: 1,
        stride_height: 1,
        stride_width: 1,
        pad_top: kernel / 2,
        pad_left: kernel / 2,
        pad_bottom: kernel / 2,
        pad_right: kernel / 2,
        word_bits: 32,
    }
}

fn linear(c: &mut Criterion) {
    let prg = &mut prg();
    let (key, public) = keys(&LINEAR, prg);
    // Polynomials of many weights, of few, and integers: a window of one pixel and planes of more than half a ciphertext.
    for (what, shape) in [
        ("22 products", convolution(64, 32, 16, 3)),
        ("64 products", convolution(64, 56, 2, 3)),
        ("64 integers", convolution(64, 64, 2, 1)),
    ] {
        let packing = LinearPacking::choose(&shape).expect("a shape that fits");
        let integers: Vec<i16> = (0..packing.weights()).map(|i| (i * 37 % 101) as i16 - 50).collect();
        let prepared = |keep| LinearWeights::new(&packing, &integers, keep).expect("weights within the budget");
        let (weights, plain) = (prepared(Keep::Transformed), prepared(Keep::Plain));
        let fresh = vec![true; shape.in_channels];
        let mut mask: Vec<u32> = (0..packing.inputs()).map(|_| prg.next_u32()).collect();
        let mut s = vec![0; packing.outputs()];
        let requests: Vec<Vec<u8>> = (0..packing.request_ciphertexts())
            .map(|i| encrypt_request(&key, &packing, &fresh, &mut mask, i, prg).expect("a request of the layer"))
            .collect();
        let ready = |weights| {
            let mut responder = LinearResponder::new(weights, &fresh);
            for (i, request) in requests.iter().enumerate() {
                responder.absorb(i, request).expect("a request just made");
            }
            responder
        };
        let response = ready(&weights).respond(0, &public, prg, &mut s).expect("an answer of the layer");
        let products = packing.weight_polynomials() / (packing.response_ciphertexts() / packing.tiles()) as u64;
        at_each_level(c, |group| {
            // As many answers as are computed together.
            let answers = packing.answers_together();
            group.throughput(Throughput::Elements(products * answers as u64 * 2 * 3 * 4096));
            for (how, weights) in [("", &weights), (", weights kept plain", &plain)] {
                group.bench_function(format!("{answers} answers of {what}{how}"), |b| {
                    b.iter_batched_ref(
                        || ready(weights),
                        |responder| {
                            for i in 0..answers {
                                black_box(responder.respond(i, &public, prg, &mut s).expect("an answer of the layer"));
                            }
                        },
                        BatchSize::LargeInput,
                    );
                });
            }
            if what != "22 products" {
                return;
            }
            group.throughput(Throughput::Bytes(requests[0].len() as u64));
            group.bench_function("make a request", |b| {
                b.iter(|| {
                    encrypt_request(&key, &packing, &fresh, black_box(&mut mask), 0, prg)
                        .expect("a request of the layer")
                });
            });
            group.bench_function("take a request", |b| {
                b.iter_batched_ref(
                    || LinearResponder::new(&weights, &fresh),
                    |responder| responder.absorb(0, black_box(&requests[0])).expect("a request just made"),
                    BatchSize::LargeInput,
                );
            });
            group.throughput(Throughput::Bytes(response.len() as u64));
            group.bench_function("decrypt an answer", |b| {
                let mut m = vec![0; packing.outputs()];
                b.iter(|| decrypt_response(&key, &packing, 0, black_box(&response), &mut m).expect("just made"));
            });
        });
    }
}

fn slots(c: &mut Criterion) {
    let prg = &mut prg();
    let (key, public) = keys(&SLOTS, prg);
    let values: Vec<u64> = (0..SLOTS.degree()).map(|_| prg.below(SLOT_PRIME)).collect();
    let multipliers: Vec<u64> = (0..SLOTS.degree()).map(|_| prg.below(SLOT_PRIME)).collect();
    let mut share = vec![0; SLOTS.degree()];
    let request = encrypt_slots(&key, &values, prg).expect("values of the field");
    let response = multiply_slots(&public, &request, &multipliers, prg, &mut share).expect("a request just made");
    at_each_level(c, |group| {
        group.throughput(Throughput::Elements(SLOTS.degree() as u64));
        group.bench_function("slots, encrypt", |b| {
            b.iter(|| encrypt_slots(&key, black_box(&values), prg).expect("values of the field"));
        });
        group.bench_function("slots, multiply", |b| {
            b.iter(|| multiply_slots(&public, black_box(&request), &multipliers, prg, &mut share).expect("just made"));
        });
        group.bench_function("slots, decrypt", |b| {
            b.iter(|| decrypt_slots(&key, black_box(&response), &mut share).expect("an answer just made"));
        });
    });
}

fn streams(c: &mut Criterion) {
    let prg = &mut prg();
    let mut bytes = vec![0; 48 << 10];
    let values: Vec<u64> = (0..4096).map(|_| prg.next_u64() >> 3).collect();
    at_each_level(c, |group| {
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function("generator", |b| b.iter(|| prg.fill(black_box(&mut bytes))));
    });
    let mut group = c.benchmark_group("rlwe");
    group.throughput(Throughput::Elements(values.len() as u64));
    let write = || {
        let mut out = BitWriter::with_capacity(8 * values.len());
        out.put_all(black_box(&values), 61);
        out.finish()
    };
    let packed = write();
    group.bench_function("pack 61 bits", |b| b.iter(write));
    group.bench_function("unpack 61 bits", |b| {
        let mut out = vec![0; values.len()];
        b.iter(|| BitReader::new(black_box(&packed)).take_all(61, &mut out, |x| x));
    });
}

/// What the machine does at most: reads of memory beyond all caches, and multiplications of words in registers.
fn ceilings(c: &mut Criterion) {
    let mut group = c.benchmark_group("rlwe, ceiling");
    let memory: Vec<[u64; 8]> = (0..(256 << 20) / 64).map(|i| [i; 8]).collect();
    group.throughput(Throughput::Bytes(256 << 20)).sample_size(20);
    // Three streams, as a product has.
    group.bench_function("read 256 MiB", |b| {
        let part = memory.len() / 3;
        let (first, rest) = memory.split_at(part);
        let (second, third) = rest.split_at(part);
        b.iter(|| {
            let mut sums = [0u64; 8];
            for ((x, y), z) in first.iter().zip(second).zip(third) {
                sums.iter_mut().enumerate().for_each(|(i, sum)| *sum = sum.wrapping_add(x[i] ^ y[i] ^ z[i]));
            }
            sums
        });
    });
    #[cfg(target_arch = "x86_64")]
    multiplications(&mut group);
    group.finish();
}

/// Ten chains of multiplications of words, enough to hide their latency.
#[cfg(target_arch = "x86_64")]
fn multiplications(group: &mut BenchmarkGroup<'_, WallTime>) {
    use std::arch::x86_64::{
        _mm256_add_epi64, _mm256_mul_epu32, _mm256_mullo_epi32, _mm256_set1_epi64x, _mm512_madd52hi_epu64,
        _mm512_mul_epu32, _mm512_set1_epi64,
    };
    const ROUNDS: u64 = 1000;

    macro_rules! chains {
        ($name:ident, $feature:literal, $set:ident, |$x:ident, $w:ident| $step:expr) => {
            #[target_feature(enable = $feature)]
            fn $name(seed: i64) -> [i64; 10] {
                let $w = $set(black_box(seed | 0x1234_5677));
                let mut x = [$w; 10];
                for _ in 0..ROUNDS {
                    for x in &mut x {
                        let $x = *x;
                        *x = $step;
                    }
                }
                black_box(&x);
                [seed; 10]
            }
        };
    }
    chains!(avx2_wide, "avx2", _mm256_set1_epi64x, |x, w| _mm256_add_epi64(_mm256_mul_epu32(x, w), w));
    chains!(avx2_low, "avx2", _mm256_set1_epi64x, |x, w| _mm256_mullo_epi32(x, w));
    chains!(avx512_wide, "avx512f", _mm512_set1_epi64, |x, w| _mm512_mul_epu32(x, w));
    chains!(avx512_ifma, "avx512f,avx512ifma", _mm512_set1_epi64, |x, w| _mm512_madd52hi_epu64(x, x, w));
    type Chains = unsafe fn(i64) -> [i64; 10];
    let kinds: [(&str, bool, u64, Chains); 4] = [
        ("32 x 32 bits, AVX2", std::arch::is_x86_feature_detected!("avx2"), 4, avx2_wide),
        ("low 32 bits, AVX2", std::arch::is_x86_feature_detected!("avx2"), 8, avx2_low),
        ("32 x 32 bits, AVX-512", std::arch::is_x86_feature_detected!("avx512f"), 8, avx512_wide),
        ("52 x 52 bits, AVX-512", std::arch::is_x86_feature_detected!("avx512ifma"), 8, avx512_ifma),
    ];
    for (name, present, lanes, run) in kinds {
        if present {
            group.throughput(Throughput::Elements(10 * ROUNDS * lanes));
            // SAFETY: the processor has the instructions.
            group.bench_function(format!("multiply {name}"), |b| b.iter(|| unsafe { run(black_box(5)) }));
        }
    }
}

criterion_group!(benches, ceilings, transforms, streams, linear, slots);
criterion_main!(benches);
