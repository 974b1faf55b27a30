//! What stands in the place of the silent extension's parties in builds without it: types that have no value, so that code for
//! those that would have one is not there either.

use super::super::softspoken::RotBatchReceived;
use super::super::wide::{Received, Sent};
use super::super::{Block, Context, Delta, Extension};
use super::Set;
use crate::error::Result;
use crate::prg::SecretVec;
use alloc::vec::Vec;

/// The sender of single OTs, which this build does not have.
pub enum Sender {}

/// The receiver of single OTs, which this build does not have.
pub enum Receiver {}

/// The sender of wide OTs, which this build does not have.
pub enum WideSender {}

/// The receiver of wide OTs, which this build does not have.
pub enum WideReceiver {}

impl Sender {
    /// Refuses, as [`Extension::check_built`] does.
    ///
    /// # Errors
    /// Always.
    pub fn new(_: &Context, _: Set, _: Delta, _: SecretVec<Block>) -> Result<Self> {
        Err(Extension::not_built())
    }

    /// Never called.
    pub fn available(&self) -> usize {
        match *self {}
    }

    /// Never called.
    pub fn refill(&mut self) -> Vec<u8> {
        match *self {}
    }

    /// Never called.
    pub fn extend(&mut self, _: usize) -> Result<SecretVec<[Block; 2]>> {
        match *self {}
    }

    /// Never called.
    pub fn extend_correlated(&mut self, _: usize) -> Result<SecretVec<Block>> {
        match *self {}
    }
}

impl Receiver {
    /// Refuses, as [`Extension::check_built`] does.
    ///
    /// # Errors
    /// Always.
    pub fn new(_: &Context, _: Set, _: SecretVec<Block>) -> Result<Self> {
        Err(Extension::not_built())
    }

    /// Never called.
    pub fn available(&self) -> usize {
        match *self {}
    }

    /// Never called.
    pub fn refill(&mut self, _: &[u8]) -> Result<()> {
        match *self {}
    }

    /// Never called.
    pub fn extend(&mut self, _: usize) -> Result<RotBatchReceived> {
        match *self {}
    }

    /// Never called.
    pub fn extend_correlated(&mut self, _: usize) -> Result<SecretVec<Block>> {
        match *self {}
    }
}

impl WideSender {
    /// Refuses, as [`Extension::check_built`] does.
    ///
    /// # Errors
    /// Always.
    pub(in crate::ot) fn new(_: &Context, _: Set, _: Block, _: SecretVec<Block>, _: SecretVec<Block>) -> Result<Self> {
        Err(Extension::not_built())
    }

    /// Never called.
    pub fn available(&self) -> usize {
        match *self {}
    }

    /// Never called.
    pub fn refill(&mut self, _: &[Block]) -> Vec<u8> {
        match *self {}
    }

    /// Never called.
    pub fn extend(&mut self, _: usize) -> Result<Sent> {
        match *self {}
    }
}

impl WideReceiver {
    /// Refuses, as [`Extension::check_built`] does.
    ///
    /// # Errors
    /// Always.
    pub(in crate::ot) fn new(_: &Context, _: Set, _: (SecretVec<Block>, SecretVec<u8>)) -> Result<Self> {
        Err(Extension::not_built())
    }

    /// Never called.
    pub fn available(&self) -> usize {
        match *self {}
    }

    /// Never called.
    pub fn refill(&mut self, _: &[Block], _: &[u8]) -> Result<()> {
        match *self {}
    }

    /// Never called.
    pub fn extend(&mut self, _: usize) -> Result<Received> {
        match *self {}
    }
}
