//! The network in real numbers: a graph of layers, each reading earlier tensors.

use safenet_core::model::{Channels, Convolution, Pool, Shape, Window};

/// Name of the last layer.
pub(crate) const OUTPUT: &str = "output";

/// Names a tensor: 0 is the network's input, i + 1 is the output of layer i.
pub(crate) type Tensor = usize;

/// A trained network as the compiler works on it. The last layer's output is the network's.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) name: String,
    pub(crate) input: Shape,
    pub(crate) layers: Vec<Layer>,
    /// Remarks to the user: what of the file is left to the client, and where values stand in another order.
    pub(crate) notes: Vec<String>,
    /// Whether the file ends in the class of the largest score.
    pub(crate) class_output: bool,
}

impl Network {
    /// A network without layers.
    pub(crate) fn new(name: String, input: Shape) -> Self {
        Self { name, input, layers: Vec::new(), notes: Vec::new(), class_output: false }
    }

    /// Shape of a tensor.
    pub(crate) fn shape(&self, tensor: Tensor) -> Shape {
        self.producer(tensor).map_or(self.input, |layer| layer.shape)
    }

    /// The layer that makes a tensor; none for the network's input.
    pub(crate) fn producer(&self, tensor: Tensor) -> Option<&Layer> {
        self.layers.get(tensor.checked_sub(1)?)
    }

    /// For every tensor, the layers that read it, each once.
    pub(crate) fn readers(&self) -> Vec<Vec<usize>> {
        let mut readers = vec![Vec::new(); self.layers.len() + 1];
        for (index, layer) in self.layers.iter().enumerate() {
            for &input in &layer.inputs {
                let list: &mut Vec<usize> = &mut readers[input];
                if list.last() != Some(&index) {
                    list.push(index);
                }
            }
        }
        readers
    }

    /// Puts a layer before the one at `index`, and gives its tensor; later tensors count one more.
    pub(crate) fn insert(&mut self, index: usize, layer: Layer) -> Tensor {
        for later in &mut self.layers[index..] {
            later.inputs.iter_mut().filter(|input| **input > index).for_each(|input| *input += 1);
        }
        self.layers.insert(index, layer);
        index + 1
    }

    /// For every tensor, whether the client knows its mask before any answer of the server: the input, what activations and
    /// maxima give, and what local layers make of such tensors alone. Linear layers and maxima read no others.
    pub(crate) fn known(&self) -> Vec<bool> {
        let mut known = vec![true];
        for layer in &self.layers {
            known.push(match layer.op {
                Op::Linear(_) => false,
                Op::Activation(_) | Op::Max => true,
                _ => layer.inputs.iter().all(|&input| known[input]),
            });
        }
        known
    }
}

/// One layer.
#[derive(Clone, Debug)]
pub(crate) struct Layer {
    pub(crate) name: String,
    /// What it reads: the network's input or outputs of earlier layers.
    pub(crate) inputs: Vec<Tensor>,
    pub(crate) op: Op,
    /// Shape of its output.
    pub(crate) shape: Shape,
}

/// What a layer computes.
///
/// Those marked *read* come from ONNX and are gone after [`normalise`](crate::normalise::normalise), which expresses them by the
/// others.
#[derive(Clone, Debug)]
pub(crate) enum Op {
    Linear(Linear),
    /// Averages over windows; with `inside_only`, of what is inside the image, else with zeros of the padding counted.
    Average(Pool),
    /// *Read.* Maxima over windows; what is outside the image does not count, and `Pool::inside_only` says nothing. The
    /// layer's shape may hold more windows than the padding makes room for, each of which starts in the image.
    MaxPool(Pool),
    /// The larger of two tensors, element by element.
    Max,
    Window(Window),
    Channels(Channels),
    Concat,
    Flatten,
    /// The sum of the inputs, those with a true entry in `negative` subtracted, and a constant per channel.
    Sum {
        negative: Vec<bool>,
        constant: Vec<f64>,
    },
    /// One function per channel.
    Activation(Vec<Function>),
    /// *Read.* scale · x + shift, per channel: batch normalisation and its like.
    Affine {
        scale: Vec<f64>,
        shift: Vec<f64>,
    },
    /// *Read.* One piecewise function per channel.
    Piecewise(Vec<Piecewise>),
}

/// A function of one variable that is put together from ReLUs, lines and parabolas.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Piecewise {
    /// min(max(x, low), high); an end may be infinite. Clip, ReLU6.
    Clip { low: f64, high: f64 },
    /// x for x > 0, slope · x below. LeakyRelu, PRelu.
    Leaky { slope: f64 },
    /// min(max(alpha · x + beta, 0), 1).
    HardSigmoid { alpha: f64, beta: f64 },
    /// x · min(max(x/6 + 1/2, 0), 1).
    HardSwish,
}

/// A convolution, or a dense layer as a 1x1 convolution of a flat vector.
#[derive(Clone, Debug)]
pub(crate) struct Linear {
    pub(crate) conv: Convolution,
    /// [out][in / groups][row][column].
    pub(crate) weights: Vec<f64>,
    pub(crate) bias: Vec<f64>,
}

impl Op {
    /// Whether both parties compute it by themselves, by moving and adding what they hold.
    pub(crate) fn is_local(&self) -> bool {
        matches!(
            self,
            Self::Average(_) | Self::Window(_) | Self::Channels(_) | Self::Concat | Self::Flatten | Self::Sum { .. }
        )
    }
}

impl Linear {
    /// Weights of one output channel.
    pub(crate) fn row(&self, output: usize) -> &[f64] {
        let length = self.row_length();
        &self.weights[output * length..(output + 1) * length]
    }

    /// Weights and bias of each output channel.
    pub(crate) fn rows_mut(&mut self) -> impl Iterator<Item = (&mut [f64], &mut f64)> {
        let length = self.row_length().max(1);
        self.weights.chunks_exact_mut(length).zip(&mut self.bias)
    }

    fn row_length(&self) -> usize {
        self.weights.len() / self.bias.len().max(1)
    }

    /// Weights between one input and one output channel.
    pub(crate) fn taps(&self) -> usize {
        self.conv.kernel[0] as usize * self.conv.kernel[1] as usize
    }

    /// scale · x + shift for each channel by itself.
    pub(crate) fn depthwise(scale: Vec<f64>, shift: Vec<f64>) -> Self {
        let channels = scale.len() as u32;
        let conv = Convolution {
            out_channels: channels,
            kernel: [1, 1],
            stride: [1, 1],
            padding: [0; 4],
            dilation: [1, 1],
            groups: channels,
            packed_outputs: u32::MAX,
        };
        Self { conv, weights: scale, bias: shift }
    }

    /// Whether it is what [`Self::depthwise`] makes.
    pub(crate) fn is_depthwise(&self) -> bool {
        let Convolution { out_channels, kernel, stride, padding, groups, .. } = self.conv;
        kernel == [1, 1]
            && stride == [1, 1]
            && padding == [0; 4]
            && groups == out_channels
            && self.weights.len() == self.bias.len()
    }
}

/// The activation of one channel.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Function {
    Relu,
    /// c0 + c1·x + c2·x² + c3·x³, planned as a polynomial of this degree.
    Polynomial {
        degree: u8,
        c: [f64; 4],
    },
}

impl Function {
    /// x ↦ x.
    pub(crate) const IDENTITY: Self = Self::Polynomial { degree: 1, c: [0.0, 1.0, 0.0, 0.0] };

    pub(crate) fn at(&self, x: f64) -> f64 {
        match self {
            Self::Relu => x.max(0.0),
            Self::Polynomial { c, .. } => ((c[3] * x + c[2]) * x + c[1]) * x + c[0],
        }
    }

    /// Smallest and largest value over an interval.
    pub(crate) fn range(&self, low: f64, high: f64) -> [f64; 2] {
        let mut range = [self.at(low).min(self.at(high)), self.at(low).max(self.at(high))];
        if let Self::Polynomial { c, .. } = self {
            // Where the slope c1 + 2·c2·x + 3·c3·x² is zero.
            let (a, b) = (3.0 * c[3], 2.0 * c[2]);
            let root = (b * b - 4.0 * a * c[1]).sqrt();
            // Both forms of each root: one of them is exact where the other cancels or divides by zero.
            for x in
                [(-b + root) / (2.0 * a), (-b - root) / (2.0 * a), 2.0 * c[1] / (-b + root), 2.0 * c[1] / (-b - root)]
            {
                if x.is_finite() && x > low && x < high {
                    range = [range[0].min(self.at(x)), range[1].max(self.at(x))];
                }
            }
        }
        range
    }
}
