//! Foreign keys: the order they ask for, and whether they hold after they were not watched.

use super::catalog::{Reference, ident};
use super::connect::Db;
use super::error::PostgresError;

/// Sorts tables so that each comes after those it refers to; where they refer to each other in a
/// circle, in the given order.
pub(super) fn parents_first<T>(
    tables: &mut Vec<T>,
    references: &[Reference],
    oid: impl Fn(&T) -> i64,
) {
    let mut waiting = std::mem::take(tables);
    while !waiting.is_empty() {
        let free = |table: &T| {
            references.iter().filter(|r| r.child_oid == oid(table)).all(|reference| {
                reference.parent_oid == reference.child_oid
                    || !waiting.iter().any(|other| oid(other) == reference.parent_oid)
            })
        };
        let next = waiting.iter().position(free).unwrap_or(0);
        tables.push(waiting.remove(next));
    }
}

/// Fails if a row refers to one that is not there, over all foreign keys to or from the changed
/// tables.
pub(super) fn check_orphans(
    db: &mut Db,
    references: &[Reference],
    changed: &[i64],
) -> Result<(), PostgresError> {
    for reference in references {
        let affected = reference.partitioned
            || changed.contains(&reference.child_oid)
            || changed.contains(&reference.parent_oid);
        if !affected {
            continue;
        }
        let columns = &reference.columns;
        let present = columns.iter().map(|(.., child)| format!("c.{} IS NOT NULL", ident(child)));
        let equal = columns.iter().map(|(parent, operator, child)| {
            format!("p.{} {operator} c.{}", ident(parent), ident(child))
        });
        let sql = format!(
            "SELECT count(*)::text FROM ONLY {} c WHERE {} AND NOT EXISTS (
               SELECT FROM {} {} p WHERE {})",
            reference.child,
            present.collect::<Vec<_>>().join(" AND "),
            if reference.partitioned { "" } else { "ONLY" },
            reference.parent,
            equal.collect::<Vec<_>>().join(" AND ")
        );
        let count: u64 = db.json(&format!("checking {}", reference.child), &sql)?;
        if count > 0 {
            return Err(PostgresError::Orphans {
                child: reference.child.clone(),
                parent: reference.parent.clone(),
                constraint: reference.name.clone(),
                count,
            });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reference(child: i64, parent: i64) -> Reference {
        Reference {
            name: String::new(),
            child_oid: child,
            child: String::new(),
            parent_oid: parent,
            parent: String::new(),
            partitioned: false,
            columns: Vec::new(),
            on_delete: String::new(),
            deferrable: false,
        }
    }

    #[test]
    fn parents_come_before_children_and_circles_end() {
        let references =
            [reference(1, 2), reference(2, 3), reference(4, 5), reference(5, 4), reference(3, 3)];
        let mut tables = vec![1, 2, 3, 4, 5];
        parents_first(&mut tables, &references, |table| *table);
        assert_eq!(tables, [3, 2, 1, 4, 5]);
    }
}
