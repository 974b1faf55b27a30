//! The server's work of linear layers, stage by stage, beside what the machine could do at most: bytes at the bandwidth of the memory where they
//! lie, multiplications at the rate of a loop in registers. At each level of instruction sets, on one core.
//!
//! A figure is the least of many runs, stage by stage, so that other programs disturb it little. `cargo bench -p safenet-core --bench linear`, or with `-- avx2` one level.
#![allow(clippy::expect_used, missing_docs, reason = "a benchmark may stop")]

#[path = "common/ceilings.rs"]
mod ceilings;

use ceilings::{bandwidth, multiplications};
use safenet_core::prg::{Prg, Seed};
use safenet_core::rlwe::linear::stages::{self, NAMES, STAGES};
use safenet_core::rlwe::{
    ConvShape, Keep, LINEAR, LinearPacking, LinearWeights, PublicKey, SecretKey, encrypt_request,
};
use safenet_core::simd::{self, Level};
use std::time::Instant;

const RUNS: usize = 20;

/// Layers that are measured: kernel, input and output channels, side of the image.
const LAYERS: [(usize, usize, usize, usize); 3] = [(3, 64, 64, 32), (3, 64, 64, 8), (1, 256, 64, 56)];

fn convolution((kernel, inputs, outputs, side): (usize, usize, usize, usize)) -> ConvShape {
    ConvShape {
        in_channels: inputs,
        in_height: side,
        in_width: side,
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
        word_bits: 26,
    }
}

/// What the machine does at most, a second.
struct Ceilings {
    /// Bytes, within the second-level cache and beyond the third.
    near: f64,
    far: f64,
    multiplications: f64,
    /// Bytes of the generator.
    random: f64,
}

fn main() {
    // `cargo test --benches` asks for a test, which a measurement is not.
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    let wanted = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    for most in [Level::Base, Level::Avx2, Level::Avx512] {
        let named = wanted.as_ref().is_none_or(|name| format!("{most:?}").eq_ignore_ascii_case(name));
        if named && simd::limit(most) == most {
            level(most);
        }
    }
}

fn level(level: Level) {
    let prg = &mut Prg::new(&Seed::from_bytes([1; 32]));
    let mut bytes = vec![0; 64 << 10];
    let ceilings = Ceilings {
        near: bandwidth(level, 128 << 10),
        far: bandwidth(level, 256 << 20),
        multiplications: multiplications(level),
        random: bytes.len() as f64 / least(200, || prg.fill(&mut bytes)),
    };
    println!(
        "\n{level:?}: {:.1} GB/s in the second-level cache, {:.1} GB/s from memory, {:.1} multiplications/ns, generator {:.2} GB/s",
        ceilings.near / 1e9,
        ceilings.far / 1e9,
        ceilings.multiplications / 1e9,
        ceilings.random / 1e9
    );
    for layer in LAYERS {
        measure(layer, &ceilings, prg);
    }
}

fn least(runs: usize, mut run: impl FnMut()) -> f64 {
    (0..runs)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64()
        })
        .fold(f64::MAX, f64::min)
}

fn measure(layer: (usize, usize, usize, usize), ceilings: &Ceilings, prg: &mut Prg) {
    let key = SecretKey::generate(&LINEAR, prg);
    let public = PublicKey::from_bytes(&LINEAR, &key.public_key(prg)).expect("a key just made");
    let packing = LinearPacking::choose(&convolution(layer)).expect("a shape that fits");
    let integers: Vec<i16> = (0..packing.weights()).map(|i| (i * 37 % 101) as i16 - 50).collect();
    let weights = LinearWeights::new(&packing, &integers, Keep::Transformed).expect("weights within the budget");
    let fresh = vec![true; packing.shape().in_channels];
    let mut mask = vec![0; packing.inputs()];
    let requests: Vec<Vec<u8>> = (0..packing.request_ciphertexts())
        .map(|i| encrypt_request(&key, &packing, &fresh, &mut mask, i, prg).expect("a request of the layer"))
        .collect();
    let mut s = vec![0; packing.outputs()];
    // Of each piece of a stage, in the order of pieces, the least time of all runs.
    let mut pieces: Vec<(usize, f64)> = vec![];
    for run in 0..RUNS {
        let (mut piece, mut start) = (0, Instant::now());
        let mut mark = |stage| {
            let time = start.elapsed().as_secs_f64();
            match pieces.get_mut(piece) {
                Some((_, least)) => *least = least.min(time),
                None => pieces.push((stage, time)),
            }
            piece += 1;
            start = Instant::now();
        };
        let answers = stages::run(&weights, (&fresh, &requests), &public, prg, &mut s, &mut mark);
        assert_eq!(answers.expect("answers").len(), packing.response_ciphertexts(), "run {run}");
    }
    let mut times = [0.0; STAGES];
    pieces.iter().for_each(|&(stage, time)| times[stage] += time);

    let (kernel, inputs, outputs, side) = layer;
    println!(
        "\n{kernel}x{kernel}, {inputs} -> {outputs}, {side}x{side}: {} requests, {} answers",
        packing.request_ciphertexts(),
        packing.response_ciphertexts()
    );
    println!("| stage | ms | MB | million multiplications | limit, ms | ratio | random MB | with them, ms | ratio |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- | --- |");
    let mut total = [0.0; 6];
    for (stage, (work, time)) in stages::work(&packing, &fresh).into_iter().zip(times).enumerate() {
        let far = stage == stages::PRODUCTS;
        let moved = work.bytes as f64 / if far { ceilings.far } else { ceilings.near };
        let limit = moved.max(work.multiplications as f64 / ceilings.multiplications);
        let with = limit.max(work.random as f64 / ceilings.random);
        let figures = [time, work.bytes as f64, work.multiplications as f64, limit, work.random as f64, with];
        total.iter_mut().zip(figures).for_each(|(total, figure)| *total += figure);
        row(NAMES[stage], figures);
    }
    row("all", total);
}

fn row(name: &str, [time, bytes, multiplications, limit, random, with]: [f64; 6]) {
    println!(
        "| {name} | {:.2} | {:.1} | {:.1} | {:.2} | {:.1} | {:.1} | {:.2} | {:.1} |",
        time * 1e3,
        bytes / 1e6,
        multiplications / 1e6,
        limit * 1e3,
        time / limit,
        random / 1e6,
        with * 1e3,
        time / with
    );
}
