//! The prolly tree: an ordered, content-addressed map from key to value. A directory of a million
//! files and a table of a million rows are the same thing here.

mod change;
mod stream;

pub use change::{Change, Changes, Content, Key, Value};
pub use stream::Stream;
