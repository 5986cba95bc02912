//! What a source is made of: the names a log and its rotated siblings go by, and which of the files found on disk is
//! which of the files known. Pure: the files are looked at by [`crate::pipeline`].

pub mod blocks;
pub mod matching;
pub mod name;
