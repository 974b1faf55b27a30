//! One inference on a prepared bundle, the client's side.

use super::{Bundle, Public};
use crate::activation::ClientLayer;
use crate::error::Result;
use crate::prg::{SecretVec, collect};
use crate::session::link::Link;
use crate::session::meter::{Phase, Place};
use crate::session::schedule::{Part, Schedule, Step};
use crate::session::{BundleId, RoundTrips};
use crate::wire::bits::BitReader;
use crate::wire::frame::FrameKind;
use crate::wire::words::{FieldReader, FieldWriter};
use alloc::vec::Vec;

/// One inference: the masked input goes out, the layers' rounds are answered, the masked output comes back.
pub(super) async fn infer(
    link: &Link,
    public: &Public,
    trips: RoundTrips,
    id: BundleId,
    bundle: Bundle,
    input: &[i32],
) -> Result<SecretVec<i32>> {
    let masked = masked_input(&public.schedule, input, &bundle.input_mask);
    link.send(FrameKind::Infer, [&id.to_bytes()[..], &masked].concat()).await?;
    for (index, mut layer) in bundle.layers {
        let Step::Activation(step) = &public.schedule.steps[index] else { continue };
        link.enter(Place { phase: Phase::Infer, node: Some(index as u32) });
        rounds(link, step.whole(trips), &mut layer).await?;
        // Erasing what the layer held takes its time, which the server is not to wait for.
        link.flush().await;
        drop(layer);
    }
    open_output(link, &public.schedule, &bundle.output_mask).await
}

/// The words x + r of the input, as they are sent.
pub(super) fn masked_input(schedule: &Schedule, input: &[i32], mask: &[u32]) -> Vec<u8> {
    let masked = collect(input.len(), input.iter().zip(mask).map(|(&x, &r)| (x as u32).wrapping_add(r)));
    let mut words = FieldWriter::with_capacity(schedule.input_bytes());
    words.put(&masked, schedule.word_bits[0]);
    words.finish()
}

/// Answers the rounds of an activation layer's part.
pub(super) async fn rounds(link: &Link, part: &Part, layer: &mut ClientLayer) -> Result<()> {
    for round in 0..part.rounds() {
        let (down, up) = part.round_bytes(round);
        let request = link.receive(FrameKind::Request, down).await?;
        let (mut reader, mut writer) = (FieldReader::new(&request), FieldWriter::with_capacity(up));
        layer.round(part.groups(), round, &mut reader, &mut writer);
        reader.finish()?;
        link.send(FrameKind::Reply, writer.finish()).await?;
    }
    Ok(())
}

/// Receives the masked output and takes the mask off.
pub(super) async fn open_output(link: &Link, schedule: &Schedule, mask: &[u32]) -> Result<SecretVec<i32>> {
    link.enter(Place { phase: Phase::Infer, node: None });
    let answer = link.receive(FrameKind::Output, schedule.answer_bytes()).await?;
    let bits = u32::from(schedule.output.bits());
    let mut reader = BitReader::new(&answer);
    let unmasked = mask.iter().map(|&r| {
        let word = (reader.take(bits) as u32).wrapping_sub(r);
        // Of a class index, the bits above were never sent.
        (word & (u32::MAX >> (32 - bits))) as i32
    });
    let output = collect(mask.len(), unmasked);
    reader.finish()?;
    link.count_inference();
    Ok(output)
}
