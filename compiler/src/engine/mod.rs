//! Networks in 32-bit real numbers, evaluated by the ONNX engine tract.
//!
//! Three users: constants of a file are computed by it ([`fold_constant`]), the compiler's network is measured with it
//! ([`FloatNetwork`]), and the file itself is run with it, for comparison ([`OnnxRunner`]). All of them hand it ONNX
//! graphs of standard operators.

mod constant;
mod exact;
mod float;
mod graph;
mod runner;
mod statistics;
#[cfg(test)]
mod tests;

pub(crate) use constant::fold_constant;
pub use float::FloatNetwork;
pub use runner::OnnxRunner;
pub(crate) use statistics::{Statistics, measure};

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use tract_onnx::pb;
use tract_onnx::prelude::{
    Framework, InferenceModel, IntoRunnable, IntoTValue, Tensor, TractResult, TypedModel, TypedRunnableModel, tvec,
};

/// Element types of ONNX tensors that are handed to the engine.
mod element_type {
    pub(super) use crate::onnx::proto::element_type::{DOUBLE, FLOAT, INT32, INT64};
    /// Truth value.
    pub(super) const BOOL: i32 = 9;
}

/// Runs the engine. What it says about a network it cannot run, and any panic in it, becomes an error's text: files come
/// from elsewhere, and not every contradiction in them is checked before.
fn guarded<T>(run: impl FnOnce() -> TractResult<T>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(run)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(format!("the ONNX engine refuses it: {error:#}")),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no reason given");
            Err(format!("the ONNX engine cannot evaluate it: {text}"))
        }
    }
}

/// A graph as the engine takes it.
fn parse(graph: pb::GraphProto, opset: i64) -> TractResult<InferenceModel> {
    let model = pb::ModelProto {
        ir_version: 8,
        opset_import: vec![pb::OperatorSetIdProto { domain: String::new(), version: opset }],
        graph: Some(graph),
        ..Default::default()
    };
    tract_onnx::onnx().with_ignore_value_info(true).model_for_proto_model(&model)
}

/// A graph ready to run, with one input.
struct Plan(Arc<TypedRunnableModel>);

impl Plan {
    fn new(model: TypedModel) -> TractResult<Self> {
        model.into_optimized()?.into_runnable().map(Self)
    }

    /// What `look` makes of each output and its number.
    fn run<T>(
        &self,
        dims: &[usize],
        input: &[f32],
        mut look: impl FnMut(usize, &[f32]) -> T,
    ) -> Result<Vec<T>, String> {
        guarded(|| {
            let input = Tensor::from_shape(dims, input)?;
            let outputs = self.0.run(tvec![input.into_tvalue()])?;
            let looks = outputs
                .iter()
                .enumerate()
                .map(|(i, output)| Ok(look(i, output.try_as_plain_ram()?.as_slice::<f32>()?)));
            looks.collect()
        })
    }
}
