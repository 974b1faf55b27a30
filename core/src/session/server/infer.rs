//! One inference on a prepared bundle, the server's side.

use super::evaluate::Evaluation;
use super::{Bundle, Party};
use crate::activation::ServerLayer;
use crate::error::Result;
use crate::session::link::Link;
use crate::session::meter::{Phase, Place};
use crate::session::schedule::Step;
use crate::session::{BUNDLE_BYTES, BundleId, invalid_state, spent};

impl Party {
    /// One inference. The bundle is spent before its first word is looked at.
    pub(super) async fn infer(&mut self, link: &Link, message: &[u8]) -> Result<()> {
        let (id, words) = message.split_at(BUNDLE_BYTES);
        let id = BundleId::from_bytes(<[u8; BUNDLE_BYTES]>::try_from(id).unwrap_or([0; BUNDLE_BYTES]));
        let Bundle { mut masks, mut layers } = self.bundles.remove(&id).ok_or_else(|| spent(id))?;
        let private = self.private.clone();
        let mut evaluation = Evaluation::new(&private, link);
        evaluation.start(words)?;
        for (index, step) in private.schedule.steps.iter().enumerate() {
            link.enter(Place { phase: Phase::Infer, node: Some(index as u32) });
            match step {
                Step::Linear(step) => evaluation.linear(index, step, core::mem::take(&mut masks[index]))?,
                Step::Local => evaluation.local(index)?,
                Step::Activation(step) => {
                    let layer = take(&mut layers[index])?;
                    let mut run = evaluation.begin(index, step)?;
                    evaluation.rounds(&mut run, step.whole(self.round_trips), layer).await?;
                    evaluation.end(run)?;
                }
            }
            evaluation.forget(index);
        }
        evaluation.answer().await
    }
}

/// The prepared side of a layer, once.
fn take(layer: &mut Option<ServerLayer>) -> Result<ServerLayer> {
    layer.take().ok_or_else(|| invalid_state("layer: expected it prepared"))
}
