//! One inference, the server's side.

use super::{Bundle, Party};
use crate::activation::ServerLayer;
use crate::error::Result;
use crate::layer;
use crate::model::{ChannelSecret, NodeSecret, Op};
use crate::prg::collect;
use crate::session::link::Link;
use crate::session::meter::{Phase, Place};
use crate::session::schedule::{ActivationStep, Step};
use crate::session::{BUNDLE_BYTES, BundleId, RoundTrips, invalid_state, spent};
use crate::share::Masked;
use crate::wire::bits::BitWriter;
use crate::wire::frame::FrameKind;
use crate::wire::words::{FieldReader, FieldWriter};
use alloc::{vec, vec::Vec};

impl Party {
    /// One inference. The bundle is spent before its first word is looked at.
    pub(super) async fn infer(&mut self, link: &Link, message: &[u8]) -> Result<()> {
        let (id, words) = message.split_at(BUNDLE_BYTES);
        let id = BundleId::from_bytes(<[u8; BUNDLE_BYTES]>::try_from(id).unwrap_or([0; BUNDLE_BYTES]));
        let Bundle { mut masks, mut layers } = self.bundles.remove(&id).ok_or_else(|| spent(id))?;
        let private = self.private.clone();
        let (schedule, nodes) = (&private.schedule, &private.architecture.nodes);
        // What no later node reads is erased: of what is `spent`, when the client has something to do.
        let mut tensors: Vec<Masked> = Vec::with_capacity(nodes.len() + 1);
        let mut spent = vec![];
        let mut input: Masked = vec![0; schedule.shapes[0].elements()].into();
        let mut reader = FieldReader::new(words);
        reader.take(schedule.word_bits[0], &mut input);
        reader.finish()?;
        tensors.push(input);
        for (index, node) in nodes.iter().enumerate() {
            link.enter(Place { phase: Phase::Infer, node: Some(index as u32) });
            let input = |i: usize| &tensors[node.inputs[i] as usize][..];
            let (shape, output) = (schedule.shapes[node.inputs[0] as usize], schedule.shapes[index + 1]);
            let computed = match (&node.op, &private.parameters.nodes[index], &schedule.steps[index]) {
                (Op::Convolution(conv), NodeSecret::Convolution { weights, bias }, Step::Linear(step)) => {
                    // y + m = W · (x + r) + s + bias.
                    let mut out = core::mem::take(&mut masks[index]);
                    let planes = out.chunks_exact_mut(output.plane()).zip(bias).zip(&step.unread);
                    planes.filter(|(_, unread)| !**unread).for_each(|((plane, &bias), _)| add(plane, bias));
                    layer::convolve(
                        &private.threads,
                        conv,
                        (shape, input(0)),
                        weights,
                        &step.unread,
                        (output, &mut out),
                    );
                    out
                }
                (Op::Activation(_), _, Step::Activation(step)) => {
                    let secrets = private.activation_secrets(index)?;
                    let tensor = node.inputs[0] as usize;
                    let masked = match !link.is_traced() && schedule.last_read_by(index).any(|last| last == tensor) {
                        true => core::mem::take(&mut tensors[tensor]),
                        false => tensors[tensor].to_vec().into(),
                    };
                    let layer = take(&mut layers[index])?;
                    activate(link, (step, self.round_trips), layer, secrets, masked, &mut spent).await?
                }
                (Op::Max(_), _, Step::Activation(step)) => {
                    let (a, b) = (input(0), input(1));
                    let difference = collect(a.len(), a.iter().zip(b).map(|(a, b)| a.wrapping_sub(*b)));
                    let layer = take(&mut layers[index])?;
                    let mut out = activate(link, (step, self.round_trips), layer, &[], difference, &mut spent).await?;
                    out.iter_mut().zip(b).for_each(|(out, b)| *out = out.wrapping_add(*b));
                    out
                }
                (op, secret, _) => {
                    let inputs = node.inputs.iter().map(|&t| (schedule.shapes[t as usize], &tensors[t as usize][..]));
                    let mut out = layer::local(op, &inputs.collect::<Vec<_>>(), output)
                        .ok_or_else(|| invalid_state("node: expected its own parameters"))?;
                    if let NodeSecret::Sum(constants) = secret {
                        let planes = out.chunks_exact_mut(output.plane());
                        planes.zip(constants).for_each(|(plane, &constant)| add(plane, constant));
                    }
                    out
                }
            };
            tensors.push(computed);
            if !link.is_traced() {
                spent.extend(schedule.last_read_by(index).map(|tensor| core::mem::take(&mut tensors[tensor])));
            }
        }
        link.show(tensors.iter().map(|words| &words[..]));
        link.enter(Place { phase: Phase::Infer, node: None });
        let bits = u32::from(schedule.output.bits());
        let mut answer = BitWriter::with_capacity(schedule.answer_bytes());
        for &word in tensors.last().iter().flat_map(|words| words.iter()) {
            answer.put((word & (u32::MAX >> (32 - bits))).into(), bits);
        }
        link.send(FrameKind::Output, answer.finish()).await?;
        link.count_inference();
        // What is left is erased when the client has its answer.
        link.flush().await;
        Ok(())
    }
}

fn add(words: &mut [u32], constant: i32) {
    words.iter_mut().for_each(|word| *word = word.wrapping_add(constant as u32));
}

/// The prepared side of a layer, once.
fn take(layer: &mut Option<ServerLayer>) -> Result<ServerLayer> {
    layer.take().ok_or_else(|| invalid_state("layer: expected it prepared"))
}

/// The rounds of an activation layer, or of a maximum. Tensors that are `spent` are erased meanwhile.
async fn activate(
    link: &Link,
    (step, trips): (&ActivationStep, RoundTrips),
    mut layer: ServerLayer,
    secrets: &[ChannelSecret],
    mut masked: Masked,
    spent: &mut Vec<Masked>,
) -> Result<Masked> {
    step.align(&mut masked);
    layer.start(step.groups(trips), secrets, &masked);
    spent.push(masked);
    for round in 0..step.rounds(trips) {
        let (down, up) = step.round_bytes(trips, round);
        let mut request = FieldWriter::with_capacity(down);
        layer.request(step.groups(trips), round, &mut request);
        link.send(FrameKind::Request, request.finish()).await?;
        if !spent.is_empty() {
            link.flush().await;
            spent.clear();
        }
        let reply = link.receive(FrameKind::Reply, up).await?;
        let mut reader = FieldReader::new(&reply);
        layer.reply(step.groups(trips), round, &mut reader);
        reader.finish()?;
    }
    Ok(layer.finish())
}
