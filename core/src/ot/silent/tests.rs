use super::super::base::{BaseSender, base_receive};
use super::super::softspoken::{Depth, RotReceiver, RotSender};
use super::super::{Delta, Direction, mask, row_delta, test_context};
use super::*;
use crate::prg::{Prg, SecretVec, Seed};
use alloc::string::String;
use alloc::vec::Vec;
use sha2::{Digest, Sha256};
use zeroize::{ZeroizeOnDrop, Zeroizing};

fn prg(n: u8) -> Prg {
    Prg::new(&Seed::from_bytes([n; 32]))
}

fn delta(seed: u8) -> Delta {
    let mut delta = prg(seed).array::<31>();
    delta[0] |= 1;
    Zeroizing::new(delta.to_vec())
}

/// Ideal correlated OTs: rows q and t.
fn deal(set: Set, seed: u8) -> (SecretVec<Block>, SecretVec<Block>) {
    let (mut random, delta) = (prg(seed + 1), *row_delta(&delta(seed)));
    let rows: Vec<[Block; 2]> = (0..set.seed_rows())
        .map(|_| {
            let (q, b) = (Block::from_le_bytes(random.array()) & !1, random.next_u32() & 1);
            [q, q ^ (delta & mask(b))]
        })
        .collect();
    (Zeroizing::new(rows.iter().map(|row| row[0]).collect()), Zeroizing::new(rows.iter().map(|row| row[1]).collect()))
}

fn pair(set: Set, seed: u8) -> (Sender, Receiver) {
    let context = test_context(Direction::ServerReceives);
    let (q, t) = deal(set, seed);
    let sender = Sender::new(&context, set, delta(seed), q).unwrap();
    (sender, Receiver::new(&context, set, t).unwrap())
}

fn refill(sender: &mut Sender, receiver: &mut Receiver, set: Set) {
    let before = sender.available();
    let message = sender.refill();
    assert_eq!(message.len(), set.refill_bytes());
    receiver.refill(&message).unwrap();
    assert_eq!((sender.available(), receiver.available()), (before + set.outputs(), before + set.outputs()));
}

/// The number of ones among the choices, after a look at each OT.
fn check(sender: &mut Sender, receiver: &mut Receiver, count: usize) -> usize {
    let (keys, got) = (sender.extend(count).unwrap(), receiver.extend(count).unwrap());
    assert_eq!((keys.len(), got.keys.len(), got.choices.len()), (count, count, count / 8));
    assert_eq!(sender.available(), receiver.available());
    keys.iter().zip(got.keys.iter()).enumerate().fold(0, |ones, (j, (pair, key))| {
        let c = got.choice_bits(j, 1) as usize;
        assert_eq!(*key, pair[c], "{count} {j}");
        assert_ne!(*key, pair[1 - c], "{count} {j}");
        ones + c
    })
}

fn assert_balanced(ones: usize, total: usize) {
    let deviation = (ones as f64 - total as f64 / 2.0).abs() / (total as f64 / 4.0).sqrt();
    assert!(deviation < 6.0, "{ones} of {total}");
}

#[test]
fn keys_match_choices_in_two_whole_iterations_of_each_set() {
    for set in [Set::Small, Set::Large] {
        let (mut sender, mut receiver) = pair(set, 1);
        assert_eq!((sender.available(), receiver.available()), (0, 0));
        let iterations = if set == Set::Small { 2 } else { 1 };
        for _ in 0..iterations {
            refill(&mut sender, &mut receiver, set);
            let (mut ones, mut sizes) = (0, [128, 0, 3968, 128, 50_048, 128 * 999].into_iter().cycle());
            while sender.available() > 0 {
                let count = sizes.next().unwrap().min(sender.available());
                ones += check(&mut sender, &mut receiver, count);
            }
            assert_balanced(ones, set.outputs());
        }
        refill(&mut sender, &mut receiver, set);
        check(&mut sender, &mut receiver, 8192);
    }
}

#[test]
fn rows_are_correlated_by_delta() {
    let (mut sender, mut receiver) = pair(Set::Small, 5);
    let delta = *row_delta(&delta(5));
    for _ in 0..2 {
        refill(&mut sender, &mut receiver, Set::Small);
        let count = 128 * 700;
        let (q, t) = (sender.extend_correlated(count).unwrap(), receiver.extend_correlated(count).unwrap());
        let mut ones = 0;
        for (j, (q, t)) in q.iter().zip(t.iter()).enumerate() {
            assert_eq!(q & 1, 0);
            assert_eq!(*t, q ^ (delta & mask(choice(*t).into())), "{j}");
            ones += usize::from(choice(*t));
        }
        assert_balanced(ones, count);
    }
}

#[test]
fn iterations_begun_ahead_follow_each_other_as_if_begun_when_due() {
    let set = Set::Small;
    let (mut sender, mut receiver) = pair(set, 3);
    let (mut late, _) = pair(set, 3);
    refill(&mut sender, &mut receiver, set);
    check(&mut sender, &mut receiver, 128 * 77);
    refill(&mut sender, &mut receiver, set);
    refill(&mut sender, &mut receiver, set);
    let count = 2 * set.outputs() - 128 * 7;
    let ones = check(&mut sender, &mut receiver, count);
    assert_balanced(ones, count);
    let ahead = sender.extend(sender.available()).unwrap();
    receiver.extend(receiver.available()).unwrap();
    late.refill();
    for _ in 0..2 {
        late.extend(late.available()).unwrap();
        late.refill();
    }
    let all = late.extend(late.available()).unwrap();
    assert_eq!(all[all.len() - ahead.len()..], ahead[..]);
    refill(&mut sender, &mut receiver, set);
    check(&mut sender, &mut receiver, 1280);
}

#[test]
fn how_ots_are_divided_among_calls_changes_nothing() {
    let (mut whole, _) = pair(Set::Small, 1);
    let (mut parts, _) = pair(Set::Small, 1);
    assert_eq!(whole.refill(), parts.refill());
    let expected = whole.extend(128 * 40).unwrap();
    let mut got = Vec::new();
    for groups in [1, 7, 0, 8, 24] {
        got.extend_from_slice(&parts.extend(128 * groups).unwrap());
    }
    assert_eq!(got, *expected);
    // Nor does what was left when the next iteration began.
    whole.extend(whole.available()).unwrap();
    assert_eq!(whole.refill(), parts.refill());
}

#[test]
fn it_starts_from_real_correlated_ots_and_a_large_set_from_a_small_one() {
    let context = test_context(Direction::ServerReceives);
    let delta = delta(7);
    let (base, message) = BaseSender::new(&context, &mut prg(8));
    let (reply, chosen) = base_receive(&context, &delta, &message, &mut prg(9)).unwrap();
    let (mut receiver, corrections) = RotReceiver::setup(&context, Depth::Eight, base.finish(&reply).unwrap());
    let mut sender = RotSender::setup(&context, Depth::Eight, delta.clone(), chosen, &corrections).unwrap();

    // Random OTs before and after the correlated ones have tweaks of their own.
    for count in [256, 128] {
        let (message, got) = receiver.extend(count).unwrap();
        let keys = sender.extend(count, &message).unwrap();
        assert!(keys.iter().enumerate().all(|(j, keys)| keys[got.choice_bits(j, 1) as usize] == got.keys[j]));
        if count == 128 {
            break;
        }
        let (message, t) = receiver.extend_correlated(Set::Small.seed_rows()).unwrap();
        let q = sender.extend_correlated(Set::Small.seed_rows(), &message).unwrap();
        let mut small = (
            Sender::new(&context, Set::Small, delta.clone(), q).unwrap(),
            Receiver::new(&context, Set::Small, t).unwrap(),
        );
        refill(&mut small.0, &mut small.1, Set::Small);
        check(&mut small.0, &mut small.1, 1280);
        let rows = Set::Large.seed_rows();
        let (q, t) = (small.0.extend_correlated(rows).unwrap(), small.1.extend_correlated(rows).unwrap());
        let mut large = (
            Sender::new(&context, Set::Large, delta.clone(), q).unwrap(),
            Receiver::new(&context, Set::Large, t).unwrap(),
        );
        refill(&mut large.0, &mut large.1, Set::Large);
        check(&mut large.0, &mut large.1, 12_800);
        check(&mut small.0, &mut small.1, 1280);
    }
}

#[test]
fn counts_seeds_and_messages_of_wrong_size_are_refused_and_change_nothing() {
    let context = test_context(Direction::ServerReceives);
    let set = Set::Small;
    for rows in [0, set.seed_rows() - 1, set.seed_rows() + 1] {
        let rows = || Zeroizing::new(alloc::vec![2; rows]);
        let sender = Sender::new(&context, set, alloc::vec![1; 16].into(), rows());
        assert_eq!(sender.err().unwrap().kind(), ErrorKind::InvalidArgument);
        assert_eq!(Receiver::new(&context, set, rows()).err().unwrap().kind(), ErrorKind::InvalidArgument);
    }
    let even = Sender::new(&context, set, alloc::vec![2; 16].into(), deal(set, 1).0);
    assert_eq!(even.err().unwrap().kind(), ErrorKind::InvalidArgument);

    let (mut sender, mut receiver) = pair(set, 1);
    assert!(sender.extend(128).is_err() && receiver.extend(128).is_err());
    assert_eq!(sender.extend(0).unwrap().len(), 0);
    let message = sender.refill();
    for length in [0, message.len() - 1, message.len() + 1, message.len() + 16] {
        let mut message = message.clone();
        message.resize(length, 0);
        assert_eq!(receiver.refill(&message).err().unwrap().kind(), ErrorKind::MalformedMessage);
        assert_eq!(receiver.available(), 0);
    }
    receiver.refill(&message).unwrap();
    for count in [100, set.outputs() + 128, usize::MAX] {
        assert_eq!(sender.extend(count).err().unwrap().kind(), ErrorKind::InvalidArgument);
        assert_eq!(receiver.extend(count).err().unwrap().kind(), ErrorKind::InvalidArgument);
        assert_eq!(receiver.extend_correlated(count).err().unwrap().kind(), ErrorKind::InvalidArgument);
    }
    check(&mut sender, &mut receiver, 1280);
    assert_eq!(receiver.refill(&message[1..]).err().unwrap().kind(), ErrorKind::MalformedMessage);
    check(&mut sender, &mut receiver, 1280);
}

#[test]
fn a_changed_message_gives_wrong_keys_in_its_tree_alone() {
    let set = Set::Small;
    let (mut sender, mut receiver) = pair(set, 1);
    let mut message = sender.refill();
    // The last level of the second tree.
    message[16 * (2 * (set.depth() - 1) - 1)] ^= 0x10;
    receiver.refill(&message).unwrap();
    let keys = sender.extend(3 << set.depth()).unwrap();
    let got = receiver.extend(3 << set.depth()).unwrap();
    let wrong = |tree: usize| {
        let places = tree << set.depth()..(tree + 1) << set.depth();
        places.filter(|&j| keys[j][got.choice_bits(j, 1) as usize] != got.keys[j]).count()
    };
    assert_eq!((wrong(0), wrong(1), wrong(2)), (0, 2, 0));
    // Nor does any content panic, in this iteration or the next.
    receiver.refill(&alloc::vec![0xff; set.refill_bytes()]).unwrap();
    receiver.extend(1 << set.depth()).unwrap();
    receiver.refill(&message).unwrap();
}

#[test]
fn messages_choices_and_keys_are_the_known_answers() {
    // From tests/known-answers/silent.py: SHA-256 of the message and of 1280 OTs' keys, choices and chosen keys, of two
    // iterations.
    let known = [
        [
            "439a74cbee71c16afcb6f93238aabeca3739135ab2cd66a20125063e331debec",
            "1f73ffb771082905a8ab2f11bdc6e5e19c4fb7f687c268389d03d2980e736cdb",
            "09f1736bdcbfdd9c0efa164dce80eee1b4e6225b3390672e870ccb6a60f6054d",
            "732c3f2ece39555ec3982df13005ea18829a4998416b48c035990660da08e374",
        ],
        [
            "08812466bfef42494dd16252a293108282052e0347a305d76599deb4bacb2358",
            "02268ed412827108c3a5dee3d5d40ed0ff92825409d35d9b49c13fbd7d8d4b4c",
            "610c80b4badb526f8cd732e0ec111e3d04eb03d6def82f91d5b9dba775ef2f12",
            "f187dff8c13a0f36881885db52ad9fb15843c5141f15571fd19203b6add25bcc",
        ],
    ];
    let (context, set, delta) =
        (test_context(Direction::ServerReceives), Set::Small, Zeroizing::new(b"a secret delta 1".to_vec()));
    let (mut q, mut t) = (Vec::new(), Vec::new());
    for i in 0..set.seed_rows() as u32 {
        let digest: [u8; 32] = Sha256::new().chain_update(b"row").chain_update(i.to_le_bytes()).finalize().into();
        let row = Block::from_le_bytes(first_half(&digest)) & !1;
        q.push(row);
        t.push(row ^ *row_delta(&delta) & mask(digest[16].into()));
    }
    let mut sender = Sender::new(&context, set, delta, Zeroizing::new(q)).unwrap();
    let mut receiver = Receiver::new(&context, set, Zeroizing::new(t)).unwrap();
    for expected in known {
        let message = sender.refill();
        receiver.refill(&message).unwrap();
        let (sent, got) = (sender.extend(1280).unwrap(), receiver.extend(1280).unwrap());
        let sent: Vec<u8> = sent.iter().flatten().flat_map(|key| key.to_le_bytes()).collect();
        let keys: Vec<u8> = got.keys.iter().flat_map(|key| key.to_le_bytes()).collect();
        for (bytes, expected) in [&message, &sent, &*got.choices, &keys].into_iter().zip(expected) {
            let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, expected);
        }
        sender.extend(sender.available()).unwrap();
        receiver.extend(receiver.available()).unwrap();
    }
}

#[test]
fn secrets_are_of_types_that_wipe_themselves() {
    fn wiped<T: ZeroizeOnDrop>(_: &T) {}
    let (mut sender, _) = pair(Set::Small, 1);
    wiped(sender.seed.as_ref().unwrap());
    sender.refill();
    assert!(sender.seed.is_none());
    wiped(&sender.delta);
}

#[test]
fn sizes_are_what_they_are_said_to_be() {
    for set in [Set::Small, Set::Large, Set::WideSmall, Set::WideLarge] {
        assert!(set.vector() < 1 << 25 && set.depth() <= 16);
        assert_eq!(set.seed_rows() % GROUP, 0);
        assert_eq!(set.outputs() % GROUP, 0);
        assert!(set.outputs() > 6 * set.seed_rows());
    }
    assert!(Set::Small.outputs() >= Set::Large.seed_rows());
    assert!(Set::WideSmall.outputs() >= Set::WideLarge.seed_rows());
}

/// Ideal wide OTs and single ones, and both parties over them.
fn wide_pair(set: Set, seed: u8) -> (WideSender, WideReceiver, SecretVec<Block>) {
    let mut random = prg(seed);
    let context = test_context(Direction::ServerReceives);
    let (sent, got) = super::super::ideal::deal_wide(&mut random, set.seed_rows());
    let offsets = sent.offsets().clone();
    let sender = WideSender::new(&context, set, *row_delta(&delta(seed)), offsets.clone(), sent.into_rows()).unwrap();
    (sender, WideReceiver::new(&context, set, got.into_rows()).unwrap(), offsets)
}

/// Single correlated OTs for a refill.
fn correlated(set: Set, seed: u8, number: u8) -> [Vec<Block>; 2] {
    let (mut random, delta) = (prg(seed ^ number << 4), row_delta(&delta(seed)));
    let q: Vec<Block> = (0..set.tree_rows()).map(|_| Block::from_le_bytes(random.array()) & !1).collect();
    let t = q.iter().map(|q| q ^ *delta & mask(random.next_u32())).collect();
    [q, t]
}

#[test]
fn wide_rows_differ_by_d_of_the_index_in_two_iterations_of_each_set() {
    for (set, seed) in [(Set::WideSmall, 3), (Set::WideLarge, 4)] {
        let (mut sender, mut receiver, offsets) = wide_pair(set, seed);
        for iteration in 0..2 {
            let [q, t] = correlated(set, seed, iteration);
            let message = sender.refill(&q);
            assert_eq!(message.len(), set.refill_bytes());
            receiver.refill(&t, &message).unwrap();
            assert_eq!((sender.available(), receiver.available()), (set.outputs(), set.outputs()));
            let (mut counts, mut sizes) = ([0usize; 32], [128, 0, 3968, 50_048, 128 * 999].into_iter().cycle());
            while sender.available() > 0 {
                let count = sizes.next().unwrap().min(sender.available());
                let q = sender.extend(count).unwrap().into_rows();
                let (t, indices) = receiver.extend(count).unwrap().into_rows();
                assert_eq!(sender.available(), receiver.available());
                for ((q, t), &index) in q.iter().zip(t.iter()).zip(indices.iter()) {
                    assert_eq!(q ^ t, offsets[usize::from(index)]);
                    counts[usize::from(index)] += 1;
                }
            }
            let (mean, sigma) = (set.outputs() as f64 / 32.0, (set.outputs() as f64 * 31.0).sqrt() / 32.0);
            assert!(counts.iter().all(|&count| (count as f64 - mean).abs() < 6.0 * sigma), "{counts:?}");
        }
    }
}

#[test]
fn wide_ots_serve_tables_and_wrong_messages_are_refused() {
    let (mut sender, mut receiver, _) = wide_pair(Set::WideSmall, 5);
    let [q, t] = correlated(Set::WideSmall, 5, 0);
    let message = sender.refill(&q);
    assert_eq!(receiver.refill(&t, &message[1..]).err().unwrap().kind(), ErrorKind::MalformedMessage);
    receiver.refill(&t, &message).unwrap();
    for count in [1280, 2560] {
        let (mut sent, got) = (sender.extend(count).unwrap(), receiver.extend(count).unwrap());
        super::super::wide::tests::check(&mut sent, &got, count);
    }
    assert_eq!(sender.extend(100).err().unwrap().kind(), ErrorKind::InvalidArgument);
    assert_eq!(receiver.extend(1 << 24).err().unwrap().kind(), ErrorKind::InvalidArgument);
    // Nor does any content panic, in this iteration or the next.
    receiver.refill(&t, &alloc::vec![0xff; message.len()]).unwrap();
    receiver.extend(receiver.available()).unwrap();
    receiver.refill(&t, &message).unwrap();
}

/// The noise of an iteration is an index in each tree at one place, 0 included: what the code adds is taken away again.
#[test]
fn the_noise_of_wide_ots_is_one_uniform_index_a_tree() {
    let set = Set::WideSmall;
    let (mut sender, mut receiver, _) = wide_pair(set, 6);
    let (_, indices) = super::super::ideal::deal_wide(&mut prg(6), set.seed_rows()).1.into_rows();
    let [q, t] = correlated(set, 6, 0);
    receiver.refill(&t, &sender.refill(&q)).unwrap();
    let outputs = receiver.extend(set.outputs()).unwrap().into_rows().1;
    let columns = set.cipher(&test_context(Direction::ServerReceives), Label::SilentColumns, 0);
    let mut coded = alloc::vec![[0; 16]; outputs.len()];
    let mut noise = outputs.to_vec();
    let vector: Vec<code::Entry> = (0..set.vector()).map(|_| 0.into()).collect();
    code::Encode {
        first: 0,
        vector: &vector,
        leaves: &mut coded,
        indices: &indices[..set.vector()],
        noise: &mut noise,
    }
    .run(set, &columns);
    let mut counts = [0u32; 32];
    for (tree, noise) in noise.chunks_exact(1 << set.depth()).enumerate() {
        let errors: Vec<u8> = noise.iter().copied().filter(|&index| index != 0).collect();
        assert!(errors.len() <= 1, "tree {tree}: {errors:?}");
        counts[usize::from(errors.first().copied().unwrap_or(0))] += 1;
    }
    let trees: u32 = counts.iter().sum();
    assert!(counts.iter().all(|count| count.abs_diff(trees / 32) < 6 * 7), "{counts:?}");
}

#[test]
fn messages_indices_and_keys_of_wide_ots_are_the_known_answers() {
    // From tests/known-answers/silent.py: SHA-256 of the message and of 1280 OTs' lowest words of all entries' keys, indices and
    // chosen keys, of two iterations.
    let known = [
        [
            "854baa7ad7c543edce5ec27f41471aa04f185dda34e0a0e8a6e023444612b4d5",
            "58176fc80402c00d24e9d41f72bde8f5216e99e65d09129d93b102294c1decc5",
            "189c1aa5d927c021b743024e82ce8af587270aead6887c5315246da63fee0938",
            "60548aa45d87fed53fb4574e773c3699d00393d3f7ac4f5381fed25171d4b35a",
        ],
        [
            "5748b6c714cb6b2269a2c18a7302b433749406799a6e820c509e048f5aba7ad2",
            "a3ae52324fdfd16a07b6c42178dc25101d3254c0f06f202fed7c4f42663207c0",
            "0bec2fa9a7c372bcdb34e9bb9bb981d25519a303f51801d2ea064692ea4e5318",
            "7ee97900980e1c2a7f81438da577e8067494caff6d1b23db5806ec5a9b1b2403",
        ],
    ];
    let digest = |name: &[u8], i: u32| -> [u8; 32] {
        Sha256::new().chain_update(name).chain_update(i.to_le_bytes()).finalize().into()
    };
    let block = |digest: &[u8; 32]| Block::from_le_bytes(first_half(digest));
    let (context, set) = (test_context(Direction::ServerReceives), Set::WideSmall);
    let delta = Block::from_le_bytes(*b"a secret delta 1");
    let basis: Vec<Block> = (0..5).map(|b| block(&digest(b"basis", b))).collect();
    let offset = |i: usize| (0..5).filter(|b| i >> b & 1 == 1).fold(0, |sum, b| sum ^ basis[b]);
    let offsets: Vec<Block> = (0..32).map(offset).collect();
    let rows: Vec<[u8; 32]> = (0..set.seed_rows() as u32).map(|i| digest(b"row", i)).collect();
    let q: Vec<Block> = rows.iter().map(block).collect();
    let indices: Vec<u8> = rows.iter().map(|row| row[16] & 31).collect();
    let t: Vec<Block> = q.iter().zip(&indices).map(|(q, &i)| q ^ offsets[usize::from(i)]).collect();
    let mut sender = WideSender::new(&context, set, delta, offsets.into(), q.into()).unwrap();
    let mut receiver = WideReceiver::new(&context, set, (t.into(), indices.into())).unwrap();
    for (expected, number) in known.into_iter().zip(0..) {
        let rows: Vec<[u8; 32]> = (0..set.tree_rows() as u32).map(|i| digest(b"single", number << 16 | i)).collect();
        let q: Vec<Block> = rows.iter().map(|row| block(row) & !1).collect();
        let t: Vec<Block> = q.iter().zip(&rows).map(|(q, row)| q ^ delta & mask(row[16].into())).collect();
        let message = sender.refill(&q);
        receiver.refill(&t, &message).unwrap();
        let (sent, got) = (sender.extend(1280).unwrap(), receiver.extend(1280).unwrap());
        let (words, keys) = (super::super::wide::tests::low_words(&sent), super::super::wide::tests::chosen_keys(&got));
        for (bytes, expected) in [&message, &words, got.indices(), &keys].into_iter().zip(expected) {
            let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, expected);
        }
        sender.extend(sender.available()).unwrap();
        receiver.extend(receiver.available()).unwrap();
    }
}
