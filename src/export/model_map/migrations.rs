//! What the migrations of a Django project say of its tables, read and not run: the witness for a
//! project whose code does not run where its database is captured. Migrations are Python, but what
//! `makemigrations` writes of it is one form: calls with literals.
//!
//! Read are `db_table` and `db_column` where they are set; where they are not, Django's rules for
//! names hold, which [`catalogue`](super::catalogue) knows.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// What migrations declare; names are in lower case, as labels are.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Declared {
    /// The table of `app.model`.
    pub tables: BTreeMap<String, String>,
    /// The field that lies in a column, by `app.model.column`.
    #[serde(default)]
    pub columns: BTreeMap<String, String>,
    /// The table of the many-to-many field `app.model.field`.
    #[serde(default)]
    pub pairs: BTreeMap<String, String>,
}

/// What of migrations is looked at.
const OPERATIONS: [&str; 6] =
    ["CreateModel", "AlterModelTable", "AddField", "AlterField", "RenameModel", "RenameField"];

/// A part of Python's text.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token<'a> {
    /// A literal text.
    Text(String),
    /// A name with its dots, or a number.
    Word(&'a str),
    /// Anything else, a character at a time.
    Mark(char),
}

impl Declared {
    /// Whether nothing was declared.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty() && self.columns.is_empty() && self.pairs.is_empty()
    }

    /// Adds what one migration of an application does, after those before it.
    pub fn read(&mut self, app: &str, python: &str) {
        let tokens = tokens(python);
        for (at, token) in tokens.iter().enumerate() {
            let Token::Word(word) = token else { continue };
            let operation = word.rsplit('.').next().unwrap_or_default();
            if !OPERATIONS.contains(&operation) {
                continue;
            }
            let Some(inside) = within(&tokens[at + 1..], '(') else { continue };
            let call = Call::of(inside);
            match operation {
                "CreateModel" => self.create(app, &call),
                "AlterModelTable" => {
                    let Some(label) = call.label(app, "name", 0) else { continue };
                    match call.text("table", 1) {
                        Some(table) => self.tables.insert(label, table),
                        None => self.tables.remove(&label),
                    };
                }
                "AddField" | "AlterField" => {
                    let field = (call.label(app, "model_name", 0), call.text("name", 1));
                    let (Some(label), Some(name)) = field else { continue };
                    self.field(&label, &name, call.argument("field", 2));
                }
                "RenameModel" => {
                    let old = call.label(app, "old_name", 0);
                    let new = call.label(app, "new_name", 1);
                    if let (Some(old), Some(new)) = (old, new) {
                        self.rename(&old, &new);
                    }
                }
                "RenameField" => {
                    let label = call.label(app, "model_name", 0);
                    let names = (call.text("old_name", 1), call.text("new_name", 2));
                    let (Some(label), (Some(old), Some(new))) = (label, names) else { continue };
                    let columns = self.columns.range_mut(below(&label));
                    for (_, field) in columns.filter(|(_, field)| **field == old) {
                        field.clone_from(&new);
                    }
                    if let Some(table) = self.pairs.remove(&format!("{label}.{old}")) {
                        self.pairs.insert(format!("{label}.{new}"), table);
                    }
                }
                _ => {}
            }
        }
    }

    fn create(&mut self, app: &str, call: &Call<'_>) {
        let Some(label) = call.label(app, "name", 0) else { return };
        let fields = call.argument("fields", 1).and_then(|list| within(list, '['));
        for field in fields.into_iter().flat_map(parts) {
            let pair = within(field, '(').map(parts).unwrap_or_default();
            if let [[Token::Text(name)], definition] = pair.as_slice() {
                self.field(&label, name, Some(definition));
            }
        }
        let options = call.argument("options", 2).and_then(|options| within(options, '{'));
        for option in options.into_iter().flat_map(parts) {
            if let [Token::Text(key), Token::Mark(':'), Token::Text(table)] = option
                && key == "db_table"
            {
                self.tables.insert(label.clone(), table.clone());
            }
        }
    }

    fn field(&mut self, label: &str, name: &str, definition: Option<&[Token<'_>]>) {
        let Some([Token::Word(kind), rest @ ..]) = definition else { return };
        let call = Call::of(within(rest, '(').unwrap_or_default());
        let many = kind.ends_with("ManyToManyField");
        if let Some(table) = call.text("db_table", usize::MAX).filter(|_| many) {
            self.pairs.insert(format!("{label}.{name}"), table);
        }
        if let Some(column) = call.text("db_column", usize::MAX) {
            self.columns.insert(format!("{label}.{column}"), name.to_owned());
        }
    }

    fn rename(&mut self, old: &str, new: &str) {
        if let Some(table) = self.tables.remove(old) {
            self.tables.insert(new.to_owned(), table);
        }
        for map in [&mut self.columns, &mut self.pairs] {
            let of_old: Vec<String> =
                map.range(below(old)).map(|(place, _)| place.clone()).collect();
            for place in of_old {
                if let Some(value) = map.remove(&place) {
                    map.insert(format!("{new}{}", &place[old.len()..]), value);
                }
            }
        }
    }
}

/// The names that begin with this and a dot: `/` comes next to it.
fn below(label: &str) -> std::ops::Range<String> {
    format!("{label}.")..format!("{label}/")
}

/// The arguments of a call.
struct Call<'a>(Vec<&'a [Token<'a>]>);

impl<'a> Call<'a> {
    fn of(inside: &'a [Token<'a>]) -> Self {
        Self(parts(inside))
    }

    /// The argument with this name or at this place.
    fn argument(&self, name: &str, place: usize) -> Option<&'a [Token<'a>]> {
        let named = self.0.iter().find_map(|part| match part {
            [Token::Word(word), Token::Mark('='), value @ ..] if *word == name => Some(value),
            _ => None,
        });
        let is_named = |part: &[Token<'_>]| matches!(part, [_, Token::Mark('='), ..]);
        named.or_else(|| self.0.get(place).copied().filter(|part| !is_named(part)))
    }

    fn text(&self, name: &str, place: usize) -> Option<String> {
        match self.argument(name, place)? {
            [Token::Text(text)] => Some(text.clone()),
            _ => None,
        }
    }

    fn label(&self, app: &str, name: &str, place: usize) -> Option<String> {
        Some(format!("{app}.{}", self.text(name, place)?.to_lowercase()))
    }
}

/// What is between the bracket that the tokens begin with and the one that closes it.
fn within<'a>(tokens: &'a [Token<'a>], bracket: char) -> Option<&'a [Token<'a>]> {
    if tokens.first() != Some(&Token::Mark(bracket)) {
        return None;
    }
    let mut depth = 0_usize;
    for (at, token) in tokens.iter().enumerate() {
        match token {
            Token::Mark('(' | '[' | '{') => depth += 1,
            Token::Mark(')' | ']' | '}') => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(&tokens[1..at]);
        }
    }
    None
}

/// What stands between commas that are in no bracket.
fn parts<'a>(tokens: &'a [Token<'a>]) -> Vec<&'a [Token<'a>]> {
    let mut depth = 0_usize;
    let parts = tokens.split(|token| {
        match token {
            Token::Mark('(' | '[' | '{') => depth += 1,
            Token::Mark(')' | ']' | '}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        depth == 0 && *token == Token::Mark(',')
    });
    parts.filter(|part| !part.is_empty()).collect()
}

fn tokens(python: &str) -> Vec<Token<'_>> {
    let (mut found, mut rest) = (Vec::new(), python);
    while let Some(first) = rest.chars().next() {
        let word = rest.find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '.')));
        let (word, after) = rest.split_at(word.unwrap_or(rest.len()));
        rest = match first {
            '#' => rest.find('\n').map_or("", |end| &rest[end..]),
            '"' | '\'' => {
                let (text, after) = literal(rest);
                found.push(Token::Text(text));
                after
            }
            // What stands before a literal says how its escapes are meant; names have none.
            _ if !word.is_empty() && word.len() < 3 && after.starts_with(['"', '\'']) => after,
            _ if !word.is_empty() => {
                found.push(Token::Word(word));
                after
            }
            space if space.is_whitespace() => &rest[space.len_utf8()..],
            mark => {
                found.push(Token::Mark(mark));
                &rest[mark.len_utf8()..]
            }
        };
    }
    found
}

/// The text of the literal that this begins with, and what comes after it.
fn literal(python: &str) -> (String, &str) {
    let quote = &python[..1];
    let long = python.get(..3).filter(|three| *three == quote.repeat(3));
    let quote = long.unwrap_or(quote);
    let (mut text, mut rest) = (String::new(), &python[quote.len()..]);
    while !rest.is_empty() {
        if let Some(after) = rest.strip_prefix(quote) {
            return (text, after);
        }
        let escaped = rest.strip_prefix('\\').unwrap_or(rest);
        let mut chars = escaped.chars();
        text.extend(chars.next());
        rest = chars.as_str();
    }
    (text, rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_makemigrations_writes_is_read() {
        let mut declared = Declared::default();
        declared.read(
            "users",
            r#"
# 'db_table': 'a comment', migrations.CreateModel(name='No', options={'db_table': 'no'})
class Migration(migrations.Migration):
    operations = [
        migrations.CreateModel(
            name='User',
            fields=[
                ('id', models.BigAutoField(primary_key=True, verbose_name="it's the (ID)")),
                ('login', models.CharField(max_length=150, db_column=r"user_name", default='x, y')),
                ('roles', models.ManyToManyField(db_table='user_roles', to='users.role')),
                ("boss", models.ForeignKey(db_column='boss', null=True, to=settings.AUTH_USER_MODEL)),
            ],
            options={'verbose_name': 'person', "db_table": 'app_users', 'abstract': False},
            bases=(models.Model, ),
        ),
        migrations.CreateModel('Plain', [('id', models.AutoField(primary_key=True))]),
        migrations.CreateModel(name='Gone', fields=[], options={'db_table': '''gone'''}),
    ]
"#,
        );
        declared.read(
            "users",
            "operations = [migrations.AlterModelTable(name='plain', table='plain_table'),
                 migrations.AlterModelTable(name='gone', table=None),
                 migrations.RenameModel(old_name='User', new_name='Person'),
                 migrations.RenameField('person', 'roles', 'parts'),
                 migrations.RenameField(model_name='person', old_name='boss', new_name='head'),
                 migrations.AddField(model_name='person', name='age', field=models.IntegerField(
                     db_column='years')),
                 migrations.RunPython(forwards, lambda a, b: (a[0], {}))]",
        );
        let map = |pairs: &[(&str, &str)]| -> BTreeMap<String, String> {
            pairs.iter().map(|(a, b)| ((*a).to_owned(), (*b).to_owned())).collect()
        };
        let columns = [
            ("users.person.boss", "head"),
            ("users.person.user_name", "login"),
            ("users.person.years", "age"),
        ];
        let expected = Declared {
            tables: map(&[("users.person", "app_users"), ("users.plain", "plain_table")]),
            columns: map(&columns),
            pairs: map(&[("users.person.parts", "user_roles")]),
        };
        assert_eq!(declared, expected);
    }

    #[test]
    fn whatever_python_there_is_is_no_trouble() {
        for python in [
            "CreateModel(",
            "CreateModel()",
            "'",
            "'''",
            "\\",
            "AddField('a', 'b', c(",
            "é'ü",
            ")))(",
            "CreateModel(name='a', fields=[(,),()], options={:})",
        ] {
            let mut declared = Declared::default();
            declared.read("a", python);
            assert!(declared.is_empty(), "{declared:?}");
        }
    }
}
