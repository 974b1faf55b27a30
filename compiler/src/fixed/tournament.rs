//! Class outputs: a tournament of maxima over scores that carry their class in their low bits.

use crate::error::{Error, Result};
use safenet_core::model::{Channels, Max, ModelFile, Node, NodeSecret, Op, Output, Sum, TensorId, limits};

/// Bits of a class index.
fn index_bits(classes: u32) -> u8 {
    (32 - classes.saturating_sub(1).leading_zeros()) as u8
}

/// The most bits that scores of so many classes may be made for; none if they cannot be compared. One more is left for scores
/// beyond the calibrated range.
pub(super) fn most_width(classes: u32) -> Option<u8> {
    let bits = index_bits(classes);
    (1..=16).contains(&bits).then(|| limits::RELU_WIDTH - bits - 2)
}

/// Appends the tournament to a model whose last node gives scores: the client learns the largest score's channel alone; of
/// equal ones, the last.
pub(super) fn append(model: &mut ModelFile) -> Result<()> {
    let Some(Op::Activation(last)) = model.architecture.nodes.last().map(|node| &node.op) else {
        return Err(Error::Network("expected scores to compare, got another kind of output".into()));
    };
    let classes = last.channels.len() as u32;
    let index_bits = index_bits(classes);
    let width = last.channels.iter().map(|c| c.width()).max().unwrap_or_default();
    // Differences have one bit more than the values.
    let compared = width + index_bits + 1;
    if compared > limits::RELU_WIDTH || !(1..=16).contains(&index_bits) {
        return Err(Error::Network(format!(
            "expected scores and class indices of at most {} bits together, got {width} and {index_bits}",
            limits::RELU_WIDTH - 1
        )));
    }
    let mut bracket = Bracket { model, tensor: 0 };
    bracket.tensor = bracket.model.architecture.nodes.len() as TensorId;
    bracket.push(
        "class.indices",
        vec![bracket.tensor],
        Op::Sum(Sum { multipliers: vec![vec![1 << index_bits; classes as usize]] }),
        NodeSecret::Sum((0..classes as i32).collect()),
    );
    let mut left = classes;
    let mut round = 1;
    while left > 1 {
        let field = bracket.tensor;
        let half = left / 2;
        let mut take = |name: &str, first, count| {
            let op = Op::Channels(Channels { first, count });
            bracket.push(&format!("class.round{round}.{name}"), vec![field], op, NodeSecret::None)
        };
        let pair = vec![take("first", 0, half), take("second", half, half)];
        let bye = (left % 2 == 1).then(|| take("bye", 2 * half, 1));
        let winners =
            bracket.push(&format!("class.round{round}"), pair, Op::Max(Max { width: compared }), NodeSecret::None);
        if let Some(bye) = bye {
            bracket.push(&format!("class.round{round}.all"), vec![winners, bye], Op::Concat, NodeSecret::None);
        }
        left = half + left % 2;
        round += 1;
    }
    model.architecture.output = Output::Class { index_bits };
    Ok(())
}

struct Bracket<'a> {
    model: &'a mut ModelFile,
    tensor: TensorId,
}

impl Bracket<'_> {
    /// Appends a node; returns its output.
    fn push(&mut self, name: &str, inputs: Vec<TensorId>, op: Op, secret: NodeSecret) -> TensorId {
        self.model.architecture.nodes.push(Node { name: name.into(), inputs, op });
        if let Some(parameters) = &mut self.model.parameters {
            parameters.nodes.push(secret);
        }
        self.tensor = self.model.architecture.nodes.len() as TensorId;
        self.tensor
    }
}
