//! Which choice of a client's suits the line to its server.

use super::{ClientModel, Options, Phase, RoundTrips};

/// Seconds that both parties together take to make, move and use a byte of the larger messages of ReLUs in two round trips,
/// about: over loopback, 65,536 ReLUs of 12 bits take 2.4 to 3 ms more for 1.9 MB more. It decides on fast lines alone.
const SECONDS_PER_BYTE: f64 = 1.3e-9;

/// The line between the parties, as the caller has measured it or knows it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Line {
    /// Seconds of a round trip.
    pub round_trip_s: f64,
    /// Bytes that it carries in a second, each way.
    pub bytes_per_s: f64,
}

/// What an inference with ReLUs in two round trips saves and costs, against one with ReLUs in three.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trade {
    /// Round trips that it takes less.
    pub rounds: u64,
    /// Bytes that it sends more, both ways together. The parties send by turns, so these take time one after another.
    pub bytes: u64,
}

impl Trade {
    /// For a model, and the other options that a client has chosen.
    pub fn new(model: &ClientModel, options: &Options) -> Self {
        let [two, three] = [RoundTrips::Two, RoundTrips::Three].map(|round_trips| {
            let forecast = model.forecast(&Options { round_trips, ..*options });
            let online = forecast.traffic.iter().filter(|(place, _)| place.phase == Phase::Infer);
            (forecast.infer_rounds, online.map(|(_, traffic)| traffic.sent + traffic.received).sum::<u64>())
        });
        Self { rounds: three.0.saturating_sub(two.0), bytes: two.1.saturating_sub(three.1) }
    }

    /// Seconds of waiting that it saves on a line.
    pub fn saved_s(&self, line: &Line) -> f64 {
        self.rounds as f64 * line.round_trip_s
    }

    /// Seconds that its bytes cost there.
    pub fn spent_s(&self, line: &Line) -> f64 {
        self.bytes as f64 * (1.0 / line.bytes_per_s + SECONDS_PER_BYTE)
    }

    /// The round trips with which an inference takes less time; three where that is not known, as with a time that is no number.
    pub fn choose(&self, line: &Line) -> RoundTrips {
        if self.saved_s(line) > self.spent_s(line) { RoundTrips::Two } else { RoundTrips::Three }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_round_trips_are_chosen_where_those_saved_take_longer_than_the_bytes_added() {
        let trade = Trade { rounds: 7, bytes: 8_000_000 };
        let choose =
            |rtt_ms: f64, mbit: f64| trade.choose(&Line { round_trip_s: rtt_ms / 1e3, bytes_per_s: mbit * 1e6 / 8.0 });
        // The bytes take 640 ms, 183 ms and 21 ms, and some 10 ms of computing.
        assert_eq!([choose(90.0, 100.0), choose(95.0, 100.0)], [RoundTrips::Three, RoundTrips::Two]);
        assert_eq!([choose(25.0, 350.0), choose(40.0, 350.0)], [RoundTrips::Three, RoundTrips::Two]);
        assert_eq!([choose(0.3, 3000.0), choose(5.0, 3000.0)], [RoundTrips::Three, RoundTrips::Two]);
        // Without a limit of the rate, computing remains.
        assert_eq!([choose(0.05, f64::INFINITY), choose(2.0, f64::INFINITY)], [RoundTrips::Three, RoundTrips::Two]);
    }

    #[test]
    fn what_is_not_known_or_saves_nothing_leaves_three() {
        let line = |round_trip_s, bytes_per_s| Line { round_trip_s, bytes_per_s };
        let trade = Trade { rounds: 7, bytes: 1000 };
        for unknown in [line(f64::NAN, 1e9), line(1.0, f64::NAN), line(1.0, 0.0), line(-1.0, 1e9), line(0.0, 1e9)] {
            assert_eq!(trade.choose(&unknown), RoundTrips::Three, "{unknown:?}");
        }
        let none = Trade { rounds: 0, bytes: 0 };
        assert_eq!(none.choose(&line(1.0, 1e9)), RoundTrips::Three);
    }
}
