//! The operators that the compiler reads: a table from names to functions that translate, and what these functions share.

mod activation;
mod arithmetic;
mod ending;
mod linear;
mod pool;
mod shape;
mod unsupported;
mod windows;

use super::attributes::differs;
use super::proto::{NodeProto, TensorProto};
use super::value::{Computed, Order, Value};
use super::{Builder, attributes, clip, constant, function, label};
use crate::network::{Op, Tensor};
use crate::shape::checked;
use safenet_core::model::Shape;

pub(super) use unsupported::not_last;

/// Why a node was not translated.
#[derive(Debug)]
pub(super) enum Fault {
    /// It contradicts itself or its inputs.
    Damaged(String),
    /// It has no private form.
    Unsupported { reason: String, advice: &'static str },
}

impl From<String> for Fault {
    fn from(message: String) -> Self {
        Self::Damaged(message)
    }
}

impl From<&str> for Fault {
    fn from(message: &str) -> Self {
        Self::Damaged(message.into())
    }
}

fn unsupported<T>(reason: impl Into<String>, advice: &'static str) -> Result<T, Fault> {
    Err(Fault::Unsupported { reason: reason.into(), advice })
}

/// What a node's outputs are; those that no one can compute privately are left out at the end.
type Outputs = Result<Vec<Computed>, Fault>;

/// How an operator is read.
pub(super) struct Operator {
    name: &'static str,
    attributes: &'static [Attribute],
    /// Whether it may read several computed values.
    several: bool,
    /// Whether it only renames or reshapes, so that it may stand behind what is left to the client.
    reshapes: bool,
    pub(super) translate: fn(&mut Call<'_>) -> Outputs,
}

/// An attribute that an operator may have; others are refused, as they may change what it computes.
enum Attribute {
    /// With any value that `translate` takes.
    Any(&'static str),
    /// With this value only; what to do if it has another.
    Only(&'static str, i64, &'static str),
}

impl Attribute {
    fn name(&self) -> &'static str {
        match self {
            Self::Any(name) | Self::Only(name, ..) => name,
        }
    }
}

use Attribute::{Any, Only};

const EVALUATION: &str = "export the network in evaluation mode (model.eval())";
const DILATED_POOL: &str = "use pooling without dilation";

const fn operator(
    name: &'static str,
    attributes: &'static [Attribute],
    translate: fn(&mut Call<'_>) -> Outputs,
) -> Operator {
    Operator { name, attributes, several: false, reshapes: false, translate }
}

/// One that may read several computed values.
const fn joining(
    name: &'static str,
    attributes: &'static [Attribute],
    translate: fn(&mut Call<'_>) -> Outputs,
) -> Operator {
    Operator { name, attributes, several: true, reshapes: false, translate }
}

/// One that renames or reshapes.
const fn reshaping(
    name: &'static str,
    attributes: &'static [Attribute],
    translate: fn(&mut Call<'_>) -> Outputs,
) -> Operator {
    Operator { name, attributes, several: false, reshapes: true, translate }
}

static OPERATORS: &[Operator] = &[
    operator(
        "Conv",
        &[Any("auto_pad"), Any("dilations"), Any("group"), Any("kernel_shape"), Any("pads"), Any("strides")],
        linear::convolution,
    ),
    operator(
        "Gemm",
        &[Any("alpha"), Any("beta"), Only("transA", 0, "transpose the weights, not the input"), Any("transB")],
        linear::gemm,
    ),
    operator("MatMul", &[], linear::matrix_product),
    operator(
        "BatchNormalization",
        &[Any("epsilon"), Any("momentum"), Only("spatial", 1, EVALUATION), Only("training_mode", 0, EVALUATION)],
        linear::batch_normalisation,
    ),
    operator("Relu", &[], activation::relu),
    operator("Clip", &[Any("min"), Any("max")], activation::clip),
    operator("LeakyRelu", &[Any("alpha")], activation::leaky_relu),
    operator("PRelu", &[], activation::parametric_relu),
    operator("Abs", &[], activation::absolute),
    operator("HardSigmoid", &[Any("alpha"), Any("beta")], activation::hard_sigmoid),
    operator("HardSwish", &[], activation::hard_swish),
    operator("Max", &[], activation::maximum),
    operator("Min", &[], activation::minimum),
    operator(
        "MaxPool",
        &[
            Any("auto_pad"),
            Any("ceil_mode"),
            Only("dilations", 1, DILATED_POOL),
            Any("kernel_shape"),
            Any("pads"),
            Any("storage_order"),
            Any("strides"),
        ],
        pool::max,
    ),
    operator("GlobalMaxPool", &[], pool::global_max),
    operator(
        "AveragePool",
        &[
            Any("auto_pad"),
            Any("ceil_mode"),
            Any("count_include_pad"),
            Only("dilations", 1, DILATED_POOL),
            Any("kernel_shape"),
            Any("pads"),
            Any("strides"),
        ],
        pool::average,
    ),
    operator("GlobalAveragePool", &[], pool::global_average),
    operator("ReduceMean", &[Any("axes"), Any("keepdims"), Any("noop_with_empty_axes")], pool::mean),
    joining("Add", &[], arithmetic::add),
    joining("Sub", &[], arithmetic::subtract),
    joining("Sum", &[], arithmetic::add),
    operator("Mul", &[], arithmetic::multiply),
    operator("Div", &[], arithmetic::divide),
    operator("Neg", &[], arithmetic::negate),
    joining("Concat", &[Any("axis")], shape::concat),
    operator("Slice", &[Any("axes"), Any("ends"), Any("starts")], shape::slice),
    operator("Split", &[Any("axis"), Any("num_outputs"), Any("split")], shape::split),
    operator("Pad", &[Any("mode"), Any("pads"), Any("value")], shape::pad),
    reshaping("Reshape", &[Only("allowzero", 0, "use allowzero = 0")], shape::reshape),
    reshaping("Flatten", &[Any("axis")], shape::flatten),
    reshaping("Squeeze", &[Any("axes")], shape::squeeze),
    reshaping("Unsqueeze", &[Any("axes")], shape::unsqueeze),
    reshaping("Identity", &[], shape::identity),
    reshaping("Cast", &[Any("to"), Any("saturate"), Any("round_mode")], shape::cast),
    operator("Transpose", &[Any("perm")], shape::transpose),
    operator("Dropout", &[Any("ratio"), Any("seed")], shape::dropout),
    operator("Softmax", &[Any("axis")], ending::scores),
    operator("LogSoftmax", &[Any("axis")], ending::scores),
    operator("Sigmoid", &[], ending::scores),
    reshaping(
        "ArgMax",
        &[Any("axis"), Any("keepdims"), Only("select_last_index", 0, "use select_last_index = 0")],
        ending::class,
    ),
];

/// The planned activation, a function of the project's own domain.
static CHANNEL_ACTIVATION: Operator = operator(function::NAME, &[], activation::channel_activation);

/// How the operator of a node is read.
pub(super) fn find(node: &NodeProto) -> Result<&'static Operator, Fault> {
    if node.domain == function::DOMAIN && node.op_type == function::NAME {
        return Ok(&CHANNEL_ACTIVATION);
    }
    if !node.domain.is_empty() && node.domain != "ai.onnx" {
        return unsupported(format!("unknown operator domain {:?}", node.domain), "use standard ONNX operators");
    }
    OPERATORS.iter().find(|o| o.name == node.op_type).ok_or_else(|| unsupported::operator(&node.op_type))
}

/// Whether a node only renames or reshapes, so that it may stand behind what is left to the client.
pub(super) fn reshapes(node: &NodeProto) -> bool {
    node.op_type == "Shape" || find(node).is_ok_and(|operator| operator.reshapes)
}

impl Operator {
    /// What can be said without knowing shapes: attributes, and how many computed values it reads.
    pub(super) fn check(&self, node: &NodeProto, inputs: &[Option<Value>]) -> Result<(), Fault> {
        for attribute in &node.attribute {
            match self.attributes.iter().find(|a| a.name() == attribute.name) {
                None => {
                    return unsupported(format!("unknown attribute {}", attribute.name), "leave this attribute out");
                }
                Some(Only(name, value, advice)) if differs(attribute, *value) => {
                    let got = if attribute.ints.is_empty() { vec![attribute.i] } else { attribute.ints.clone() };
                    let got: Vec<String> = got.iter().map(i64::to_string).collect();
                    return unsupported(format!("{name} = {}", got.join(", ")), advice);
                }
                Some(_) => {}
            }
        }
        let computed = inputs.iter().flatten().filter(|value| !matches!(value, Value::Constant(_))).count();
        if computed > 1 && !self.several {
            return unsupported(format!("{computed} computed inputs"), unsupported::joining(self.name));
        }
        Ok(())
    }
}

/// One node to translate.
pub(super) struct Call<'a> {
    pub(super) node: &'a NodeProto,
    /// Its place in the file.
    pub(super) index: usize,
    pub(super) inputs: &'a [Option<Value>],
    pub(super) builder: &'a mut Builder,
}

impl<'a> Call<'a> {
    /// A computed input.
    fn computed(&self, i: usize) -> Result<Computed, Fault> {
        match self.inputs.get(i) {
            Some(Some(Value::Computed(value))) => Ok(value.clone()),
            Some(Some(_)) => unsupported(
                format!("a constant as input {i}, and a computed weight or parameter"),
                "only the first input may be computed, the others must be constants",
            ),
            _ => Err(format!("input {i}: expected a value, got none").into()),
        }
    }

    /// An input that must be a constant; none if it is left out.
    fn optional(&self, i: usize, what: &str) -> Result<Option<&'a TensorProto>, Fault> {
        match self.inputs.get(i) {
            Some(Some(Value::Constant(tensor))) => Ok(Some(tensor)),
            Some(Some(_)) => unsupported(
                format!("a computed {what}"),
                "only the first input may be computed, the others must be constants",
            ),
            _ => Ok(None),
        }
    }

    fn constant(&self, i: usize, what: &str) -> Result<&'a TensorProto, Fault> {
        self.optional(i, what)?.ok_or_else(|| format!("{what}: expected a constant, got none").into())
    }

    fn reals(&self, i: usize, what: &str) -> Result<(Vec<u64>, Vec<f64>), Fault> {
        let tensor = self.constant(i, what)?;
        Ok(constant::reals(tensor).map_err(|e| format!("{what}: {e}"))?)
    }

    /// The values of a list of integers; none if it is left out.
    fn list(&self, i: usize, what: &str) -> Result<Option<Vec<i64>>, Fault> {
        let Some(tensor) = self.optional(i, what)? else {
            return Ok(None);
        };
        Ok(Some(constant::integers(tensor).map_err(|e| format!("{what}: {e}"))?.1))
    }

    /// A list of integers that early versions of an operator have as an attribute and later ones as an input.
    fn list_or_attribute(&self, i: usize, name: &str) -> Result<Option<Vec<i64>>, Fault> {
        match attributes::integers(self.node, name)? {
            Some(list) => Ok(Some(list.to_vec())),
            None => self.list(i, name),
        }
    }

    /// Adds a layer under the node's name.
    fn push(&mut self, op: Op, inputs: Vec<Tensor>, shape: Shape) -> Result<Tensor, Fault> {
        Ok(self.builder.push(clip(&label(self.node)), op, inputs, shape)?)
    }

    /// Adds a layer that keeps the shape of the value it reads.
    fn map(&mut self, op: Op, x: &Computed) -> Outputs {
        let tensor = self.push(op, vec![x.tensor], x.shape)?;
        Ok(vec![x.with(tensor)])
    }

    /// The value with its channels where the file has them: flattens the tensor if the file did.
    fn settled(&mut self, x: Computed) -> Result<Computed, Fault> {
        let elements = x.shape.elements() as u64;
        if x.channel_axis().is_some() || u64::from(x.dims[0]) != elements {
            return Ok(x);
        }
        let shape = checked(elements, 1, 1)?;
        let tensor = self.push(Op::Flatten, vec![x.tensor], shape)?;
        Ok(Computed { tensor, shape, ..x })
    }

    /// A computed input as an image: shape (batch, C, H, W).
    fn image(&mut self, i: usize) -> Result<Computed, Fault> {
        let x = self.computed(i)?;
        let x = self.settled(x)?;
        let Shape { channels, height, width } = x.shape;
        if x.dims == [channels, height, width] && x.order == Order::Same {
            return Ok(x);
        }
        Err(format!("expected an input of shape (batch, C, H, W), got {}", described(&x)).into())
    }

    /// A computed input as a vector: shape (batch, K).
    fn vector(&mut self, i: usize) -> Result<Computed, Fault> {
        let x = self.computed(i)?;
        if x.dims.len() == 1 {
            return self.settled(x);
        }
        Err(format!("expected a flat input of shape (batch, K), got {}; add a Flatten before it", described(&x)).into())
    }

    /// One number per channel of a value, from a constant; the value is settled if there is more than a single number.
    fn per_channel(&mut self, x: Computed, i: usize, what: &str) -> Result<(Computed, Vec<f64>), Fault> {
        let constant = self.reals(i, what)?;
        let x = if constant.1.len() == 1 { x } else { self.settled(x)? };
        let numbers = x.per_channel(constant).map_err(|e| format!("{what}: {e}"))?;
        Ok((x, numbers))
    }
}

/// Shape of a value in the file.
fn described(x: &Computed) -> String {
    let dims: Vec<String> = x.dims.iter().map(u32::to_string).collect();
    let order = if x.order == Order::Same { "" } else { " with its channels last" };
    format!("(batch, {}){order}", dims.join(", "))
}
