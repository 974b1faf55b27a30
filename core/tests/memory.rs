//! What a client takes of the heap, measured, beside what is stated of it before.
#![allow(clippy::unwrap_used)]

use safenet_core::ErrorKind;
use safenet_core::ot::Extension;
use safenet_core::ot::softspoken::Depth;
use safenet_core::prg::Seed;
use safenet_core::session::{Build, Client, ClientModel, Options, Portions, Server, ServerModel, Session, Status};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicIsize, Ordering::Relaxed};

/// The system's allocator, which counts what is taken and given back while it is told to.
struct Counting;

static ON: AtomicBool = AtomicBool::new(false);
static NOW: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);

fn change(bytes: isize) {
    if ON.load(Relaxed) {
        let now = NOW.fetch_add(bytes, Relaxed) + bytes;
        PEAK.fetch_max(now, Relaxed);
    }
}

// SAFETY: every call goes to the system's allocator unchanged; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        change(layout.size() as isize);
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        change(-(layout.size() as isize));
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both at once, as where a block cannot grow in its place.
        change(size as isize);
        change(-(layout.size() as isize));
        // SAFETY: the caller's promise.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Counts what a call takes and gives.
fn counted<T>(call: impl FnOnce() -> T) -> T {
    ON.store(true, Relaxed);
    let result = call();
    ON.store(false, Relaxed);
    result
}

/// A client, whose memory is counted, and a server, whose is not.
struct Pair {
    client: Client,
    server: Server,
    up: Vec<u8>,
    down: Vec<u8>,
}

impl Pair {
    fn run(&mut self) {
        let mut buffer = vec![0; 1 << 12];
        loop {
            let size = self.down.len().min(buffer.len());
            let input = self.down[..size].to_vec();
            let progress = counted(|| self.client.advance(&input, &mut buffer)).unwrap();
            self.down.drain(..progress.consumed);
            self.up.extend_from_slice(&buffer[..progress.produced]);
            let idle = progress.status == Status::Idle;
            loop {
                let progress = self.server.advance(&self.up, &mut buffer).unwrap();
                self.up.drain(..progress.consumed);
                self.down.extend_from_slice(&buffer[..progress.produced]);
                if progress.produced == 0 && progress.consumed == 0 {
                    break;
                }
            }
            if idle && self.up.is_empty() {
                return;
            }
        }
    }
}

/// The most that a client takes, model included, for two inferences in a row.
fn measured(public: &[u8], server: &ServerModel, options: Options, stream: bool) -> u64 {
    NOW.store(0, Relaxed);
    PEAK.store(0, Relaxed);
    let model = counted(|| ClientModel::read(public)).unwrap();
    let client = counted(|| Client::new(&model, options, Seed::from_bytes([1; 32])));
    let server = Server::new(server, Options::default(), Seed::from_bytes([2; 32]));
    let mut pair = Pair { client, server, up: vec![], down: vec![] };
    let input = vec![1; model.inputs()];
    for _ in 0..2 {
        if stream {
            counted(|| pair.client.stream(&input)).unwrap();
        } else {
            counted(|| pair.client.prepare(1)).unwrap();
            pair.run();
            let bundle = counted(|| pair.client.bundles()[0]);
            counted(|| pair.client.infer(bundle, &input)).unwrap();
        }
        pair.run();
        assert_eq!(pair.client.output().unwrap().len(), model.outputs());
    }
    let peak = PEAK.load(Relaxed) as u64;
    counted(|| drop((pair.client, model)));
    peak
}

/// For networks of all kinds of channels and all portions, the bound is one, and at most a third above what is taken.
///
/// One test alone is in this file: the counters are the process's.
#[test]
fn stated_bounds_are_near_what_is_taken() {
    let files = ["mnist-relu", "mnist-mixed"].map(|name| {
        let path = |end: &str| format!("{}/../models/{name}.{end}", env!("CARGO_MANIFEST_DIR"));
        let server = ServerModel::read(&std::fs::read(path("safenet")).unwrap()).unwrap();
        (name, std::fs::read(path("public")).unwrap(), server)
    });
    let depths = [Depth::Two, Depth::Four, Depth::Eight].map(Extension::SoftSpoken);
    let portions = [(2048, 1 << 16), (512, 1024), (128, 256), (128, 128)];
    let mut worst = 0.0f64;
    for (name, public, server) in &files {
        let model = ClientModel::read(public).unwrap();
        for (index, (chunk, part)) in portions.into_iter().enumerate() {
            for stream in [false, true] {
                let extension = depths[index % 3];
                let options = Options { extension, portions: Portions { chunk, part }, ..Options::default() };
                let stated = match stream {
                    true => model.memory_of_stream(&options, Build::THIS),
                    false => model.memory_ahead(&options, Build::THIS),
                };
                let taken = measured(public, server, options, stream);
                let ratio = stated.peak as f64 / taken as f64;
                println!(
                    "{name}, {chunk} and {part}, {extension:?}, {}: {} KiB stated, {} KiB taken, {ratio:.2}",
                    if stream { "stream" } else { "ahead" },
                    stated.peak / 1024,
                    taken / 1024,
                );
                worst = worst.max(ratio).max(1.0 / ratio - 1.0 + f64::from(u8::from(ratio < 1.0)) * 100.0);
            }
        }
        // A limit is kept to, and one that nothing fits in refused with what would.
        let least = Options {
            extension: Extension::SoftSpoken(Depth::Two),
            portions: Portions { chunk: 128, part: 128 },
            ..Options::default()
        };
        let least = model.memory_of_stream(&least, Build::THIS).peak;
        let limited = |memory| Options { memory: Some(memory), ..Options::default() };
        for limit in [least, least + (100 << 10), least + (1 << 20)] {
            assert!(measured(public, server, limited(limit), true) <= limit);
        }
        let mut client = Client::new(&model, limited(least - 1024), Seed::from_bytes([1; 32]));
        let error = client.stream(&vec![1; model.inputs()]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Memory);
        assert!(error.message().contains(&format!("takes {} KiB", least.div_ceil(1024))), "{error}");
    }
    assert!(worst < 1.34, "{worst}");
}
