//! Sums of computed values, and arithmetic with constants.

use super::super::value::Value;
use super::{Call, Computed, Fault, Outputs, described};
use crate::network::Op;

/// The sum of computed values and constants.
pub(super) fn add(call: &mut Call<'_>) -> Outputs {
    let negative = vec![false; call.inputs.len()];
    sum(call, &negative)
}

pub(super) fn subtract(call: &mut Call<'_>) -> Outputs {
    if call.inputs.len() != 2 {
        return Err(format!("expected two inputs, got {}", call.inputs.len()).into());
    }
    sum(call, &[false, true])
}

/// A sum of the inputs, those marked subtracted.
fn sum(call: &mut Call<'_>, negative: &[bool]) -> Outputs {
    let (mut terms, mut constants) = (Vec::new(), Vec::new());
    for (i, value) in call.inputs.iter().enumerate() {
        match value {
            Some(Value::Computed(x)) => terms.push((x.clone(), negative[i])),
            Some(_) => constants.push(i),
            None => return Err(format!("input {i}: expected a value, got none").into()),
        }
    }
    let mut x = join(call, terms)?;
    for i in constants {
        let (settled, numbers) = call.per_channel(x, i, "constant")?;
        let shift = numbers.iter().map(|c| if negative[i] { -c } else { *c }).collect();
        let scale = vec![1.0; numbers.len()];
        x = affine(call, &settled, scale, shift)?;
    }
    Ok(vec![x])
}

/// The computed terms of a sum as one value.
fn join(call: &mut Call<'_>, terms: Vec<(Computed, bool)>) -> Result<Computed, Fault> {
    let Some((first, _)) = terms.first().cloned() else {
        return Err("expected a computed input, got none".into());
    };
    if let Some((other, _)) = terms.iter().find(|(x, _)| x.dims != first.dims) {
        return Err(format!("expected inputs of one shape, got {} and {}", described(&first), described(other)).into());
    }
    // Multiples of one value are no sum.
    if terms.iter().all(|(x, _)| x.tensor == first.tensor && x.order == first.order) {
        let factor: f64 = terms.iter().map(|(_, negative)| if *negative { -1.0 } else { 1.0 }).sum();
        return scaled(call, &first, factor);
    }
    let mut tensors = Vec::with_capacity(terms.len());
    let mut sum = first.clone();
    for (i, (x, _)) in terms.iter().enumerate() {
        let same = terms.iter().all(|(other, _)| other.shape == x.shape && other.order == x.order);
        let x = if same { x.clone() } else { call.settled(x.clone())? };
        if i == 0 {
            sum = x.clone();
        } else if x.shape != sum.shape || x.order != sum.order {
            return Err(format!(
                "expected inputs with their elements in one order, got {} and {}",
                described(&sum),
                described(&x)
            )
            .into());
        }
        tensors.push(x.tensor);
    }
    let negative = terms.iter().map(|(_, negative)| *negative).collect();
    let constant = vec![0.0; sum.shape.channels as usize];
    let tensor = call.push(Op::Sum { negative, constant }, tensors, sum.shape)?;
    Ok(sum.with(tensor))
}

fn scaled(call: &mut Call<'_>, x: &Computed, factor: f64) -> Result<Computed, Fault> {
    let channels = x.shape.channels as usize;
    if factor == 1.0 { Ok(x.clone()) } else { affine(call, x, vec![factor; channels], vec![0.0; channels]) }
}

fn affine(call: &mut Call<'_>, x: &Computed, scale: Vec<f64>, shift: Vec<f64>) -> Result<Computed, Fault> {
    let tensor = call.push(Op::Affine { scale, shift }, vec![x.tensor], x.shape)?;
    Ok(x.with(tensor))
}

/// X · c for a constant.
pub(super) fn multiply(call: &mut Call<'_>) -> Outputs {
    let computed = usize::from(call.computed(0).is_err());
    let x = call.computed(computed)?;
    let (x, scale) = call.per_channel(x, 1 - computed, "constant")?;
    let shift = vec![0.0; scale.len()];
    Ok(vec![affine(call, &x, scale, shift)?])
}

/// X / c for a constant.
pub(super) fn divide(call: &mut Call<'_>) -> Outputs {
    let x = call.computed(0)?;
    let (x, divisors) = call.per_channel(x, 1, "divisor")?;
    if let Some(c) = divisors.iter().find(|c| c.abs() < 1e-18) {
        return Err(format!("expected a divisor of at least 1e-18, got {c}").into());
    }
    let shift = vec![0.0; divisors.len()];
    Ok(vec![affine(call, &x, divisors.iter().map(|c| 1.0 / c).collect(), shift)?])
}

pub(super) fn negate(call: &mut Call<'_>) -> Outputs {
    let x = call.computed(0)?;
    Ok(vec![scaled(call, &x, -1.0)?])
}
