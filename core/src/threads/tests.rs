extern crate std;

use super::*;
use alloc::{vec, vec::Vec};
use std::panic::{AssertUnwindSafe, catch_unwind};

fn counts() -> &'static [usize] {
    if cfg!(feature = "parallel") { &[1, 2, 5] } else { &[1] }
}

#[test]
fn results_are_in_the_order_of_the_pieces() {
    for &count in counts() {
        let threads = Threads::new(count).unwrap();
        assert_eq!(threads.count(), count);
        for pieces in [0, 1, 2, 1000] {
            let squares: Vec<usize> = (0..pieces).map(|i| i * i).collect();
            assert_eq!(threads.map(0..pieces, |i| i * i), squares);
        }
        let mut words = vec![0; 100];
        let share = threads.share(words.len());
        threads.map(words.chunks_mut(share).enumerate(), |(i, run)| {
            run.iter_mut().enumerate().for_each(|(j, word)| *word = i * share + j);
        });
        assert!(words.iter().enumerate().all(|(i, &word)| i == word));
        let covered: Vec<usize> = threads.runs(43).flatten().collect();
        assert!(covered.into_iter().eq(0..43));
    }
}

#[test]
fn pieces_may_be_cut_into_pieces() {
    for &count in counts() {
        let threads = Threads::new(count).unwrap();
        let sum = |i: usize| threads.map(0..i, |j| j).into_iter().sum::<usize>();
        let sums = threads.map(0..100, sum);
        assert!(sums.iter().enumerate().all(|(i, &sum)| 2 * sum + i == i * i));
    }
}

#[test]
fn a_panic_reaches_the_caller_and_leaves_the_threads_fit() {
    for &count in counts() {
        let threads = Threads::new(count).unwrap();
        let work = || threads.map(0..50, |i| assert_ne!(i, 31));
        assert!(catch_unwind(AssertUnwindSafe(work)).is_err());
        assert_eq!(threads.map(0..50, |i| i + 1).len(), 50);
    }
}

#[test]
fn counts_that_cannot_be_are_refused() {
    for count in [0, Threads::MOST + 1, usize::MAX] {
        let error = Threads::new(count).err().unwrap();
        assert_eq!(error.kind(), ErrorKind::InvalidArgument);
        assert_eq!(error.message(), format!("threads: expected 1 to 256, got {count}"));
    }
    assert_eq!(Threads::new(2).is_ok(), cfg!(feature = "parallel"));
}

#[cfg(feature = "parallel")]
#[test]
fn several_callers_share_threads_that_start_once_and_end_with_the_last_copy() {
    use core::sync::atomic::{AtomicUsize, Ordering::SeqCst};
    static ALIVE: AtomicUsize = AtomicUsize::new(0);
    static STARTED: AtomicUsize = AtomicUsize::new(0);

    /// Counts the thread that it belongs to.
    struct Alive;
    impl Drop for Alive {
        fn drop(&mut self) {
            ALIVE.fetch_sub(1, SeqCst);
        }
    }
    std::thread_local! {
        static MARK: Alive = {
            ALIVE.fetch_add(1, SeqCst);
            Alive
        };
    }
    let threads = Threads::with_start(3, || {
        STARTED.fetch_add(1, SeqCst);
        MARK.with(|_| ());
    });
    let threads = threads.unwrap();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            let copy = threads.clone();
            scope.spawn(move || assert_eq!(copy.map(0..1000, |i| i).len(), 1000));
        }
    });
    drop(threads);
    assert_eq!((STARTED.load(SeqCst), ALIVE.load(SeqCst)), (3, 0));
}
