//! A network as an ONNX graph of standard operators.

use super::element_type::{BOOL, FLOAT, INT64};
use crate::network::{Function, Layer, Linear, Network, Op, Piecewise};
use safenet_core::model::{Edge, Pool, Shape, Window};
use tract_onnx::pb::{self, attribute_proto::AttributeType, tensor_shape_proto, type_proto};

type Result<T> = std::result::Result<T, String>;

/// Writes the nodes of a graph. Every tensor has four dimensions: a batch of one, channels, rows, columns; flat vectors are
/// images of one pixel.
#[derive(Default)]
pub(super) struct Writer {
    graph: pb::GraphProto,
    names: usize,
}

impl Writer {
    /// The graph of a network. Its outputs are the outputs of all layers.
    pub(super) fn write(network: &Network) -> Result<pb::GraphProto> {
        if network.layers.is_empty() {
            return Err("expected at least one layer, got none".into());
        }
        let mut writer = Self::default();
        let input = writer.name();
        writer.graph.input.push(image(&input, network.input));
        let mut tensors = vec![(input, network.input)];
        for layer in &network.layers {
            let inputs = layer.inputs.iter().map(|&i| {
                tensors.get(i).map(|(name, shape)| (name.as_str(), *shape)).ok_or_else(|| {
                    format!("{}: expected inputs among the {} tensors before it, got {i}", layer.name, tensors.len())
                })
            });
            let inputs = inputs.collect::<Result<Vec<_>>>()?;
            let output = writer.layer(layer, &inputs).map_err(|e| format!("{}: {e}", layer.name))?;
            writer.graph.output.push(pb::ValueInfoProto { name: output.clone(), ..Default::default() });
            tensors.push((output, layer.shape));
        }
        Ok(writer.graph)
    }

    /// Writes one layer and gives its output's name, which is that of no other tensor.
    fn layer(&mut self, layer: &Layer, inputs: &[(&str, Shape)]) -> Result<String> {
        let &(x, shape) = inputs.first().ok_or("expected an input, got none")?;
        if let (1, Op::Max) = (inputs.len(), &layer.op) {
            return Err("expected two inputs, got 1".into());
        }
        let names: Vec<&str> = inputs.iter().map(|i| i.0).collect();
        let output = match &layer.op {
            Op::Linear(linear) => self.convolution(x, shape, linear),
            Op::Average(pool) => {
                let mut attributes = window(pool);
                attributes.push(int("count_include_pad", (!pool.inside_only).into()));
                self.node("AveragePool", &[x], attributes)
            }
            Op::MaxPool(pool) => self.node("MaxPool", &[x], window(pool)),
            Op::Max => self.node("Max", &names, Vec::new()),
            Op::Window(window) => self.window(x, shape, window),
            Op::Channels(channels) => {
                let range = channels.range();
                self.slice(x, 1, range.start as i64, range.end as i64, 1)
            }
            Op::Concat => self.node("Concat", &names, vec![int("axis", 1)]),
            Op::Flatten => {
                let flat = self.integers(&[1, shape.elements() as i64, 1, 1]);
                self.node("Reshape", &[x, &flat], Vec::new())
            }
            Op::Sum { negative, constant } => self.sum(&names, negative, constant),
            Op::Activation(functions) => self.activation(x, functions),
            Op::Affine { scale, shift } => {
                let (scale, shift) = (self.per_channel(scale), self.per_channel(shift));
                let scaled = self.node("Mul", &[x, &scale], Vec::new());
                self.node("Add", &[&scaled, &shift], Vec::new())
            }
            Op::Piecewise(functions) => self.piecewise(x, functions),
        };
        // Layers that change nothing still have an output of their own.
        Ok(if output == x { self.node("Identity", &[x], Vec::new()) } else { output })
    }

    fn convolution(&mut self, x: &str, shape: Shape, linear: &Linear) -> String {
        let conv = &linear.conv;
        let kernel = conv.kernel.map(|k| k as usize);
        let inputs = shape.channels.checked_div(conv.groups).unwrap_or(0) as usize;
        let dims = [conv.out_channels as usize, inputs, kernel[0], kernel[1]];
        let weights = self.reals(&dims, &linear.weights);
        let mut given = vec![x, &weights];
        let bias = self.reals(&[linear.bias.len()], &linear.bias);
        if linear.bias.iter().any(|&b| b != 0.0) {
            given.push(&bias);
        }
        let attributes = vec![
            ints("kernel_shape", &conv.kernel),
            ints("strides", &conv.stride),
            ints("pads", &conv.padding),
            ints("dilations", &conv.dilation),
            int("group", conv.groups.into()),
        ];
        self.node("Conv", &given, attributes)
    }

    /// What of the window lies inside the image is a slice of it along each axis; zeros go around it, and where the nearest
    /// places are wanted instead, an axis that needs them is gathered place by place. No tensor on the way is larger than
    /// the input or the output, however far outside the window lies.
    fn window(&mut self, x: &str, shape: Shape, window: &Window) -> String {
        let mut y = x.to_owned();
        // Before and after, per axis.
        let mut zeros = [0i64; 8];
        for (axis, size) in [shape.height, shape.width].into_iter().enumerate() {
            let places: Vec<Option<usize>> = window.places(axis, size).collect();
            let inside: Vec<i64> = places.iter().flatten().map(|&p| p as i64).collect();
            let stride = i64::from(window.stride[axis]);
            let dimension = axis as i64 + 2;
            let (&[first, .., last] | &[first @ last]) = inside.as_slice() else {
                let nothing = vec![0.0; shape.channels as usize * window.size[0] as usize * window.size[1] as usize];
                let size = window.size.map(|s| s as usize);
                return self.reals(&[1, shape.channels as usize, size[0], size[1]], &nothing);
            };
            if window.edge == Edge::Nearest && inside.windows(2).any(|p| p[1] != p[0] + stride) {
                let places = self.integers(&inside);
                y = self.node("Gather", &[&y, &places], vec![int("axis", dimension)]);
            } else if inside.len() < size as usize {
                y = self.slice(&y, dimension, first, last + 1, stride);
            }
            let before = places.iter().take_while(|p| p.is_none()).count();
            zeros[2 + axis] = before as i64;
            zeros[6 + axis] = (places.len() - before - inside.len()) as i64;
        }
        if zeros != [0; 8] {
            let zeros = self.integers(&zeros);
            y = self.node("Pad", &[&y, &zeros], Vec::new());
        }
        y
    }

    fn slice(&mut self, x: &str, axis: i64, first: i64, end: i64, step: i64) -> String {
        let [first, end, axis, step] = [first, end, axis, step].map(|i| self.integers(&[i]));
        self.node("Slice", &[x, &first, &end, &axis, &step], Vec::new())
    }

    fn sum(&mut self, inputs: &[&str], negative: &[bool], constant: &[f64]) -> String {
        let mut terms = inputs.iter().zip(negative.iter().copied().chain(std::iter::repeat(false)));
        let mut sum = match terms.next() {
            Some((x, true)) => self.node("Neg", &[x], Vec::new()),
            Some((x, false)) => (*x).to_owned(),
            None => String::new(),
        };
        for (x, negative) in terms {
            sum = self.node(if negative { "Sub" } else { "Add" }, &[&sum, x], Vec::new());
        }
        self.shifted(sum, constant)
    }

    fn activation(&mut self, x: &str, functions: &[Function]) -> String {
        let exact: Vec<bool> = functions.iter().map(|f| *f == Function::Relu).collect();
        let coefficients = std::array::from_fn(|power| {
            let coefficient = functions.iter().map(|f| match f {
                Function::Relu => 0.0,
                Function::Polynomial { c, .. } => c[power],
            });
            coefficient.collect()
        });
        let relu = exact.contains(&true).then(|| self.node("Relu", &[x], Vec::new()));
        let polynomial = exact.contains(&false).then(|| self.polynomial(x, &coefficients));
        let others = exact.iter().map(|e| !e).collect();
        self.choose([(relu, exact), (polynomial, others)], x)
    }

    /// ((c3 · x + c2) · x + c1) · x + c0, with a set of coefficients per channel.
    fn polynomial(&mut self, x: &str, c: &[Vec<f64>; 4]) -> String {
        let degree = c.iter().rposition(|c| c.iter().any(|&c| c != 0.0)).unwrap_or(0).max(1);
        let mut y = self.scaled(x, &c[degree]);
        for power in (1..degree).rev() {
            let shifted = self.shifted(y, &c[power]);
            y = self.node("Mul", &[&shifted, x], Vec::new());
        }
        self.shifted(y, &c[0])
    }

    fn piecewise(&mut self, x: &str, functions: &[Piecewise]) -> String {
        let kind = |f: &Piecewise| match f {
            Piecewise::Clip { .. } => 0,
            Piecewise::Leaky { .. } => 1,
            Piecewise::HardSigmoid { .. } => 2,
            Piecewise::HardSwish => 3,
        };
        let branches: Vec<(Option<String>, Vec<bool>)> = (0..4)
            .map(|branch| {
                let here: Vec<bool> = functions.iter().map(|f| kind(f) == branch).collect();
                let y = here.contains(&true).then(|| self.branch(x, branch, functions));
                (y, here)
            })
            .collect();
        self.choose(branches, x)
    }

    /// One kind of piecewise function on all channels; on those of another kind it may give anything.
    fn branch(&mut self, x: &str, kind: usize, functions: &[Piecewise]) -> String {
        let per_channel = |number: fn(&Piecewise) -> f64| functions.iter().map(number).collect::<Vec<f64>>();
        match kind {
            0 => {
                let low = per_channel(|f| if let Piecewise::Clip { low, .. } = f { *low } else { 0.0 });
                let high = per_channel(|f| if let Piecewise::Clip { high, .. } = f { *high } else { 0.0 });
                self.clipped(x, &low, &high)
            }
            1 => {
                let slope = per_channel(|f| if let Piecewise::Leaky { slope } = f { *slope } else { 0.0 });
                let (below, zero) = (self.scaled(x, &slope), self.per_channel(&[0.0]));
                let positive = self.node("Greater", &[x, &zero], Vec::new());
                self.node("Where", &[&positive, x, &below], Vec::new())
            }
            2 => {
                let alpha = per_channel(|f| if let Piecewise::HardSigmoid { alpha, .. } = f { *alpha } else { 0.0 });
                let beta = per_channel(|f| if let Piecewise::HardSigmoid { beta, .. } = f { *beta } else { 0.0 });
                let scaled = self.scaled(x, &alpha);
                let line = self.shifted(scaled, &beta);
                self.clipped(&line, &[0.0], &[1.0])
            }
            _ => {
                let scaled = self.scaled(x, &[1.0 / 6.0]);
                let line = self.shifted(scaled, &[0.5]);
                let gate = self.clipped(&line, &[0.0], &[1.0]);
                self.node("Mul", &[x, &gate], Vec::new())
            }
        }
    }

    fn clipped(&mut self, x: &str, low: &[f64], high: &[f64]) -> String {
        let mut y = x.to_owned();
        for (op, ends) in [("Max", low), ("Min", high)] {
            if ends.iter().any(|end| end.is_finite()) {
                let ends = self.per_channel(ends);
                y = self.node(op, &[&y, &ends], Vec::new());
            }
        }
        y
    }

    /// Each channel from the branch that has a true entry for it.
    fn choose(&mut self, branches: impl IntoIterator<Item = (Option<String>, Vec<bool>)>, x: &str) -> String {
        let mut chosen: Option<String> = None;
        for (y, here) in branches {
            let Some(y) = y else { continue };
            chosen = Some(match chosen {
                None => y,
                Some(others) => {
                    let mask = here.iter().map(|&h| h.into()).collect();
                    let mask = self.constant(BOOL, &[1, here.len(), 1, 1], mask);
                    self.node("Where", &[&mask, &y, &others], Vec::new())
                }
            });
        }
        chosen.unwrap_or_else(|| x.to_owned())
    }

    fn scaled(&mut self, x: &str, factors: &[f64]) -> String {
        if factors.iter().all(|&f| f == 1.0) {
            return x.to_owned();
        }
        let factors = self.per_channel(factors);
        self.node("Mul", &[x, &factors], Vec::new())
    }

    fn shifted(&mut self, x: String, by: &[f64]) -> String {
        if by.iter().all(|&b| b == 0.0) {
            return x;
        }
        let by = self.per_channel(by);
        self.node("Add", &[&x, &by], Vec::new())
    }

    fn node(&mut self, op: &str, inputs: &[&str], attribute: Vec<pb::AttributeProto>) -> String {
        let output = self.name();
        self.graph.node.push(pb::NodeProto {
            op_type: op.into(),
            name: output.clone(),
            input: inputs.iter().map(|&i| i.to_owned()).collect(),
            output: vec![output.clone()],
            attribute,
            ..Default::default()
        });
        output
    }

    /// One number per channel, or a single one for all.
    fn per_channel(&mut self, numbers: &[f64]) -> String {
        let numbers = match numbers {
            [first, rest @ ..] if rest.iter().all(|n| n == first) => &numbers[..1],
            _ => numbers,
        };
        self.reals(&[1, numbers.len(), 1, 1], numbers)
    }

    fn reals(&mut self, dims: &[usize], numbers: &[f64]) -> String {
        self.constant(FLOAT, dims, numbers.iter().flat_map(|&x| (x as f32).to_le_bytes()).collect())
    }

    fn integers(&mut self, numbers: &[i64]) -> String {
        self.constant(INT64, &[numbers.len()], numbers.iter().flat_map(|x| x.to_le_bytes()).collect())
    }

    fn constant(&mut self, data_type: i32, dims: &[usize], raw_data: Vec<u8>) -> String {
        let name = self.name();
        self.graph.initializer.push(pb::TensorProto {
            name: name.clone(),
            dims: dims.iter().map(|&d| d as i64).collect(),
            data_type,
            raw_data,
            ..Default::default()
        });
        name
    }

    fn name(&mut self) -> String {
        self.names += 1;
        format!("v{}", self.names)
    }
}

fn window(pool: &Pool) -> Vec<pb::AttributeProto> {
    vec![ints("kernel_shape", &pool.kernel), ints("strides", &pool.stride), ints("pads", &pool.padding)]
}

fn int(name: &str, i: i64) -> pb::AttributeProto {
    pb::AttributeProto { name: name.into(), r#type: AttributeType::Int as i32, i, ..Default::default() }
}

fn ints(name: &str, numbers: &[u32]) -> pb::AttributeProto {
    pb::AttributeProto {
        name: name.into(),
        r#type: AttributeType::Ints as i32,
        ints: numbers.iter().map(|&n| n.into()).collect(),
        ..Default::default()
    }
}

/// The declaration of an image as input.
fn image(name: &str, shape: Shape) -> pb::ValueInfoProto {
    let dim = [1, shape.channels, shape.height, shape.width].map(|d| tensor_shape_proto::Dimension {
        value: Some(tensor_shape_proto::dimension::Value::DimValue(d.into())),
        ..Default::default()
    });
    let tensor = type_proto::Tensor { elem_type: FLOAT, shape: Some(pb::TensorShapeProto { dim: dim.into() }) };
    pb::ValueInfoProto {
        name: name.into(),
        r#type: Some(pb::TypeProto { value: Some(type_proto::Value::TensorType(tensor)), ..Default::default() }),
        ..Default::default()
    }
}
