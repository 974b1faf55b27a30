//! The planned activation as an ONNX local function: domain `safenet`, name `ChannelActivation`, inputs X, degree, c0, c1,
//! c2, c3. It is recognised by its name; this file makes sure that the body in the file means the same, by evaluating it.

use super::constant;
use super::proto::{FunctionProto, NodeProto};
use std::collections::HashMap;

/// Domain of the function.
pub(crate) const DOMAIN: &str = "safenet";
/// Name of the function.
pub(crate) const NAME: &str = "ChannelActivation";
/// How many inputs it has.
pub(crate) const INPUTS: usize = 6;

/// Points at which the body is compared with the definition: X, degree, c0 to c3.
const POINTS: [[f64; INPUTS]; 8] = [
    [-1.5, -1.0, 0.5, 0.25, -0.75, 2.0],
    [1.5, -1.0, 0.5, 0.25, -0.75, 2.0],
    [-1.5, 0.0, 0.5, 0.0, 0.0, 0.0],
    [2.5, 0.0, -0.5, 0.0, 0.0, 0.0],
    [-1.5, 1.0, 0.5, 0.25, 0.0, 0.0],
    [1.25, 2.0, 0.5, 0.25, -0.75, 0.0],
    [-0.5, 3.0, 0.5, 0.25, -0.75, 2.0],
    [1.75, 3.0, 0.125, -0.25, 0.75, -2.0],
];

/// Y = max(X, 0) where degree < 0, ((c3·X + c2)·X + c1)·X + c0 elsewhere.
fn definition([x, degree, c0, c1, c2, c3]: [f64; INPUTS]) -> f64 {
    if degree < 0.0 { x.max(0.0) } else { ((c3 * x + c2) * x + c1) * x + c0 }
}

/// Checks that a function's body computes the planned activation.
///
/// # Errors
/// What differs: the interface, an operator that this check cannot evaluate, or a value.
pub(crate) fn check(function: &FunctionProto) -> Result<(), String> {
    if function.input.len() != INPUTS || function.output.len() != 1 {
        return Err(format!(
            "function {DOMAIN}.{NAME}: expected the inputs X, degree, c0, c1, c2, c3 and one output, got {} inputs and {} outputs",
            function.input.len(),
            function.output.len()
        ));
    }
    for point in POINTS {
        let mut values: HashMap<&str, f64> = function.input.iter().map(String::as_str).zip(point).collect();
        for node in &function.node {
            let value = evaluate(node, &values).map_err(|e| format!("function {DOMAIN}.{NAME}: {e}"))?;
            if let Some(output) = node.output.first() {
                values.insert(output, value);
            }
        }
        let got = values.get(function.output[0].as_str()).copied().unwrap_or(f64::NAN);
        let expected = definition(point);
        // A body may order its operations in its own way, and Pow may round.
        if got.is_nan() || (got - expected).abs() > 1e-5 {
            return Err(format!(
                "function {DOMAIN}.{NAME}: expected Where(degree < 0, Relu(X), ((c3 X + c2) X + c1) X + c0), which is {expected} \
                 for (X, degree, c0, c1, c2, c3) = {point:?}, got a body that gives {got}"
            ));
        }
    }
    Ok(())
}

/// One element-wise node on single numbers; truth values are 1 and 0.
fn evaluate(node: &NodeProto, values: &HashMap<&str, f64>) -> Result<f64, String> {
    let input = |i: usize| {
        let name = node.input.get(i).map_or("", String::as_str);
        values.get(name).copied().ok_or_else(|| format!("node {}: expected a known value, got {name:?}", node.op_type))
    };
    let truth = |b: bool| Ok(f64::from(u8::from(b)));
    match node.op_type.as_str() {
        "Constant" => {
            let attribute = node.attribute.first().ok_or("Constant: expected a value, got none")?;
            match (attribute.name.as_str(), &attribute.t) {
                ("value_int", _) => Ok(attribute.i as f64),
                ("value_float", _) => Ok(attribute.f.into()),
                (_, Some(tensor)) => {
                    let numbers = constant::reals(tensor)
                        .map(|c| c.1)
                        .or_else(|_| constant::integers(tensor).map(|c| c.1.into_iter().map(|i| i as f64).collect()))?;
                    match numbers.as_slice() {
                        [number] => Ok(*number),
                        _ => Err(format!("Constant: expected a single number, got {}", numbers.len())),
                    }
                }
                (name, _) => Err(format!("Constant: expected value, value_int or value_float, got {name:?}")),
            }
        }
        "Identity" | "Cast" | "CastLike" => input(0),
        "Neg" => Ok(-input(0)?),
        "Not" => truth(input(0)? == 0.0),
        "Relu" => Ok(input(0)?.max(0.0)),
        "Add" => Ok(input(0)? + input(1)?),
        "Sub" => Ok(input(0)? - input(1)?),
        "Mul" => Ok(input(0)? * input(1)?),
        "Pow" => Ok(input(0)?.powf(input(1)?)),
        "Max" => Ok(input(0)?.max(input(1)?)),
        "Min" => Ok(input(0)?.min(input(1)?)),
        "Less" => truth(input(0)? < input(1)?),
        "LessOrEqual" => truth(input(0)? <= input(1)?),
        "Greater" => truth(input(0)? > input(1)?),
        "GreaterOrEqual" => truth(input(0)? >= input(1)?),
        "Equal" => truth(input(0)? == input(1)?),
        "And" => truth(input(0)? != 0.0 && input(1)? != 0.0),
        "Or" => truth(input(0)? != 0.0 || input(1)? != 0.0),
        "Where" => Ok(if input(0)? != 0.0 { input(1)? } else { input(2)? }),
        other => Err(format!("expected element-wise operators in the body, got {other}")),
    }
}
