//! Functions at the very end of a network, which the client applies to the scores by itself.

use super::super::attributes::integer;
use super::super::label;
use super::shape::axis;
use super::{Call, Computed, Outputs};

/// Softmax, LogSoftmax, Sigmoid.
pub(super) fn scores(call: &mut Call<'_>) -> Outputs {
    let x = call.computed(0)?;
    let note = format!(
        "{} ({}) is left to the client: the model's answer is what it reads",
        label(call.node),
        call.node.op_type
    );
    call.builder.note(note);
    Ok(vec![Computed { left_to_client: Some(call.index), ..x }])
}

/// ArgMax over the scores.
pub(super) fn class(call: &mut Call<'_>) -> Outputs {
    let x = call.computed(0)?;
    let axis = axis(integer(call.node, "axis", 0)?, x.dims.len())?;
    let note =
        format!("{} (ArgMax) is left to the client: the model's answer is the scores it reads", label(call.node));
    call.builder.note(note);
    if u64::from(x.dims[axis]) == x.shape.elements() as u64 {
        call.builder.network.class_output = true;
    }
    Ok(vec![Computed { left_to_client: Some(call.index), ..x }])
}
