//! What ustar headers cannot hold, and the records of PAX headers (POSIX.1-2001) that hold it.

use tar::Header;

/// The largest number that fits the eleven octal digits of a ustar header: sizes and times.
pub(super) const USTAR_MAX: u64 = 0o777_7777_7777;

/// Puts the name into the header's 100 bytes of name and 155 of prefix; `false` when it does not
/// fit, and then a shortened name stands there for readers without PAX.
pub(super) fn split_name(header: &mut Header, name: &[u8]) -> bool {
    let Some(ustar) = header.as_ustar_mut() else { return false };
    let mut put = |prefix: &[u8], name: &[u8]| {
        ustar.prefix[..prefix.len()].copy_from_slice(prefix);
        ustar.name[..name.len()].copy_from_slice(name);
    };
    let plain = name.iter().all(u8::is_ascii);
    if plain && name.len() <= 100 {
        put(b"", name);
        return true;
    }
    let slash = (0..name.len().min(156))
        .rev()
        .find(|&at| name[at] == b'/' && (1..=100).contains(&(name.len() - at - 1)));
    match slash {
        Some(at) if plain && at > 0 => {
            put(&name[..at], &name[at + 1..]);
            true
        }
        _ => {
            let end = name.len().min(100);
            let ascii: Vec<u8> =
                name[..end].iter().map(|b| if b.is_ascii() { *b } else { b'_' }).collect();
            put(b"", &ascii);
            false
        }
    }
}

/// `length key=value\n`, where the length counts itself.
pub(super) fn record(records: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    records.extend_from_slice(format!("{length} ").as_bytes());
    records.extend_from_slice(key);
    records.push(b'=');
    records.extend_from_slice(value);
    records.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        let mut records = Vec::new();
        record(&mut records, b"path", &[b'a'; 89]);
        assert!(records.starts_with(b"98 path=aaa"));
        assert_eq!(records.len(), 98);
        records.clear();
        record(&mut records, b"path", &[b'a'; 90]);
        assert_eq!(records.len(), 99);
        records.clear();
        record(&mut records, b"path", &[b'a'; 91]);
        assert!(records.starts_with(b"101 path=") && records.len() == 101);
    }
}
