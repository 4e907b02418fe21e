//! Whatever bytes there are, the reader of packages says what is wrong with them: it does not panic,
//! run out of memory or leave anything behind.
#![no_main]

use coeval::context::Context;
use coeval::export::package::open::{OpenOptions, Package};
use coeval::export::package::read::{Extra, Limits};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let scratch = tempfile::tempdir().expect("a folder");
    let limits = Limits { members: 10_000, free: 16 << 20, names: 4 << 20, ..Limits::default() };
    let options = OpenOptions { scratch: scratch.path().to_owned(), limits, extra: Extra::Refuse };
    let ctx = Context::new();
    if let Ok(package) = Package::open(&mut &bytes[..], &options, &ctx) {
        let checked = package.verify(None, &ctx);
        let inspected = package.inspect(&ctx);
        // What was found good can be captured; the rest is refused before anything is stored.
        if checked.is_ok() && inspected.is_ok() {
            drop(package.into_sources(None, &ctx));
        }
    }
    let left = std::fs::read_dir(scratch.path()).expect("the folder").count();
    assert_eq!(left, 0, "something lies about");
});
