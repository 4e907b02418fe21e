//! The statements that make the empty database, put together from the catalogue: for where there is
//! no `pg_dump`, which knows more kinds of objects. The server itself writes most of them
//! (`pg_get_functiondef`, `pg_get_viewdef` …); what nobody here can write is named and refused.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;

use super::connect::Db;
use super::error::PostgresError;

const CATALOGUE: &str = include_str!("statements.sql");
/// What both parts begin with: functions may name what comes after them.
const SETTINGS: &str = "SET check_function_bodies = false;\nSET row_security = off;\n";
/// From this rank on statements come after the rows.
const AFTER_ROWS: i32 = 100;

/// An object: the catalogue that lists it, and its number there.
type Object = (i64, i64);

#[derive(Deserialize)]
struct Catalogue {
    /// In the order of their ranks.
    statements: Vec<Statement>,
    /// Objects and what they need.
    needs: Vec<(i64, i64, i64, i64)>,
    /// Objects that no statement makes.
    others: Vec<String>,
}

#[derive(Deserialize)]
struct Statement(i64, i64, i32, String);

/// The statements to run before and after the rows; or what cannot be made with any.
pub(super) fn read(db: &mut Db) -> Result<Result<(String, String), Vec<String>>, PostgresError> {
    let catalogue: Catalogue = db.json("reading the structure", CATALOGUE)?;
    if catalogue.others.is_empty() { Ok(Ok(parts(catalogue))) } else { Ok(Err(catalogue.others)) }
}

fn parts(catalogue: Catalogue) -> (String, String) {
    let Catalogue { statements, needs, .. } = catalogue;
    let (mut before, mut after) = (SETTINGS.to_owned(), SETTINGS.to_owned());
    for (number, is_late) in in_order(&statements, &needs) {
        let part = if is_late { &mut after } else { &mut before };
        part.extend(["\n", &statements[number].3, ";\n"]);
    }
    (before, after)
}

/// The numbers of the statements, each after those of what it needs, as far as they do not need
/// each other; and whether it comes after the rows, as what needs a key does.
fn in_order(statements: &[Statement], needs: &[(i64, i64, i64, i64)]) -> Vec<(usize, bool)> {
    let mut needed: BTreeMap<Object, Vec<Object>> = BTreeMap::new();
    for (class, oid, on_class, on) in needs {
        needed.entry((*class, *oid)).or_default().push((*on_class, *on));
    }
    let mut makers: BTreeMap<Object, Vec<usize>> = BTreeMap::new();
    let mut numbers: BTreeMap<i64, Vec<usize>> = BTreeMap::new();
    for (number, Statement(class, oid, ..)) in statements.iter().enumerate() {
        if *class != 0 {
            makers.entry((*class, *oid)).or_default().push(number);
            numbers.entry(*oid).or_default().push(number);
        }
    }
    let before = |number: usize| -> Vec<usize> {
        let Statement(class, oid, ..) = &statements[number];
        let made = match class {
            0 => numbers.get(oid).cloned().unwrap_or_default(),
            _ => {
                let objects = needed.get(&(*class, *oid)).into_iter().flatten();
                objects.filter_map(|object| makers.get(object)).flatten().copied().collect()
            }
        };
        made.into_iter().filter(|other| *other != number).collect()
    };
    let mut order = Vec::with_capacity(statements.len());
    let (mut begun, mut late) = (BTreeSet::new(), BTreeSet::new());
    for first in 0..statements.len() {
        let mut path = vec![(first, before(first))];
        if !begun.insert(first) {
            continue;
        }
        while let Some((number, left)) = path.last_mut() {
            if let Some(next) = left.pop() {
                if begun.insert(next) {
                    path.push((next, before(next)));
                }
                continue;
            }
            let number = *number;
            path.pop();
            let is_late = statements[number].2 >= AFTER_ROWS
                || before(number).iter().any(|other| late.contains(other));
            if is_late {
                late.insert(number);
            }
            order.push((number, is_late));
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_comes_first_and_what_needs_a_key_comes_late() {
        let statement = |class, oid, rank, sql: &str| Statement(class, oid, rank, sql.to_owned());
        let catalogue = Catalogue {
            statements: vec![
                statement(1, 10, 1, "function"),
                statement(2, 20, 2, "table"),
                statement(2, 21, 3, "view"),
                statement(0, 21, 4, "owner of the view"),
                statement(2, 22, 5, "round"),
                statement(2, 23, 5, "about"),
                statement(3, 30, 100, "key"),
            ],
            // The function needs the table, the view the key, and two need each other.
            needs: vec![
                (1, 10, 2, 20),
                (2, 21, 3, 30),
                (2, 22, 2, 23),
                (2, 23, 2, 22),
                (2, 20, 9, 9),
            ],
            others: Vec::new(),
        };
        let (before, after) = parts(catalogue);
        let texts = |part: &str| -> Vec<String> {
            let part = part.strip_prefix(SETTINGS).unwrap().trim();
            part.split(";\n").map(|text| text.trim().trim_end_matches(';').to_owned()).collect()
        };
        assert_eq!(texts(&before), ["table", "function", "about", "round"]);
        assert_eq!(texts(&after), ["key", "view", "owner of the view"]);
    }
}
