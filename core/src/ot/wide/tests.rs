use super::super::base::{BaseSender, base_receive};
use super::super::softspoken::{Depth, RotReceiver, RotSender, wide_bytes};
use super::super::{Context, Direction, Suite, test_context};
use super::*;
use crate::prg::{Prg, Seed};
use alloc::vec;
use alloc::vec::Vec;
use zeroize::Zeroizing;

fn pair(depth: Depth, suite: Suite) -> (RotReceiver, RotSender) {
    let context = Context { suite, ..test_context(Direction::ServerReceives) };
    let mut prg = Prg::new(&Seed::from_bytes([31; 32]));
    let delta = Zeroizing::new(prg.array::<31>().to_vec());
    let (sender, message) = BaseSender::new(&context, &mut prg);
    let (reply, chosen) = base_receive(&context, &delta, &message, &mut prg).unwrap();
    let (receiver, corrections) = RotReceiver::setup(&context, depth, sender.finish(&reply).unwrap());
    (receiver, RotSender::setup(&context, depth, delta, chosen, &corrections).unwrap())
}

/// The receiver's pads are those of its entry, and of no other more than by chance.
pub(in crate::ot) fn check(sent: &mut Sent, got: &Received, count: usize) {
    let mut start = 0;
    for (run, bits) in [(1, 5), (130, 5), (127, 4), (128, 3), (200, 1), (count, 2)] {
        let run = start..count.min(start + run);
        start = run.end;
        let indices: Vec<u32> = got.indices()[run.clone()].iter().map(|&i| i.into()).collect();
        assert!(indices.iter().all(|&i| i < 32));
        sent.narrow(run.clone(), bits, &indices.iter().map(|i| i >> bits).collect::<Vec<_>>());
        let own = |index: u32| index & ((1 << bits) - 1);
        let all = || vec![0u32; run.len()];
        let (mut pads, mut words) = ([(); 4].map(|()| all()), [(); 4].map(|()| all()));
        sent.planes(run.clone(), bits, &mut pads.each_mut().map(|pad| &mut pad[..]));
        got.words(run.clone(), &mut words.each_mut().map(|word| &mut word[..]));
        let (mut same, mut others) = (0, 0);
        for (n, &index) in indices.iter().enumerate() {
            for (pads, words) in pads.iter().zip(&words) {
                let differ = pads[n] ^ words[n];
                assert_eq!(differ >> own(index) & 1, 0);
                assert_eq!(u64::from(pads[n]) >> (1 << bits), 0);
                for i in (0..1u32 << bits).filter(|&i| i != own(index)) {
                    same += (!differ >> i & 1) as usize;
                    others += 1;
                }
            }
        }
        // Six standard deviations.
        assert!((2 * same).abs_diff(others) as f64 <= 6.0 * (others as f64).sqrt(), "{same} of {others}");
        let mut entries: Vec<Vec<u32>> = (0..1 << bits).map(|_| all()).collect();
        let mut plane = all();
        sent.words(
            run.clone(),
            bits,
            &mut entries.iter_mut().map(|entry| &mut entry[..]).collect::<Vec<_>>(),
            &mut plane,
        );
        for (n, &index) in indices.iter().enumerate() {
            for (i, entry) in entries.iter().enumerate() {
                assert_eq!(entry[n] == words[0][n], i as u32 == own(index));
                assert_eq!(entry[n] >> i & 1, pads[0][n] >> i & 1);
            }
            assert_eq!(plane[n], pads[1][n]);
        }
    }
}

#[test]
fn the_receiver_gets_the_pads_of_its_entry() {
    let depths = [Depth::Two, Depth::Four, Depth::Eight];
    for (depth, suite) in depths.into_iter().flat_map(|depth| [(depth, Suite::Aes), (depth, Suite::ChaCha)]) {
        let (mut receiver, mut sender) = pair(depth, suite);
        // Single OTs come between.
        for count in [128, 1280, 128 * 70] {
            let (message, got) = receiver.extend_wide(count).unwrap();
            assert_eq!(message.len(), wide_bytes(depth, count));
            let mut sent = sender.extend_wide(count, &message).unwrap();
            check(&mut sent, &got, count);
            let (message, single) = receiver.extend(256).unwrap();
            let keys = sender.extend(256, &message).unwrap();
            assert!((0..256).all(|j| keys[j][single.choice_bits(j, 1) as usize] == single.keys[j]));
        }
    }
}

#[test]
fn rows_differ_by_d_of_the_index_which_is_uniform() {
    let (mut receiver, mut sender) = pair(Depth::Four, Suite::ChaCha);
    let (message, got) = receiver.extend_wide(128 * 80).unwrap();
    let q = sender.extend_wide(128 * 80, &message).unwrap().into_rows();
    let (t, indices) = got.into_rows();
    let mut counts = [0u32; 32];
    for ((q, t), &index) in q.iter().zip(t.iter()).zip(indices.iter()) {
        assert_eq!(q ^ t, sender.offsets()[index as usize]);
        counts[index as usize] += 1;
    }
    // 320 of each, standard deviation 17.6.
    assert!(counts.iter().all(|count| count.abs_diff(320) < 106), "{counts:?}");
    assert!(sender.extend_wide(128, &message).is_err());
    assert!(receiver.extend_wide(100).is_err());
}

/// The chosen keys, put together from their words.
pub(in crate::ot) fn chosen_keys(got: &Received) -> Vec<u8> {
    let count = got.indices().len();
    let mut words = [(); 4].map(|()| vec![0u32; count]);
    got.words(0..count, &mut words.each_mut().map(|word| &mut word[..]));
    (0..count).flat_map(|n| words.each_ref().map(|word| word[n].to_le_bytes())).flatten().collect()
}

/// Word 0 of the keys of all entries.
pub(in crate::ot) fn low_words(sent: &Sent) -> Vec<u8> {
    let count = sent.len();
    let mut entries = vec![vec![0u32; count]; 32];
    let mut plane = vec![0; count];
    sent.words(0..count, 5, &mut entries.iter_mut().map(|entry| &mut entry[..]).collect::<Vec<_>>(), &mut plane);
    (0..count)
        .flat_map(|n| entries.iter().map(move |entry| entry[n].to_le_bytes()).collect::<Vec<_>>())
        .flatten()
        .collect()
}
