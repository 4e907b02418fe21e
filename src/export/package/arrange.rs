//! Puts the members of an archive where a package has them, whatever folder they were packed in and
//! whichever of the older formats it is; what belongs nowhere is refused.

use std::collections::{BTreeMap, BTreeSet};

use unicode_normalization::UnicodeNormalization as _;

use super::entries::stays_inside;
use super::layout;
use super::read::{Extra, Member, MemberKind, PackageError};

type Members = BTreeMap<String, Member>;

/// The folders and the file at the top of a package.
const KNOWN: [&str; 5] = [layout::METADATA, "database", "configuration", "storage", "scripts"];

/// Takes away the one folder around everything, and puts the parts of EDMS's second method where
/// others have them; then nothing but the known layout may be left. `nested` are the members of
/// the archive of uploads within it.
pub fn arrange(members: Members, nested: Members, extra: Extra) -> Result<Members, PackageError> {
    let mut members = renamed(without_top_folder(members))?;
    if !nested.is_empty() {
        let below = nested.keys().all(|name| top(name) == "storage");
        for (name, member) in nested {
            let name = if below { name } else { format!("storage/{name}") };
            insert(&mut members, name, member)?;
        }
    }
    let mut known = Members::new();
    for (name, member) in members {
        match place(&name, &member) {
            Ok(()) => {
                known.insert(name, member);
            }
            Err(None) if extra == Extra::Ignore => {}
            Err(reason) => {
                let reason =
                    reason.unwrap_or("it is no part of a package (--allow-extra passes over it)");
                return Err(PackageError::Refused { member: name, reason: reason.to_owned() });
            }
        }
    }
    refuse_paths_through_links(&known)?;
    refuse_twins(&known)?;
    Ok(known)
}

/// Whether this member is the archive of uploads within a package, at the top or in the one
/// folder around everything.
pub fn is_nested(name: &str) -> bool {
    name == layout::NESTED_STORAGE
        || name.split_once('/').is_some_and(|(folder, name)| {
            !KNOWN.contains(&folder) && name == layout::NESTED_STORAGE
        })
}

fn top(name: &str) -> &str {
    name.split('/').next().unwrap_or(name)
}

fn without_top_folder(members: Members) -> Members {
    let tops: BTreeSet<String> = members.keys().map(|name| top(name).to_owned()).collect();
    let mut tops = tops.into_iter();
    let (Some(only), None) = (tops.next(), tops.next()) else { return members };
    let bare = members.get(&only).is_some_and(|member| member.kind != MemberKind::Folder);
    if bare || KNOWN.contains(&only.as_str()) {
        return members;
    }
    let strip = |(name, member): (String, Member)| {
        name.strip_prefix(&format!("{only}/")).map(|name| (name.to_owned(), member))
    };
    members.into_iter().filter_map(strip).collect()
}

/// Where the second method's parts go: the dump to the database, the environment to the
/// configuration.
fn renamed(members: Members) -> Result<Members, PackageError> {
    if !members.contains_key("database.dump") {
        return Ok(members);
    }
    let mut renamed = Members::new();
    for (name, member) in members {
        let name = match name.as_str() {
            "database.dump" => layout::DUMP.to_owned(),
            "manifest.json" => layout::DUMP_MANIFEST.to_owned(),
            ".env" => "configuration/.env".to_owned(),
            _ => name,
        };
        insert(&mut renamed, name, member)?;
    }
    Ok(renamed)
}

fn insert(members: &mut Members, name: String, member: Member) -> Result<(), PackageError> {
    let folder = member.kind == MemberKind::Folder;
    let shown = name.clone();
    if let Some(before) = members.insert(name, member)
        && !(folder && before.kind == MemberKind::Folder)
    {
        let reason = "there is a member of the same name before it".to_owned();
        return Err(PackageError::Refused { member: shown, reason });
    }
    Ok(())
}

/// Whether a member is where a package may have one; if not, why, or just because there is no such
/// place.
fn place(name: &str, member: &Member) -> Result<(), Option<&'static str>> {
    let top = top(name);
    let is_file = matches!(member.kind, MemberKind::File(_));
    let fits = if top == layout::METADATA {
        name == top && is_file
    } else {
        KNOWN.contains(&top) && !(name == top && is_file)
    };
    if !fits {
        return Err(None);
    }
    if let MemberKind::Link(target) = &member.kind {
        let below = name.strip_prefix("storage/").and_then(|rest| rest.split_once('/'));
        let (_, path) = below.ok_or(Some("a link outside of storage/"))?;
        if !stays_inside(path, target.as_bytes()) {
            return Err(Some("the link points out of its folder"));
        }
    }
    Ok(())
}

/// No member lies below something that is no folder.
fn refuse_paths_through_links(members: &Members) -> Result<(), PackageError> {
    for name in members.keys() {
        let mut end = 0;
        while let Some(at) = name[end..].find('/') {
            end += at;
            if members.get(&name[..end]).is_some_and(|above| above.kind != MemberKind::Folder) {
                let reason = format!("it lies below {}, which is no folder", &name[..end]);
                return Err(PackageError::Refused { member: name.clone(), reason });
            }
            end += 1;
        }
    }
    Ok(())
}

/// Outside of the uploads, whose names are the application's business, no two names may be one for
/// a file system that does not tell them apart: whoever unpacks the package there would check one
/// file and run the other.
fn refuse_twins(members: &Members) -> Result<(), PackageError> {
    let mut seen: BTreeMap<String, &str> = BTreeMap::new();
    for name in members.keys().filter(|name| !name.starts_with("storage/")) {
        if let Some(twin) = seen.insert(folded(name), name) {
            let reason = format!("some file systems take it for {twin}");
            return Err(PackageError::Refused { member: name.clone(), reason });
        }
    }
    Ok(())
}

/// A name as a file system sees it that ignores case and how letters are put together.
pub fn folded(name: &str) -> String {
    name.nfkc().flat_map(char::to_lowercase).nfkc().collect()
}
