//! Affine layers (batch normalisation and its like) disappear in the linear layers around them.
//!
//! Each goes into the linear layers before it, if nothing else reads what is between; else into those after it; else it
//! becomes a linear layer of its own, channel by channel.

use super::shows_zeros;
use crate::error::Result;
use crate::network::{Function, Linear, Network, Op, Tensor};

/// Layers that one search looks at; beyond, an affine layer stays where it is. A real network needs a few dozens; a hostile
/// one may have more paths than can be followed.
const SEARCH: usize = 1024;

pub(super) fn fold(network: &mut Network) -> Result<()> {
    let readers = network.readers();
    for index in 0..network.layers.len() {
        let layer = &mut network.layers[index];
        let Op::Affine { scale, shift } = &mut layer.op else {
            continue;
        };
        let change = Change { scale: std::mem::take(scale), shift: std::mem::take(shift) };
        let input = layer.inputs[0];
        let mut fold = Fold { network, readers: &readers };
        let back = fold.back(input, &change, false, &mut { SEARCH });
        let forward = !back && fold.forward(index + 1, &change, false, &mut { SEARCH });
        if back {
            fold.back(input, &change, true, &mut { SEARCH });
        } else if forward {
            fold.forward(index + 1, &change, true, &mut { SEARCH });
        } else {
            network.layers[index].op = Op::Linear(Linear::depthwise(change.scale, change.shift));
        }
    }
    // What was folded away is passed by.
    for index in 0..network.layers.len() {
        if matches!(network.layers[index].op, Op::Affine { .. }) {
            let input = network.layers[index].inputs[0];
            for later in &mut network.layers[index + 1..] {
                later.inputs.iter_mut().filter(|i| **i == index + 1).for_each(|i| *i = input);
            }
        }
    }
    Ok(())
}

/// x ↦ scale · x + shift, per channel.
#[derive(Clone)]
struct Change {
    scale: Vec<f64>,
    shift: Vec<f64>,
}

impl Change {
    fn shifts(&self) -> bool {
        self.shift.iter().any(|&h| h != 0.0)
    }

    fn keeps_order(&self) -> bool {
        self.scale.iter().all(|&s| s > 0.0)
    }

    /// The same without the shift.
    fn scaling(&self) -> Self {
        Self { scale: self.scale.clone(), shift: vec![0.0; self.shift.len()] }
    }

    /// Of some channels.
    fn part(&self, first: usize, count: usize) -> Self {
        Self { scale: self.scale[first..first + count].to_vec(), shift: self.shift[first..first + count].to_vec() }
    }

    /// Of a tensor of `count` channels, of which these are some.
    fn within(&self, first: usize, count: usize) -> Self {
        let mut whole = Self { scale: vec![1.0; count], shift: vec![0.0; count] };
        whole.scale[first..first + self.scale.len()].copy_from_slice(&self.scale);
        whole.shift[first..first + self.shift.len()].copy_from_slice(&self.shift);
        whole
    }

    /// Of the image whose flattening this changes, if it changes all elements of a channel alike.
    fn of_image(&self, plane: usize) -> Option<Self> {
        let alike = |x: &[f64]| x.chunks(plane).all(|channel| channel.iter().all(|x| *x == channel[0]));
        let first = |x: &[f64]| x.iter().step_by(plane).copied().collect();
        (alike(&self.scale) && alike(&self.shift))
            .then(|| Self { scale: first(&self.scale), shift: first(&self.shift) })
    }

    /// Of an image's flattening.
    fn of_elements(&self, plane: usize) -> Self {
        let spread = |x: &[f64]| x.iter().flat_map(|&x| std::iter::repeat_n(x, plane)).collect();
        Self { scale: spread(&self.scale), shift: spread(&self.shift) }
    }
}

struct Fold<'a> {
    network: &'a mut Network,
    readers: &'a [Vec<usize>],
}

impl Fold<'_> {
    /// Whether what makes a tensor can make the changed one instead; with `commit`, after it was found that it can, makes it
    /// so. Only the layer that asks may read the tensor.
    fn back(&mut self, tensor: Tensor, change: &Change, commit: bool, budget: &mut usize) -> bool {
        let Some(index) = tensor.checked_sub(1) else {
            return false;
        };
        if self.readers[tensor].len() != 1 || !spend(budget) {
            return false;
        }
        let inputs = self.network.layers[index].inputs.clone();
        let input = inputs[0];
        let shape = self.network.shape(input);
        let several = inputs.len() > 1 && (1..inputs.len()).any(|i| inputs[..i].contains(&inputs[i]));
        match &mut self.network.layers[index].op {
            Op::Linear(linear) => {
                if commit {
                    after(linear, change);
                }
                true
            }
            // Folded already: its readers will read its input.
            Op::Affine { .. } => self.back(input, change, commit, budget),
            Op::Activation(functions) if functions.iter().all(|f| matches!(f, Function::Polynomial { .. })) => {
                if commit {
                    polynomials(functions, change, changed_after);
                }
                true
            }
            Op::Sum { .. } if several => false,
            Op::Sum { constant, .. } => {
                if commit {
                    for (constant, (s, h)) in constant.iter_mut().zip(change.scale.iter().zip(&change.shift)) {
                        *constant = *constant * s + h;
                    }
                }
                let scaling = change.scaling();
                inputs.iter().all(|&input| self.back(input, &scaling, commit, budget))
            }
            Op::Concat if several => false,
            Op::Concat => {
                let mut first = 0;
                inputs.iter().all(|&input| {
                    let count = self.network.shape(input).channels as usize;
                    first += count;
                    self.back(input, &change.part(first - count, count), commit, budget)
                })
            }
            Op::MaxPool(_) => change.keeps_order() && self.back(input, change, commit, budget),
            Op::Flatten => match change.of_image(shape.plane()) {
                Some(change) => self.back(input, &change, commit, budget),
                None => false,
            },
            Op::Channels(channels) => {
                let change = change.within(channels.first as usize, shape.channels as usize);
                self.back(input, &change, commit, budget)
            }
            op @ (Op::Average(_) | Op::Window(_)) => {
                !(change.shifts() && shows_zeros(op, shape)) && self.back(input, change, commit, budget)
            }
            Op::Activation(_) | Op::Max | Op::Piecewise(_) => false,
        }
    }

    /// Whether all that reads a tensor can apply the change by itself; with `commit`, after it was found that it can, makes
    /// it so.
    fn forward(&mut self, tensor: Tensor, change: &Change, commit: bool, budget: &mut usize) -> bool {
        self.readers[tensor].iter().all(|&reader| {
            let inputs = &self.network.layers[reader].inputs;
            let once = inputs.iter().filter(|input| **input == tensor).count() == 1;
            once && spend(budget) && self.reader(reader, tensor, change, commit, budget)
        })
    }

    fn reader(&mut self, reader: usize, tensor: Tensor, change: &Change, commit: bool, budget: &mut usize) -> bool {
        let shape = self.network.shape(tensor);
        // The last layer is what it is.
        let last = reader + 1 == self.network.layers.len();
        let output = reader + 1;
        match &mut self.network.layers[reader].op {
            Op::Linear(linear) => {
                let exact = !change.shifts() || linear.conv.padding == [0; 4];
                if commit {
                    before(linear, change);
                }
                exact
            }
            Op::Affine { scale, shift } => {
                if commit {
                    for (c, (s, h)) in scale.iter_mut().zip(shift).enumerate() {
                        (*s, *h) = (*s * change.scale[c], *s * change.shift[c] + *h);
                    }
                }
                true
            }
            Op::Activation(functions)
                if !last && functions.iter().all(|f| matches!(f, Function::Polynomial { .. })) =>
            {
                if commit {
                    polynomials(functions, change, changed_before);
                }
                true
            }
            Op::MaxPool(_) => change.keeps_order() && self.forward(output, change, commit, budget),
            Op::Flatten => self.forward(output, &change.of_elements(shape.plane()), commit, budget),
            Op::Channels(channels) => {
                let change = change.part(channels.first as usize, channels.count as usize);
                self.forward(output, &change, commit, budget)
            }
            Op::Concat => {
                let change = self.within_concat(reader, tensor, change);
                self.forward(output, &change, commit, budget)
            }
            op @ (Op::Average(_) | Op::Window(_)) => {
                !(change.shifts() && shows_zeros(op, shape)) && self.forward(output, change, commit, budget)
            }
            Op::Sum { .. } | Op::Activation(_) | Op::Max | Op::Piecewise(_) => false,
        }
    }

    fn within_concat(&self, concat: usize, tensor: Tensor, change: &Change) -> Change {
        let layer = &self.network.layers[concat];
        let before = layer.inputs.iter().take_while(|input| **input != tensor);
        let first = before.map(|&input| self.network.shape(input).channels as usize).sum();
        change.within(first, layer.shape.channels as usize)
    }
}

fn spend(budget: &mut usize) -> bool {
    *budget = budget.saturating_sub(1);
    *budget > 0
}

/// A change after a linear layer: w' = scale · w, b' = scale · b + shift.
fn after(linear: &mut Linear, change: &Change) {
    for ((row, b), (s, h)) in linear.rows_mut().zip(change.scale.iter().zip(&change.shift)) {
        row.iter_mut().for_each(|w| *w *= s);
        *b = *b * s + h;
    }
}

/// A change before a linear layer: w' = w · scale, b' = b + Σ w · shift. With padding this holds only where nothing is
/// shifted: the padding's zeros come after the shift.
fn before(linear: &mut Linear, change: &Change) {
    let taps = linear.taps();
    let groups = linear.conv.groups as usize;
    let (inputs, outputs) = (change.scale.len() / groups, linear.bias.len() / groups);
    for (o, (row, b)) in linear.rows_mut().enumerate() {
        let first = o / outputs * inputs;
        for (weights, c) in row.chunks_exact_mut(taps).zip(first..) {
            *b += weights.iter().sum::<f64>() * change.shift[c];
            weights.iter_mut().for_each(|w| *w *= change.scale[c]);
        }
    }
}

fn polynomials(functions: &mut [Function], change: &Change, with: fn([f64; 4], f64, f64) -> [f64; 4]) {
    for (function, (&s, &h)) in functions.iter_mut().zip(change.scale.iter().zip(&change.shift)) {
        if let Function::Polynomial { c, .. } = function {
            *c = with(*c, s, h);
        }
    }
}

/// s · p(x) + h.
fn changed_after(c: [f64; 4], s: f64, h: f64) -> [f64; 4] {
    [s * c[0] + h, s * c[1], s * c[2], s * c[3]]
}

/// p(s · x + h), of the same degree.
fn changed_before([c0, c1, c2, c3]: [f64; 4], s: f64, h: f64) -> [f64; 4] {
    [
        ((c3 * h + c2) * h + c1) * h + c0,
        s * ((3.0 * c3 * h + 2.0 * c2) * h + c1),
        s * s * (3.0 * c3 * h + c2),
        s * s * s * c3,
    ]
}
