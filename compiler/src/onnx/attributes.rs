//! Attributes of a node, read by name and type.

use super::proto::{AttributeProto, NodeProto};

type Result<T> = std::result::Result<T, String>;

/// Numbers of the attribute types; files of early exporters leave the type out.
mod kind {
    pub(super) const NONE: i32 = 0;
    pub(super) const FLOAT: i32 = 1;
    pub(super) const INT: i32 = 2;
    pub(super) const STRING: i32 = 3;
    pub(super) const INTS: i32 = 7;
}

pub(super) fn find<'a>(node: &'a NodeProto, name: &str) -> Option<&'a AttributeProto> {
    node.attribute.iter().find(|a| a.name == name)
}

fn typed<'a>(node: &'a NodeProto, name: &str, expected: i32) -> Result<Option<&'a AttributeProto>> {
    match find(node, name) {
        Some(a) if a.r#type != expected && a.r#type != kind::NONE => {
            Err(format!("{name}: expected an attribute of type {expected}, got type {}", a.r#type))
        }
        attribute => Ok(attribute),
    }
}

pub(super) fn integer(node: &NodeProto, name: &str, default: i64) -> Result<i64> {
    Ok(typed(node, name, kind::INT)?.map_or(default, |a| a.i))
}

/// A flag: 0 or 1.
pub(super) fn flag(node: &NodeProto, name: &str, default: bool) -> Result<bool> {
    match integer(node, name, default.into())? {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(format!("{name}: expected 0 or 1, got {other}")),
    }
}

pub(super) fn real(node: &NodeProto, name: &str, default: f64) -> Result<f64> {
    let x = typed(node, name, kind::FLOAT)?.map_or(default, |a| f64::from(a.f));
    if x.is_nan() {
        return Err(format!("{name}: expected a number, got {x}"));
    }
    Ok(x)
}

/// A real number that may be computed with.
pub(super) fn finite(node: &NodeProto, name: &str, default: f64) -> Result<f64> {
    let x = real(node, name, default)?;
    if x.abs() > super::constant::LARGEST {
        return Err(format!("{name}: expected a number of at most {:e}, got {x}", super::constant::LARGEST));
    }
    Ok(x)
}

pub(super) fn string<'a>(node: &'a NodeProto, name: &str, default: &'a str) -> Result<&'a str> {
    let Some(attribute) = typed(node, name, kind::STRING)? else {
        return Ok(default);
    };
    std::str::from_utf8(&attribute.s).map_err(|_| format!("{name}: expected text, got {:?}", attribute.s))
}

pub(super) fn integers<'a>(node: &'a NodeProto, name: &str) -> Result<Option<&'a [i64]>> {
    Ok(typed(node, name, kind::INTS)?.map(|a| a.ints.as_slice()))
}

/// A vertical and a horizontal number, both positive.
pub(super) fn pair(node: &NodeProto, name: &str, default: u32) -> Result<[u32; 2]> {
    let Some(ints) = integers(node, name)? else {
        return Ok([default; 2]);
    };
    match *ints {
        [a, b] if (1..=i64::from(i32::MAX)).contains(&a) && (1..=i64::from(i32::MAX)).contains(&b) => {
            Ok([a as u32, b as u32])
        }
        _ => Err(format!("{name}: expected two positive numbers, got {ints:?}")),
    }
}

/// Whether an attribute, given as a number or as several, differs from `value`.
pub(super) fn differs(attribute: &AttributeProto, value: i64) -> bool {
    match attribute.r#type {
        kind::INTS => attribute.ints.iter().any(|&i| i != value),
        kind::INT => attribute.i != value,
        kind::NONE if attribute.ints.is_empty() => attribute.i != value,
        kind::NONE => attribute.ints.iter().any(|&i| i != value),
        _ => true,
    }
}
