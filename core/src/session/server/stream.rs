//! An inference in a stream, the server's side.

use super::Party;
use super::evaluate::Evaluation;
use crate::error::Result;
use crate::session::link::Link;
use crate::session::meter::{Phase, Place};
use crate::session::order::Mode;
use crate::session::schedule::Step;
use crate::session::stock::Stock;
use crate::wire::frame::FrameKind;

impl Party {
    /// An inference of which each layer is prepared when it is reached.
    pub(super) async fn stream(&mut self, link: &Link) -> Result<()> {
        let (private, course) = (self.private.clone(), self.course(Mode::Streamed));
        let schedule = &private.schedule;
        let mut evaluation = Evaluation::new(&private, link);
        let mut products = Stock::new();
        for batch in &course.batches {
            let mut asked = self.take_requests(link, (&private, &course), batch, 1, &mut products).await?;
            if batch.nodes.start == 0 {
                link.enter(Place { phase: Phase::Infer, node: None });
                evaluation.start(&link.receive(FrameKind::Input, schedule.input_bytes()).await?)?;
            }
            // No run of OTs is a batch's own.
            self.open(link, (&private, &course), batch, 1, &mut asked).await?;
            for index in batch.nodes.clone() {
                link.enter(Place { phase: Phase::Prepare, node: Some(index as u32) });
                match &schedule.steps[index] {
                    Step::Linear(step) => {
                        let mask = self.respond(link, index, step, asked.responders.remove(&index)).await?;
                        link.enter(Place { phase: Phase::Infer, node: Some(index as u32) });
                        evaluation.linear(index, step, mask)?;
                    }
                    Step::Local => evaluation.local(index)?,
                    Step::Activation(step) => {
                        let mut run = evaluation.begin(index, step)?;
                        for part in course.parts(step) {
                            link.enter(Place { phase: Phase::Prepare, node: None });
                            let signs = self.receive_signs(link, &course.part_runs(&part)).await?;
                            link.enter(Place { phase: Phase::Prepare, node: Some(index as u32) });
                            let signs = &signs[..part.client_rots()];
                            let layer = self.fill(link, &course, (index, &part), signs, &mut products).await?;
                            link.enter(Place { phase: Phase::Infer, node: Some(index as u32) });
                            evaluation.rounds(&mut run, &part, layer).await?;
                        }
                        evaluation.end(run)?;
                    }
                }
                evaluation.forget(index);
            }
        }
        evaluation.answer().await
    }
}
