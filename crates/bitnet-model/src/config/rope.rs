//! Rotary positions: the plain form is read, every scaled one refused by name.

use serde_json::Value;

use super::fields::{Fields, shorten};
use crate::error::LoadError;

/// Bases of the rotary frequencies.
pub(super) const THETA_RANGE: std::ops::RangeInclusive<f64> = 1.0..=1e12;

/// Reads the base of the rotary frequencies from `rope_theta` (transformers 4) or `rope_parameters`
/// (transformers 5); `None` when neither has it.
pub(super) fn theta(fields: &Fields<'_>, assumptions: &mut Vec<String>) -> Result<Option<f32>, LoadError> {
    check_partial(fields)?;
    if let Some(scaling) = fields.object("rope_scaling")? {
        check_scaling(&scaling)?;
    }
    let outer = fields.float("rope_theta", THETA_RANGE)?;
    let Some(parameters) = fields.object("rope_parameters")? else {
        return Ok(outer.map(|theta| theta as f32));
    };
    if let Some((kind, _)) = parameters.iter().find(|(_, value)| value.is_object()) {
        return Err(parameters.unsupported(kind, "one set of parameters for all layers", "an object"));
    }
    check_partial(&parameters)?;
    check_scaling(&parameters)?;
    let inner = parameters.float("rope_theta", THETA_RANGE)?;
    if let (Some(outer), Some(inner)) = (outer, inner)
        && outer != inner
    {
        assumptions.push(format!("rope_parameters.rope_theta {inner} stands, not rope_theta {outer}"));
    }
    Ok(inner.or(outer).map(|theta| theta as f32))
}

/// Admits no scaling, `default`, and `linear` by a factor of 1.
fn check_scaling(fields: &Fields<'_>) -> Result<(), LoadError> {
    const EXPECTED: &str = "default, or linear with factor 1";
    for name in ["rope_type", "type"] {
        match fields.raw(name).map(|value| (value, value.as_str())) {
            None | Some((_, Some("default" | "linear"))) => {}
            Some((value, _)) => return Err(fields.unsupported(name, EXPECTED, shorten(value))),
        }
    }
    let linear = ["rope_type", "type"].iter().any(|name| fields.raw(name).is_some_and(|v| v == "linear"));
    match fields.raw("factor").map(|value| (value, value.as_f64())) {
        Some((_, Some(1.0))) => {}
        None if !linear => {}
        None => return Err(fields.unsupported("factor", "1", "nothing")),
        Some((value, _)) => return Err(fields.unsupported("factor", "1", shorten(value))),
    }
    // What else may stand there belongs to kinds of scaling that were refused above.
    let known = ["rope_type", "type", "factor", "rope_theta", "partial_rotary_factor"];
    match fields.iter().find(|(name, value)| !known.contains(name) && !value.is_null()) {
        Some((name, value)) => Err(fields.unsupported(name, "no further scaling parameter", shorten(value))),
        None => Ok(()),
    }
}

fn check_partial(fields: &Fields<'_>) -> Result<(), LoadError> {
    for name in ["partial_rotary_factor", "rotary_pct", "rope_pct"] {
        match fields.raw(name) {
            None => {}
            Some(Value::Number(number)) if number.as_f64() == Some(1.0) => {}
            Some(value) => {
                return Err(fields.unsupported(name, "1 (all of a head is rotated)", shorten(value)));
            }
        }
    }
    Ok(())
}
