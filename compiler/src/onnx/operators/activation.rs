//! Activations.

use super::super::attributes::{finite, real};
use super::super::{constant, function};
use super::{Call, Computed, Fault, Outputs};
use crate::network::{Function, Op, Piecewise};

pub(super) fn relu(call: &mut Call<'_>) -> Outputs {
    let x = call.computed(0)?;
    call.map(Op::Activation(vec![Function::Relu; x.shape.channels as usize]), &x)
}

/// min(max(X, low), high); the ends are attributes up to operator set 10, then inputs.
pub(super) fn clip(call: &mut Call<'_>) -> Outputs {
    let x = call.computed(0)?;
    let end = |i: usize, name: &str, none: f64| -> Result<f64, Fault> {
        match call.optional(i, name)? {
            None => Ok(real(call.node, name, none)?),
            Some(tensor) => match constant::unbounded(tensor).map_err(|e| format!("{name}: {e}"))?[..] {
                [end] => Ok(end),
                ref ends => Err(format!("{name}: expected one number, got {}", ends.len()).into()),
            },
        }
    };
    let (low, high) = (end(1, "min", f64::NEG_INFINITY)?, end(2, "max", f64::INFINITY)?);
    let channels = x.shape.channels as usize;
    clipped(call, x, vec![low; channels], vec![high; channels])
}

/// max(X, c) for a constant.
pub(super) fn maximum(call: &mut Call<'_>) -> Outputs {
    let (x, low) = against_constant(call)?;
    let high = vec![f64::INFINITY; low.len()];
    clipped(call, x, low, high)
}

/// min(X, c) for a constant.
pub(super) fn minimum(call: &mut Call<'_>) -> Outputs {
    let (x, high) = against_constant(call)?;
    let low = vec![f64::NEG_INFINITY; high.len()];
    clipped(call, x, low, high)
}

fn against_constant(call: &mut Call<'_>) -> Result<(Computed, Vec<f64>), Fault> {
    let computed = usize::from(call.computed(0).is_err());
    if call.inputs.len() != 2 {
        return Err(format!("expected a computed value and a constant, got {} inputs", call.inputs.len()).into());
    }
    let x = call.computed(computed)?;
    call.per_channel(x, 1 - computed, "constant")
}

/// Ends beyond every value a network can have, which exporters write for none, are infinite.
fn clipped(call: &mut Call<'_>, x: Computed, low: Vec<f64>, high: Vec<f64>) -> Outputs {
    let mut ends = Vec::with_capacity(low.len());
    for (low, high) in low.into_iter().zip(high) {
        let low = if low < -constant::LARGEST { f64::NEG_INFINITY } else { low };
        let high = if high > constant::LARGEST { f64::INFINITY } else { high };
        if !(low <= high && low < constant::LARGEST && high > -constant::LARGEST) {
            return Err(format!("expected a smallest value that is below the largest, got {low} and {high}").into());
        }
        ends.push(Piecewise::Clip { low, high });
    }
    if ends.iter().all(|&end| end == (Piecewise::Clip { low: f64::NEG_INFINITY, high: f64::INFINITY })) {
        return Ok(vec![x]);
    }
    if ends.iter().all(|&end| end == (Piecewise::Clip { low: 0.0, high: f64::INFINITY })) {
        return call.map(Op::Activation(vec![Function::Relu; ends.len()]), &x);
    }
    call.map(Op::Piecewise(ends), &x)
}

pub(super) fn leaky_relu(call: &mut Call<'_>) -> Outputs {
    let x = call.computed(0)?;
    let slope = finite(call.node, "alpha", 0.01)?;
    let channels = x.shape.channels as usize;
    leaky(call, &x, vec![slope; channels])
}

/// X where it is positive, slope · X elsewhere, with a constant slope per channel.
pub(super) fn parametric_relu(call: &mut Call<'_>) -> Outputs {
    let x = call.computed(0)?;
    let (x, slopes) = call.per_channel(x, 1, "slope")?;
    leaky(call, &x, slopes)
}

/// |X| is a leaky ReLU of slope −1.
pub(super) fn absolute(call: &mut Call<'_>) -> Outputs {
    let x = call.computed(0)?;
    leaky(call, &x, vec![-1.0; x.shape.channels as usize])
}

fn leaky(call: &mut Call<'_>, x: &Computed, slopes: Vec<f64>) -> Outputs {
    if slopes.iter().all(|&slope| slope == 0.0) {
        return call.map(Op::Activation(vec![Function::Relu; slopes.len()]), x);
    }
    call.map(Op::Piecewise(slopes.into_iter().map(|slope| Piecewise::Leaky { slope }).collect()), x)
}

pub(super) fn hard_sigmoid(call: &mut Call<'_>) -> Outputs {
    let x = call.computed(0)?;
    let (alpha, beta) = (finite(call.node, "alpha", 0.2)?, finite(call.node, "beta", 0.5)?);
    call.map(Op::Piecewise(vec![Piecewise::HardSigmoid { alpha, beta }; x.shape.channels as usize]), &x)
}

pub(super) fn hard_swish(call: &mut Call<'_>) -> Outputs {
    let x = call.computed(0)?;
    call.map(Op::Piecewise(vec![Piecewise::HardSwish; x.shape.channels as usize]), &x)
}

/// The planned activation; see [`function`].
pub(super) fn channel_activation(call: &mut Call<'_>) -> Outputs {
    if call.inputs.len() != function::INPUTS {
        return Err(format!("expected the inputs X, degree, c0, c1, c2, c3, got {} inputs", call.inputs.len()).into());
    }
    let x = call.computed(0)?;
    let x = call.settled(x)?;
    let degrees = constant::integers(call.constant(1, "degree")?)
        .and_then(|constant| x.per_channel(constant))
        .map_err(|e| format!("degree: {e}"))?;
    let mut c = Vec::with_capacity(4);
    for (i, name) in ["c0", "c1", "c2", "c3"].into_iter().enumerate() {
        c.push(x.per_channel(call.reals(i + 2, name)?).map_err(|e| format!("{name}: {e}"))?);
    }
    let mut functions = Vec::with_capacity(degrees.len());
    for (channel, &degree) in degrees.iter().enumerate() {
        let c = [c[0][channel], c[1][channel], c[2][channel], c[3][channel]];
        functions.push(planned(degree, c).map_err(|e| format!("channel {channel}: {e}"))?);
    }
    call.map(Op::Activation(functions), &x)
}

fn planned(degree: i64, c: [f64; 4]) -> Result<Function, String> {
    match degree {
        ..0 => Ok(Function::Relu),
        0..=3 if c.iter().skip(degree as usize + 1).all(|&c| c == 0.0) => {
            Ok(Function::Polynomial { degree: degree as u8, c })
        }
        0..=3 => Err(format!("expected coefficients of 0 above degree {degree}, got {c:?}")),
        _ => Err(format!("expected a degree of -1 (ReLU) to 3, got {degree}")),
    }
}
