//! Reads the JSON documents of a package in bounded memory: they may be anybody's.

use std::io::{self, Read};

/// A string in a document is at most this many bytes long: a parser holds one as a whole.
const LONGEST_STRING: usize = 1 << 20;
/// Arrays and objects in each other.
const DEEPEST: usize = 100;

/// Lets JSON through as long as no string is too long and nothing too deep. What is no JSON is the
/// parser's to say.
#[derive(Debug)]
pub struct Guarded<R> {
    input: R,
    depth: usize,
    string: Option<usize>,
    escaped: bool,
}

impl<R: Read> Guarded<R> {
    /// Guards what is read.
    pub const fn new(input: R) -> Self {
        Self { input, depth: 0, string: None, escaped: false }
    }

    fn look(&mut self, byte: u8) -> Result<(), &'static str> {
        let Some(length) = &mut self.string else {
            match byte {
                b'"' => self.string = Some(0),
                b'[' | b'{' => self.depth += 1,
                b']' | b'}' => self.depth = self.depth.saturating_sub(1),
                _ => {}
            }
            return if self.depth > DEEPEST { Err("it is nested too deeply") } else { Ok(()) };
        };
        *length += 1;
        if *length > LONGEST_STRING {
            return Err("a string in it is too long");
        }
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' => self.escaped = true,
            b'"' => self.string = None,
            _ => {}
        }
        Ok(())
    }
}

impl<R: Read> Read for Guarded<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(into)?;
        for byte in &into[..read] {
            self.look(*byte)
                .map_err(|reason| io::Error::new(io::ErrorKind::InvalidData, reason))?;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn guarded(text: &str) -> Result<String, String> {
        let mut out = String::new();
        let read = Guarded::new(text.as_bytes()).read_to_string(&mut out);
        read.map(|_| out).map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_short_and_flat_passes() {
        let text = r#"{"a": ["\"]]]]", {"b\\": 1}], "c": "[[[[[["}"#;
        assert_eq!(guarded(text).unwrap(), text);
        assert!(guarded(&"[]".repeat(1000)).is_ok());
    }

    #[test]
    fn what_takes_memory_does_not() {
        assert!(guarded(&"[".repeat(101)).unwrap_err().contains("deeply"));
        assert!(guarded(&"{\"a\":".repeat(101)).unwrap_err().contains("deeply"));
        assert!(guarded(&format!("\"{}", "x".repeat((1 << 20) + 1))).unwrap_err().contains("long"));
    }
}
