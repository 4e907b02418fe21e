//! Which statements of a snapshot may be run. A schema from elsewhere is a list of texts; each
//! must be one `CREATE` statement and nothing more, or it could attach other files.

use super::SqliteError;
use crate::source::record::SqliteObject;

/// Refuses anything but one statement that creates what the object says it is.
pub(super) fn check(object: &SqliteObject) -> Result<(), SqliteError> {
    let allowed = words(&object.sql).is_some_and(|statements| {
        let [first, rest @ ..] = &statements[..] else { return false };
        let creates = match object.kind.as_str() {
            "table" => creates(first, &["TABLE", "VIRTUAL"]),
            "index" => creates(first, &["INDEX", "UNIQUE"]),
            "view" => creates(first, &["VIEW"]),
            "trigger" => creates(first, &["TRIGGER"]),
            _ => false,
        };
        creates && if object.kind == "trigger" { is_body(rest) } else { rest.is_empty() }
    });
    if allowed {
        Ok(())
    } else {
        Err(SqliteError::Statement { kind: object.kind.clone(), name: object.name.clone() })
    }
}

fn creates(words: &[String], what: &[&str]) -> bool {
    matches!(words, [create, kind, ..] if create == "CREATE" && what.contains(&kind.as_str()))
}

/// What follows the first semicolon of a trigger: the rest of its statements, then `END`.
fn is_body(statements: &[Vec<String>]) -> bool {
    let Some((last, middle)) = statements.split_last() else { return false };
    let changes = |statement: &Vec<String>| {
        let first = statement.first().map(String::as_str);
        matches!(first, Some("INSERT" | "UPDATE" | "DELETE" | "REPLACE" | "SELECT" | "WITH"))
    };
    matches!(&last[..], [end] if end == "END") && middle.iter().all(changes)
}

/// The first words of each statement, upper case, comments and quoted text left out. `None` where
/// a quote or comment has no end.
fn words(sql: &str) -> Option<Vec<Vec<String>>> {
    let mut statements = vec![Vec::new()];
    let mut rest = sql;
    while let Some(c) = rest.chars().next() {
        let length = match c {
            '\'' | '"' | '`' => quoted(rest, c)?,
            '[' => rest.find(']')? + 1,
            '-' if rest.starts_with("--") => rest.find('\n').map_or(rest.len(), |at| at + 1),
            '/' if rest.starts_with("/*") => rest.get(2..)?.find("*/")? + 4,
            ';' => {
                statements.push(Vec::new());
                1
            }
            c if is_word(c) => rest.find(|c| !is_word(c)).unwrap_or(rest.len()),
            c => c.len_utf8(),
        };
        let (token, after) = rest.split_at(length);
        if let Some(statement) = statements.last_mut()
            && statement.len() < 2
            && !c.is_whitespace()
            && !matches!(c, ';' | '-' | '/')
        {
            statement.push(token.to_ascii_uppercase());
        }
        rest = after;
    }
    if statements.last().is_some_and(Vec::is_empty) {
        statements.pop();
    }
    Some(statements)
}

fn quoted(text: &str, quote: char) -> Option<usize> {
    // A doubled quote is two quoted texts side by side, which comes to the same.
    text.get(1..)?.find(quote).map(|at| at + 2)
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_' || c == '$'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allowed(kind: &str, sql: &str) -> bool {
        let object = SqliteObject {
            kind: kind.to_owned(),
            name: "x".to_owned(),
            table: "x".to_owned(),
            sql: sql.to_owned(),
        };
        check(&object).is_ok()
    }

    #[test]
    fn what_sqlite_keeps_in_its_catalogue_is_allowed() {
        assert!(allowed("table", "CREATE TABLE \"a;b\" (x DEFAULT ';', y /* ; */) -- ; attach"));
        assert!(allowed("table", "CREATE VIRTUAL TABLE t USING fts5(a)"));
        assert!(allowed("index", "CREATE UNIQUE INDEX i ON t(a) WHERE b = 'it''s;'"));
        assert!(allowed("view", "create view v as select 1"));
        assert!(allowed(
            "trigger",
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN INSERT INTO b VALUES(CASE WHEN 1 THEN 2 END); \
             SELECT ';'; END"
        ));
    }

    #[test]
    fn a_second_statement_is_refused() {
        assert!(!allowed("table", "CREATE TABLE t(a); ATTACH '/etc/x' AS y"));
        assert!(!allowed("view", "ATTACH 'x' AS y"));
        assert!(!allowed("view", "CREATE TABLE t(a)"));
        assert!(!allowed("pragma", "CREATE TABLE t(a)"));
        assert!(!allowed(
            "trigger",
            "CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; END; ATTACH 'x' AS y; END"
        ));
        assert!(!allowed("trigger", "CREATE TRIGGER t AFTER INSERT ON a BEGIN SELECT 1; END; END"));
        assert!(!allowed("table", "CREATE TABLE t(a DEFAULT ';)"));
    }
}
