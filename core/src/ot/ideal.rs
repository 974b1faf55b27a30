//! The ideal functionality of random OT as a test double, so that what is built on random OTs can be tested alone.

use super::Block;
use super::softspoken::RotBatchReceived;
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
