//! One inference, the client's side.

use super::{Bundle, Public};
use crate::error::Result;
use crate::prg::{SecretVec, collect};
use crate::session::link::Link;
use crate::session::meter::{Phase, Place};
use crate::session::schedule::Step;
use crate::session::{BundleId, RoundTrips};
use crate::wire::bits::BitReader;
use crate::wire::frame::FrameKind;
use crate::wire::words::{FieldReader, FieldWriter};

/// One inference: the masked input goes out, the layers' rounds are answered, the masked output comes back.
pub(super) async fn infer(
    link: &Link,
    public: &Public,
    trips: RoundTrips,
    id: BundleId,
    bundle: Bundle,
    input: &[i32],
) -> Result<SecretVec<i32>> {
    link.enter(Place { phase: Phase::Infer, node: None });
    let masked =
        collect(input.len(), input.iter().zip(bundle.input_mask.iter()).map(|(&x, &r)| (x as u32).wrapping_add(r)));
    let mut words = FieldWriter::with_capacity(public.schedule.input_bytes());
    words.put(&masked, public.schedule.word_bits[0]);
    link.send(FrameKind::Infer, [&id.to_bytes()[..], &words.finish()].concat()).await?;
    for (index, mut layer) in bundle.layers {
        let Step::Activation(step) = &public.schedule.steps[index] else { continue };
        link.enter(Place { phase: Phase::Infer, node: Some(index as u32) });
        for round in 0..step.rounds(trips) {
            let (down, up) = step.round_bytes(trips, round);
            let request = link.receive(FrameKind::Request, down).await?;
            let (mut reader, mut writer) = (FieldReader::new(&request), FieldWriter::with_capacity(up));
            layer.round(step.groups(trips), round, &mut reader, &mut writer);
            reader.finish()?;
            link.send(FrameKind::Reply, writer.finish()).await?;
        }
        // Erasing what the layer held takes its time, which the server is not to wait for.
        link.flush().await;
        drop(layer);
    }
    link.enter(Place { phase: Phase::Infer, node: None });
    let answer = link.receive(FrameKind::Output, public.schedule.answer_bytes()).await?;
    let output = public.schedule.output;
    let mut reader = BitReader::new(&answer);
    let unmasked = bundle.output_mask.iter().map(|&r| {
        let word = (reader.take(output.bits().into()) as u32).wrapping_sub(r);
        // Of a class index, the bits above were never sent.
        (word & (u32::MAX >> (32 - output.bits()))) as i32
    });
    let output = collect(bundle.output_mask.len(), unmasked);
    reader.finish()?;
    link.count_inference();
    Ok(output)
}
