//! Tests of the whole system on the models that the repository ships. What they share is here.
#![expect(clippy::expect_used, reason = "what fails here fails the test")]

use safenet_compiler::Samples;
use safenet_core::model::ModelFile;
use safenet_core::prg::Seed;
use safenet_core::session::{Client, ClientModel, Options, Server, ServerModel, Session, Status};
use std::path::{Path, PathBuf};

/// The plans of the shipped network.
pub const PLANS: [&str; 2] = ["mnist-relu", "mnist-mixed"];

/// A file of the repository's `models` folder.
pub fn path(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models").join(name)
}

/// Its contents.
pub fn read(name: &str) -> Vec<u8> {
    std::fs::read(path(name)).expect(name)
}

/// A shipped model with its secrets.
pub fn model(plan: &str) -> ModelFile {
    ModelFile::read(&read(&format!("{plan}.safenet"))).expect(plan)
}

/// Samples in a shipped archive.
pub fn samples(name: &str) -> Samples {
    Samples::from_npz(&read(name)).expect(name)
}

/// Both parties in one process, and the bytes between them.
pub struct Pair {
    /// The client.
    pub client: Client,
    server: Server,
    up: Vec<u8>,
    down: Vec<u8>,
    buffer: Vec<u8>,
}

impl Pair {
    /// A session on a shipped model, from the client's seed and the server's.
    pub fn new(client: &ClientModel, server: &ServerModel, seeds: [[u8; 32]; 2]) -> Self {
        let [mine, theirs] = seeds.map(Seed::from_bytes);
        Self {
            client: Client::new(client, Options::default(), mine),
            server: Server::new(server, Options::default(), theirs),
            up: Vec::new(),
            down: Vec::new(),
            buffer: vec![0; 1 << 16],
        }
    }

    /// Runs until the client has done what it was asked.
    pub fn run(&mut self) {
        loop {
            let step = self.client.advance(&self.down, &mut self.buffer).expect("client");
            self.down.drain(..step.consumed);
            self.up.extend_from_slice(&self.buffer[..step.produced]);
            let idle = step.status == Status::Idle;
            let step = self.server.advance(&self.up, &mut self.buffer).expect("server");
            self.up.drain(..step.consumed);
            self.down.extend_from_slice(&self.buffer[..step.produced]);
            if idle && self.up.is_empty() {
                return;
            }
        }
    }

    /// One inference, prepared on the spot.
    pub fn infer(&mut self, input: &[i32]) -> Vec<i32> {
        self.client.prepare(1).expect("prepare");
        self.run();
        self.client.infer(self.client.bundles()[0], input).expect("infer");
        self.run();
        self.client.output().expect("an output").to_vec()
    }
}
