//! Each protocol alone, on ideal random OTs and ideal products, against the plain function.

use super::groups::{ClientLayer, RoundTrips, ServerLayer, draw_outputs, draw_shares, factors, groups, parts};
use super::material::{ReceiverRots, Rots, SenderRots};
use super::product_word;
use crate::field::{self, P};
use crate::model::{Activation, Channel, ChannelSecret, Kind, Shape};
use crate::ot::ideal;
use crate::prg::{Prg, Seed};
use crate::wire::words::{FieldReader, FieldWriter};
use alloc::{vec, vec::Vec};
use proptest::prelude::*;
use sha2::{Digest, Sha256};

/// Runs a layer over vectors: `values[c]` are the linear outputs of channel c, all channels of one length, `masks` the
/// linear outputs' masks in the same order (or random ones). Returns the unmasked outputs, channel by channel.
fn run(
    activation: &Activation,
    secrets: &[ChannelSecret],
    values: &[Vec<i64>],
    masks: Option<&[u32]>,
    trips: RoundTrips,
    prg: &mut Prg,
) -> Vec<Vec<i64>> {
    run_recorded(activation, secrets, values, masks, trips, prg).0
}

/// [`run`], with all messages one after another.
fn run_recorded(
    activation: &Activation,
    secrets: &[ChannelSecret],
    values: &[Vec<i64>],
    masks: Option<&[u32]>,
    trips: RoundTrips,
    prg: &mut Prg,
) -> (Vec<Vec<i64>>, Vec<u8>) {
    let plane = values[0].len();
    let shape = Shape { channels: values.len() as u32, height: 1, width: plane as u32 };
    let groups = groups(&activation.channels, shape, 32, trips);
    let elements = shape.elements();
    let masks = masks.map_or_else(|| (0..elements).map(|_| prg.next_u32()).collect(), <[u32]>::to_vec);
    let outputs = draw_outputs(&groups, elements, prg);
    let shares = draw_shares(&groups, prg);

    let factors = factors(&groups, &shares);
    let server_products: Vec<[u64; 2]> = factors.iter().map(|_| [prg.below(P), prg.below(P)]).collect();
    let client_products: Vec<u64> =
        factors.iter().zip(&server_products).map(|(&f, &[u, w])| field::sub(field::mul(u, f), w)).collect();
    let signs: usize = groups.iter().map(|g| g.client_rots() * g.elements()).sum();
    let (sign_keys, signs) = ideal::deal(prg, signs);
    let sign_choices: Vec<u8> = (0..sign_keys.len()).map(|j| signs.choice_bits(j, 1) as u8).collect();

    let sign_words: Vec<u32> = signs.keys.iter().map(|&key| product_word(key)).collect();
    let sign_pairs: Vec<[u32; 2]> = sign_keys.iter().map(|keys| keys.map(product_word)).collect();

    let mut client =
        ClientLayer::new(&groups, shares, (&masks, &outputs), (&sign_choices, &sign_words), &client_products, prg);
    let mut server = ServerLayer::new(&groups, secrets, &sign_pairs, &server_products);
    for (index, group) in groups.iter().enumerate() {
        // Two parts, to see that elements may come in runs.
        for count in [group.elements() / 2, group.elements() - group.elements() / 2] {
            let rots = group.server_rots();
            ideal::deal_rots(prg, count, &rots, |sent| client.absorb(index, sent), |got| server.absorb(index, got));
        }
    }

    let masked: Vec<u32> = values.iter().flatten().zip(&masks).map(|(&y, &m)| (y as u32).wrapping_add(m)).collect();
    let mut out = vec![0; elements];
    server.start(&groups, secrets, &masked, &mut out);
    let rounds = groups.iter().map(|g| g.round_bits().len()).max().unwrap_or(0);
    let mut messages = vec![];
    for round in 0..rounds {
        let bits = groups.iter().filter_map(|g| g.round_bits().get(round).copied());
        let (down, up) = bits.fold((0, 0), |(d, u), (down, up)| (d + down, u + up));
        let mut request = FieldWriter::default();
        server.request(&groups, round, &mut request);
        let request = request.finish();
        assert_eq!(request.len() as u64, down.div_ceil(8), "request of round {round}");
        let (mut reader, mut reply) = (FieldReader::new(&request), FieldWriter::default());
        client.round(&groups, round, &mut reader, &mut reply);
        reader.finish().unwrap();
        let reply = reply.finish();
        assert_eq!(reply.len() as u64, up.div_ceil(8), "reply of round {round}");
        let mut reader = FieldReader::new(&reply);
        server.reply(&groups, round, &mut reader, &mut out);
        reader.finish().unwrap();
        messages.extend(request.into_iter().chain(reply));
    }
    let plain: Vec<i64> = out.iter().zip(outputs.iter()).map(|(&x, &r)| i64::from(x.wrapping_sub(r) as i32)).collect();
    (plain.chunks(plane).map(<[i64]>::to_vec).collect(), messages)
}

/// Every element is in one part, in the order of the groups; degree 0 is in the first.
#[test]
fn parts_are_runs_of_all_elements() {
    let [relu, linear, zero] = [(Kind::Relu, 20, 6), (Kind::Linear, 20, 6), (Kind::Zero, 0, 0)]
        .map(|(kind, bound_bits, shift)| Channel { kind, bound_bits, shift, back_shift: 0 });
    let shape = |channels| Shape { channels, height: 3, width: 5 };
    for channels in [vec![zero, relu, linear, relu, zero, linear, linear, relu], vec![relu; 3], vec![zero; 2]] {
        let shape = shape(channels.len() as u32);
        let groups = groups(&channels, shape, 32, RoundTrips::Three);
        let order: Vec<u32> = (0..shape.elements() as u32).collect();
        let gathered = |groups: &[super::Group]| groups.iter().flat_map(|g| g.gather(&order).to_vec()).collect();
        let mut all: Vec<u32> = gathered(&groups);
        for most in [1, 7, 15, 16, 40, 44, 45, 46, 1000] {
            let cut: Vec<_> = parts(&groups, most).collect();
            let zeros = |part: &[super::Group]| part.iter().filter(|g| g.channel.kind == Kind::Zero).count();
            let live = |part: &[super::Group]| {
                let live = part.iter().filter(|g| g.channel.kind != Kind::Zero);
                live.map(super::Group::elements).sum::<usize>()
            };
            assert_eq!(zeros(&cut[0]), zeros(&groups));
            for (index, part) in cut.iter().enumerate() {
                assert!(index == 0 || zeros(part) == 0);
                assert!(live(part) == most || (index + 1 == cut.len() && live(part) <= most));
            }
            let mut seen = vec![0; shape.elements()];
            let mut parts: Vec<u32> = vec![];
            for part in &cut {
                parts.extend(gathered(part));
                for group in part {
                    group.scatter(&vec![1; group.elements()], &mut seen);
                }
            }
            assert_eq!(seen, vec![1; shape.elements()]);
            // In the order of the groups but for those of degree 0.
            let zero = |x: &u32| channels[*x as usize / 15].kind == Kind::Zero;
            parts.sort_by_key(|x| !zero(x));
            all.sort_by_key(|x| !zero(x));
            assert_eq!(parts, all);
        }
    }
}

/// Prints what an element costs either party, without OT extension.
#[test]
#[ignore = "a measurement: cargo test --release -- --ignored --nocapture speed"]
fn speed_of_activations() {
    extern crate std;
    use std::{print, println, time::Instant};
    const RUNS: usize = 7;
    let square = |secret_sign| Kind::Square { secret_sign };
    let three = RoundTrips::Three;
    for (kind, b, f, g, trips) in [
        (Kind::Relu, 24, 8, 0, three),
        (Kind::Relu, 20, 8, 0, three),
        (Kind::Relu, 21, 8, 0, three),
        (Kind::Relu, 21, 8, 0, RoundTrips::Two),
        (Kind::Relu, 16, 0, 0, three),
        (Kind::Relu, 28, 8, 0, three),
        (Kind::Linear, 24, 8, 0, three),
        (square(false), 20, 6, 14, three),
        (square(true), 20, 6, 14, three),
        (Kind::Cubic, 20, 10, 18, three),
    ] {
        let activation = single(kind, b, f, g);
        let shape = Shape { channels: 1, height: 128, width: 128 };
        let groups = groups(&activation.channels, shape, 32, trips);
        let (group, elements) = (&groups[0], shape.elements());
        let mut prg = Prg::new(&Seed::from_bytes([1; 32]));
        let signs = elements * group.client_rots();
        let sign_words: Vec<u32> = (0..signs as u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
        let (choices, pairs) = (vec![1; signs], sign_words.iter().map(|&w| [w, !w]).collect::<Vec<_>>());
        let products = vec![12345; elements * group.products()];
        let both = vec![[1, 2]; elements * group.products()];
        let masked: Vec<u32> = (0..elements as u32).map(|i| i.wrapping_mul(0x9e37_79b9)).collect();
        let rots = group.server_rots();
        let (keys, batch) = ideal::deal(&mut prg, rots.of(2048).single);
        let (mut sent, got) = ideal::deal_wide(&mut prg, rots.of(2048).wide);
        let rounds = group.round_bits().len();
        let mut best = vec![f64::MAX; 6 + 3 * rounds];
        for _ in 0..RUNS {
            let mut times = vec![];
            let mut clock = Instant::now();
            let mut lap = || {
                times.push(clock.elapsed().as_secs_f64());
                clock = Instant::now();
            };
            let outputs = draw_outputs(&groups, elements, &mut prg);
            let shares = draw_shares(&groups, &mut prg);
            lap();
            let masks = (&masked[..], &outputs[..]);
            let mut client = ClientLayer::new(&groups, shares, masks, (&choices, &sign_words), &products, &mut prg);
            lap();
            // What was told does not change the time.
            let told = vec![0; rots.told_bytes(2048)];
            let mut of_client = || client.absorb(0, &mut SenderRots::new(&keys, Some(&mut sent), &told, 2048));
            (0..elements / 2048).for_each(|_| of_client());
            lap();
            let mut server = ServerLayer::new(&groups, &[ChannelSecret::default()], &pairs, &both);
            lap();
            let mut of_server = || server.absorb(0, &mut ReceiverRots::new(&batch, Some(&got), 2048));
            (0..elements / 2048).for_each(|_| of_server());
            lap();
            let mut out = vec![0; elements];
            server.start(&groups, &[ChannelSecret::default()], &masked, &mut out);
            lap();
            for round in 0..rounds {
                let mut request = FieldWriter::with_capacity(elements * 8);
                server.request(&groups, round, &mut request);
                let request = request.finish();
                lap();
                let (mut reader, mut reply) = (FieldReader::new(&request), FieldWriter::with_capacity(elements * 64));
                client.round(&groups, round, &mut reader, &mut reply);
                let reply = reply.finish();
                lap();
                server.reply(&groups, round, &mut FieldReader::new(&reply), &mut out);
                lap();
            }
            best.iter_mut().zip(times).for_each(|(best, time)| *best = best.min(time));
        }
        let per = |seconds: f64| seconds * 1e9 / elements as f64;
        print!(
            "{kind:?} {b} - {f} {trips:?}: draw {:.1}, client {:.1} + {:.1}",
            per(best[0]),
            per(best[1]),
            per(best[2])
        );
        print!(", server {:.1} + {:.1}; start {:.1}", per(best[3]), per(best[4]), per(best[5]));
        let online = best[6..].chunks(3);
        let (client, server) = online.clone().fold((0.0, best[5]), |(c, s), t| (c + t[1], s + t[0] + t[2]));
        online.for_each(|t| print!(" [{:.1} {:.1} {:.1}]", per(t[0]), per(t[1]), per(t[2])));
        println!(" online: client {:.1}, server {:.1} ns per element", per(client), per(server));
    }
}

/// Both roundings of y / 2^f.
fn truncations(y: i64, f: u8) -> [i64; 2] {
    let floor = y >> f;
    [floor, floor + i64::from(y & ((1 << f) - 1) != 0)]
}

/// Both roundings of a polynomial's value on its way back.
fn backs(z: i64, g: u8) -> [i64; 2] {
    [z >> g, (z >> g) + i64::from(g > 0)]
}

fn allowed(channel: &Channel, secret: &ChannelSecret, y: i64) -> Vec<i64> {
    let offset = i64::from(secret.offset);
    let polynomial = |z: fn(i64, i64) -> i64| -> Vec<i64> {
        let sign = if secret.negative { -1 } else { 1 };
        let values =
            truncations(y, channel.shift).into_iter().flat_map(|v| backs(z(v, secret.lambda), channel.back_shift));
        values.map(|q| sign * q + offset).collect()
    };
    match channel.kind {
        Kind::Relu => truncations(y, channel.shift).iter().map(|&t| t.max(0)).collect(),
        Kind::Linear => truncations(y, channel.shift).iter().map(|v| v + i64::from(secret.offset)).collect(),
        Kind::Square { .. } => polynomial(|v, _| v * v),
        Kind::Cubic => polynomial(|v, lambda| v * v * v + lambda * v),
        Kind::Zero => vec![offset],
    }
}

fn check(
    activation: &Activation,
    secrets: &[ChannelSecret],
    values: &[Vec<i64>],
    masks: Option<&[u32]>,
    prg: &mut Prg,
) {
    for trips in [RoundTrips::Three, RoundTrips::Two] {
        let out = run(activation, secrets, values, masks, trips, prg);
        for (c, (channel, secret)) in activation.channels.iter().zip(secrets).enumerate() {
            for (&y, got) in values[c].iter().zip(&out[c]) {
                // Modulo 2^32: that results fit is the compiler's to see to, and not so for all that these tests draw.
                let allowed: Vec<i64> = allowed(channel, secret, y).iter().map(|&v| i64::from(v as i32)).collect();
                assert!(allowed.contains(got), "{channel:?}, {trips:?}: y = {y}: got {got}, allowed {allowed:?}");
            }
        }
        if activation.channels.iter().all(|channel| channel.kind != Kind::Relu) {
            break;
        }
    }
}

fn single(kind: Kind, b: u8, f: u8, g: u8) -> Activation {
    Activation { fraction_bits: 0, channels: vec![Channel { kind, bound_bits: b, shift: f, back_shift: g }] }
}

/// Every y that the bound allows.
fn all_values(b: u8, f: u8) -> impl Iterator<Item = i64> {
    let limit = (1i64 << (b - 1)) - (1 << f);
    1 - limit..limit
}

/// Every y of a small width under masks that wrap, that do not, and that lie at the edges.
fn exhaustive(kind: Kind, widths: core::ops::RangeInclusive<u8>, secret: ChannelSecret) {
    let mut prg = Prg::new(&Seed::from_bytes([3; 32]));
    for w in widths {
        for (f, g) in [(0, 0), (1, 1), (3, 2)] {
            let g = if matches!(kind, Kind::Cubic | Kind::Square { .. }) { g } else { 0 };
            let b = w + f;
            let mut values = vec![];
            let mut masks = vec![];
            for y in all_values(b, f) {
                for low in 0..1u32 << f.min(2) {
                    for high in [0u32, 1 << 31, 1 << 30, 3 << 30, u32::MAX << f, prg.next_u32() << f] {
                        values.push(y);
                        masks.push(high.wrapping_add(low).wrapping_sub(y.rem_euclid(2) as u32));
                    }
                }
            }
            check(&single(kind, b, f, g), &[secret], &[values], Some(&masks), &mut prg);
        }
    }
}

#[test]
fn relu_exhaustively_over_small_widths() {
    exhaustive(Kind::Relu, 2..=9, ChannelSecret::default());
}

/// Both parties' messages at each width up to 16, hashed: where these change, the version of the protocol does.
#[test]
fn relu_messages_up_to_sixteen_bits_stay_as_they_are() {
    let mut prg = Prg::new(&Seed::from_bytes([8; 32]));
    let mut hash = Sha256::new();
    for w in 2..=16 {
        for f in [0, 1, 7, 14] {
            let limit = (1i64 << (w + f - 1)) - (1 << f);
            let values = (0..50).map(|_| prg.below(2 * limit as u64 - 1) as i64 - (limit - 1)).collect();
            let layer = single(Kind::Relu, w + f, f, 0);
            hash.update(
                run_recorded(&layer, &[ChannelSecret::default()], &[values], None, RoundTrips::Three, &mut prg).1,
            );
        }
    }
    let digest: [u8; 32] = hash.finalize().into();
    assert_eq!(digest[..8], [196, 42, 31, 56, 199, 252, 94, 53]);
}

/// Values and masks of which every digit is, in some pair, below, equal to and above the other's, with carries from each
/// digit's border and from both ends of the range.
#[test]
fn relu_at_every_width() {
    let mut prg = Prg::new(&Seed::from_bytes([9; 32]));
    for (w, f) in (2..=26u8).flat_map(|w| [(w, 0), (w, 4)]) {
        let limit = (1i64 << (w + f - 1)) - (1 << f);
        let digits = (u32::from(w) - 1).div_ceil(5);
        let borders: Vec<u32> =
            (0..=digits).flat_map(|k| [k * 5, k * (u32::from(w) - 1) / digits]).filter(|&p| p < w.into()).collect();
        let steps = borders.iter().flat_map(|&p| [1i64 << p, (1 << p) - 1, (1 << p) + 1]);
        let near_zero = steps.flat_map(|t| [t, -t]).flat_map(|t| [t << f, (t << f) + i64::from(f > 0)]);
        let ends = (0..3).flat_map(|n| [limit - 1 - n, 1 - limit + n]);
        let values: Vec<i64> = near_zero.chain(ends).filter(|y| y.abs() < limit).collect();
        let lows = borders.iter().flat_map(|&p| [1u32 << p, (1 << p) - 1, (1u32 << p).wrapping_neg()]);
        let lows: Vec<u32> = lows.flat_map(|c| [c, c ^ (prg.next_u32() << (w - 1)), prg.next_u32()]).collect();
        let pairs = values.iter().flat_map(|&y| lows.iter().map(move |&c| (y, c << f | c & ((1 << f) - 1))));
        let (values, masks): (Vec<i64>, Vec<u32>) = pairs.unzip();
        check(&single(Kind::Relu, w + f, f, 0), &[ChannelSecret::default()], &[values], Some(&masks), &mut prg);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn relu_of_any_width_and_shift(w in 2u8..=26, shift in any::<u8>(), seed in any::<[u8; 32]>()) {
        let mut prg = Prg::new(&Seed::from_bytes(seed));
        let f = shift % (31 - w);
        let limit = (1u64 << (w + f - 1)) - (1 << f);
        // Half of them small, so that high digits are equal.
        let values = (0..40).map(|n| {
            let bound = if n % 2 == 0 { limit } else { limit.min(1 << prg.below(28)) };
            prg.below(2 * bound - 1) as i64 - (bound as i64 - 1)
        });
        let values = values.collect();
        check(&single(Kind::Relu, w + f, f, 0), &[ChannelSecret::default()], &[values], None, &mut prg);
    }
}

/// What an element costs with truncation: random OTs, and bits of each round. A round more above three digits.
#[test]
fn cost_of_a_relu() {
    // Bits of the tables' indices, digits first.
    type Cost = (u8, &'static [u32], &'static [(u64, u64)]);
    let costs: [Cost; 7] = [
        (2, &[1, 1], &[(2, 1 + 2), (1, 2), (33, 64)]),
        (11, &[5, 5, 3], &[(11, 1 + 96), (3, 8), (33, 64)]),
        (16, &[5, 5, 5, 5], &[(16, 1 + 160), (5, 32), (33, 64)]),
        (17, &[4, 4, 4, 4, 3, 4, 3], &[(17, 1 + 112), (7, 40), (3, 8), (33, 64)]),
        (21, &[5, 5, 5, 5, 3, 4, 3], &[(21, 1 + 224), (7, 40), (3, 8), (33, 64)]),
        (22, &[5, 4, 4, 4, 4, 5, 4, 3], &[(22, 1 + 160), (9, 64), (3, 8), (33, 64)]),
        (26, &[5, 5, 5, 5, 5, 5, 4, 3], &[(26, 1 + 288), (9, 64), (3, 8), (33, 64)]),
    ];
    for (w, tables, rounds) in costs {
        let group = &groups(
            &single(Kind::Relu, w + 1, 1, 0).channels,
            Shape { channels: 1, height: 1, width: 512 },
            32,
            RoundTrips::Three,
        )[0];
        let rots = tables.iter().fold(Rots::single(2), |rots, &bits| rots.with_table(bits));
        assert_eq!((group.server_rots(), group.client_rots()), (rots, 1), "w = {w}");
        let rounds: Vec<_> = rounds.iter().map(|&(down, up)| (512 * down, 512 * up)).collect();
        assert_eq!(group.round_bits(), rounds, "w = {w}");
    }
}

/// Words of 27 bits, and a truncation by 10 that stands 5 bits higher where the words before it have 27 bits, too.
#[test]
fn narrow_words_cost_what_they_have() {
    let shape = Shape { channels: 1, height: 1, width: 512 };
    let channel = |kind| single(kind, 31, 15, 0).channels;
    let rounds = |kind| groups(&channel(kind), shape, 27, RoundTrips::Three)[0].round_bits();
    assert_eq!(rounds(Kind::Relu), [(16, 10 + 160), (5, 32), (28, 54)].map(|(down, up)| (512 * down, 512 * up)));
    assert_eq!(rounds(Kind::Linear), [(512, 512 * 54)]);
}

/// In two round trips: one random OT less, and more bytes.
#[test]
fn cost_of_a_relu_in_two_round_trips() {
    type Cost = (u8, usize, &'static [u32], [(u64, u64); 2]);
    let costs: [Cost; 4] = [
        (7, 2, &[5, 1], [(7, 1 + 64), (32 + 1, 2 + 64)]),
        (8, 1, &[4, 3, 3], [(8, 1 + 16 + 16), (32 + 3, 8 + 256)]),
        (11, 1, &[5, 5, 3], [(11, 1 + 32 + 64), (32 + 3, 8 + 256)]),
        (13, 3, &[5, 5, 3], [(13, 1 + 64 + 128), (32 + 3, 8 + 256)]),
    ];
    for (w, singles, tables, rounds) in costs {
        let shape = Shape { channels: 1, height: 1, width: 512 };
        let group = &groups(&single(Kind::Relu, w + 1, 1, 0).channels, shape, 32, RoundTrips::Two)[0];
        let rots = tables.iter().fold(Rots::single(singles), |rots, &bits| rots.with_table(bits));
        assert_eq!((group.server_rots(), group.client_rots()), (rots, 1), "w = {w}");
        assert_eq!(group.round_bits(), rounds.map(|(down, up)| (512 * down, 512 * up)), "w = {w}");
    }
}

#[test]
fn linear_exhaustively_over_small_widths() {
    exhaustive(Kind::Linear, 2..=9, ChannelSecret::default());
}

#[test]
fn square_exhaustively_over_small_widths() {
    exhaustive(Kind::Square { secret_sign: false }, 2..=9, ChannelSecret { offset: -5, ..Default::default() });
    for negative in [false, true] {
        exhaustive(
            Kind::Square { secret_sign: true },
            2..=9,
            ChannelSecret { offset: 77, negative, ..Default::default() },
        );
    }
}

#[test]
fn cubic_exhaustively_over_small_widths() {
    for lambda in [0, 3, -1000] {
        exhaustive(Kind::Cubic, 2..=9, ChannelSecret { offset: 9, lambda, ..Default::default() });
    }
}

/// Random values and the extremes of every channel, in layers that mix all kinds.
#[test]
fn mixed_layers_over_full_widths() {
    let mut prg = Prg::new(&Seed::from_bytes([4; 32]));
    for _ in 0..60 {
        let channels: Vec<Channel> = (0..12)
            .map(|_| {
                let kind = match prg.below(6) {
                    0 => Kind::Relu,
                    1 => Kind::Cubic,
                    2 => Kind::Square { secret_sign: false },
                    3 => Kind::Square { secret_sign: true },
                    4 => Kind::Linear,
                    _ => return Channel { kind: Kind::Zero, bound_bits: 0, shift: 0, back_shift: 0 },
                };
                let widest = match kind {
                    Kind::Relu => 26,
                    Kind::Cubic => 11,
                    Kind::Square { .. } => 17,
                    _ => 30,
                };
                let w = 2 + prg.below(widest - 1) as u8;
                let f = prg.below(31 - u64::from(w)) as u8;
                let g = if matches!(kind, Kind::Cubic | Kind::Square { .. }) { prg.below(21) as u8 } else { 0 };
                Channel { kind, bound_bits: w + f, shift: f, back_shift: g }
            })
            .collect();
        let secrets: Vec<ChannelSecret> = channels
            .iter()
            .map(|channel| ChannelSecret {
                offset: if channel.kind == Kind::Relu { 0 } else { prg.next_u32() as i32 >> 8 },
                lambda: if channel.kind == Kind::Cubic { prg.below(1 << 21) as i64 - (1 << 20) } else { 0 },
                negative: channel.kind == (Kind::Square { secret_sign: true }) && prg.below(2) == 1,
            })
            .collect();
        let values: Vec<Vec<i64>> = channels
            .iter()
            .map(|channel| {
                if channel.kind == Kind::Zero {
                    return vec![0; 200];
                }
                let limit = (1i64 << (channel.bound_bits - 1)) - (1 << channel.shift);
                let edges = [limit - 1, 1 - limit, 0, -1, 1];
                let mut random = || prg.below(2 * limit as u64 - 1) as i64 - (limit - 1);
                edges.into_iter().map(|y| y.clamp(1 - limit, limit - 1)).chain((0..195).map(|_| random())).collect()
            })
            .collect();
        check(&Activation { fraction_bits: 0, channels }, &secrets, &values, None, &mut prg);
    }
}

/// The rounding is unbiased: over uniform masks T is y / 2^f on average.
#[test]
fn truncation_is_unbiased() {
    let mut prg = Prg::new(&Seed::from_bytes([5; 32]));
    let (y, count) = (1234 * 256 + 77, 40_000);
    let out = run(
        &single(Kind::Linear, 24, 8, 0),
        &[ChannelSecret::default()],
        &[vec![y; count]],
        None,
        RoundTrips::Three,
        &mut prg,
    );
    let mean = out[0].iter().sum::<i64>() as f64 / count as f64;
    // Standard deviation of the mean: 0.5 / sqrt(40,000) = 0.0025.
    assert!((mean - y as f64 / 256.0).abs() < 0.015, "{mean}");
}

/// The way back's bias is below a hundredth of a unit.
#[test]
fn the_way_back_is_nearly_unbiased() {
    let mut prg = Prg::new(&Seed::from_bytes([6; 32]));
    let (v, count) = (1001i64, 40_000);
    let kind = Kind::Square { secret_sign: false };
    let out = run(
        &single(kind, 16, 0, 10),
        &[ChannelSecret::default()],
        &[vec![v; count]],
        None,
        RoundTrips::Three,
        &mut prg,
    );
    let mean = out[0].iter().sum::<i64>() as f64 / count as f64;
    assert!((mean - (v * v) as f64 / 1024.0).abs() < 0.02, "{mean}");
}
