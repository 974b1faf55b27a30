//! A session whose computing is timed, by place in the protocol.

use safenet_core::session::{Client, Observer, Place, Progress, Server, Session};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// A session with a stopwatch that runs while the session computes: not while anyone waits for bytes or for room.
pub(super) struct Timed<S> {
    session: S,
    watch: Watch,
}

impl Timed<Client> {
    /// Times a client.
    pub(super) fn client(mut session: Client) -> Self {
        let watch = Watch::default();
        session.observe(watch.observer());
        Self { session, watch }
    }
}

impl Timed<Server> {
    /// Times a server.
    pub(super) fn server(mut session: Server) -> Self {
        let watch = Watch::default();
        session.observe(watch.observer());
        Self { session, watch }
    }
}

impl<S> Timed<S> {
    /// The session itself.
    pub(super) fn session(&mut self) -> &mut S {
        &mut self.session
    }

    /// Seconds of computing at each place so far.
    pub(super) fn seconds(&self) -> BTreeMap<Place, f64> {
        self.watch.dial().seconds.clone()
    }
}

impl<S: Session> Session for Timed<S> {
    fn advance(&mut self, input: &[u8], output: &mut [u8]) -> safenet_core::Result<Progress> {
        self.watch.dial().start();
        let result = self.session.advance(input, output);
        self.watch.dial().stop();
        result
    }

    fn input_ended(&mut self) {
        self.session.input_ended();
    }
}

/// A stopwatch that session and observer share.
#[derive(Clone, Default)]
struct Watch(Arc<Mutex<Dial>>);

#[derive(Default)]
struct Dial {
    place: Place,
    /// When computing at this place began; none while the session waits.
    since: Option<Instant>,
    seconds: BTreeMap<Place, f64>,
}

impl Watch {
    fn dial(&self) -> MutexGuard<'_, Dial> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn observer(&self) -> Observer {
        let watch = self.clone();
        Box::new(move |place| {
            let mut dial = watch.dial();
            dial.stop();
            dial.place = place;
            dial.start();
        })
    }
}

impl Dial {
    fn start(&mut self) {
        self.since = Some(Instant::now());
    }

    fn stop(&mut self) {
        if let Some(since) = self.since.take() {
            *self.seconds.entry(self.place).or_default() += since.elapsed().as_secs_f64();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use safenet_core::session::Phase;
    use std::thread::sleep;
    use std::time::Duration;

    #[test]
    fn time_goes_to_the_place_where_it_passed() {
        let watch = Watch::default();
        let mut observer = watch.observer();
        let place = |node| Place { phase: Phase::Infer, node: Some(node) };
        let pause = || sleep(Duration::from_millis(20));
        watch.dial().start();
        observer(place(1));
        pause();
        observer(place(2));
        pause();
        pause();
        watch.dial().stop();
        // Between two calls nobody computes.
        pause();
        watch.dial().start();
        watch.dial().stop();
        let seconds = watch.dial().seconds.clone();
        assert!(seconds[&place(1)] >= 0.020 && seconds[&place(2)] >= 0.040);
        let spent: f64 = seconds.values().sum();
        assert!(spent >= 0.060);
        assert!(seconds[&Place::default()] < seconds[&place(1)]);
    }
}
