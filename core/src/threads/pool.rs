//! Threads that wait for work.

extern crate std;

use alloc::{sync::Arc, vec::Vec};
use rayon::{ThreadPool, ThreadPoolBuildError, ThreadPoolBuilder};
use std::thread::{Builder, JoinHandle};

/// A pool whose threads have ended when it is dropped: a program may unload the library after that.
pub(super) struct Pool {
    /// None once they are told to end.
    pool: Option<ThreadPool>,
    threads: Vec<JoinHandle<()>>,
}

impl Pool {
    /// So many threads, each of which calls `start` first.
    pub(super) fn new(count: usize, start: impl Fn() + Send + Sync + 'static) -> Result<Self, ThreadPoolBuildError> {
        let (start, mut threads) = (Arc::new(start), Vec::with_capacity(count));
        let spawn = |thread: rayon::ThreadBuilder| {
            let start = start.clone();
            threads.push(Builder::new().name("safenet".into()).spawn(move || {
                start();
                thread.run();
            })?);
            Ok(())
        };
        let pool = ThreadPoolBuilder::new().num_threads(count).spawn_handler(spawn).build()?;
        Ok(Self { pool: Some(pool), threads })
    }

    pub(super) fn count(&self) -> usize {
        self.threads.len()
    }

    /// Runs work in the pool while this thread waits; a panic in it goes on in this thread.
    pub(super) fn run<R: Send>(&self, work: impl FnOnce() -> R + Send) -> R {
        match &self.pool {
            Some(pool) => pool.install(work),
            None => work(),
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        drop(self.pool.take());
        for thread in self.threads.drain(..) {
            // A thread that has panicked has told whoever waited for its work.
            let _ = thread.join();
        }
    }
}
