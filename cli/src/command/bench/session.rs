//! The client's side of a measured session.

use super::figures::Run;
use super::network::Network;
use super::process::ServerProcess;
use super::server::Report;
use super::shaper::{self, Shaped};
use super::timed::Timed;
use crate::net::{self, Waiting};
use crate::{alloc, command};
use anyhow::{Context, Result, bail};
use safenet_core::session::{Client, ClientModel, Meter, Options, Place, drive};
use std::collections::BTreeMap;
use std::time::Instant;

/// A session under way.
pub(super) struct Measured {
    // In this order: a simulated network outlives its connection.
    client: Timed<Client>,
    shaped: Shaped,
}

impl Measured {
    /// A session that has not begun.
    pub(super) fn new(model: &ClientModel, options: Options, shaped: Shaped) -> Result<Self> {
        Ok(Self { client: Timed::client(Client::new(model, options, net::seed()?)), shaped })
    }

    /// Seconds that the operation just asked for takes.
    fn run(&mut self) -> Result<f64> {
        let start = Instant::now();
        drive(&mut self.client, &mut self.shaped.connection)?;
        Ok(start.elapsed().as_secs_f64())
    }

    /// Seconds that preparing so many inferences takes; the first call also opens the session.
    pub(super) fn prepare(&mut self, count: u32) -> Result<f64> {
        self.client.session().prepare(count)?;
        self.run()
    }

    /// Seconds that an inference takes, and its answer.
    pub(super) fn infer(&mut self, input: &[i32]) -> Result<(f64, Vec<i32>)> {
        let Some(&bundle) = self.client.session().bundles().first() else {
            bail!("expected a prepared inference, got none");
        };
        self.client.session().infer(bundle, input)?;
        let seconds = self.run()?;
        let output = self.client.session().output().context("expected an output, got none")?;
        Ok((seconds, output.to_vec()))
    }

    /// What the session has cost so far: its traffic, and the client's seconds of computing at each place.
    pub(super) fn costs(&mut self) -> (Meter, BTreeMap<Place, f64>) {
        (self.client.session().meter(), self.client.seconds())
    }

    /// Takes leave.
    pub(super) fn close(mut self) -> Result<()> {
        self.client.session().close()?;
        self.run()?;
        Ok(())
    }
}

/// Sessions one after another, with one server's process.
pub(super) struct Sessions {
    pub(super) runs: Vec<Run>,
    /// The answers of all inferences, in order.
    pub(super) outputs: Vec<Vec<i32>>,
    /// Most bytes of heap in use at once in a session, above what was in use before.
    pub(super) client_heap: u64,
    pub(super) report: Report,
}

impl Sessions {
    /// Measures a number of sessions of `batch` inferences each, whose inputs take turns.
    pub(super) fn measure(
        child: ServerProcess,
        (model, options): (&ClientModel, Options),
        (count, batch): (u32, u32),
        inputs: &[Vec<i32>],
        (network, waiting): (Option<&Network>, Waiting),
    ) -> Result<Self> {
        let bar = command::progress(count.into(), "runs");
        let (mut runs, mut outputs, mut client_heap) = (vec![], vec![], 0);
        let mut next = inputs.iter().cycle();
        for _ in 0..count {
            // The simulated network takes its memory before the client's is counted.
            let shaped = shaper::connect(child.port, network, waiting)?;
            let before = alloc::current();
            alloc::reset_peak();
            let mut session = Measured::new(model, options, shaped)?;
            let setup_s = session.prepare(0)?;
            let prepare_s = session.prepare(batch)?;
            let mut online_s = vec![];
            for input in next.by_ref().take(batch as usize) {
                let (seconds, output) = session.infer(input)?;
                online_s.push(seconds);
                outputs.push(output);
            }
            // Before the farewell, which is no part of an inference.
            let (meter, client) = session.costs();
            session.close()?;
            client_heap = client_heap.max((alloc::peak() - before) as u64);
            runs.push(Run { setup_s, prepare_s, online_s, meter, client });
            bar.inc(1);
        }
        bar.finish_and_clear();
        Ok(Self { runs, outputs, client_heap, report: child.finish()? })
    }
}
