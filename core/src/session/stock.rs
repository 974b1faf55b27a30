//! What is made in bulk and used bit by bit: a party's shares of products in F_p.

use crate::prg::SecretVec;
use alloc::vec::Vec;
use zeroize::Zeroize;

/// Values in the order in which they will be used. Wiped when dropped.
pub(super) struct Stock<T: Zeroize> {
    values: SecretVec<T>,
    used: usize,
}

impl<T: Copy + Default + Zeroize> Stock<T> {
    pub(super) fn new() -> Self {
        Self { values: SecretVec::new(Vec::new()), used: 0 }
    }

    /// Room for so many more, zeros, to be written. Of a buffer that has to grow, the old one is wiped.
    pub(super) fn add(&mut self, count: usize) -> &mut [T] {
        let left = self.values.len() - self.used;
        let mut values = SecretVec::new(Vec::with_capacity(left + count));
        values.extend_from_slice(&self.values[self.used..]);
        values.resize(left + count, T::default());
        (self.values, self.used) = (values, 0);
        &mut self.values[left..]
    }

    /// The next values; all that are left, if they are fewer.
    pub(super) fn take(&mut self, count: usize) -> &[T] {
        let start = self.used;
        self.used = self.values.len().min(start + count);
        &self.values[start..self.used]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_come_in_order_across_additions() {
        let mut stock = Stock::<u64>::new();
        assert!(stock.take(0).is_empty() && stock.take(3).is_empty());
        stock.add(3).copy_from_slice(&[1, 2, 3]);
        assert_eq!(stock.take(2), [1, 2]);
        stock.add(2).copy_from_slice(&[4, 5]);
        assert_eq!(stock.take(2), [3, 4]);
        assert_eq!(stock.take(2), [5]);
    }
}
