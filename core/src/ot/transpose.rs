//! Transposition of 128 × 128 bit matrices.

/// 128 rows of 128 bits: bit c of row r is bit c % 64 of word c / 64.
pub(super) type Tile = [[u64; 2]; 128];

/// Transposes in place: bit c of row r becomes bit r of row c.
///
/// The classical recursion (Warren, *Hacker's Delight*, section 7-3): swap the two off-diagonal quarters, then the
/// off-diagonal quarters of each quarter, and so on.
pub(super) fn transpose(tile: &mut Tile) {
    let (top, bottom) = tile.split_at_mut(64);
    for (a, b) in top.iter_mut().zip(bottom) {
        core::mem::swap(&mut a[1], &mut b[0]);
    }
    step::<32>(tile, 0x0000_0000_ffff_ffff);
    step::<16>(tile, 0x0000_ffff_0000_ffff);
    step::<8>(tile, 0x00ff_00ff_00ff_00ff);
    step::<4>(tile, 0x0f0f_0f0f_0f0f_0f0f);
    step::<2>(tile, 0x3333_3333_3333_3333);
    step::<1>(tile, 0x5555_5555_5555_5555);
}

/// Swaps, in each block of 2S × 2S bits, the upper right quarter with the lower left one. `low` has the columns of the
/// left halves.
#[inline]
fn step<const S: usize>(tile: &mut Tile, low: u64) {
    for rows in tile.chunks_exact_mut(2 * S) {
        let (upper, lower) = rows.split_at_mut(S);
        for (a, b) in upper.iter_mut().zip(lower) {
            for (a, b) in a.iter_mut().zip(b) {
                let differ = ((*a >> S) ^ *b) & low;
                *b ^= differ;
                *a ^= differ << S;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prg::{Prg, Seed};

    #[test]
    fn agrees_with_moving_each_bit() {
        let mut prg = Prg::new(&Seed::from_bytes([4; 32]));
        let bit = |tile: &Tile, row: usize, column: usize| tile[row][column / 64] >> (column % 64) & 1;
        for _ in 0..20 {
            let mut tile: Tile = [[0; 2]; 128];
            tile.iter_mut().flatten().for_each(|word| *word = prg.next_u64());
            let before = tile;
            transpose(&mut tile);
            for row in 0..128 {
                for column in 0..128 {
                    assert_eq!(bit(&tile, row, column), bit(&before, column, row));
                }
            }
            transpose(&mut tile);
            assert_eq!(tile, before);
        }
    }
}
