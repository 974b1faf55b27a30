//! Which instruction set the kernels use.

use anyhow::{Result, ensure};
use safenet_core::simd::{self, Level};

/// An instruction set that kernels are compiled for.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Simd {
    /// What every processor of the kind has
    Base,
    /// 256-bit vectors
    Avx2,
    /// 512-bit vectors
    Avx512,
}

impl Simd {
    /// Its name on the command line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Avx2 => "avx2",
            Self::Avx512 => "avx512",
        }
    }

    fn of(level: Level) -> Self {
        match level {
            Level::Base => Self::Base,
            Level::Avx2 => Self::Avx2,
            Level::Avx512 => Self::Avx512,
        }
    }

    fn level(self) -> Level {
        match self {
            Self::Base => Level::Base,
            Self::Avx2 => Level::Avx2,
            Self::Avx512 => Level::Avx512,
        }
    }
}

/// Limits this process to an instruction set, if one is asked for; the one in force.
pub(super) fn limit(most: Option<Simd>) -> Result<Simd> {
    let Some(most) = most else { return Ok(Simd::of(simd::level())) };
    let got = Simd::of(simd::limit(most.level()));
    ensure!(got == most, "--simd {}: this processor has {} at most", most.name(), got.name());
    Ok(got)
}
