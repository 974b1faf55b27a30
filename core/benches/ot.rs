//! Oblivious transfer: base OTs, setup and extension by depth, tables.
#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use safenet_core::ot::base::{BaseSender, ReceiverKeys, SenderKeys, base_receive};
use safenet_core::ot::silent::{self, Set};
use safenet_core::ot::softspoken::{Depth, RotReceiver, RotSender, extension_bytes};
use safenet_core::ot::{Context, Direction, table};
use safenet_core::prg::{Prg, Seed};
use std::hint::black_box;
use zeroize::Zeroizing;

const CONTEXT: Context = Context { direction: Direction::ServerReceives, client_nonce: [1; 32], server_nonce: [2; 32] };
const DELTA: [u8; 16] = *b"a secret delta 1";

fn prg(n: u8) -> Prg {
    Prg::new(&Seed::from_bytes([n; 32]))
}

fn base_keys() -> (SenderKeys, ReceiverKeys) {
    let (sender, message) = BaseSender::new(&CONTEXT, &mut prg(1));
    let (reply, chosen) = base_receive(&CONTEXT, &DELTA, &message, &mut prg(2)).unwrap();
    (sender.finish(&reply).unwrap(), chosen)
}

fn pair(depth: Depth, keys: &(SenderKeys, ReceiverKeys)) -> (RotReceiver, RotSender) {
    let (receiver, corrections) = RotReceiver::setup(&CONTEXT, depth, keys.0.clone());
    let sender =
        RotSender::setup(&CONTEXT, depth, Box::new(Zeroizing::new(DELTA)), keys.1.clone(), &corrections).unwrap();
    (receiver, sender)
}

fn base(c: &mut Criterion) {
    let mut group = c.benchmark_group("base OT, all 128");
    let (_, message) = BaseSender::new(&CONTEXT, &mut prg(1));
    let (reply, _) = base_receive(&CONTEXT, &DELTA, &message, &mut prg(2)).unwrap();
    group.bench_function("receiver", |b| b.iter(|| base_receive(&CONTEXT, &DELTA, &message, &mut prg(2)).unwrap()));
    group.bench_function("sender", |b| {
        b.iter(|| BaseSender::new(&CONTEXT, &mut prg(1)).0.finish(black_box(&reply)).unwrap());
    });
}

fn extension(c: &mut Criterion) {
    let keys = base_keys();
    for k in [2, 4, 8] {
        let depth = Depth::new(k).unwrap();
        println!("k={k}: {} bytes for 128 random OTs", extension_bytes(depth, 128));
        let mut group = c.benchmark_group(format!("extension k={k}"));
        group.bench_function("setup, receiver", |b| b.iter(|| RotReceiver::setup(&CONTEXT, depth, keys.0.clone())));
        let (_, corrections) = RotReceiver::setup(&CONTEXT, depth, keys.0.clone());
        group.bench_function("setup, sender", |b| {
            b.iter(|| {
                RotSender::setup(&CONTEXT, depth, Box::new(Zeroizing::new(DELTA)), keys.1.clone(), &corrections)
                    .unwrap()
            });
        });
        for count in [1 << 10, 1 << 13, 1 << 17] {
            group.throughput(Throughput::Elements(count as u64));
            let (mut receiver, mut sender) = pair(depth, &keys);
            group.bench_function(BenchmarkId::new("receiver", count), |b| b.iter(|| receiver.extend(count).unwrap()));
            // The sender's work does not depend on what the message says.
            let message = receiver.extend(count).unwrap().0;
            group.bench_function(BenchmarkId::new("sender", count), |b| {
                b.iter(|| sender.extend(count, black_box(&message)).unwrap());
            });
        }
    }
}

/// Both parties of the silent extension, before their first refill.
fn silent_pair(set: Set, keys: &(SenderKeys, ReceiverKeys)) -> (silent::Receiver, silent::Sender) {
    let (mut receiver, mut sender) = pair(Depth::Four, keys);
    let (message, t) = receiver.extend_correlated(set.seed_rows()).unwrap();
    let q = sender.extend_correlated(set.seed_rows(), &message).unwrap();
    let sender = silent::Sender::new(&CONTEXT, set, Box::new(Zeroizing::new(DELTA)), q).unwrap();
    (silent::Receiver::new(&CONTEXT, set, t).unwrap(), sender)
}

/// The silent extension: random OTs as they are asked for, and a refill with what was left given up. A refill's time
/// counts once for all outputs of its iteration.
fn silent_extension(c: &mut Criterion) {
    let keys = base_keys();
    for set in [Set::Small, Set::Large] {
        println!(
            "{set:?}: {} random OTs from {} correlated ones and {} bytes, {:.2} bits each; memory {} and {} KiB",
            set.outputs(),
            set.seed_rows(),
            set.refill_bytes(),
            set.refill_bytes() as f64 * 8.0 / set.outputs() as f64,
            set.sender_memory() >> 10,
            set.receiver_memory() >> 10,
        );
        let mut group = c.benchmark_group(format!("extension silent {set:?}"));
        let (mut receiver, mut sender) = silent_pair(set, &keys);
        let message = sender.refill();
        receiver.refill(&message).unwrap();
        let count = 1 << 17;
        group.throughput(Throughput::Elements(count as u64));
        group.bench_function(BenchmarkId::new("receiver", count), |b| {
            b.iter(|| {
                if receiver.available() < count {
                    receiver.refill(&message).unwrap();
                }
                receiver.extend(count).unwrap()
            });
        });
        group.bench_function(BenchmarkId::new("sender", count), |b| {
            b.iter(|| {
                if sender.available() < count {
                    sender.refill();
                }
                sender.extend(count).unwrap()
            });
        });
        group.throughput(Throughput::Elements(set.outputs() as u64));
        group.sample_size(10);
        group.bench_function("refill, receiver", |b| b.iter(|| receiver.refill(black_box(&message)).unwrap()));
        group.bench_function("refill, sender", |b| b.iter(|| sender.refill()));
    }
}

fn tables(c: &mut Criterion) {
    const TABLES: usize = 1000;
    let mut random = prg(3);
    let keys: Vec<[u128; 2]> =
        (0..7 * TABLES).map(|_| [u128::from_le_bytes(random.array()), u128::from_le_bytes(random.array())]).collect();
    let chosen: Vec<u128> = keys.iter().map(|keys| keys[0]).collect();
    let mut group = c.benchmark_group("tables");
    group.throughput(Throughput::Elements(TABLES as u64));
    for (j, planes) in [(1, 1), (3, 1), (4, 2), (5, 1), (5, 2), (7, 2)] {
        let name = format!("{} entries of {planes}", 1 << j);
        group.bench_function(BenchmarkId::new("sender", &name), |b| {
            b.iter(|| {
                keys.chunks_exact(j).take(TABLES).fold([0; 2], |sum, keys| {
                    let words = table::sender_planes(keys, planes);
                    [sum[0] ^ words[0], sum[1] ^ words[1]]
                })
            });
        });
        group.bench_function(BenchmarkId::new("receiver", &name), |b| {
            b.iter(|| {
                let tables = chosen.chunks_exact(j).take(TABLES).enumerate();
                tables.fold(0, |sum, (c, keys)| {
                    sum ^ table::receiver_planes(black_box(c as u32) & ((1 << j) - 1), keys, planes)
                })
            });
        });
    }
    group.bench_function("sender/4 words", |b| {
        b.iter(|| keys.chunks_exact(2).take(TABLES).fold(0, |sum, keys| sum ^ table::sender_words(keys)[3]));
    });
    let words: Vec<u32> = (0..TABLES).map(|_| random.next_u32()).collect();
    group.bench_function("permute, 32 entries", |b| {
        b.iter(|| words.iter().fold(0, |sum, &word| sum ^ table::permute_u32(word, black_box(word >> 27), 5)));
    });
    group.bench_function("permute, 128 entries", |b| {
        b.iter(|| {
            words.iter().fold(0, |sum, &word| sum ^ table::permute(u128::from(word) << 64, black_box(word >> 25), 7))
        });
    });
}

criterion_group!(benches, base, extension, silent_extension, tables);
criterion_main!(benches);
