//! What a network's values are on the calibration samples.

use super::FloatNetwork;
use crate::error::{Error, Result};
use crate::samples::Samples;
use std::sync::mpsc;
use std::thread;

/// Threads that measure, each every so many samples. A constant: the order in which numbers are added is to depend on
/// nothing but the samples.
const THREADS: usize = 2;
/// Numbers that are added side by side, so that the processor may do so at once.
const LANES: usize = 8;

/// What one channel's values were on the calibration samples.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Statistics {
    pub(crate) low: f64,
    pub(crate) high: f64,
    sum: f64,
    squares: f64,
    count: f64,
}

impl Statistics {
    const EMPTY: Self = Self { low: f64::INFINITY, high: f64::NEG_INFINITY, sum: 0.0, squares: 0.0, count: 0.0 };

    fn add(&mut self, values: &[f32]) {
        let (mut low, mut high) = ([f32::INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        let (mut sum, mut squares) = ([0.0; LANES], [0.0; LANES]);
        for chunk in values.chunks(LANES) {
            for (i, &x) in chunk.iter().enumerate() {
                low[i] = low[i].min(x);
                high[i] = high[i].max(x);
                let x = f64::from(x);
                sum[i] += x;
                squares[i] += x * x;
            }
        }
        self.merge(&Self {
            low: low.into_iter().fold(f32::INFINITY, f32::min).into(),
            high: high.into_iter().fold(f32::NEG_INFINITY, f32::max).into(),
            sum: sum.into_iter().sum(),
            squares: squares.into_iter().sum(),
            count: values.len() as f64,
        });
    }

    fn merge(&mut self, other: &Self) {
        self.low = self.low.min(other.low);
        self.high = self.high.max(other.high);
        self.sum += other.sum;
        self.squares += other.squares;
        self.count += other.count;
    }

    pub(crate) fn mean(&self) -> f64 {
        self.sum / self.count.max(1.0)
    }

    pub(crate) fn mean_square(&self) -> f64 {
        self.squares / self.count.max(1.0)
    }

    pub(crate) fn variance(&self) -> f64 {
        (self.mean_square() - self.mean() * self.mean()).max(0.0)
    }

    /// Whether all values were finite. Smallest and largest value do not tell: they ignore what is not a number.
    pub(crate) fn is_finite(&self) -> bool {
        self.squares.is_finite()
    }
}

/// Statistics of every tensor's channels over the samples: 0 is the input, i + 1 the output of layer i.
///
/// `progress` is told after each sample how many of how many are done.
///
/// # Errors
/// [`Error::Samples`] if samples have another shape than the input, [`Error::Network`] if the engine fails.
pub(crate) fn measure(
    network: &FloatNetwork,
    samples: &Samples,
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Vec<Vec<Statistics>>> {
    let (sender, receiver) = mpsc::channel();
    let parts = thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|worker| {
                let sender = sender.clone();
                scope.spawn(move || {
                    let mut all = empty(network);
                    for sample in samples.iter().skip(worker).step_by(THREADS) {
                        add(network, sample, &mut all)?;
                        // Nobody listens if another thread has failed.
                        let _ = sender.send(());
                    }
                    Ok(all)
                })
            })
            .collect();
        drop(sender);
        for (done, ()) in receiver.iter().enumerate() {
            progress(done + 1, samples.count());
        }
        let join = |w: thread::ScopedJoinHandle<'_, Result<_>>| {
            w.join()
                .unwrap_or_else(|_| Err(Error::Network("measuring ranges failed; this is a fault of SAFENet".into())))
        };
        workers.into_iter().map(join).collect::<Result<Vec<_>>>()
    })?;
    let mut all = empty(network);
    for part in &parts {
        for (channels, others) in all.iter_mut().zip(part) {
            channels.iter_mut().zip(others).for_each(|(channel, other)| channel.merge(other));
        }
    }
    Ok(all)
}

fn empty(network: &FloatNetwork) -> Vec<Vec<Statistics>> {
    network.shapes().iter().map(|s| vec![Statistics::EMPTY; s.channels as usize]).collect()
}

fn add(network: &FloatNetwork, sample: &[f32], all: &mut [Vec<Statistics>]) -> Result<()> {
    let mut record = |tensor: usize, values: &[f32]| {
        let plane = network.shapes()[tensor].plane();
        for (channel, values) in all[tensor].iter_mut().zip(values.chunks_exact(plane)) {
            channel.add(values);
        }
    };
    record(0, sample);
    network.visit(sample, |layer, values| record(layer + 1, values)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{Function, Layer, Network, Op};
    use safenet_core::model::Shape;

    #[test]
    fn statistics_are_those_of_all_samples() {
        let shape = Shape { channels: 2, height: 3, width: 5 };
        let functions = vec![Function::Relu, Function::Polynomial { degree: 1, c: [1.0, -2.0, 0.0, 0.0] }];
        let layer = Layer { name: "act".into(), inputs: vec![0], op: Op::Activation(functions.clone()), shape };
        let float = FloatNetwork::new(&Network { name: String::new(), input: shape, layers: vec![layer] }).unwrap();
        let data: Vec<f32> = (0..5 * 30).map(|i| ((i * 37 % 101) as f32 - 50.0) / 16.0).collect();
        let samples = Samples::new(shape, data.clone(), None).unwrap();
        let mut told = Vec::new();
        let got = measure(&float, &samples, &mut |done, total| told.push((done, total))).unwrap();
        assert_eq!(told, [(1, 5), (2, 5), (3, 5), (4, 5), (5, 5)]);
        for channel in 0..2 {
            let inputs: Vec<f64> = data.chunks(30).flat_map(|s| &s[channel * 15..][..15]).map(|&x| x.into()).collect();
            let outputs = inputs.iter().map(|&x| functions[channel].at(x)).collect();
            for (got, values) in [(&got[0][channel], inputs.clone()), (&got[1][channel], outputs)] {
                let count = values.len() as f64;
                let mean = values.iter().sum::<f64>() / count;
                let square = values.iter().map(|x| x * x).sum::<f64>() / count;
                let variance = values.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / count;
                assert_eq!(got.low, values.iter().copied().fold(f64::INFINITY, f64::min));
                assert_eq!(got.high, values.iter().copied().fold(f64::NEG_INFINITY, f64::max));
                assert!((got.mean() - mean).abs() < 1e-9 && (got.mean_square() - square).abs() < 1e-9);
                assert!((got.variance() - variance).abs() < 1e-9 && got.is_finite());
            }
        }
        let again = measure(&float, &samples, &mut |_, _| {}).unwrap();
        let bits = |s: &[Vec<Statistics>]| s.iter().flatten().map(|s| s.sum.to_bits()).collect::<Vec<_>>();
        assert_eq!(bits(&got), bits(&again));
    }

    #[test]
    fn other_shapes_are_refused_and_overflows_seen() {
        let shape = Shape { channels: 1, height: 1, width: 1 };
        let square = Function::Polynomial { degree: 2, c: [0.0, 0.0, 1.0, 0.0] };
        let layer = Layer { name: "act".into(), inputs: vec![0], op: Op::Activation(vec![square]), shape };
        let float = FloatNetwork::new(&Network { name: String::new(), input: shape, layers: vec![layer] }).unwrap();
        let other = Samples::new(Shape { width: 2, ..shape }, vec![1.0, 2.0], None).unwrap();
        assert!(matches!(measure(&float, &other, &mut |_, _| {}), Err(Error::Samples(_))));
        let large = Samples::new(shape, vec![1.0, 1e30], None).unwrap();
        let got = measure(&float, &large, &mut |_, _| {}).unwrap();
        assert!(got[0][0].is_finite() && !got[1][0].is_finite());
    }
}
