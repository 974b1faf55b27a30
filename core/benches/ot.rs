//! Oblivious transfer: base OTs, setup and extension, pads of tables.
#![allow(missing_docs, clippy::unwrap_used)]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use safenet_core::ot::base::{BaseSender, ReceiverKeys, SenderKeys, base_receive};
use safenet_core::ot::silent::Set;
use safenet_core::ot::supply::{Count, ReceiverSupply, SenderSupply};
use safenet_core::ot::{Context, Delta, Direction, Extension, Suite};
use safenet_core::prg::{Prg, Seed};
use std::hint::black_box;
use zeroize::Zeroizing;

const DIRECTION: Direction = Direction::ServerReceives;
const CONTEXT: Context =
    Context { suite: Suite::Aes, direction: DIRECTION, client_nonce: [1; 32], server_nonce: [2; 32] };
/// SoftSpokenOT of each depth, with ChaCha too, and the silent extension.
const KINDS: [(u32, Suite); 5] =
    [(2, Suite::Aes), (4, Suite::Aes), (4, Suite::ChaCha), (8, Suite::Aes), (1, Suite::Aes)];

fn prg(n: u8) -> Prg {
    Prg::new(&Seed::from_bytes([n; 32]))
}

fn delta() -> Delta {
    Zeroizing::new(b"a secret delta of 31 bytes, odd".to_vec())
}

fn base_keys() -> (SenderKeys, ReceiverKeys) {
    let (sender, message) = BaseSender::new(&CONTEXT, &mut prg(1));
    let (reply, chosen) = base_receive(&CONTEXT, &delta(), &message, &mut prg(2)).unwrap();
    (sender.finish(&reply).unwrap(), chosen)
}

fn base(c: &mut Criterion) {
    let mut group = c.benchmark_group(format!("base OT, all {}", DIRECTION.base_ots()));
    let (_, message) = BaseSender::new(&CONTEXT, &mut prg(1));
    let (reply, _) = base_receive(&CONTEXT, &delta(), &message, &mut prg(2)).unwrap();
    group.bench_function("receiver", |b| b.iter(|| base_receive(&CONTEXT, &delta(), &message, &mut prg(2)).unwrap()));
    group.bench_function("sender", |b| {
        b.iter(|| BaseSender::new(&CONTEXT, &mut prg(1)).0.finish(black_box(&reply)).unwrap());
    });
}

fn pair(context: &Context, extension: Extension, keys: &(SenderKeys, ReceiverKeys)) -> (ReceiverSupply, SenderSupply) {
    let (receiver, corrections) = ReceiverSupply::setup(context, extension, keys.0.clone());
    (receiver, SenderSupply::setup(context, extension, delta(), keys.1.clone(), &corrections).unwrap())
}

/// Both sides as they go in a session: what is due first, then a run of OTs. The silent extension's large sets serve.
fn extension(c: &mut Criterion) {
    let keys = base_keys();
    for (code, suite) in KINDS {
        let (extension, context) = (Extension::from_code(code).unwrap(), Context { suite, ..CONTEXT });
        let with = if suite == Suite::Aes { "" } else { ", ChaCha" };
        let mut group = c.benchmark_group(format!("{extension:?}{with}"));
        group.bench_function("setup, receiver", |b| {
            b.iter(|| ReceiverSupply::setup(&context, extension, keys.0.clone()));
        });
        let (_, corrections) = ReceiverSupply::setup(&context, extension, keys.0.clone());
        group.bench_function("setup, sender", |b| {
            b.iter(|| SenderSupply::setup(&context, extension, delta(), keys.1.clone(), &corrections).unwrap());
        });
        for count in [Count { single: 1 << 16, wide: 0 }, Count { single: 0, wide: 1 << 16 }] {
            let planned = Count { single: 100 * count.single, wide: 100 * count.wide };
            let name = if count.wide == 0 { "single" } else { "wide" };
            group.throughput(Throughput::Elements((count.single + count.wide) as u64));
            let (mut receiver, mut sender) = pair(&context, extension, &keys);
            let mut refills = Vec::new();
            let seed = receiver.seed(count, planned).unwrap();
            sender.seed(count, planned, &seed).unwrap();
            let mut messages = Vec::new();
            group.bench_function(BenchmarkId::new("sender", name), |b| {
                b.iter(|| {
                    refills.extend(sender.refill(count, planned).unwrap());
                    // The sender's work does not depend on what the message says.
                    messages.resize(sender.run_bytes(count), 0);
                    sender.extend(count, black_box(&messages)).unwrap()
                });
            });
            group.bench_function(BenchmarkId::new("receiver", name), |b| {
                b.iter(|| {
                    for set in receiver.due(count, planned) {
                        // Nor does the receiver's.
                        let message = refills.iter().find(|message| message.len() == set.refill_bytes()).unwrap();
                        receiver.refill(set, message).unwrap();
                    }
                    receiver.extend(count).unwrap()
                });
            });
        }
    }
    for set in [Set::Small, Set::Large, Set::WideSmall, Set::WideLarge] {
        println!(
            "{set:?}: {} OTs from {} of their kind, {} single ones and {} bytes, {:.2} bits each; memory {} and {} KiB",
            set.outputs(),
            set.seed_rows(),
            set.tree_rows(),
            set.refill_bytes(),
            set.refill_bytes() as f64 * 8.0 / set.outputs() as f64,
            set.sender_memory() >> 10,
            set.receiver_memory() >> 10,
        );
    }
}

fn tables(c: &mut Criterion) {
    tables_of(c, "pads of tables", CONTEXT);
    tables_of(c, "pads of tables, ChaCha", Context { suite: Suite::ChaCha, ..CONTEXT });
}

fn tables_of(c: &mut Criterion, name: &str, context: Context) {
    const TABLES: usize = 2048;
    let (mut receiver, mut sender) = pair(&context, Extension::from_code(4).unwrap(), &base_keys());
    let count = Count { single: 0, wide: TABLES };
    let (message, _, got) = receiver.extend(count).unwrap();
    let sent = sender.extend(count, &message).unwrap().1.unwrap();
    let got = got.unwrap();
    let mut planes = [(); 2].map(|()| vec![0; TABLES]);
    let mut group = c.benchmark_group(name);
    group.throughput(Throughput::Elements(TABLES as u64));
    for bits in [1, 3, 4, 5] {
        group.bench_function(BenchmarkId::new("sender", format!("{} entries of 2 bits", 1 << bits)), |b| {
            b.iter(|| sent.planes(0..TABLES, bits, &mut planes.each_mut().map(|plane| &mut plane[..])));
        });
    }
    group.bench_function("receiver/2 bits", |b| {
        b.iter(|| got.words(0..TABLES, &mut planes.each_mut().map(|plane| &mut plane[..])));
    });
}

criterion_group!(benches, base, extension, tables);
criterion_main!(benches);
