//! Sizes of chunks: values that cannot be wrong once they exist.

use crate::hint::Hint;

/// Sizes that a chunker or a tree cannot work with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {value}, but must be {rule}")]
pub struct ParamsError {
    /// Which parameter.
    pub name: &'static str,
    /// What it was.
    pub value: u64,
    /// What it has to be.
    pub rule: &'static str,
}

impl Hint for ParamsError {}

impl ParamsError {
    /// `value` breaks `rule`.
    pub fn new(name: &'static str, value: impl Into<u64>, rule: &'static str) -> Self {
        Self { name, value: value.into(), rule }
    }
}

/// How a stream of bytes is cut into chunks. Sizes in bytes; the same throughout a repository.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkParams {
    min: u32,
    avg: u32,
    max: u32,
    whole: u32,
}

impl ChunkParams {
    /// Chunks of `min` to `max` bytes, `avg` on average (the last of a stream may be shorter);
    /// a stream of at most `whole` bytes is one chunk.
    pub fn new(min: u32, avg: u32, max: u32, whole: u32) -> Result<Self, ParamsError> {
        if min < 256 || !min.is_multiple_of(2) || min >= avg {
            let rule = "even, at least 256 bytes and below the average";
            return Err(ParamsError::new("minimum chunk size", min, rule));
        }
        if !avg.is_power_of_two() || avg > 4 << 20 || avg >= max {
            let rule = "a power of two, at most 4 MiB and below the maximum";
            return Err(ParamsError::new("average chunk size", avg, rule));
        }
        if !max.is_multiple_of(2) || max > 16 << 20 {
            return Err(ParamsError::new("maximum chunk size", max, "even and at most 16 MiB"));
        }
        if !(min..=16 << 20).contains(&whole) {
            let rule = "at least the minimum chunk size and at most 16 MiB";
            return Err(ParamsError::new("size of a stream that is one chunk", whole, rule));
        }
        Ok(Self { min, avg, max, whole })
    }

    /// The shortest chunk, but for the last of a stream.
    pub const fn min(&self) -> usize {
        self.min as usize
    }

    /// The average length of a chunk.
    pub const fn avg(&self) -> usize {
        self.avg as usize
    }

    /// The longest chunk of a stream that is cut.
    pub const fn max(&self) -> usize {
        self.max as usize
    }

    /// Up to this length a stream is one chunk.
    pub const fn whole(&self) -> usize {
        self.whole as usize
    }
}

impl Default for ChunkParams {
    /// 128 KiB, 256 KiB, 1 MiB, and whole up to 512 KiB: found on a kernel source tree and on a
    /// large fixture, where smaller chunks gained little and larger ones lost much.
    fn default() -> Self {
        Self { min: 128 << 10, avg: 256 << 10, max: 1 << 20, whole: 512 << 10 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_that_cannot_work_are_refused() {
        let default = ChunkParams::default();
        assert_eq!(ChunkParams::new(128 << 10, 256 << 10, 1 << 20, 512 << 10), Ok(default));
        for (min, avg, max, whole) in [
            (0, 1024, 4096, 4096),
            (257, 1024, 4096, 4096),
            (1024, 1024, 4096, 4096),
            (256, 1000, 4096, 4096),
            (256, 1024, 1024, 4096),
            (256, 1024, 4097, 4096),
            (256, 1024, 4096, 255),
            (256, 8 << 20, 16 << 20, 4096),
            (256, 1024, 32 << 20, 4096),
            (256, 1024, 4096, 32 << 20),
        ] {
            assert!(ChunkParams::new(min, avg, max, whole).is_err());
        }
    }
}
