//! What an architecture may ask for at most; a file that asks for more is refused before anything is allocated for it.

/// Nodes of a network.
pub const NODES: usize = 4096;
/// Channels of a tensor.
pub const CHANNELS: usize = 1 << 16;
/// Elements of a tensor.
pub const ELEMENTS: usize = 1 << 26;
/// Channels of all tensors together.
pub const ALL_CHANNELS: u64 = 1 << 20;
/// Elements of all tensors together.
pub const ALL_ELEMENTS: u64 = 1 << 28;
/// Channels that all convolutions read together, each counted as often as it is read.
pub const ALL_READ_CHANNELS: u64 = 1 << 22;
/// Additions of all sums and poolings together: output elements times inputs, or times window.
pub const ADDITIONS: u64 = 1 << 32;
/// Bits of a truncated value at a ReLU: five digits of five bits, and the sign (`docs/protocol.md`, ReLU).
pub const RELU_WIDTH: u8 = 26;
/// Bits of a channel's bound: |y| < 2^(b-1) - 2^f with b at most this.
pub const BOUND_BITS: u8 = 30;
/// Bits by which a polynomial channel is shifted on its way back from the field.
pub const BACK_SHIFT: u8 = 20;
/// Bytes of an encoded architecture: what is decoded takes some forty times as many before anything else is counted.
pub const ARCHITECTURE_BYTES: usize = 1 << 25;
/// Bytes of the network's name.
pub const NAME: usize = 256;
/// Tensors that a node reads.
pub const NODE_INPUTS: usize = 1024;
/// Largest common multiple, per axis, of the numbers of elements that a weighted pooling's windows hold inside the image.
pub const POOL_FACTOR: u64 = 1 << 12;
