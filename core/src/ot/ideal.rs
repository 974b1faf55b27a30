//! The ideal functionality of random OT as a test double, so that what is built on random OTs can be tested alone.

use super::Block;
use super::softspoken::{GROUP, RotBatchReceived};
use super::wide::{Keys, Received, Sent, Source};
use super::{Direction, test_context};
use crate::activation::{ReceiverRots, Rots, SenderRots};
use crate::prg::{Prg, SecretVec};
use alloc::vec::Vec;
use zeroize::Zeroizing;

/// A trusted dealer: `count` random OTs, what their sender gets and what their receiver gets.
pub(crate) fn deal(prg: &mut Prg, count: usize) -> (SecretVec<[Block; 2]>, RotBatchReceived) {
    let block = |prg: &mut Prg| Block::from_le_bytes(prg.array());
    let sent: Vec<[Block; 2]> = (0..count).map(|_| [block(prg), block(prg)]).collect();
    let mut choices = alloc::vec![0; count.div_ceil(8)];
    prg.fill(&mut choices);
    let keys = sent.iter().enumerate().map(|(i, keys)| keys[usize::from(choices[i / 8] >> (i % 8) & 1)]).collect();
    (Zeroizing::new(sent), RotBatchReceived { choices: Zeroizing::new(choices), keys: Zeroizing::new(keys) })
}

/// A trusted dealer of wide OTs: at least `count`.
pub(crate) fn deal_wide(prg: &mut Prg, count: usize) -> (Sent, Received) {
    let keys = Keys::new(&test_context(Direction::ServerReceives), Source::SoftSpoken);
    let block = |prg: &mut Prg| Block::from_le_bytes(prg.array());
    let basis: [Block; 5] = core::array::from_fn(|_| block(prg));
    let offset = |i: u32| (0..5).filter(|b| i >> b & 1 == 1).fold(0, |sum, b| sum ^ basis[b]);
    let offsets: Vec<Block> = (0..32).map(offset).collect();
    let rows: Vec<(Block, u8)> =
        (0..count.next_multiple_of(GROUP)).map(|_| (block(prg), prg.next_u32() as u8 & 31)).collect();
    let q: Vec<Block> = rows.iter().map(|(q, _)| *q).collect();
    let t: Vec<Block> = rows.iter().map(|&(q, i)| q ^ offsets[usize::from(i)]).collect();
    let indices: Vec<u8> = rows.iter().map(|(_, i)| *i).collect();
    let sent = Sent::new(keys.clone(), offsets.into(), 0, q.into());
    (sent, Received::new(keys, 0, t.into(), indices.into()))
}

/// The random OTs of some elements of a group, for their sender and for their receiver, who tells what is to be told.
pub(crate) fn deal_rots(
    prg: &mut Prg,
    elements: usize,
    rots: &Rots,
    mut sender: impl FnMut(&mut SenderRots<'_>),
    mut receiver: impl FnMut(&mut ReceiverRots<'_>),
) {
    let (keys, batch) = deal(prg, rots.of(elements).single);
    let (mut sent, got) = deal_wide(prg, rots.of(elements).wide);
    let mut rots_received = ReceiverRots::new(&batch, Some(&got), elements);
    receiver(&mut rots_received);
    let told = rots_received.finish();
    assert_eq!(told.len(), rots.told_bytes(elements));
    let mut rots_sent = SenderRots::new(&keys, Some(&mut sent), &told, elements);
    sender(&mut rots_sent);
    rots_sent.finish().unwrap();
}
