//! The compiler's network in 32-bit real numbers.

use super::exact::exact;
use super::graph::Writer;
use super::{Plan, guarded, parse};
use crate::error::{Error, Result};
use crate::network::Network;
use safenet_core::model::Shape;
use std::sync::OnceLock;
use tract_onnx::prelude::{InferenceModelExt, TypedModel};
use tract_onnx::tract_core::internal::ensure;

/// Version of ONNX's operator set in which networks are handed to the engine.
const OPSET: i64 = 17;

/// The trained network in 32-bit real numbers: what the fixed-point model is compared with.
///
/// Sums are in an order of the engine's choice, which depends on the processor: results differ by roundings from machine to
/// machine.
pub struct FloatNetwork {
    /// Shapes of all tensors: 0 is the input, i + 1 the output of layer i.
    shapes: Vec<Shape>,
    /// The graph with every layer's output, from which plans are made; they share its weights until packed.
    model: TypedModel,
    scores: Plan,
    /// Made when first asked for: it fuses less and holds its own packed weights.
    layers: OnceLock<std::result::Result<Plan, String>>,
}

impl FloatNetwork {
    /// Takes a network of any layers.
    ///
    /// # Errors
    /// [`Error::Network`] if layers contradict each other.
    pub(crate) fn new(network: &Network) -> Result<Self> {
        let shapes: Vec<Shape> = std::iter::once(network.input).chain(network.layers.iter().map(|l| l.shape)).collect();
        let graph = Writer::write(network).map_err(Error::Network)?;
        let build = || {
            let model = exact(&parse(graph, OPSET)?.into_typed()?)?.into_decluttered()?;
            for (i, (shape, layer)) in shapes[1..].iter().zip(&network.layers).enumerate() {
                let fact = model.output_fact(i)?;
                let expected = [1, shape.channels as usize, shape.height as usize, shape.width as usize];
                ensure!(
                    fact.shape.as_concrete() == Some(&expected[..]),
                    "{}: expected an output of shape {shape}, got {:?}",
                    layer.name,
                    fact.shape
                );
            }
            let mut last = model.clone();
            let scores = last.outputs.split_off(network.layers.len() - 1);
            last.select_output_outlets(&scores)?;
            Ok((model, Plan::new(last)?))
        };
        let (model, scores) = guarded(build).map_err(Error::Network)?;
        Ok(Self { shapes, model, scores, layers: OnceLock::new() })
    }

    /// Shape of the input.
    pub fn input_shape(&self) -> Shape {
        self.shapes[0]
    }

    /// Shapes of all tensors: 0 is the input, i + 1 the output of layer i.
    pub(crate) fn shapes(&self) -> &[Shape] {
        &self.shapes
    }

    /// The scores of one input; `None` if its length is not that of the input.
    pub fn run(&self, input: &[f32]) -> Option<Vec<f32>> {
        self.evaluate(&self.scores, input, |_, scores| scores.to_vec()).ok()?.pop()
    }

    /// The output of every layer for one input.
    ///
    /// # Errors
    /// [`Error::Samples`] if the input's length is not that of the input.
    pub fn trace(&self, input: &[f32]) -> Result<Vec<Vec<f32>>> {
        self.visit(input, |_, values| values.to_vec())
    }

    /// What `look` makes of every layer's number and output, for one input.
    ///
    /// # Errors
    /// [`Error::Samples`] if the input's length is not that of the input.
    pub(crate) fn visit<T>(&self, input: &[f32], look: impl FnMut(usize, &[f32]) -> T) -> Result<Vec<T>> {
        let plan = self.layers.get_or_init(|| guarded(|| Plan::new(self.model.clone())));
        let plan = plan.as_ref().map_err(|e| Error::Network(e.clone()))?;
        self.evaluate(plan, input, look)
    }

    fn evaluate<T>(&self, plan: &Plan, input: &[f32], look: impl FnMut(usize, &[f32]) -> T) -> Result<Vec<T>> {
        let shape = self.input_shape();
        if input.len() != shape.elements() {
            return Err(Error::Samples(format!(
                "expected an input of {} elements ({shape}), got {}",
                shape.elements(),
                input.len()
            )));
        }
        let dims = [1, shape.channels as usize, shape.height as usize, shape.width as usize];
        plan.run(&dims, input, look).map_err(Error::Network)
    }
}
