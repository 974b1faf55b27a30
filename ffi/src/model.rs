//! Models: loaded once, then shared by any number of sessions and threads.

use crate::options::{self, safenet_options};
use crate::pointer::{self, Growing, Out, SizedOut};
use crate::status::{Failure, safenet_status};
use alloc::boxed::Box;
use alloc::ffi::CString;
use alloc::string::String;
use core::ffi::c_char;
use safenet_core::model::{Architecture, ModelFile, ModelId, Output, Shape};
use safenet_core::session::{ClientModel, Line, Options, ServerModel, Trade, WEIGHT_MEMORY};

/// The public part of a model: what a client needs. Immutable: any number of sessions and threads may use it at once.
pub struct safenet_client_model {
    pub(crate) model: ClientModel,
    public: Public,
}

/// A model with its weights: what a server needs. Immutable: any number of sessions and threads may use it at once.
pub struct safenet_server_model {
    pub(crate) model: ServerModel,
    public: Public,
}

const _: () = {
    const fn shared<T: Send + Sync>() {}
    shared::<safenet_client_model>();
    shared::<safenet_server_model>();
};

/// What both kinds of model tell.
struct Public {
    name: CString,
    output: Shape,
    id: ModelId,
}

/// A model's public numbers. Tensors are flat arrays, channel after channel, each row after row: element (c, i, j) is at
/// index (c * height + i) * width + j.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct safenet_model_info {
    /// sizeof(safenet_model_info), set before the call.
    pub size: usize,
    /// What the network is called: UTF-8, never NULL. Owned by the model; valid until the model is freed.
    pub name: *const c_char,
    /// Number of input values: channels * height * width.
    pub inputs: usize,
    /// Number of output values.
    pub outputs: usize,
    /// Channels of the input; of a flat vector, its length.
    pub input_channels: u32,
    /// Rows of the input; 1 for a flat vector.
    pub input_height: u32,
    /// Columns of the input; 1 for a flat vector.
    pub input_width: u32,
    /// Channels of the output; of a flat vector, its length.
    pub output_channels: u32,
    /// Rows of the output; 1 for a flat vector.
    pub output_height: u32,
    /// Columns of the output; 1 for a flat vector.
    pub output_width: u32,
    /// A real input x is encoded as the integer round(x * 2^input_fraction_bits).
    pub input_fraction_bits: i32,
    /// An output integer v stands for the real number v / 2^output_fraction_bits.
    pub output_fraction_bits: i32,
    /// 1 if the client learns the class alone: each output is the index of the largest score. 0 if the outputs are scores.
    pub class_output: i32,
    /// Smallest encoded input that the model takes.
    pub input_min: i32,
    /// Largest encoded input that the model takes.
    pub input_max: i32,
    /// Hash of the public part. Both parties must have the same; their sessions compare it first.
    pub id: [u8; 32],
}

// SAFETY: integers and a pointer, the first a usize.
unsafe impl Growing for safenet_model_info {
    const NAME: &'static str = "info";
    const FIRST: usize = size_of::<Self>();
}

impl Public {
    fn new(architecture: &Architecture, id: &ModelId) -> Result<Self, Failure> {
        let shapes = architecture.shapes()?;
        // A control character in a name from a file could end the text early or steer a terminal.
        let name: String = architecture.name.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        Ok(Self { name: CString::new(name).unwrap_or_default(), output: shapes[shapes.len() - 1], id: *id })
    }

    fn info(&self, architecture: &Architecture) -> safenet_model_info {
        let (input, output) = (architecture.input, self.output);
        safenet_model_info {
            size: 0,
            name: self.name.as_ptr(),
            inputs: input.elements(),
            outputs: output.elements(),
            input_channels: input.channels,
            input_height: input.height,
            input_width: input.width,
            output_channels: output.channels,
            output_height: output.height,
            output_width: output.width,
            input_fraction_bits: architecture.input_fraction_bits.into(),
            output_fraction_bits: architecture.output_fraction_bits().into(),
            class_output: (architecture.output != Output::Scores).into(),
            input_min: architecture.input_range[0],
            input_max: architecture.input_range[1],
            id: self.id,
        }
    }
}

/// Loads the public part of a model from the contents of its file (a server's model file does too; its weights are
/// dropped). The contents are not needed afterwards. On success `*model` is to be freed with safenet_client_model_free.
///
/// Fails with SAFENET_ERROR_MALFORMED_MODEL or SAFENET_ERROR_UNSUPPORTED_MODEL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_client_model_load(
    contents: *const u8,
    contents_size: usize,
    model: *mut *mut safenet_client_model,
    error: *mut c_char,
    error_size: usize,
) -> safenet_status {
    let body = || {
        let out = Out::new(model, "model")?;
        // SAFETY: what the header asks of callers.
        let loaded = ClientModel::read(unsafe { pointer::input(contents, contents_size, "contents") }?)?;
        let public = Public::new(loaded.architecture(), loaded.id())?;
        // SAFETY: what the header asks of callers.
        unsafe { out.write(Box::into_raw(Box::new(safenet_client_model { model: loaded, public }))) };
        Ok(())
    };
    // SAFETY: what the header asks of callers.
    unsafe { pointer::call(error, error_size, body) }
}

/// Tells a model's public numbers. Set `info->size` to sizeof *info first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_client_model_info(
    model: *const safenet_client_model,
    info: *mut safenet_model_info,
    error: *mut c_char,
    error_size: usize,
) -> safenet_status {
    let body = || {
        // SAFETY: what the header asks of callers.
        unsafe {
            let model = pointer::object(model, "model")?;
            SizedOut::new(info)?.write(&model.public.info(model.model.architecture()));
        }
        Ok(())
    };
    // SAFETY: what the header asks of callers.
    unsafe { pointer::call(error, error_size, body) }
}

/// Tells with which `relu_round_trips` of safenet_options, 2 or 3, an inference takes less time: 2 if the round trips that it
/// saves take longer than the bytes that it adds. `round_trip_seconds` is how long a message and its answer are under way
/// between the parties, as connect() takes, and `bytes_per_second` what the connection carries, each way. What is no
/// number, or not known and therefore 0, leaves it at 3.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_client_model_round_trips(
    model: *const safenet_client_model,
    round_trip_seconds: f64,
    bytes_per_second: f64,
    round_trips: *mut u32,
    error: *mut c_char,
    error_size: usize,
) -> safenet_status {
    let body = || {
        // SAFETY: what the header asks of callers.
        let model = unsafe { pointer::object(model, "model") }?;
        let out = Out::new(round_trips, "round_trips")?;
        let line = Line { round_trip_s: round_trip_seconds, bytes_per_s: bytes_per_second };
        let chosen = Trade::new(&model.model, &Options::default()).choose(&line);
        // SAFETY: what the header asks of callers.
        unsafe { out.write(chosen.count().into()) };
        Ok(())
    };
    // SAFETY: what the header asks of callers.
    unsafe { pointer::call(error, error_size, body) }
}

/// Gives a model back. Sessions made from it keep what they need and go on. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_client_model_free(model: *mut safenet_client_model) {
    // SAFETY: what the header asks of callers.
    unsafe { free(model) }
}

/// Loads a model with its weights from the contents of a server's model file, and transforms the weights for use, which for
/// large networks takes seconds. The contents are not needed afterwards. `options` may be NULL; of it only `threads` is looked
/// at: they transform the weights, and later compute for all sessions of the model. On success `*model` is to be freed with
/// safenet_server_model_free.
///
/// Fails with SAFENET_ERROR_MALFORMED_MODEL or SAFENET_ERROR_UNSUPPORTED_MODEL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_server_model_load(
    contents: *const u8,
    contents_size: usize,
    options: *const safenet_options,
    model: *mut *mut safenet_server_model,
    error: *mut c_char,
    error_size: usize,
) -> safenet_status {
    let body = || {
        let out = Out::new(model, "model")?;
        // SAFETY: what the header asks of callers.
        let (threads, contents) =
            unsafe { (options::threads(options)?, pointer::input(contents, contents_size, "contents")?) };
        let loaded = ServerModel::load(ModelFile::read(contents)?, WEIGHT_MEMORY, threads, &mut |_, _| {})?;
        let public = Public::new(loaded.architecture(), loaded.id())?;
        // SAFETY: what the header asks of callers.
        unsafe { out.write(Box::into_raw(Box::new(safenet_server_model { model: loaded, public }))) };
        Ok(())
    };
    // SAFETY: what the header asks of callers.
    unsafe { pointer::call(error, error_size, body) }
}

/// Tells a model's public numbers. Set `info->size` to sizeof *info first.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_server_model_info(
    model: *const safenet_server_model,
    info: *mut safenet_model_info,
    error: *mut c_char,
    error_size: usize,
) -> safenet_status {
    let body = || {
        // SAFETY: what the header asks of callers.
        unsafe {
            let model = pointer::object(model, "model")?;
            SizedOut::new(info)?.write(&model.public.info(model.model.architecture()));
        }
        Ok(())
    };
    // SAFETY: what the header asks of callers.
    unsafe { pointer::call(error, error_size, body) }
}

/// Gives a model back. Sessions made from it keep what they need and go on. NULL is fine.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn safenet_server_model_free(model: *mut safenet_server_model) {
    // SAFETY: what the header asks of callers.
    unsafe { free(model) }
}

/// # Safety
/// `handle` is NULL or came from a `Box` of the same type and is not used again.
unsafe fn free<T>(handle: *mut T) {
    // An error here has no one to be told to.
    let _ = crate::platform::guard(|| {
        if !handle.is_null() {
            // SAFETY: the caller's promise.
            drop(unsafe { Box::from_raw(handle) });
        }
        Ok(())
    });
}
