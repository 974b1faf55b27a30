//! How many threads a party computes with: one, its caller's, unless it is told more.
//!
//! What is handed over are independent pieces of work, whose results come back in the order of the pieces. Whatever is drawn at random is
//! drawn before or from a generator of the piece's own, so that nothing depends on how many threads there are.

#[cfg(feature = "parallel")]
mod pool;

use crate::error::{Error, ErrorKind, Result};
use alloc::{format, vec::Vec};
use core::ops::Range;

#[cfg(feature = "parallel")]
use {alloc::sync::Arc, pool::Pool, rayon::prelude::*};

/// Pieces of work for each thread that are under way at once: enough that threads wait little for each other, and little memory.
const PIECES: usize = 4;

/// Threads that parties compute with. Copies share them; they end with the last copy.
///
/// Besides the caller's thread there are none for a count of one, and else as many as counted, which compute while the caller's thread
/// waits. Several sessions may share them, each called from a thread of its own. They do not exist in a process made by `fork()`, where
/// whoever needs them waits for ever.
#[derive(Clone, Default)]
pub struct Threads {
    #[cfg(feature = "parallel")]
    pool: Option<Arc<Pool>>,
}

impl Threads {
    /// Most threads that one may ask for.
    pub const MOST: usize = 256;

    /// So many threads; one is the caller's own, as [`Threads::default`].
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for none, for more than [`Self::MOST`], for more than one without the feature `parallel`, or if the
    /// system gives fewer.
    pub fn new(count: usize) -> Result<Self> {
        Self::with_start(count, || ())
    }

    /// As [`Self::new`]; each new thread calls `start` before anything else.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn with_start(count: usize, start: impl Fn() + Send + Sync + 'static) -> Result<Self> {
        match count {
            1 => Ok(Self::default()),
            2..=Self::MOST => Self::several(count, start),
            _ => Err(invalid(format!("expected 1 to {}, got {count}", Self::MOST))),
        }
    }

    #[cfg(feature = "parallel")]
    fn several(count: usize, start: impl Fn() + Send + Sync + 'static) -> Result<Self> {
        let pool =
            Pool::new(count, start).map_err(|e| invalid(format!("expected {count}, the system gave fewer: {e}")))?;
        Ok(Self { pool: Some(Arc::new(pool)) })
    }

    #[cfg(not(feature = "parallel"))]
    fn several(count: usize, _: impl Fn() + Send + Sync + 'static) -> Result<Self> {
        Err(invalid(format!("expected 1, as the library was built without its feature `parallel`, got {count}")))
    }

    /// How many.
    pub fn count(&self) -> usize {
        #[cfg(feature = "parallel")]
        return self.pool.as_ref().map_or(1, |pool| pool.count());
        #[cfg(not(feature = "parallel"))]
        1
    }

    /// The results of all pieces, in their order.
    pub(crate) fn map<T: Send, R: Send>(
        &self,
        pieces: impl IntoIterator<Item = T>,
        work: impl Fn(T) -> R + Send + Sync,
    ) -> Vec<R> {
        #[cfg(feature = "parallel")]
        if let Some(pool) = &self.pool {
            let pieces: Vec<T> = pieces.into_iter().collect();
            if pieces.len() > 1 {
                // Pieces are large: each may go to a thread of its own.
                return pool.run(|| pieces.into_par_iter().with_max_len(1).map(work).collect());
            }
            return pieces.into_iter().map(work).collect();
        }
        pieces.into_iter().map(work).collect()
    }

    /// How many of many large pieces to compute, and to hold, at once: one for a single thread.
    pub(crate) fn pieces(&self) -> usize {
        match self.count() {
            1 => 1,
            count => PIECES * count,
        }
    }

    /// Cuts `count` large pieces into runs of [`Self::pieces`].
    pub(crate) fn runs(&self, count: usize) -> impl Iterator<Item = Range<usize>> + use<> {
        let pieces = self.pieces();
        (0..count).step_by(pieces).map(move |start| start..count.min(start + pieces))
    }

    /// How many of `count` items make a piece, so that there is one for each thread.
    pub(crate) fn share(&self, count: usize) -> usize {
        count.div_ceil(self.count()).max(1)
    }
}

fn invalid(message: alloc::string::String) -> Error {
    Error::new(ErrorKind::InvalidArgument, message).context("threads")
}

#[cfg(test)]
mod tests;
