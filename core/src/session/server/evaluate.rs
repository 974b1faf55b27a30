//! The network on masked values, node by node.

use super::Private;
use crate::activation::ServerLayer;
use crate::error::Result;
use crate::layer;
use crate::model::{ChannelSecret, NodeSecret, Op};
use crate::prg::{SecretVec, collect};
use crate::session::invalid_state;
use crate::session::link::Link;
use crate::session::meter::{Phase, Place};
use crate::session::schedule::{ActivationStep, LinearStep, Part};
use crate::share::Masked;
use crate::wire::bits::BitWriter;
use crate::wire::frame::FrameKind;
use crate::wire::words::{FieldReader, FieldWriter};
use alloc::{vec, vec::Vec};

/// An inference's tensors x + r as they become known.
pub(super) struct Evaluation<'a> {
    private: &'a Private,
    link: &'a Link,
    tensors: Vec<Masked>,
    /// What no later node reads: erased when the client has something to do.
    spent: Vec<Masked>,
}

/// An activation layer at work.
pub(super) struct Run<'a> {
    index: usize,
    secrets: &'a [ChannelSecret],
    /// The words that it is applied to, aligned, and those that come out.
    masked: Masked,
    outputs: Masked,
}

impl<'a> Evaluation<'a> {
    pub(super) fn new(private: &'a Private, link: &'a Link) -> Self {
        let tensors = Vec::with_capacity(private.schedule.steps.len() + 1);
        Self { private, link, tensors, spent: vec![] }
    }

    /// Takes the masked input.
    pub(super) fn start(&mut self, words: &[u8]) -> Result<()> {
        let schedule = &self.private.schedule;
        let mut input: Masked = vec![0; schedule.shapes[0].elements()].into();
        let mut reader = FieldReader::new(words);
        reader.take(schedule.word_bits[0], &mut input);
        self.tensors.push(input);
        reader.finish()
    }

    fn input(&self, index: usize, place: usize) -> &Masked {
        &self.tensors[self.private.architecture.nodes[index].inputs[place] as usize]
    }

    /// y + m = W · (x + r) + s + bias, with s in `out`.
    pub(super) fn linear(&mut self, index: usize, step: &LinearStep, mut out: SecretVec<u32>) -> Result<()> {
        let private = self.private;
        let node = &private.architecture.nodes[index];
        let (Op::Convolution(conv), NodeSecret::Convolution { weights, bias }) =
            (&node.op, &private.parameters.nodes[index])
        else {
            return Err(invalid_state("node: expected a convolution's parameters"));
        };
        let shapes = &private.schedule.shapes;
        let (shape, output) = (shapes[node.inputs[0] as usize], shapes[index + 1]);
        let planes = out.chunks_exact_mut(output.plane()).zip(bias).zip(&step.unread);
        planes.filter(|(_, unread)| !**unread).for_each(|((plane, &bias), _)| add(plane, bias));
        let input = (shape, &self.input(index, 0)[..]);
        layer::convolve(&private.threads, conv, input, weights, &step.unread, (output, &mut out));
        self.tensors.push(out);
        Ok(())
    }

    /// A local operator.
    pub(super) fn local(&mut self, index: usize) -> Result<()> {
        let private = self.private;
        let (node, shapes) = (&private.architecture.nodes[index], &private.schedule.shapes);
        let output = shapes[index + 1];
        let inputs = node.inputs.iter().map(|&t| (shapes[t as usize], &self.tensors[t as usize][..]));
        let mut out = layer::local(&node.op, &inputs.collect::<Vec<_>>(), output)
            .ok_or_else(|| invalid_state("node: expected its own parameters"))?;
        if let NodeSecret::Sum(constants) = &private.parameters.nodes[index] {
            let planes = out.chunks_exact_mut(output.plane());
            planes.zip(constants).for_each(|(plane, &constant)| add(plane, constant));
        }
        self.tensors.push(out);
        Ok(())
    }

    /// Begins an activation layer, or a maximum.
    pub(super) fn begin(&mut self, index: usize, step: &ActivationStep) -> Result<Run<'a>> {
        let private = self.private;
        let node = &private.architecture.nodes[index];
        let first = node.inputs[0] as usize;
        let mut masked: Masked = match node.op {
            Op::Max(_) => {
                let (a, b) = (self.input(index, 0), self.input(index, 1));
                collect(a.len(), a.iter().zip(b.iter()).map(|(a, b)| a.wrapping_sub(*b)))
            }
            _ if !self.link.is_traced() && private.schedule.last_readers[first] == Some(index) => {
                core::mem::take(&mut self.tensors[first])
            }
            _ => self.tensors[first].to_vec().into(),
        };
        step.align(&mut masked);
        let outputs = vec![0; masked.len()].into();
        Ok(Run { index, secrets: private.activation_secrets(index)?, masked, outputs })
    }

    /// The rounds of a part of an activation layer.
    pub(super) async fn rounds(&mut self, run: &mut Run<'_>, part: &Part, mut layer: ServerLayer) -> Result<()> {
        let groups = part.groups();
        layer.start(groups, run.secrets, &run.masked, &mut run.outputs);
        for round in 0..part.rounds() {
            let (down, up) = part.round_bytes(round);
            let mut request = FieldWriter::with_capacity(down);
            layer.request(groups, round, &mut request);
            self.link.send(FrameKind::Request, request.finish()).await?;
            if !self.spent.is_empty() {
                self.link.flush().await;
                self.spent.clear();
            }
            let reply = self.link.receive(FrameKind::Reply, up).await?;
            let mut reader = FieldReader::new(&reply);
            layer.reply(groups, round, &mut reader, &mut run.outputs);
            reader.finish()?;
        }
        Ok(())
    }

    /// Ends an activation layer.
    pub(super) fn end(&mut self, run: Run<'_>) -> Result<()> {
        let Run { index, masked, mut outputs, .. } = run;
        if let Op::Max(_) = self.private.architecture.nodes[index].op {
            // max(a, b) = b + ReLU(a - b).
            outputs.iter_mut().zip(self.input(index, 1).iter()).for_each(|(out, b)| *out = out.wrapping_add(*b));
        }
        self.tensors.push(outputs);
        self.spent.push(masked);
        Ok(())
    }

    /// Sets aside the tensors that no node after this one reads.
    pub(super) fn forget(&mut self, index: usize) {
        if !self.link.is_traced() {
            let tensors = &mut self.tensors;
            let last = self.private.schedule.last_read_by(index);
            self.spent.extend(last.map(|tensor| core::mem::take(&mut tensors[tensor])));
        }
    }

    /// Sends the masked answer.
    pub(super) async fn answer(self) -> Result<()> {
        let Self { private, link, tensors, spent } = self;
        let schedule = &private.schedule;
        link.show(tensors.iter().map(|words| &words[..]));
        link.enter(Place { phase: Phase::Infer, node: None });
        let bits = u32::from(schedule.output.bits());
        let mut answer = BitWriter::with_capacity(schedule.answer_bytes());
        for &word in tensors.last().iter().flat_map(|words| words.iter()) {
            answer.put((word & (u32::MAX >> (32 - bits))).into(), bits);
        }
        link.send(FrameKind::Output, answer.finish()).await?;
        link.count_inference();
        // Erasing takes its time, which the client is not to wait for.
        link.flush().await;
        drop((tensors, spent));
        Ok(())
    }
}

fn add(words: &mut [u32], constant: i32) {
    words.iter_mut().for_each(|word| *word = word.wrapping_add(constant as u32));
}
