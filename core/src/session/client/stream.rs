//! An inference in a stream, the client's side: each layer is prepared when it is reached, done, and forgotten.

use super::infer::{masked_input, open_output, rounds};
use super::prepare::Walk;
use super::{Done, Party};
use crate::error::Result;
use crate::prg::SecretVec;
use crate::session::link::Link;
use crate::session::meter::{Phase, Place};
use crate::session::order::Mode;
use crate::session::schedule::{ActivationStep, Step};
use crate::wire::frame::FrameKind;
use alloc::boxed::Box;
use alloc::vec;

/// Carries out an inference.
pub(super) async fn stream(link: &Link, mut party: Box<Party>, input: &[i32]) -> Result<Done> {
    let output = party.stream(link, input).await?;
    Ok(Done { party: Some(party), output: Some(output) })
}

impl Party {
    async fn stream(&mut self, link: &Link, input: &[i32]) -> Result<SecretVec<i32>> {
        link.enter(Place { phase: Phase::Prepare, node: None });
        link.send(FrameKind::Stream, vec![]).await?;
        let (public, course) = (self.public.clone(), self.course(Mode::Streamed));
        let schedule = &public.schedule;
        let mut walk = Walk::new(&public, &course, &mut self.prg);
        for batch in &course.batches {
            let mut signs = self.ask(link, &mut walk, batch, 1).await?;
            if batch.nodes.start == 0 {
                link.enter(Place { phase: Phase::Infer, node: None });
                link.send(FrameKind::Input, masked_input(schedule, input, walk.masks.of(0)?)).await?;
                link.enter(Place { phase: Phase::Prepare, node: None });
                link.flush().await;
            }
            self.open(link, &mut walk, batch, 1, &mut signs).await?;
            for index in batch.nodes.clone() {
                link.enter(Place { phase: Phase::Prepare, node: Some(index as u32) });
                match &schedule.steps[index] {
                    Step::Linear(step) => self.receive_linear(link, &mut walk.masks, index, step).await?,
                    Step::Local => walk.masks.compute(index),
                    Step::Activation(step) => self.activate(link, &mut walk, index, step).await?,
                }
                if !link.is_traced() {
                    walk.masks.forget(index);
                }
            }
        }
        walk.masks.show(link);
        open_output(link, schedule, walk.masks.of(schedule.steps.len())?).await
    }

    /// An activation layer, part after part.
    async fn activate(&mut self, link: &Link, walk: &mut Walk<'_>, index: usize, step: &ActivationStep) -> Result<()> {
        let course = walk.course;
        walk.masks.draw(index, step.whole(course.trips), &mut self.prg);
        let mut input = walk.masks.before(index, link.is_traced())?;
        step.align(&mut input);
        let mut shares = walk.shares(index);
        for part in course.parts(step) {
            link.enter(Place { phase: Phase::Prepare, node: None });
            let mut signs = self.extend_signs(link, course.part_runs(&part)).await?;
            link.enter(Place { phase: Phase::Prepare, node: Some(index as u32) });
            let mut layer = self.fill(link, walk, (index, &part), &input, &mut signs, &mut shares).await?;
            link.enter(Place { phase: Phase::Infer, node: Some(index as u32) });
            rounds(link, &part, &mut layer).await?;
            // What follows belongs to what comes next.
            link.enter(Place { phase: Phase::Prepare, node: None });
            link.flush().await;
        }
        Ok(())
    }
}
