//! What has no private form, and what to do instead.

use super::Fault;

/// Why an operator that the table does not have is not supported.
pub(super) fn operator(name: &str) -> Fault {
    let (reason, advice) = match name {
        "Tanh" | "Elu" | "Selu" | "Celu" | "Gelu" | "Softplus" | "Softsign" | "Mish" | "Erf" | "Swish"
        | "ThresholdedRelu" | "Shrink" | "Exp" | "Log" | "Sqrt" | "Pow" | "Reciprocal" => (
            "no private form of this activation",
            "use Relu, LeakyRelu, Clip or HardSwish, or plan the activation as polynomials (safenet.ChannelActivation)",
        ),
        "ConvTranspose" | "Resize" | "Upsample" | "DepthToSpace" | "SpaceToDepth" => (
            "no private form of this change of an image's size",
            "use Conv and pooling with strides, without upsampling",
        ),
        "LSTM" | "GRU" | "RNN" | "Loop" | "Scan" | "If" => {
            ("no private form of recurrence and control flow", "use a feed-forward network of a fixed input size")
        }
        "Attention" | "MultiHeadAttention" | "Einsum" => {
            ("no private form of products of computed values", "use a convolutional network")
        }
        "LayerNormalization"
        | "InstanceNormalization"
        | "GroupNormalization"
        | "LRN"
        | "LpNormalization"
        | "MeanVarianceNormalization"
        | "RMSNormalization" => {
            ("no private form of a normalisation by the input's own values", "use BatchNormalization")
        }
        "QLinearConv"
        | "QLinearMatMul"
        | "ConvInteger"
        | "MatMulInteger"
        | "QuantizeLinear"
        | "DequantizeLinear"
        | "DynamicQuantizeLinear" => {
            ("a network that is quantised already", "export the network in real numbers, the compiler quantises it")
        }
        "Gather" | "GatherND" | "GatherElements" | "Expand" | "Tile" | "TopK" | "NonZero" | "Where" | "LpPool" => (
            "no private form of this operator",
            "make shapes and indices constants (torch.flatten(x, 1) instead of a computed view, or onnx-simplifier)",
        ),
        _ => (
            "unknown operator",
            "use Conv, Gemm, MatMul, BatchNormalization, Relu, pooling, Add, Concat and what only reshapes",
        ),
    };
    Fault::Unsupported { reason: reason.into(), advice }
}

/// What to do instead of an operator that joins several computed values.
pub(super) fn joining(name: &str) -> &'static str {
    match name {
        "Mul" | "Div" => {
            "scale by constants; products of two branches (squeeze-and-excite, attention) have no private form"
        }
        "MatMul" | "Gemm" => {
            "products of two computed values (attention) have no private form; weights must be constants"
        }
        "Max" | "Min" => "use Add or Concat to join two branches; maxima within one branch are MaxPool",
        _ => "only the first input may be computed, the others must be constants",
    }
}

/// A function that the client applies to the scores, in the middle of a network.
pub(in crate::onnx) fn not_last() -> (String, &'static str) {
    (
        "no private form of this operator but at the very end, where the client applies it".into(),
        "use Relu, Clip or HardSigmoid instead of a Sigmoid, or leave it out",
    )
}
