//! Normal forms of a channel's activation, in real numbers: what of it goes into the linear layer's weights, what the
//! protocol evaluates, and what is added afterwards.
//!
//! | function | linear output x' | result |
//! |---|---|---|
//! | ReLU | x | max(x', 0); x' or 0 where the calibrated range, widened by the margin, lies to one side of 0 |
//! | degree 1 | c1·x + c0, or x | x', or c1·x' + c0 |
//! | degree 2 | x + h, h = c1 / 2c2 | c2·x'² + γ, γ = c0 − c2·h² |
//! | degree 3 | x + h, h = c2 / 3c3 | c3·(x'³ + μ·x') + γ, μ = c1/c3 − 3h², γ = c0 − c3·(h³ + μ·h) |
//! | degree 0 | none | c0 |
//!
//! The forms of degree 2 and 3 shift x by h, which grows without bound as the leading coefficient vanishes, while x' has a
//! limited number of bits. Where the shift would cost more accuracy than a slightly different polynomial, the polynomial is
//! changed: its leading coefficient is enlarged, and the lower ones are fitted anew over the channel's range (orthogonal
//! projection on Legendre polynomials). Both errors are estimated, and the form with the smallest is taken.

use crate::engine::Statistics;
use crate::network::Function;
use safenet_reference::FIELD_PRIME;

/// Bits of a square's v: |v| < 2^17, so that v² stays below p/4.
pub(crate) const SQUARE_WIDTH: u8 = 18;
/// Bits of a cubic's v.
pub(crate) const CUBIC_WIDTH: u8 = 13;
/// Largest |v³ + λ·v| of a cubic for g up to 18; for larger g, up to 2^20 less.
const CUBIC_LIMIT: i64 = (1 << 33) - (1 << 19);

/// What the protocol evaluates on x'.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Shape {
    Relu,
    Linear { leading: f64, constant: f64 },
    Square { leading: f64, constant: f64 },
    Cubic { leading: f64, linear: f64, constant: f64 },
    Zero { constant: f64 },
}

/// One channel in normal form.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Form {
    pub(crate) shape: Shape,
    /// x' = factor·x + shift: folded into the channel's weights and bias.
    pub(crate) factor: f64,
    pub(crate) shift: f64,
    /// The fixed-point numbers are made for |x'| up to this.
    pub(crate) bound: f64,
    /// Largest absolute value of x' on the calibration samples.
    pub(crate) seen: f64,
    /// Largest absolute result over that range.
    pub(crate) result: f64,
    /// Mean square of the slope of the result in x', over the calibrated range.
    pub(crate) slope: f64,
    /// Root mean square of what the polynomial was changed by, over the calibrated range; 0 if it is exact.
    pub(crate) change: f64,
}

impl Form {
    /// Largest absolute result without its constant.
    pub(crate) fn moving(&self) -> f64 {
        match self.shape {
            Shape::Relu => self.result,
            Shape::Linear { leading, .. } => leading.abs() * self.bound,
            Shape::Square { leading, .. } => leading.abs() * self.bound * self.bound,
            Shape::Cubic { leading, linear, .. } => leading.abs() * cubic_reach(linear, self.bound),
            Shape::Zero { .. } => 0.0,
        }
    }
}

/// What a channel's linear output may be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    /// On the calibration samples.
    pub(crate) seen: [f64; 2],
    /// Proven, for any input, if the bounds of the layers before hold.
    pub(crate) worst: [f64; 2],
    /// By how much the calibrated range is widened.
    pub(crate) margin: f64,
    /// Ranges are made no smaller than this: a channel may be constant on the samples.
    pub(crate) least: f64,
    /// Part of the values that are positive, as if they were normally distributed: what of its input's errors a ReLU lets
    /// through.
    pub(crate) positive: f64,
}

impl Range {
    pub(crate) fn new(seen: &Statistics, worst: [f64; 2], margin: f64, least: f64) -> Self {
        // Fixed-point weights differ a little from those for which the worst case was computed.
        let slack = 0.02 * worst[0].abs().max(worst[1].abs()) + least;
        // The logistic function is within 0.01 of the normal distribution's.
        let deviations = seen.mean() / seen.variance().sqrt().max(1e-12);
        let positive = (1.0 / (1.0 + (-1.702 * deviations).exp())).max(0.05);
        Self { seen: [seen.low, seen.high], worst: [worst[0] - slack, worst[1] + slack], margin, least, positive }
    }

    /// The calibrated range, widened about its middle by the margin, within what is possible.
    pub(crate) fn widened(&self) -> [f64; 2] {
        let [low, high] = self.seen;
        let (middle, radius) = ((low + high) / 2.0, self.radius() * self.margin);
        [(middle - radius).max(self.worst[0]), (middle + radius).min(self.worst[1])]
    }

    /// The range by which ReLU and linear channels are bounded: margin · max |x| to both sides, within what is possible.
    pub(crate) fn symmetric(&self) -> [f64; 2] {
        let reach = self.margin * farthest(self.seen).max(self.least);
        [(-reach).max(self.worst[0]), reach.min(self.worst[1])]
    }

    /// Half the calibrated range.
    fn radius(&self) -> f64 {
        let [low, high] = self.seen;
        ((high - low) / 2.0).max(self.least)
    }
}

fn farthest([low, high]: [f64; 2]) -> f64 {
    low.abs().max(high.abs())
}

/// Largest |x³ + μ·x| for |x| up to `bound`.
fn cubic_reach(linear: f64, bound: f64) -> f64 {
    let end = (bound * bound + linear).abs() * bound;
    let turn = (-linear / 3.0).max(0.0).sqrt();
    if turn < bound { end.max(2.0 * turn * turn * turn) } else { end }
}

/// Largest v per x' with which a square stays in its range.
pub(crate) fn square_scale(bound: f64) -> f64 {
    // Two below the square root of p/4 − 2^20: v may be rounded up once, and the scale is itself rounded.
    (((FIELD_PRIME / 4 - (1 << 20)) as f64).sqrt() - 2.0) / bound
}

/// Largest v per x' with which a cubic stays in its range.
pub(crate) fn cubic_scale(linear: f64, bound: f64) -> f64 {
    // One percent below: rounding v by one near 2^12 changes the cube by 3 / 2^12, and g may take 2^20 of 2^33.
    let by_value = (0.99 * CUBIC_LIMIT as f64 / cubic_reach(linear, bound)).cbrt();
    let by_width = (f64::from(1u32 << (CUBIC_WIDTH - 1)) - 2.0) / bound;
    let by_lambda = (f64::from(1u32 << 31) * 4.0 / linear.abs().max(1e-30)).sqrt();
    by_value.min(by_width).min(by_lambda)
}

/// The normal form of a channel; with `folds`, x' may be any multiple of x, else it is x, but for a shift.
pub(crate) fn form(function: &Function, range: &Range, folds: bool) -> Form {
    let (degree, c) = match function {
        Function::Relu => {
            // Where the widened range lies to one side of 0, nothing is compared: it is a constant or a line there.
            let [low, high] = range.widened();
            if high <= 0.0 {
                return constant(0.0);
            }
            if low >= 0.0 {
                return line(IDENTITY, range, folds);
            }
            let reach = range.symmetric();
            return Form {
                shape: Shape::Relu,
                factor: 1.0,
                shift: 0.0,
                bound: farthest(reach),
                seen: farthest(range.seen),
                result: reach[1].max(0.0),
                slope: range.positive,
                change: 0.0,
            };
        }
        Function::Polynomial { degree, c } => (*degree, *c),
    };
    match degree {
        0 => constant(c[0]),
        // A line without a slope is a constant.
        1 if c[1] == 0.0 => constant(c[0]),
        1 => line(c, range, folds),
        2 => square(c, range),
        _ => cubic(c, range),
    }
}

const IDENTITY: [f64; 4] = [0.0, 1.0, 0.0, 0.0];

fn constant(constant: f64) -> Form {
    Form {
        shape: Shape::Zero { constant },
        factor: 0.0,
        shift: 0.0,
        bound: 0.0,
        seen: 0.0,
        result: constant.abs(),
        slope: 0.0,
        change: 0.0,
    }
}

fn line(c: [f64; 4], range: &Range, folds: bool) -> Form {
    // x' = factor · x + shift, and the result is leading · x' + constant.
    let (factor, shift, leading, constant) = if folds { (c[1], c[0], 1.0, 0.0) } else { (1.0, 0.0, c[1], c[0]) };
    let reach = |x: [f64; 2]| farthest([factor * x[0] + shift, factor * x[1] + shift]);
    let least = range.least * factor.abs().max(1e-3);
    let bound = (range.margin * reach(range.seen)).min(reach(range.worst)).max(least);
    Form {
        shape: Shape::Linear { leading, constant },
        factor,
        shift,
        bound,
        seen: reach(range.seen),
        result: leading.abs() * bound + constant.abs(),
        slope: leading * leading,
        change: 0.0,
    }
}

/// Coefficients in u = (x − middle) / radius, and back.
fn centred(c: [f64; 4], range: &Range) -> ([f64; 4], f64, f64) {
    let m = (range.seen[0] + range.seen[1]) / 2.0;
    let r = range.radius();
    let a = [
        ((c[3] * m + c[2]) * m + c[1]) * m + c[0],
        ((3.0 * c[3] * m + 2.0 * c[2]) * m + c[1]) * r,
        (3.0 * c[3] * m + c[2]) * r * r,
        c[3] * r * r * r,
    ];
    (a, m, r)
}

/// Leading coefficients to try: the given one, and larger ones in steps of sqrt(2) below the size of the lower ones.
fn leading(given: f64, lower: f64) -> impl Iterator<Item = f64> {
    let sign = if given < 0.0 { -1.0 } else { 1.0 };
    let steps =
        (0..40).map(move |k| sign * lower * (-0.5 * f64::from(k)).exp2()).filter(move |a| a.abs() > given.abs());
    std::iter::once(given).chain(steps)
}

/// Mean square of a function over u in [−1, 1].
fn mean_square(f: impl Fn(f64) -> f64) -> f64 {
    (0..17).map(|k| f(f64::from(k) / 8.0 - 1.0).powi(2)).sum::<f64>() / 17.0
}

fn best(forms: impl Iterator<Item = (f64, Form)>) -> Option<Form> {
    forms.filter(|(error, _)| error.is_finite()).min_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, form)| form)
}

/// Size of the coefficients, for polynomials that are (nearly) constant.
fn size(a: [f64; 4]) -> f64 {
    let lower = a[1].abs().max(a[2].abs());
    lower.max(1e-3 * a[0].abs()).max(1e-9)
}

fn square(c: [f64; 4], range: &Range) -> Form {
    let (a, m, r) = centred(c, range);
    let widened = range.widened();
    let forms = leading(a[2], size([a[0], a[1], 0.0, 0.0])).map(|a2| {
        let change = a[2] - a2;
        // u² = P0/3 + 2·P2/3: dropping change·P2 leaves change/3 to the constant.
        let a0 = a[0] + change / 3.0;
        let (c2, h) = (a2 / (r * r), r * a[1] / (2.0 * a2) - m);
        let at = |x: f64| x + h;
        let bound = farthest([at(widened[0]), at(widened[1])]);
        let constant = a0 - a[1] * a[1] / (4.0 * a2);
        let shape = Shape::Square { leading: c2, constant };
        let slope = mean_square(|u| (a[1] + 2.0 * a2 * u) / r);
        let change = change.abs() * (4.0f64 / 45.0).sqrt();
        let result = farthest(
            Function::Polynomial { degree: 2, c: [constant, 0.0, c2, 0.0] }.range(at(widened[0]), at(widened[1])),
        );
        let seen = farthest([at(range.seen[0]), at(range.seen[1])]);
        let rounding = slope / (6.0 * square_scale(bound).powi(2));
        (rounding + change * change, Form { shape, factor: 1.0, shift: h, bound, seen, result, slope, change })
    });
    best(forms).unwrap_or_else(|| wild(c[0]))
}

fn cubic(c: [f64; 4], range: &Range) -> Form {
    let (a, m, r) = centred(c, range);
    let widened = range.widened();
    let forms = leading(a[3], size(a)).map(|a3| {
        let change = a[3] - a3;
        // u³ = 3·P1/5 + 2·P3/5: dropping change·P3 leaves 3/5 of it to the linear term.
        let a1 = a[1] + 0.6 * change;
        let shift = a[2] / (3.0 * a3);
        let linear = a1 / a3 - 3.0 * shift * shift;
        let constant = a[0] - a3 * (shift.powi(3) + linear * shift);
        let (c3, h, linear) = (a3 / r.powi(3), r * shift - m, linear * r * r);
        let at = |x: f64| x + h;
        let bound = farthest([at(widened[0]), at(widened[1])]);
        let shape = Shape::Cubic { leading: c3, linear, constant };
        let slope = mean_square(|u| (a1 + 2.0 * a[2] * u + 3.0 * a3 * u * u) / r);
        let change = change.abs() * (4.0f64 / 175.0).sqrt();
        let whole = Function::Polynomial { degree: 3, c: [constant, c3 * linear, 0.0, c3] };
        let result = farthest(whole.range(at(widened[0]), at(widened[1])));
        let seen = farthest([at(range.seen[0]), at(range.seen[1])]);
        let rounding = slope / (6.0 * cubic_scale(linear, bound).powi(2));
        (rounding + change * change, Form { shape, factor: 1.0, shift: h, bound, seen, result, slope, change })
    });
    best(forms).unwrap_or_else(|| wild(c[0]))
}

/// A form without a linear output, for coefficients so wild that no polynomial form is finite. It is refused later.
fn wild(c0: f64) -> Form {
    let shape = Shape::Zero { constant: c0 };
    Form { shape, factor: 0.0, shift: 0.0, bound: f64::NAN, seen: 0.0, result: f64::NAN, slope: 0.0, change: f64::NAN }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn value(form: &Form, x: f64) -> f64 {
        let y = form.factor * x + form.shift;
        match form.shape {
            Shape::Relu => y.max(0.0),
            Shape::Linear { leading, constant } => leading * y + constant,
            Shape::Square { leading, constant } => leading * y * y + constant,
            Shape::Cubic { leading, linear, constant } => leading * (y * y * y + linear * y) + constant,
            Shape::Zero { constant } => constant,
        }
    }

    proptest! {
        #[test]
        fn forms_equal_their_functions(
            degree in 0u8..4, c in prop::array::uniform4(-2.0f64..2.0), low in -4.0f64..3.0, length in 0.5f64..4.0, small in 0u8..3, folds in any::<bool>(),
        ) {
            let mut c = c;
            c.iter_mut().skip(usize::from(degree) + 1).for_each(|c| *c = 0.0);
            // Leading coefficients down to 1e-8 of the others.
            c[usize::from(degree)] *= 1e-4f64.powi(small.into());
            let function = Function::Polynomial { degree, c };
            let range = Range { seen: [low, low + length], worst: [-1e9, 1e9], margin: 2.0, least: 1e-3, positive: 0.5 };
            let form = form(&function, &range, folds);
            let scale = farthest(function.range(low, low + length)) + 1.0;
            let error = (0..33).map(|k| low + length * f64::from(k) / 32.0).map(|x| (value(&form, x) - function.at(x)).powi(2));
            let rms = (error.sum::<f64>() / 33.0).sqrt();
            prop_assert!(rms <= 1.2 * form.change + 1e-6 * scale, "{rms} {form:?}");
            prop_assert!(form.change <= 0.05 * scale, "{form:?}");
            prop_assert!(form.seen <= form.bound || degree == 0);
        }
    }
}
