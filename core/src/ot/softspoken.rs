//! The extension: SoftSpokenOT (Roy, "SoftSpokenOT: Quieter OT Extension from Small-Field Silent VOLE in the Minicrypt
//! Model", CRYPTO 2022), semi-honest, with the repetition code. 128 base OTs become any number of random OTs at
//! 128/k − 1 bits of traffic each.
//!
//! For each of 128/k trees of depth k (module `pprf`) and each OT j: the receiver of the random OTs expands all 2^k
//! leaves into one bit r_x each and takes u = Σ r_x and, for each bit b < k of the index, v_b = Σ x_b·r_x (sums are
//! XORs). The sender, who lacks the leaf at its point δ, takes w_b = Σ (x ⊕ δ)_b·r_x, in which the missing leaf has
//! weight zero. So w_b = v_b ⊕ δ_b·u: the paper's small-field VOLE (figure 7), over GF(2^k) as k bits. The receiver
//! makes all trees agree on the first one's u, the choice bit, by sending u ⊕ u' for each other tree. Concatenated over
//! the trees, the sender has q = t ⊕ u·Δ for the receiver's row t of 128 bits; hashing q, q ⊕ Δ and t gives the keys.
//!
//! More depth means less traffic and more work: 2^k/k leaves are expanded for each bit of a row.

use super::hash::Hasher;
use super::pprf::{self, Expander, full_tree, punctured_tree};
use super::transpose::{Tile, transpose};
use super::{BASE_OTS, Block, Bytes, Context, Label, base, encrypt_into};
use crate::error::{Error, ErrorKind, Result};
use crate::prg::SecretVec;
use aes::Aes128Enc;
use aes::cipher::KeyInit;
use alloc::boxed::Box;
use alloc::format;
use alloc::vec;
use alloc::vec::Vec;
use zeroize::Zeroizing;

/// OTs come in groups of this many: one AES block of each leaf.
pub const GROUP: usize = 128;

/// Groups that go through expansion, transposition and hashing together. 64 blocks of a leaf fill the widest AES units;
/// the matrix of 128 columns then takes 128 KiB, which second-level caches hold.
const CHUNK: usize = 64;

/// Groups transposed together: a cache line of a column.
const STRIPE: usize = 4;

/// k: the trees' depth, which trades work for traffic. Both parties of an extension have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// 64 trees of 4 leaves: 63 bits of traffic for each OT, least work.
    Two,
    /// 32 trees of 16 leaves: 31 bits of traffic.
    Four,
    /// 16 trees of 256 leaves: 15 bits of traffic, most work.
    Eight,
}

impl Depth {
    /// The depth of value `k`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] unless k is 2, 4 or 8.
    pub fn new(k: u32) -> Result<Self> {
        match k {
            2 => Ok(Self::Two),
            4 => Ok(Self::Four),
            8 => Ok(Self::Eight),
            _ => Err(Error::new(
                ErrorKind::InvalidArgument,
                format!("depth of the OT extension's trees: expected 2, 4 or 8, got {k}"),
            )),
        }
    }

    /// k itself.
    pub const fn bits(self) -> usize {
        match self {
            Self::Two => 2,
            Self::Four => 4,
            Self::Eight => 8,
        }
    }

    /// The number of trees, 128 / k.
    const fn trees(self) -> usize {
        BASE_OTS / self.bits()
    }
}

/// Bytes of the receiver's setup message: 32 for each level but the first of each tree.
pub const fn setup_bytes(depth: Depth) -> usize {
    pprf::correction_bytes(depth.bits())
}

/// Bytes of the receiver's message for `count` random OTs, a multiple of [`GROUP`]: 128/k − 1 bits for each.
pub const fn extension_bytes(depth: Depth, count: usize) -> usize {
    (depth.trees() - 1) * (count / GROUP) * 16
}

/// What the receiver of a batch of random OTs holds.
pub struct RotBatchReceived {
    /// The choices, uniform: that of OT j is bit j % 8 of byte j / 8.
    pub choices: SecretVec<u8>,
    /// The chosen key of each OT.
    pub keys: SecretVec<Block>,
}

impl RotBatchReceived {
    /// The choices of `count` (at most 32) consecutive OTs, that of the first one lowest. Those past the end read as
    /// zero.
    #[inline]
    pub fn choice_bits(&self, first: usize, count: u32) -> u32 {
        debug_assert!(count <= 32);
        let mut window = [0; 8];
        let from = self.choices.len().min(first / 8);
        for (to, byte) in window.iter_mut().zip(&self.choices[from..]) {
            *to = *byte;
        }
        (u64::from_le_bytes(window) >> (first % 8) & ((1 << count) - 1)) as u32
    }
}

/// A leaf of a tree: an AES-128 key in counter mode. The counter block is the group's number and a salt of the
/// session's own, which keeps tables made in advance from serving against more than one session.
struct Leaf(Aes128Enc);

impl Leaf {
    fn new(seed: Block) -> Self {
        Self(Aes128Enc::new(&seed.to_le_bytes().into()))
    }

    /// The encrypted counter blocks. `blocks` is as long as `counters`.
    fn expand(&self, counters: &[Bytes], blocks: &mut [Bytes]) {
        encrypt_into(&self.0, counters, blocks);
    }
}

/// The leaves of one party's trees and the position in their streams.
struct Forest {
    depth: Depth,
    /// Leaf x of tree i at 2^k·i + x, in the party's own numbering.
    leaves: Vec<Leaf>,
    /// The first entry of each tree that is known: 0 at the receiver, 1 at the sender.
    first: usize,
    salt: [u8; 8],
    /// The number of the next group. Never goes back.
    group: u64,
}

/// Working memory of [`Forest::fold`]: secret, wiped when dropped.
struct Scratch {
    /// The counter blocks: public.
    counters: Vec<Bytes>,
    /// The expansion of four leaves.
    quad: [SecretVec<Bytes>; 4],
    /// The sum of the subtree just completed.
    carry: SecretVec<Bytes>,
    /// Sums of left subtrees that wait for their right neighbours, by height − 2. The last one is that of the whole
    /// tree.
    waiting: Vec<SecretVec<Bytes>>,
}

impl Scratch {
    fn new(depth: Depth, groups: usize) -> Self {
        let lane = || Zeroizing::new(vec![[0; 16]; groups]);
        let counters = vec![[0; 16]; groups];
        Self {
            counters,
            quad: [(); 4].map(|()| lane()),
            carry: lane(),
            waiting: (1..depth.bits()).map(|_| lane()).collect(),
        }
    }

    /// The sum of all leaves of the tree folded last: u.
    fn total(&self) -> &[Bytes] {
        self.waiting.last().map_or(&[], |sum| sum)
    }
}

impl Forest {
    fn new(context: &Context, depth: Depth, first: usize) -> Self {
        let digest = context.digest(Label::LeafSalt, &[]);
        let mut salt = [0; 8];
        salt.copy_from_slice(&digest[..8]);
        Self { depth, leaves: Vec::with_capacity(depth.trees() << depth.bits()), first, salt, group: 0 }
    }

    fn add_tree(&mut self, leaves: &[Block]) {
        self.leaves.extend(leaves.iter().map(|&seed| Leaf::new(seed)));
    }

    /// For tree `tree` and the next groups, as many as `columns` has for each of its k columns: column b becomes Σ
    /// x_b·r_x over all known leaves x, and [`Scratch::total`] Σ r_x.
    ///
    /// Takes two XORs for each leaf whatever k is: subtrees are summed from the leaves upward, and column b gets the
    /// sum of each right subtree that hangs at height b.
    fn fold(&self, tree: usize, columns: &mut [Bytes], scratch: &mut Scratch) {
        let k = self.depth.bits();
        let groups = columns.len() / k;
        columns.fill([0; 16]);
        let (low, high) = columns.split_at_mut(2 * groups);
        let (column_0, column_1) = low.split_at_mut(groups);
        let leaves = self.leaves.chunks_exact(1 << k).nth(tree).unwrap_or(&[]);
        self.count(&mut scratch.counters[..groups]);
        for (n, four) in leaves.chunks_exact(4).enumerate() {
            for (x, (leaf, lane)) in four.iter().zip(&mut scratch.quad).enumerate() {
                if 4 * n + x < self.first {
                    lane.fill([0; 16]);
                } else {
                    leaf.expand(&scratch.counters[..groups], &mut lane[..groups]);
                }
            }
            add_quad(&scratch.quad, column_0, column_1, &mut scratch.carry);
            // Carry as in counting: each trailing one of n says that a right subtree is complete.
            let height = n.trailing_ones() as usize;
            for (column, left) in high.chunks_exact_mut(groups).zip(&scratch.waiting).take(height) {
                add_subtree(&mut scratch.carry, left, column);
            }
            if let Some(place) = scratch.waiting.get_mut(height) {
                core::mem::swap(&mut scratch.carry, place);
            }
        }
    }

    /// The counter blocks of the next groups, the same for all leaves.
    fn count(&self, counters: &mut [Bytes]) {
        for (block, group) in counters.iter_mut().zip(self.group..) {
            let (counter, salt) = block.split_at_mut(8);
            counter.copy_from_slice(&group.to_le_bytes());
            salt.copy_from_slice(&self.salt);
        }
    }
}

/// Adds four sibling leaves to the columns of the two lowest index bits and gives their sum.
fn add_quad(quad: &[SecretVec<Bytes>; 4], column_0: &mut [Bytes], column_1: &mut [Bytes], sum: &mut [Bytes]) {
    let [r0, r1, r2, r3] = quad;
    let leaves = r0.iter().zip(r1.iter()).zip(r2.iter().zip(r3.iter()));
    for (((r0, r1), (r2, r3)), ((v0, v1), sum)) in leaves.zip(column_0.iter_mut().zip(column_1).zip(sum)) {
        for i in 0..16 {
            let right = r1[i] ^ r3[i];
            v0[i] ^= right;
            v1[i] ^= r2[i] ^ r3[i];
            sum[i] = r0[i] ^ r2[i] ^ right;
        }
    }
}

/// Adds a right subtree, whose sum is `sum`, to its column, and its left neighbour to the sum.
fn add_subtree(sum: &mut [Bytes], left: &[Bytes], column: &mut [Bytes]) {
    for ((sum, left), column) in sum.iter_mut().zip(left).zip(column) {
        for i in 0..16 {
            column[i] ^= sum[i];
            sum[i] ^= left[i];
        }
    }
}

/// Gives the rows of a matrix of 128 columns, of `columns.len()` / 128 groups each, stripe by stripe: `row(n, tile)`
/// gets the n-th group's rows.
fn for_each_group(columns: &[Bytes], tiles: &mut [Tile; STRIPE], mut rows: impl FnMut(usize, &Tile)) {
    let groups = columns.len() / BASE_OTS;
    for first in (0..groups).step_by(STRIPE) {
        for (c, column) in columns.chunks_exact(groups).enumerate() {
            for (tile, bytes) in tiles.iter_mut().zip(&column[first..]) {
                let word = u128::from_le_bytes(*bytes);
                tile[c] = [word as u64, (word >> 64) as u64];
            }
        }
        for (n, tile) in tiles.iter_mut().enumerate().take(groups - first) {
            transpose(tile);
            rows(first + n, tile);
        }
    }
}

/// A row of a transposed tile as a block.
#[inline]
fn row_block(row: &[u64; 2]) -> Block {
    u128::from(row[0]) | u128::from(row[1]) << 64
}

/// Copies the rows of a tile.
fn copy_rows(tile: &Tile, rows: &mut [Block]) {
    for (to, row) in rows.iter_mut().zip(tile) {
        *to = row_block(row);
    }
}

/// The receiver of the random OTs: was sender of the base OTs, holds all leaves of all trees.
pub struct RotReceiver {
    forest: Forest,
    hasher: Hasher,
}

impl RotReceiver {
    /// Builds the trees over the base OTs' keys and gives the corrections ([`setup_bytes`]) from which the sender
    /// builds its own.
    pub fn setup(context: &Context, depth: Depth, base_keys: base::SenderKeys) -> (Self, Vec<u8>) {
        let expander = Expander::new(context);
        let mut forest = Forest::new(context, depth, 0);
        let mut corrections = Vec::with_capacity(setup_bytes(depth));
        for keys in base_keys.chunks_exact(depth.bits()) {
            forest.add_tree(&full_tree(&expander, keys, &mut corrections));
        }
        (Self { forest, hasher: Hasher::new(context) }, corrections)
    }

    /// Makes the next `count` random OTs (fastest in multiples of 8192): the message to the sender
    /// ([`extension_bytes`]), and this party's choices and keys.
    ///
    /// The message has, for each group of 128 OTs, 16 bytes for each tree but the first. It does not depend on how OTs
    /// are divided among calls.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if `count` is not a multiple of [`GROUP`].
    pub fn extend(&mut self, count: usize) -> Result<(Vec<u8>, RotBatchReceived)> {
        check_count(count)?;
        let mut keys = Zeroizing::new(vec![0; count]);
        let (message, choices) = self.matrix(count, |hasher, tweak, at, rows| {
            let keys = &mut keys[at..][..GROUP];
            copy_rows(rows, keys);
            hasher.hash(tweak, keys);
        });
        Ok((message, RotBatchReceived { choices, keys }))
    }

    /// Makes the next `count` correlated OTs: the message to the sender, as long as for random OTs, and the rows
    /// t = q ⊕ b·Δ for an odd Δ, with the choices b as their lowest bits.
    ///
    /// # Errors
    /// As [`extend`](Self::extend).
    pub fn extend_correlated(&mut self, count: usize) -> Result<(Vec<u8>, SecretVec<Block>)> {
        check_count(count)?;
        let mut rows = Zeroizing::new(vec![0; count]);
        let (message, choices) = self.matrix(count, |_, _, at, tile| copy_rows(tile, &mut rows[at..]));
        for (rows, byte) in rows.chunks_mut(8).zip(choices.iter()) {
            for (row, bit) in rows.iter_mut().zip(0..) {
                *row = *row & !1 | Block::from(byte >> bit & 1);
            }
        }
        Ok((message, rows))
    }

    /// The message, the choices, and for each group the hasher, the tweak and the number in this call of the group's
    /// first OT, and the rows t.
    fn matrix(
        &mut self,
        count: usize,
        mut each: impl FnMut(&mut Hasher, u64, usize, &Tile),
    ) -> (Vec<u8>, SecretVec<u8>) {
        let depth = self.forest.depth;
        let (k, others) = (depth.bits(), depth.trees() - 1);
        let mut message = vec![0; extension_bytes(depth, count)];
        let mut choices = Zeroizing::new(vec![0; count / 8]);
        let mut work = Work::new(depth, count / GROUP);

        let outputs = choices.chunks_mut(16 * CHUNK).zip(message.chunks_mut(16 * CHUNK * others));
        for ((choices, message), chunk) in outputs.zip(0..) {
            let groups = choices.len() / 16;
            let columns = &mut work.columns[..BASE_OTS * groups];
            for (tree, columns) in columns.chunks_exact_mut(k * groups).enumerate() {
                self.forest.fold(tree, columns, &mut work.scratch);
                let total = work.scratch.total();
                for (n, (choices, total)) in choices.chunks_exact_mut(16).zip(total).enumerate() {
                    if tree == 0 {
                        choices.copy_from_slice(total);
                    } else {
                        let place = &mut message[16 * (n * others + tree - 1)..][..16];
                        for ((byte, a), b) in place.iter_mut().zip(choices.iter()).zip(total) {
                            *byte = a ^ b;
                        }
                    }
                }
            }
            let (hasher, first) = (&mut self.hasher, self.forest.group);
            for_each_group(columns, &mut work.tiles, |n, rows| {
                each(hasher, (first + n as u64) * GROUP as u64, (chunk * CHUNK + n) * GROUP, rows);
            });
            self.forest.group += groups as u64;
        }
        (message, choices)
    }
}

/// The sender of the random OTs: was receiver of the base OTs with choices Δ, holds all leaves but one of each tree.
pub struct RotSender {
    forest: Forest,
    hasher: Hasher,
    /// In a box: moves of the sender leave no copies.
    delta: Box<Zeroizing<[u8; BASE_OTS / 8]>>,
}

impl RotSender {
    /// Builds the punctured trees from Δ (bit i is bit i % 8 of byte i / 8), the base OTs' keys for the choices Δ, and
    /// the receiver's corrections.
    ///
    /// # Errors
    /// [`ErrorKind::MalformedMessage`] if there are not [`setup_bytes`] bytes of corrections.
    pub fn setup(
        context: &Context,
        depth: Depth,
        delta: Box<Zeroizing<[u8; BASE_OTS / 8]>>,
        base_keys: base::ReceiverKeys,
        corrections: &[u8],
    ) -> Result<Self> {
        check_length("OT extension setup", setup_bytes(depth), corrections.len())?;
        let k = depth.bits();
        let expander = Expander::new(context);
        let mut forest = Forest::new(context, depth, 1);
        let bits = Zeroizing::new(u128::from_le_bytes(**delta));
        let per_tree = setup_bytes(depth) / depth.trees();
        for (tree, (keys, corrections)) in base_keys.chunks_exact(k).zip(corrections.chunks_exact(per_tree)).enumerate()
        {
            let point = (*bits >> (tree * k)) as u32 & ((1 << k) - 1);
            forest.add_tree(&punctured_tree(&expander, keys, point, corrections));
        }
        Ok(Self { forest, hasher: Hasher::new(context), delta })
    }

    /// Makes the next `count` random OTs from the receiver's message: both keys of each.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] if `count` is not a multiple of [`GROUP`]; [`ErrorKind::MalformedMessage`] if the
    /// message has not [`extension_bytes`] bytes. Neither changes the state.
    pub fn extend(&mut self, count: usize, message: &[u8]) -> Result<SecretVec<[Block; 2]>> {
        self.check(count, message)?;
        let delta = Zeroizing::new(u128::from_le_bytes(**self.delta));
        let mut keys = Zeroizing::new(vec![[0; 2]; count]);
        let mut hashed = Zeroizing::new([0; GROUP]);
        self.matrix(count, message, |hasher, tweak, at, rows| {
            copy_rows(rows, &mut *hashed);
            hasher.hash_pairs(tweak, *delta, &mut *hashed, &mut keys[at..][..GROUP]);
        });
        Ok(keys)
    }

    /// Makes the next `count` correlated OTs from the receiver's message: the rows q, with 0 as their lowest bits.
    ///
    /// # Errors
    /// As [`extend`](Self::extend); [`ErrorKind::InvalidArgument`] also if Δ is even: the rows' lowest bits are the
    /// choices only where Δ's is 1.
    pub fn extend_correlated(&mut self, count: usize, message: &[u8]) -> Result<SecretVec<Block>> {
        self.check(count, message)?;
        if self.delta[0] & 1 == 0 {
            return Err(Error::new(ErrorKind::InvalidArgument, "correlated OTs: expected an odd Δ, got an even one"));
        }
        let mut rows = Zeroizing::new(vec![0; count]);
        self.matrix(count, message, |_, _, at, tile| copy_rows(tile, &mut rows[at..]));
        rows.iter_mut().for_each(|row| *row &= !1);
        Ok(rows)
    }

    fn check(&self, count: usize, message: &[u8]) -> Result<()> {
        check_count(count)?;
        check_length("OT extension", extension_bytes(self.forest.depth, count), message.len())
    }

    /// For each group the hasher, the tweak and the number in this call of the group's first OT, and the rows q.
    fn matrix(&mut self, count: usize, message: &[u8], mut each: impl FnMut(&mut Hasher, u64, usize, &Tile)) {
        let depth = self.forest.depth;
        let (k, others) = (depth.bits(), depth.trees() - 1);
        let delta = Zeroizing::new(u128::from_le_bytes(**self.delta));
        let mut work = Work::new(depth, count / GROUP);

        for (message, chunk) in message.chunks(16 * CHUNK * others).zip(0..) {
            let groups = message.len() / (16 * others);
            let columns = &mut work.columns[..BASE_OTS * groups];
            for (tree, columns) in columns.chunks_exact_mut(k * groups).enumerate() {
                self.forest.fold(tree, columns, &mut work.scratch);
                if tree == 0 {
                    continue;
                }
                for (b, column) in columns.chunks_exact_mut(groups).enumerate() {
                    let mask = super::mask((*delta >> (tree * k + b)) as u32) as u8;
                    for (block, received) in column.iter_mut().zip(message.chunks_exact(16 * others)) {
                        for (byte, received) in block.iter_mut().zip(&received[16 * (tree - 1)..][..16]) {
                            *byte ^= received & mask;
                        }
                    }
                }
            }
            let (hasher, first) = (&mut self.hasher, self.forest.group);
            for_each_group(columns, &mut work.tiles, |n, rows| {
                each(hasher, (first + n as u64) * GROUP as u64, (chunk * CHUNK + n) * GROUP, rows);
            });
            self.forest.group += groups as u64;
        }
    }
}

/// Working memory of one call, no larger than the call needs. Secret, wiped when dropped.
struct Work {
    /// 128 columns of a chunk.
    columns: SecretVec<Bytes>,
    scratch: Scratch,
    tiles: Zeroizing<[Tile; STRIPE]>,
}

impl Work {
    fn new(depth: Depth, groups: usize) -> Self {
        let groups = groups.min(CHUNK);
        Self {
            columns: Zeroizing::new(vec![[0; 16]; BASE_OTS * groups]),
            scratch: Scratch::new(depth, groups),
            tiles: Zeroizing::new([[[0; 2]; 128]; STRIPE]),
        }
    }
}

fn check_count(count: usize) -> Result<()> {
    if !count.is_multiple_of(GROUP) {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("OT extension: expected a multiple of {GROUP} OTs, got {count}"),
        ));
    }
    Ok(())
}

fn check_length(what: &str, expected: usize, got: usize) -> Result<()> {
    if got != expected {
        return Err(Error::new(ErrorKind::MalformedMessage, format!("{what}: expected {expected} bytes, got {got}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::base::{BaseSender, base_receive};
    use super::super::{Direction, test_context, xor_into};
    use super::*;
    use crate::prg::{Prg, Seed};
    use alloc::string::String;
    use sha2::{Digest, Sha256};

    const DEPTHS: [Depth; 3] = [Depth::Two, Depth::Four, Depth::Eight];

    fn prg(n: u8) -> Prg {
        Prg::new(&Seed::from_bytes([n; 32]))
    }

    /// Both parties after a real setup.
    fn pair(depth: Depth, seed: u8) -> (RotReceiver, RotSender) {
        let context = test_context(Direction::ServerReceives);
        let delta = Zeroizing::new(prg(seed).array());
        let (sender, message) = BaseSender::new(&context, &mut prg(seed + 1));
        let (reply, chosen) = base_receive(&context, &delta, &message, &mut prg(seed + 2)).unwrap();
        let (receiver, corrections) = RotReceiver::setup(&context, depth, sender.finish(&reply).unwrap());
        assert_eq!(corrections.len(), setup_bytes(depth));
        (receiver, RotSender::setup(&context, depth, Box::new(delta), chosen, &corrections).unwrap())
    }

    #[test]
    fn the_receiver_gets_the_chosen_key_of_each_ot_and_choices_are_balanced() {
        for depth in DEPTHS {
            let (mut receiver, mut sender) = pair(depth, 1);
            let (mut ones, mut total) = (0, 0);
            let mut seen = Vec::new();
            for count in [128, 0, 512, 128 * CHUNK, 128 * CHUNK + 128, 128 * 77] {
                let (message, got) = receiver.extend(count).unwrap();
                assert_eq!(message.len(), extension_bytes(depth, count));
                let keys = sender.extend(count, &message).unwrap();
                assert_eq!((keys.len(), got.keys.len(), got.choices.len()), (count, count, count / 8));
                for (j, (pair, key)) in keys.iter().zip(got.keys.iter()).enumerate() {
                    let c = got.choice_bits(j, 1) as usize;
                    assert_eq!(*key, pair[c], "{depth:?} {count} {j}");
                    assert_ne!(*key, pair[1 - c], "{depth:?} {count} {j}");
                    ones += c;
                }
                total += count;
                seen.extend(keys.iter().flatten().copied());
            }
            // Six standard deviations.
            let deviation = (ones as f64 - total as f64 / 2.0).abs() / (total as f64 / 4.0).sqrt();
            assert!(deviation < 6.0, "{depth:?} {ones} of {total}");
            seen.sort_unstable();
            seen.dedup();
            assert_eq!(seen.len(), 2 * total);
        }
    }

    #[test]
    fn messages_choices_and_keys_are_the_known_answers() {
        // From tests/known-answers/ot.py, by the naive sums: SHA-256 of corrections, message, choices and keys of 640 OTs.
        let known = [
            (
                Depth::Two,
                [
                    "65b6df0d98e85e3a621ad9c8b916b33633808916963336b9ca550913818de8aa",
                    "37a8574369dc0848e58afe239f4290a93642e11929b97fc852127c1098d0a68f",
                    "6e93316ea56ff3b6e9c884adeafee22cad99d1451257235a3a6e0d1a448a4890",
                    "eb3a1926543a4555789f97fa4cf8e39ee4a8b68d13b399f1c8be8ff2304d830f",
                ],
            ),
            (
                Depth::Four,
                [
                    "4e6f8adc980e14b9cbb22692b62562912395f611593cd777d37e9710157675ee",
                    "3aa38bfea9dd9131c46d57ed2daf5d14f815746305fbe08d8704308f5c5aae15",
                    "4b031fec80ff2b5def3de9905dc6d75140f15026466eacd7d65aacad10511372",
                    "bd7f9e3ab0992160dfc48326b55ecf14a89868ee9971453178c91bbcf4dac817",
                ],
            ),
            (
                Depth::Eight,
                [
                    "95ca4fcede815f0857d9af1b7a10d2bea934f83e687768979e3cd02105d55515",
                    "60ac1fa334eef8651396e436e74f4dbd166bf4f2972520d3b9b415f8774667b6",
                    "d69701e9ffc3f2f82337a792a6c16997387d5e7475ebcc82e8a4f35658b0494e",
                    "110382d54fcdb8350f3825cabd4412f9741e84a6d9f697c5f44258a388491afc",
                ],
            ),
        ];
        let context = test_context(Direction::ServerReceives);
        for (depth, expected) in known {
            let base_keys = core::array::from_fn(|i| [0, 1].map(|b| Block::from_le_bytes([(2 * i + b) as u8; 16])));
            let (mut receiver, corrections) = RotReceiver::setup(&context, depth, Zeroizing::new(base_keys));
            let (message, got) = receiver.extend(640).unwrap();
            let keys: Vec<u8> = got.keys.iter().flat_map(|key| key.to_le_bytes()).collect();
            for (bytes, expected) in [&corrections, &message, &*got.choices, &keys].into_iter().zip(expected) {
                let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
                assert_eq!(hex, expected, "{depth:?}");
            }
        }
    }

    #[test]
    fn how_ots_are_divided_among_calls_changes_nothing() {
        for depth in DEPTHS {
            let (mut whole, mut sender) = pair(depth, 1);
            let (mut parts, _) = pair(depth, 1);
            let (message, got) = whole.extend(1280).unwrap();
            let (mut messages, mut choices, mut keys) = (Vec::new(), Vec::new(), Vec::new());
            for count in [128, 640, 512] {
                let (message, got) = parts.extend(count).unwrap();
                messages.extend_from_slice(&message);
                choices.extend_from_slice(&got.choices);
                keys.extend_from_slice(&got.keys);
            }
            assert_eq!(messages, message);
            assert_eq!((&choices, &keys), (&*got.choices, &*got.keys));
            let cut = extension_bytes(depth, 384);
            let first = sender.extend(384, &message[..cut]).unwrap();
            let second = sender.extend(896, &message[cut..]).unwrap();
            for (j, (pair, key)) in first.iter().chain(second.iter()).zip(&keys).enumerate() {
                assert_eq!(pair[got.choice_bits(j, 1) as usize], *key);
            }
        }
    }

    #[test]
    fn counts_and_messages_of_wrong_length_are_refused_and_change_nothing() {
        for depth in DEPTHS {
            let context = test_context(Direction::ServerReceives);
            for length in [0, setup_bytes(depth) - 1, setup_bytes(depth) + 1] {
                let keys = Zeroizing::new([0; BASE_OTS]);
                let setup =
                    RotSender::setup(&context, depth, Box::new(Zeroizing::new([0; 16])), keys, &vec![0; length]);
                assert_eq!(setup.err().unwrap().kind(), ErrorKind::MalformedMessage);
            }
            let (mut receiver, mut sender) = pair(depth, 1);
            assert_eq!(receiver.extend(100).err().unwrap().kind(), ErrorKind::InvalidArgument);
            let (message, got) = receiver.extend(256).unwrap();
            assert_eq!(sender.extend(100, &message).err().unwrap().kind(), ErrorKind::InvalidArgument);
            for length in [0, message.len() - 1, message.len() + 1] {
                let mut message = message.clone();
                message.resize(length, 0);
                assert_eq!(sender.extend(256, &message).err().unwrap().kind(), ErrorKind::MalformedMessage);
            }
            let keys = sender.extend(256, &message).unwrap();
            assert_eq!(keys[255][got.choice_bits(255, 1) as usize], got.keys[255]);
        }
        for k in [0, 1, 3, 5, 16, 128] {
            assert!(Depth::new(k).is_err());
        }
    }

    #[test]
    fn columns_are_the_naive_weighted_sums() {
        for depth in DEPTHS {
            let context = test_context(Direction::ServerReceives);
            let (k, groups) = (depth.bits(), 3);
            for first in [0, 1] {
                let mut forest = Forest::new(&context, depth, first);
                let mut random = prg(9);
                for _ in 0..2 {
                    forest.add_tree(&(0..1 << k).map(|_| Block::from_le_bytes(random.array())).collect::<Vec<_>>());
                }
                forest.group = 40;
                let mut columns = vec![[0xaa; 16]; k * groups];
                let mut scratch = Scratch::new(depth, groups + 2);
                forest.fold(1, &mut columns, &mut scratch);
                let mut counters = vec![[0; 16]; groups];
                forest.count(&mut counters);
                let mut expected = vec![[0; 16]; k * groups];
                let mut total = vec![[0; 16]; groups];
                for x in first..1 << k {
                    let mut lane = vec![[0; 16]; groups];
                    forest.leaves[(1 << k) + x].expand(&counters, &mut lane);
                    xor_into(&mut total, &lane);
                    for b in 0..k {
                        if x >> b & 1 == 1 {
                            xor_into(&mut expected[b * groups..][..groups], &lane);
                        }
                    }
                }
                assert_eq!(columns, expected);
                assert_eq!(scratch.total()[..groups], total);
            }
        }
    }

    #[test]
    fn rows_are_those_of_the_bit_matrix() {
        for groups in [1, 4, 6] {
            let mut random = prg(11);
            let columns: Vec<Bytes> = (0..BASE_OTS * groups).map(|_| random.array()).collect();
            let mut visited = 0;
            for_each_group(&columns, &mut [[[0; 2]; 128]; STRIPE], |n, rows| {
                assert_eq!(n, visited);
                visited += 1;
                for (j, row) in rows.iter().enumerate() {
                    for c in 0..BASE_OTS {
                        let expected = columns[c * groups + n][j / 8] >> (j % 8) & 1;
                        assert_eq!((row_block(row) >> c & 1) as u8, expected);
                    }
                }
            });
            assert_eq!(visited, groups);
        }
    }

    #[test]
    fn choice_bits_reads_across_bytes_and_past_the_end() {
        let batch = RotBatchReceived {
            choices: Zeroizing::new(vec![0x12, 0x34, 0x56, 0x78, 0x9a, 0xbc]),
            keys: Zeroizing::new(Vec::new()),
        };
        assert_eq!(batch.choice_bits(0, 8), 0x12);
        assert_eq!(batch.choice_bits(4, 12), 0x341);
        assert_eq!(batch.choice_bits(7, 32), ((0xbc9a_7856_3412u64 >> 7) & 0xffff_ffff) as u32);
        assert_eq!(batch.choice_bits(44, 32), 0xb);
        assert_eq!(batch.choice_bits(1000, 32), 0);
    }
}
