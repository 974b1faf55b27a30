//! How a party waits for the other: awake for a moment, where that pays, before it lets the system wake it.
//!
//! Online the parties answer each other some hundred microseconds apart, many times in a row. To be put to sleep and woken
//! takes tens of microseconds each time, more on a machine whose processors have gone to rest. So a wait begins by asking
//! again and again. That is time of a processor, and the rules below keep it from being anyone else's:
//!
//! - between two looks the thread yields, so whoever is ready to run does so first;
//! - if someone did, the processors are not idle, and the next [`REST`] waits do not poll;
//! - after [`LONG_WAITS`] waits in a row that polling would not have shortened, as over a distant link or of an idle client,
//!   none does until one was short again. So an idle client costs its server one wait's polling, not more.

use std::thread;
use std::time::{Duration, Instant};

/// So many long waits in a row, and the next ones are not expected to be short.
const LONG_WAITS: u32 = 4;
/// Waits that do not poll after one that has found the processors busy.
const REST: u32 = 64;
/// A yield that takes longer has let someone else run.
const YIELDED: Duration = Duration::from_micros(40);

/// What a connection's waits so far say of the next one.
pub(crate) struct Patience {
    /// How long a wait may poll.
    limit: Duration,
    /// Waits in a row that took longer than that.
    long: u32,
    /// Waits that are not to poll because processors were busy.
    rest: u32,
}

impl Patience {
    /// Waits that poll for so long, or never if that is no time.
    pub(crate) fn new(limit: Duration) -> Self {
        Self { limit, long: 0, rest: 0 }
    }

    /// Whether the next wait is to poll.
    pub(crate) fn polls(&self) -> bool {
        !self.limit.is_zero() && self.rest == 0 && self.long < LONG_WAITS
    }

    /// Looks until there is something, or polling no longer pays.
    pub(crate) fn poll<T>(&mut self, start: Instant, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let mut last = start;
        loop {
            if let Some(found) = look() {
                return Some(found);
            }
            thread::yield_now();
            let now = Instant::now();
            if now - last > YIELDED {
                self.rest = REST;
                return look();
            }
            if now - start > self.limit {
                return None;
            }
            last = now;
        }
    }

    /// Learns how long a wait took in the end.
    pub(crate) fn waited(&mut self, time: Duration) {
        self.rest = self.rest.saturating_sub(1);
        self.long = if time > self.limit { self.long.saturating_add(1) } else { 0 };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_millis(50);

    #[test]
    fn polling_stops_where_waits_are_long_and_begins_again_with_a_short_one() {
        let mut patience = Patience::new(LIMIT);
        for _ in 0..LONG_WAITS {
            assert!(patience.polls());
            patience.waited(2 * LIMIT);
        }
        assert!(!patience.polls());
        patience.waited(2 * LIMIT);
        assert!(!patience.polls());
        patience.waited(LIMIT / 2);
        assert!(patience.polls());
        assert!(!Patience::new(Duration::ZERO).polls());
    }

    #[test]
    fn what_comes_in_time_is_found_and_what_does_not_ends_the_polling() {
        let mut patience = Patience::new(LIMIT);
        let mut looks = 0;
        let found = patience.poll(Instant::now(), || {
            looks += 1;
            (looks == 3).then_some(looks)
        });
        // On a busy machine the polling may end sooner.
        assert!(found == Some(3) || patience.rest == REST);
        let start = Instant::now();
        assert_eq!(Patience::new(LIMIT).poll(start, || None::<()>), None);
        assert!(start.elapsed() < 20 * LIMIT);
    }

    #[test]
    fn a_busy_processor_is_left_to_others_for_a_while() {
        let mut patience = Patience::new(LIMIT);
        // As if another thread had run meanwhile.
        let found = patience.poll(Instant::now(), || {
            thread::sleep(2 * YIELDED);
            None::<()>
        });
        assert_eq!((found, patience.rest), (None, REST));
        for _ in 0..REST {
            assert!(!patience.polls());
            patience.waited(LIMIT / 2);
        }
        assert!(patience.polls());
    }
}
