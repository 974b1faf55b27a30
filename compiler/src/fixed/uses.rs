//! What becomes of each tensor further on.

use crate::network::{Network, Op};

/// What becomes of a tensor, by way of local operators.
#[derive(Clone, Copy, Debug)]
pub(super) struct Uses {
    /// All that reads it are linear layers, and no sums on the way: their weights take up any scale and sign.
    pub(super) linear: bool,
    /// It meets, in some sum, other tensors whose scales are given, or becomes what does: its scale must be a power of two, so
    /// that there are common multiples.
    pub(super) aligned: bool,
    /// A maximum reads it.
    pub(super) compared: bool,
    /// All that reads it are sums: they can multiply it by public numbers.
    pub(super) summed: bool,
}

/// The uses of every tensor. `known` tells which tensors' scales are given by activations or by the input.
pub(super) fn uses(network: &Network, known: &[bool]) -> Vec<Uses> {
    let unread = Uses { linear: true, aligned: false, compared: false, summed: true };
    let mut all = vec![unread; network.layers.len() + 1];
    for (index, layer) in network.layers.iter().enumerate().rev() {
        let own = all[index + 1];
        let given = layer.inputs.iter().filter(|&&t| known[t]).count();
        for &input in &layer.inputs {
            let here = match &layer.op {
                Op::Linear(_) => Uses { summed: false, ..unread },
                // Its results are multiples of what it reads.
                Op::Activation(_) => Uses { linear: false, aligned: own.aligned, compared: false, summed: false },
                Op::Max => Uses { linear: false, compared: true, summed: false, ..own },
                Op::Sum { .. } => {
                    let meets = known[input] && given > 1;
                    Uses { linear: false, aligned: own.aligned || meets, summed: true, ..own }
                }
                _ => own,
            };
            let uses = &mut all[input];
            uses.linear &= here.linear;
            uses.aligned |= here.aligned;
            uses.compared |= here.compared;
            uses.summed &= here.summed;
        }
    }
    all
}
