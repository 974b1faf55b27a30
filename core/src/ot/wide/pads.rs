//! From rows to the pads of tables.
//!
//! The key of entry i is H(q ⊕ D(i)), H(x) = π(x) ⊕ x with π AES-128 under a public key, the Matyas-Meyer-Oseas
//! construction, which is correlation robust for π an ideal permutation (Guo, Katz, Wang and Yu, IEEE S&P 2020, section 7.2):
//! to one who knows uniform rows t the values H(t ⊕ D(j)) for j ≠ 0 are uniform, D(j) being so. No tweak is needed, as rows
//! are uniform and not of anyone's choice. An attack that evaluates π p times against q hashes under one key succeeds with
//! probability in the order of p·q / 2^128, so each group of 128 rows has a key of its own: q is at most 2^12.
//!
//! With the other suite H is a half of ChaCha20's output under the key x and public words of the session's own, at the row's number.
//!
//! Of the 128 bits of a key a table of bits takes four at most: with the key as four words of 32 bits, plane p of entry i is
//! bit i of word p. So a table's pads lie in words as the table itself does. A table of words takes word 0 of each key, and
//! may have a plane of bits from word 1 beside it.

use super::super::softspoken::GROUP;
use super::super::{Block, Bytes, Context, Label, Suite, encrypt_into_with, first_half};
use super::INDEX_BITS;
use crate::prg::SecretVec;
use crate::simd::aes::Aes128Enc;
use crate::simd::chacha::Binding;
use aes::cipher::common::BlockSizeUser;
use aes::cipher::consts::U16;
use aes::cipher::{BlockCipherEncBackend, BlockCipherEncClosure, BlockCipherEncrypt, KeyInit};
use alloc::vec;
use core::array::from_fn;
use core::ops::Range;
use zeroize::Zeroizing;

/// Where wide OTs come from: each source numbers its own.
#[derive(Clone, Copy)]
pub(in crate::ot) enum Source {
    SoftSpoken,
    /// The silent extension with the set of this number.
    Silent(u8),
}

/// What keys the hash of one source, known to both parties.
#[derive(Clone)]
pub(in crate::ot) enum Keys {
    /// The AES key of the groups' AES keys.
    Aes(Aes128Enc),
    ChaCha(Binding),
}

impl Keys {
    pub(in crate::ot) fn new(context: &Context, source: Source) -> Self {
        let id = match source {
            Source::SoftSpoken => 0,
            Source::Silent(set) => set,
        };
        let digest = context.digest(Label::WideHash, &[&[id]]);
        match context.suite {
            Suite::Aes => Self::Aes(Aes128Enc::new(&first_half(&digest).into())),
            Suite::ChaCha => Self::ChaCha(Binding::new(&digest)),
        }
    }
}

/// The cipher of a group: under the key that the group's number encrypts to.
fn group_cipher(keys: &Aes128Enc, number: u64) -> Aes128Enc {
    let mut key = u128::from(number).to_le_bytes().into();
    keys.encrypt_block(&mut key);
    Aes128Enc::new(&key)
}

/// The parts of a run of rows that lie in one group each, with the groups' numbers; `first` is the number of row 0.
fn by_group(first: u64, run: Range<usize>) -> impl Iterator<Item = (u64, Range<usize>)> {
    debug_assert!(first.is_multiple_of(GROUP as u64));
    let groups = run.start / GROUP..run.end.div_ceil(GROUP);
    groups.map(move |n| (first / GROUP as u64 + n as u64, run.start.max(n * GROUP)..run.end.min((n + 1) * GROUP)))
}

/// What the sender holds of some wide OTs.
pub struct Sent {
    keys: Keys,
    /// D.
    offsets: SecretVec<Block>,
    /// The number of the first row, a multiple of [`GROUP`].
    first: u64,
    rows: SecretVec<Block>,
}

impl Sent {
    pub(in crate::ot) fn new(keys: Keys, offsets: SecretVec<Block>, first: u64, rows: SecretVec<Block>) -> Self {
        debug_assert!(offsets.len() == 1 << INDEX_BITS);
        Self { keys, offsets, first, rows }
    }

    #[cfg(test)]
    pub(in crate::ot) fn len(&self) -> usize {
        self.rows.len()
    }

    /// D.
    #[cfg(test)]
    pub(in crate::ot) fn offsets(&self) -> &SecretVec<Block> {
        &self.offsets
    }

    /// The rows q.
    pub(in crate::ot) fn into_rows(self) -> SecretVec<Block> {
        self.rows
    }

    /// Goes on with tables of 2^`bits` entries, given the receiver's upper index bits, one word for each row of the run.
    pub fn narrow(&mut self, run: Range<usize>, bits: u32, upper: &[u32]) {
        for (row, &upper) in self.rows[run].iter_mut().zip(upper) {
            // What the receiver told is public.
            *row ^= self.offsets[(upper << bits) as usize & ((1 << INDEX_BITS) - 1)];
        }
    }

    /// The pads of tables of 2^`bits` entries, one for each row of the run: bit i of an element of plane p is the pad of
    /// entry i. There are at most four planes.
    pub fn planes(&self, run: Range<usize>, bits: u32, planes: &mut [&mut [u32]]) {
        self.hash(run, bits, &mut Planes { sums: Zeroizing::new([[0; 32]; CHUNK]), last: (1 << bits) - 1, planes });
    }

    /// The pads of tables of 2^`bits` words and of a plane of bits beside them: `words[i]` gets those of entry i.
    pub fn words(&self, run: Range<usize>, bits: u32, words: &mut [&mut [u32]], plane: &mut [u32]) {
        plane.fill(0);
        self.hash(run, bits, &mut Words { words, plane });
    }

    /// Hashes all rows of the run with the first 2^`bits` offsets.
    fn hash(&self, run: Range<usize>, bits: u32, sink: &mut impl Sink) {
        let keys = match &self.keys {
            Keys::Aes(keys) => keys,
            Keys::ChaCha(binding) => return self.hash_with_chacha(binding, run, bits, sink),
        };
        let mut rows = Zeroizing::new([[[0; 32]; CHUNK]; GROUP / ROWS]);
        let start = run.start;
        for (group, part) in by_group(self.first, run) {
            let rows = &mut rows[..part.len().div_ceil(ROWS)];
            let places = rows.as_flattened_mut().as_flattened_mut().as_chunks_mut().0;
            places.iter_mut().zip(&self.rows[part.clone()]).for_each(|(row, own)| *row = own.to_le_bytes());
            let place = part.start - start..part.end - start;
            let entries = Entries { rows, offsets: &self.offsets[..1 << bits], place, sink };
            group_cipher(keys, group).encrypt_with_backend(entries);
        }
    }

    /// The same with ChaCha: as many rows together as have 32 entries.
    fn hash_with_chacha(&self, binding: &Binding, run: Range<usize>, bits: u32, sink: &mut impl Sink) {
        let mut keys = Zeroizing::new([0; 1 << INDEX_BITS]);
        let offsets = &self.offsets[..1 << bits];
        let (mut number, mut place) = (self.first + run.start as u64, 0);
        for rows in self.rows[run].chunks(keys.len() >> bits) {
            let keys = &mut keys[..rows.len() << bits];
            for (keys, row) in keys.chunks_exact_mut(offsets.len()).zip(rows) {
                keys.iter_mut().zip(offsets).for_each(|(key, offset)| *key = row ^ offset);
            }
            binding.hash(number, bits, keys);
            for keys in keys.chunks_exact(offsets.len()) {
                sink.take_row(place, keys);
                place += 1;
            }
            number += rows.len() as u64;
        }
    }
}

/// Two rows or keys, which fill a vector.
type Pair = [u8; 32];

/// Pairs that go through all entries together: as many as the widest back end encrypts side by side, so that between two
/// steps they are in registers or in the nearest cache.
const CHUNK: usize = 8;

/// Rows of a chunk.
const ROWS: usize = 2 * CHUNK;

type Chunk = [Pair; CHUNK];

/// A pair of one block, as words.
#[inline(always)]
fn twice(block: Block) -> [u64; 4] {
    let (low, high) = (block as u64, (block >> 64) as u64);
    [low, high, low, high]
}

// Words, whose sums compilers turn into vector instructions.

#[inline(always)]
fn load(pair: &Pair) -> [u64; 4] {
    let (words, _) = pair.as_chunks();
    from_fn(|w| u64::from_le_bytes(words[w]))
}

#[inline(always)]
fn store(words: [u64; 4]) -> Pair {
    let mut pair = [0; 32];
    pair.as_chunks_mut().0.iter_mut().zip(words).for_each(|(bytes, word)| *bytes = word.to_le_bytes());
    pair
}

/// A word of a key.
#[inline(always)]
fn word_of(key: &Bytes, word: usize) -> u32 {
    let (words, _) = key.as_chunks();
    u32::from_le_bytes(words[word])
}

/// Where hashes go. Methods are inlined into the loop over rows, so that they are compiled for its instruction set.
trait Sink {
    /// Takes x and π(x) of some rows, of which `place` says which of the run they are, for an entry. Entries come in their
    /// order, all for the same rows before the next rows. What is beyond the place only fills up the chunk.
    fn take(&mut self, place: Range<usize>, entry: usize, inputs: &Chunk, images: &Chunk);

    /// Takes the keys of all entries of the run's row number `place`.
    fn take_row(&mut self, place: usize, keys: &[Block]);
}

/// A word of a block.
#[inline(always)]
fn word(key: Block, word: usize) -> u32 {
    (key >> (32 * word)) as u32
}

/// Bit i of a word of key i, for all.
#[inline(always)]
fn gather(keys: &[Block], of: usize) -> u32 {
    keys.iter().zip(0..).fold(0, |bits, (&key, entry)| bits | word(key, of) & 1 << entry)
}

/// Tables of bits.
struct Planes<'a, 'b> {
    sums: Zeroizing<Chunk>,
    /// The last entry.
    last: usize,
    planes: &'a mut [&'b mut [u32]],
}

impl Sink for Planes<'_, '_> {
    #[inline(always)]
    fn take(&mut self, place: Range<usize>, entry: usize, inputs: &Chunk, images: &Chunk) {
        let mask = twice(u128::from(1u32 << entry) * 0x0000_0001_0000_0001_0000_0001_0000_0001);
        let keep = if entry == 0 { 0 } else { u64::MAX };
        for (sum, (input, image)) in self.sums.iter_mut().zip(inputs.iter().zip(images)) {
            let (input, image, old) = (load(input), load(image), load(sum));
            *sum = store(from_fn(|w| (old[w] & keep) ^ ((input[w] ^ image[w]) & mask[w])));
        }
        if entry == self.last {
            for (plane, word) in self.planes.iter_mut().zip(0..) {
                let pads = plane[place.clone()].iter_mut();
                pads.zip(self.sums.as_flattened().as_chunks().0).for_each(|(pad, sum)| *pad = word_of(sum, word));
            }
        }
    }

    fn take_row(&mut self, place: usize, keys: &[Block]) {
        self.planes.iter_mut().zip(0..).for_each(|(plane, word)| plane[place] = gather(keys, word));
    }
}

/// Tables of words, and of bits beside them.
struct Words<'a, 'b> {
    words: &'a mut [&'b mut [u32]],
    plane: &'a mut [u32],
}

impl Sink for Words<'_, '_> {
    #[inline(always)]
    fn take(&mut self, place: Range<usize>, entry: usize, inputs: &Chunk, images: &Chunk) {
        let pads = self.words[entry][place.clone()].iter_mut().zip(&mut self.plane[place]);
        let [inputs, images] = [inputs, images].map(|pairs| pairs.as_flattened().as_chunks().0);
        for ((word, plane), (input, image)) in pads.zip(inputs.iter().zip(images)) {
            *word = word_of(input, 0) ^ word_of(image, 0);
            *plane |= (word_of(input, 1) ^ word_of(image, 1)) & 1 << entry;
        }
    }

    fn take_row(&mut self, place: usize, keys: &[Block]) {
        self.words.iter_mut().zip(keys).for_each(|(words, &key)| words[place] = word(key, 0));
        self.plane[place] = gather(keys, 1);
    }
}

/// All keys of a part of a group, as a closure of the cipher's back end.
struct Entries<'a, S> {
    rows: &'a [Chunk],
    offsets: &'a [Block],
    /// Of the rows, of which the last chunk may be too long for it.
    place: Range<usize>,
    sink: &'a mut S,
}

impl<S> BlockSizeUser for Entries<'_, S> {
    type BlockSize = U16;
}

impl<S: Sink> BlockCipherEncClosure for Entries<'_, S> {
    #[inline(always)]
    fn call<B: BlockCipherEncBackend<BlockSize = U16>>(self, backend: &B) {
        let [mut inputs, mut images] = [(); 2].map(|()| Zeroizing::new([[0; 32]; CHUNK]));
        for (rows, start) in self.rows.iter().zip(self.place.clone().step_by(ROWS)) {
            let place = start..self.place.end.min(start + ROWS);
            for (entry, offset) in self.offsets.iter().enumerate() {
                let offset = twice(*offset);
                for (input, row) in inputs.iter_mut().zip(rows) {
                    let row = load(row);
                    *input = store(from_fn(|w| row[w] ^ offset[w]));
                }
                let blocks = images.as_flattened_mut().as_chunks_mut().0;
                encrypt_into_with(backend, inputs.as_flattened().as_chunks().0, blocks);
                self.sink.take(place.clone(), entry, &inputs, &images);
            }
        }
    }
}

/// What the receiver holds of some wide OTs.
pub struct Received {
    keys: Keys,
    first: u64,
    rows: SecretVec<Block>,
    /// Of 5 bits each.
    indices: SecretVec<u8>,
}

impl Received {
    pub(in crate::ot) fn new(keys: Keys, first: u64, rows: SecretVec<Block>, indices: SecretVec<u8>) -> Self {
        debug_assert!(rows.len() == indices.len());
        Self { keys, first, rows, indices }
    }

    /// The rows t and the indices.
    pub(in crate::ot) fn into_rows(self) -> (SecretVec<Block>, SecretVec<u8>) {
        (self.rows, self.indices)
    }

    /// The indices, of 5 bits each.
    pub fn indices(&self) -> &[u8] {
        &self.indices
    }

    /// The words of the chosen keys, one for each row of the run: element n of plane p is word p. There are at most four.
    pub fn words(&self, run: Range<usize>, planes: &mut [&mut [u32]]) {
        let start = run.start;
        let keys = match &self.keys {
            Keys::Aes(keys) => keys,
            Keys::ChaCha(binding) => {
                let mut hashed = Zeroizing::new(self.rows[run].to_vec());
                binding.hash(self.first + start as u64, 0, &mut hashed);
                for (plane, word) in planes.iter_mut().zip(0..) {
                    plane.iter_mut().zip(hashed.iter()).for_each(|(pad, &key)| *pad = self::word(key, word));
                }
                return;
            }
        };
        let mut images = Zeroizing::new(vec![[0; 16]; GROUP.min(run.len())]);
        for (group, part) in by_group(self.first, run) {
            let images = &mut images[..part.len()];
            images.iter_mut().zip(&self.rows[part.clone()]).for_each(|(image, row)| *image = row.to_le_bytes());
            super::super::encrypt(&group_cipher(keys, group), images);
            for (plane, word) in planes.iter_mut().zip(0..) {
                let pads = plane[part.start - start..part.end - start].iter_mut();
                for (pad, (image, row)) in pads.zip(images.iter().zip(&self.rows[part.clone()])) {
                    *pad = word_of(image, word) ^ word_of(&row.to_le_bytes(), word);
                }
            }
        }
    }
}
