//! Times of the ring-LWE kernels, each on one core: transforms, and one ciphertext through every step of both protocols.
#![allow(clippy::expect_used, missing_docs, reason = "a benchmark may stop, and its groups are made by a macro")]

use criterion::{Criterion, criterion_group, criterion_main};
use safenet_core::prg::{Prg, Seed};
use safenet_core::rlwe::{
    ConvShape, Keep, LINEAR, LinearPacking, LinearResponder, LinearWeights, PublicKey, RingParams, SLOT_PRIME, SLOTS,
    SecretKey, decrypt_response, decrypt_slots, encrypt_request, encrypt_slots, multiply_slots,
};
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

fn transforms(c: &mut Criterion) {
    for (params, n) in [(&LINEAR, 4096), (&SLOTS, 8192)] {
        let prime = &params.primes()[0];
        let mut a: Vec<u32> = (0..n as u32).map(|i| i.wrapping_mul(0x9e37_79b9) >> 1).collect();
        a.iter_mut().for_each(|x| *x %= prime.value());
        c.bench_function(&format!("rlwe/ntt/{n}, one prime"), |b| b.iter(|| prime.forward(black_box(&mut a))));
        c.bench_function(&format!("rlwe/inverse ntt/{n}, one prime"), |b| b.iter(|| prime.inverse(black_box(&mut a))));
    }
}

/// 64 channels of 32 x 32 to 16, kernel 3 x 3.
fn linear(c: &mut Criterion) {
    let shape = ConvShape {
        in_channels: 64,
        in_height: 32,
        in_width: 32,
        out_channels: 16,
        groups: 1,
        kernel_height: 3,
        kernel_width: 3,
        dilation_height: 1,
        dilation_width: 1,
        stride_height: 1,
        stride_width: 1,
        pad_top: 1,
        pad_left: 1,
        pad_bottom: 1,
        pad_right: 1,
        word_bits: 32,
    };
    let prg = &mut prg();
    let (key, public) = keys(&LINEAR, prg);
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
    let products = packing.weight_polynomials() / packing.response_ciphertexts() as u64;

    c.bench_function("rlwe/encrypt request", |b| {
        b.iter(|| {
            encrypt_request(&key, &packing, &fresh, black_box(&mut mask), 0, prg).expect("a request of the layer")
        });
    });
    c.bench_function("rlwe/absorb", |b| {
        b.iter_batched_ref(
            || LinearResponder::new(&weights, &fresh),
            |responder| responder.absorb(0, black_box(&requests[0])).expect("a request just made"),
            criterion::BatchSize::LargeInput,
        );
    });
    c.bench_function(&format!("rlwe/respond, {products} products"), |b| {
        b.iter_batched_ref(
            || ready(&weights),
            |responder| responder.respond(0, &public, prg, &mut s).expect("an answer of the layer"),
            criterion::BatchSize::LargeInput,
        );
    });
    c.bench_function(&format!("rlwe/respond, {products} products, weights kept plain"), |b| {
        b.iter_batched_ref(
            || ready(&plain),
            |responder| responder.respond(0, &public, prg, &mut s).expect("an answer of the layer"),
            criterion::BatchSize::LargeInput,
        );
    });
    c.bench_function("rlwe/decrypt response", |b| {
        let mut m = vec![0; packing.outputs()];
        b.iter(|| decrypt_response(&key, &packing, 0, black_box(&response), &mut m).expect("an answer just made"));
    });
}

fn slots(c: &mut Criterion) {
    let prg = &mut prg();
    let (key, public) = keys(&SLOTS, prg);
    let values: Vec<u64> = (0..SLOTS.degree()).map(|_| prg.below(SLOT_PRIME)).collect();
    let multipliers: Vec<u64> = (0..SLOTS.degree()).map(|_| prg.below(SLOT_PRIME)).collect();
    let mut share = vec![0; SLOTS.degree()];
    let request = encrypt_slots(&key, &values, prg).expect("values of the field");
    let response = multiply_slots(&public, &request, &multipliers, prg, &mut share).expect("a request just made");
    c.bench_function("rlwe/slots, encrypt", |b| {
        b.iter(|| encrypt_slots(&key, black_box(&values), prg).expect("values of the field"));
    });
    c.bench_function("rlwe/slots, multiply", |b| {
        b.iter(|| {
            multiply_slots(&public, black_box(&request), &multipliers, prg, &mut share).expect("a request just made")
        });
    });
    c.bench_function("rlwe/slots, decrypt", |b| {
        b.iter(|| decrypt_slots(&key, black_box(&response), &mut share).expect("an answer just made"));
    });
}

criterion_group!(benches, transforms, linear, slots);
criterion_main!(benches);
