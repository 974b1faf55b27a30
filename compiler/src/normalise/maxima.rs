//! Pooling by maximum as a tree of maxima of two.
//!
//! The tree is separable: along one axis, then along the other. Every comparison costs as much as a ReLU, so what is counted
//! here is compared elements. Along an axis, with windows of k elements at distance s:
//!
//! - windows that share nothing take k − 1 comparisons each;
//! - windows that overlap, s < k, share blocks of s elements. A window is q = ⌊k/s⌋ whole blocks and the first r = k − q·s
//!   elements of one more. The blocks take s − 1 comparisons each, of which the first r elements are a part; q neighbouring
//!   blocks take ⌈log₂ q⌉ more by doubling (maxima of 1, 2, 4, ... neighbours, then two that overlap); and one joins the rest.
//!   So k = 3, s = 2 takes two comparisons per output, as does k = 3, s = 1; k = 7, s = 1 takes three.
//!
//! Places outside the image are clamped to the nearest inside, which lies in the same window: padding is less than the window
//! and every window starts in the image or before it. So a clamped place changes no maximum.

use super::Before;
use crate::error::{Error, Result};
use crate::network::{Function, Network, Op, Tensor};
use safenet_core::model::{Edge, Pool, Shape, Window, limits};

/// Elements of a window that are compared one by one.
const STEPS: u32 = 256;

/// Replaces every pooling by maximum.
pub(super) fn expand(network: &mut Network) -> Result<()> {
    let mut index = 0;
    while index < network.layers.len() {
        if let Op::MaxPool(pool) = network.layers[index].op {
            index = replace(network, index, pool)?;
            if network.layers.len() > limits::NODES {
                let (name, most) = (&network.layers[index].name, limits::NODES);
                return Err(Error::Network(format!("{name}: expected at most {most} layers, got more")));
            }
        }
        index += 1;
    }
    Ok(())
}

/// Replaces one, and says where its last step is.
fn replace(network: &mut Network, index: usize, pool: Pool) -> Result<usize> {
    let layer = &network.layers[index];
    let (name, x, shape) = (layer.name.clone(), layer.inputs[0], layer.shape);
    let input = network.shape(x);
    let lines = [0, 1].map(|axis| Line {
        axis,
        kernel: pool.kernel[axis],
        stride: pool.stride[axis],
        before: pool.padding[axis],
        count: [shape.height, shape.width][axis],
    });
    // Windows that are apart take a step per element; so many are no network.
    if let Some(line) = lines.iter().find(|line| line.steps() > STEPS) {
        return Err(Error::Network(format!(
            "{name}: expected windows that are at most {STEPS} wide or apart, got width {}, distance {}",
            line.kernel, line.stride
        )));
    }
    let commutes = before_relu(network, x);
    let first = index;
    let mut tree = Tree { before: Before { network, index }, name };
    let source = commutes.as_ref().map_or(x, |parts| tree.joined(parts, input));
    let [rows, columns] = &lines;
    let size = [input.height, input.width];
    let cost = |first: &Line, second: &Line| {
        let lines = [u64::from(size[second.axis]), u64::from(first.count)];
        first.cost(size[first.axis]) * lines[0] + second.cost(size[second.axis]) * lines[1]
    };
    let order = if cost(columns, rows) <= cost(rows, columns) { [columns, rows] } else { [rows, columns] };
    let once = tree.line(source, order[0]);
    let pooled = tree.line(once, order[1]);
    let index = tree.before.index;
    if commutes.is_some() {
        let last = &mut network.layers[index];
        last.inputs = vec![pooled];
        last.op = Op::Activation(vec![Function::Relu; shape.channels as usize]);
        return Ok(index);
    }
    // The tree takes the layer's place, and its name.
    if pooled > first {
        network.layers[pooled - 1].name = network.layers[index].name.clone();
    }
    for input in network.layers[index + 1..].iter_mut().flat_map(|layer| &mut layer.inputs) {
        if *input == index + 1 {
            *input = pooled;
        }
    }
    Ok(index)
}

/// What a tensor is the ReLU of, as parts to concatenate, where no other layer reads the ReLUs. Maxima and ReLUs commute,
/// and behind the maxima there are fewer ReLUs.
fn before_relu(network: &Network, tensor: Tensor) -> Option<Vec<Tensor>> {
    let readers = network.readers();
    let alone = |tensor: Tensor| readers[tensor].len() == 1;
    let relu = |tensor: Tensor| {
        let layer = network.producer(tensor).filter(|_| alone(tensor))?;
        match &layer.op {
            Op::Activation(functions) if functions.iter().all(|f| *f == Function::Relu) => Some(layer.inputs[0]),
            _ => None,
        }
    };
    let layer = network.producer(tensor)?;
    match layer.op {
        Op::Concat if alone(tensor) => layer.inputs.iter().map(|&part| relu(part)).collect(),
        _ => Some(vec![relu(tensor)?]),
    }
}

/// Windows along one axis.
struct Line {
    /// 0: rows, 1: columns.
    axis: usize,
    kernel: u32,
    stride: u32,
    /// Padding before the first place.
    before: u32,
    /// Windows.
    count: u32,
}

impl Line {
    /// Whether blocks that windows share save comparisons.
    fn shares(&self) -> bool {
        self.stride < self.kernel && self.by_blocks() < self.apart()
    }

    /// Elements that are taken out of each window, or block, one by one.
    fn steps(&self) -> u32 {
        match (self.count, self.shares()) {
            (1, _) => 1,
            (_, true) => self.stride,
            (_, false) => self.kernel,
        }
    }

    /// Comparisons per line.
    fn cost(&self, size: u32) -> u64 {
        if self.count == 1 {
            u64::from(self.inside(size).end) - 1
        } else if self.shares() {
            self.by_blocks()
        } else {
            self.apart()
        }
    }

    fn apart(&self) -> u64 {
        u64::from(self.count) * (u64::from(self.kernel) - 1)
    }

    fn by_blocks(&self) -> u64 {
        let Blocks { each, run, rest, count } = self.blocks();
        let [each, run, rest, count, outputs] = [each, run, rest, count, self.count].map(u64::from);
        let mut comparisons = (each - 1) * count;
        let mut length = 1;
        while 2 * length <= run {
            // One maximum for every run of twice the length that is of use.
            comparisons += outputs + run - 2 * length;
            length *= 2;
        }
        comparisons + if length < run { outputs } else { 0 } + if rest > 0 { outputs } else { 0 }
    }

    fn blocks(&self) -> Blocks {
        let (run, rest) = (self.kernel / self.stride, self.kernel % self.stride);
        // The last window's rest is the beginning of a block of its own.
        Blocks { each: self.stride, run, rest, count: self.count + run - u32::from(rest == 0) }
    }

    /// What the first window holds of an axis of this size.
    fn inside(&self, size: u32) -> std::ops::Range<u32> {
        0..self.kernel.saturating_sub(self.before).min(size)
    }
}

struct Blocks {
    /// Elements of a block.
    each: u32,
    /// Whole blocks of a window.
    run: u32,
    /// Elements of a window beyond its whole blocks.
    rest: u32,
    /// Blocks.
    count: u32,
}

struct Tree<'a> {
    before: Before<'a>,
    name: String,
}

impl Tree<'_> {
    fn shape(&self, tensor: Tensor) -> Shape {
        self.before.network.shape(tensor)
    }

    fn push(&mut self, suffix: &str, op: Op, inputs: Vec<Tensor>, shape: Shape) -> Tensor {
        self.before.push(format!("{}.{suffix}", self.name), op, inputs, shape)
    }

    fn joined(&mut self, parts: &[Tensor], shape: Shape) -> Tensor {
        match *parts {
            [part] => part,
            _ => self.push("joined", Op::Concat, parts.to_vec(), shape),
        }
    }

    /// The maxima of windows along one axis.
    fn line(&mut self, x: Tensor, line: &Line) -> Tensor {
        if line.count == 1 {
            let inside = line.inside(self.size(x, line.axis));
            let inside = self.window(x, line.axis, inside.start as i32, 1, inside.end - inside.start);
            return self.whole(inside, line.axis);
        }
        let before = -(line.before as i32);
        if !line.shares() {
            return self.apart(x, line, before, 0..line.kernel, line.count);
        }
        let Blocks { each, run, rest, count } = line.blocks();
        // The first elements of every block, and from them the blocks; the last block may be needed in part alone.
        let (start, blocks) = if rest == 0 {
            (None, self.apart(x, line, before, 0..each, count))
        } else {
            let start = self.apart(x, line, before, 0..rest, count);
            let end = self.apart(x, line, before, rest..each, count - 1);
            let whole = self.window(start, line.axis, 0, 1, count - 1);
            (Some(start), self.larger(whole, end))
        };
        let runs = self.runs(blocks, line, run);
        match start {
            None => runs,
            Some(start) => {
                let rest = self.window(start, line.axis, run as i32, 1, line.count);
                self.larger(runs, rest)
            }
        }
    }

    /// Maxima of each `run` neighbours, by doubling.
    fn runs(&mut self, x: Tensor, line: &Line, run: u32) -> Tensor {
        let (mut x, mut length) = (x, 1);
        while 2 * length <= run {
            let count = line.count + run - 2 * length;
            let (a, b) = (self.window(x, line.axis, 0, 1, count), self.window(x, line.axis, length as i32, 1, count));
            x = self.larger(a, b);
            length *= 2;
        }
        if length < run {
            let a = self.window(x, line.axis, 0, 1, line.count);
            let b = self.window(x, line.axis, (run - length) as i32, 1, line.count);
            x = self.larger(a, b);
        }
        x
    }

    /// Maxima of some elements of each window, as a balanced tree.
    fn apart(&mut self, x: Tensor, line: &Line, before: i32, elements: std::ops::Range<u32>, count: u32) -> Tensor {
        let window = |this: &mut Self, e: u32| this.window(x, line.axis, before + e as i32, line.stride, count);
        let mut row: Vec<Tensor> = elements.map(|e| window(self, e)).collect();
        while row.len() > 1 {
            row = row.chunks(2).map(|pair| if let [a, b] = *pair { self.larger(a, b) } else { pair[0] }).collect();
        }
        row.first().copied().unwrap_or(x)
    }

    /// The maximum of everything along an axis, by halves; what an odd number leaves over joins at the end.
    fn whole(&mut self, x: Tensor, axis: usize) -> Tensor {
        let (mut x, mut left) = (x, Vec::new());
        loop {
            let size = self.size(x, axis);
            if size == 1 {
                return left.into_iter().fold(x, |x, left| self.larger(x, left));
            }
            let half = size / 2;
            if size % 2 == 1 {
                left.push(self.window(x, axis, size as i32 - 1, 1, 1));
            }
            let (a, b) = (self.window(x, axis, 0, 1, half), self.window(x, axis, half as i32, 1, half));
            x = self.larger(a, b);
        }
    }

    fn size(&self, x: Tensor, axis: usize) -> u32 {
        let shape = self.shape(x);
        [shape.height, shape.width][axis]
    }

    /// Every `stride`-th element along an axis.
    fn window(&mut self, x: Tensor, axis: usize, offset: i32, stride: u32, count: u32) -> Tensor {
        let shape = self.shape(x);
        let mut window =
            Window { offset: [0; 2], stride: [1; 2], size: [shape.height, shape.width], edge: Edge::Nearest };
        (window.offset[axis], window.stride[axis], window.size[axis]) = (offset, stride, count);
        let shape = Shape { height: window.size[0], width: window.size[1], ..shape };
        if offset == 0 && stride == 1 && shape == self.shape(x) {
            return x;
        }
        self.push("window", Op::Window(window), vec![x], shape)
    }

    fn larger(&mut self, a: Tensor, b: Tensor) -> Tensor {
        let shape = self.shape(a);
        self.push("max", Op::Max, vec![a, b], shape)
    }
}
