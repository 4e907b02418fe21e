//! Finds secrets in configuration files and takes them out. What is a secret is guessed from
//! names and from looks, generously: a value that is taken out by mistake is typed in again, one
//! that gets out is out.

/// What stands where a secret was.
pub const REDACTED: &str = "REDACTED-BY-COEVAL";

/// Whether secrets go into a package.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SecretsPolicy {
    /// They are taken out, and what was taken out is listed.
    #[default]
    Redact,
    /// They go in as they are, sessions too: whoever reads the package has them.
    Plaintext,
    /// They go in, and the package as a whole is sealed.
    Sealed,
}

/// A text without its secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Redacted {
    /// The text.
    pub text: String,
    /// What was taken out: names and lines, never values.
    pub found: Vec<String>,
}

/// Takes the secrets out of a configuration file.
pub fn redact(text: &str) -> Redacted {
    let mut redacted = Redacted { text: String::with_capacity(text.len()), found: Vec::new() };
    let mut in_pem = false;
    let mut open = Continued::default();
    for (index, line) in text.split_inclusive('\n').enumerate() {
        let number = index + 1;
        let (body, end) = split_end(line);
        if in_pem {
            in_pem = !body.contains("-----END ");
            continue;
        }
        if let Some(at) = body.find("-----BEGIN ") {
            in_pem = !body[at..].contains("-----END ");
            redacted.found.push(format!("line {number}: a PEM block"));
            redacted.text.push_str(&body[..at]);
            redacted.text.push_str(REDACTED);
            let closing: String =
                body[at..].chars().rev().take_while(|c| matches!(c, '"' | '\'')).collect();
            redacted.text.push_str(&closing);
            redacted.text.push_str(end);
            continue;
        }
        let (clean, found) = open.line(body);
        redacted.found.extend(found.into_iter().map(|what| format!("line {number}: {what}")));
        redacted.text.push_str(&clean);
        redacted.text.push_str(end);
    }
    redacted
}

fn split_end(line: &str) -> (&str, &str) {
    let body = line.trim_end_matches(['\n', '\r']);
    (body, &line[body.len()..])
}

/// A secret's value may go on over lines, within brackets or three quotes.
#[derive(Debug, Default)]
struct Continued {
    /// Brackets that are open since a secret's name.
    brackets: i32,
    /// The three quotes that end it.
    quotes: Option<&'static str>,
}

impl Continued {
    fn line(&mut self, body: &str) -> (String, Vec<String>) {
        let mut found = Vec::new();
        if let Some(quotes) = self.quotes {
            let Some(end) = body.find(quotes) else { return (String::new(), found) };
            self.quotes = None;
            return (body[end..].to_owned(), found);
        }
        let mut clean = body.to_owned();
        if self.brackets > 0 {
            self.brackets += depth(body);
            clean = redact_literals(body);
        } else if let Some((name, value_at)) = assignment(body)
            && is_secret_name(name)
        {
            let value = &body[value_at..];
            self.brackets = depth(value).max(0);
            self.quotes = ["\"\"\"", "'''"].into_iter().find(|q| value.matches(q).count() == 1);
            let value = match self.quotes {
                Some(quotes) => {
                    let at = value.find(quotes).unwrap_or(0) + quotes.len();
                    format!("{}{REDACTED}", &value[..at])
                }
                None => redact_value(value),
            };
            if value != body[value_at..] {
                found.push(name.to_owned());
            }
            clean = format!("{}{value}", &body[..value_at]);
        } else if let Some((without, names)) = redact_pairs(&clean) {
            found.extend(names);
            clean = without;
        }
        if let Some(without) = redact_url(&clean) {
            found.push("a password in a URL".to_owned());
            clean = without;
        }
        if let Some(without) = redact_random(&clean) {
            found.push("a text that looks random".to_owned());
            clean = without;
        }
        (clean, found)
    }
}

fn depth(text: &str) -> i32 {
    text.chars()
        .map(|c| i32::from(matches!(c, '(' | '[' | '{')) - i32::from(matches!(c, ')' | ']' | '}')))
        .sum()
}

/// The name that a line gives a value to, and where the value begins: `NAME=value`,
/// `NAME = value`, `"name": value`, `name: value`, `--name=value`.
fn assignment(body: &str) -> Option<(&str, usize)> {
    let at = body.find(['=', ':'])?;
    let name = body[..at].trim_end_matches(['+', '|', ' ', '\t']);
    let start = name
        .rfind(|c: char| c.is_whitespace() || matches!(c, '{' | ',' | '('))
        .map_or(0, |i| i + 1);
    let name = name[start..].trim_matches(['"', '\'', '-', '[', ']', '#', ';']);
    let value =
        at + 1 + body[at + 1..].bytes().take_while(|b| matches!(b, b' ' | b'\t' | b'=')).count();
    (!name.is_empty()).then_some((name, value))
}

/// Whether a name says that its value is secret.
fn is_secret_name(name: &str) -> bool {
    let name = name.to_ascii_uppercase().replace(['-', '.'], "_");
    let last = name.rsplit('_').next().unwrap_or("");
    [
        "SECRET",
        "PASSWORD",
        "PASSWD",
        "TOKEN",
        "APIKEY",
        "CREDENTIAL",
        "PRIVATE",
        "PASSPHRASE",
        "_KEY_",
    ]
    .iter()
    .any(|word| name.contains(word))
        || matches!(last, "KEY" | "KEYS" | "PWD" | "PASS" | "SALT" | "PIN" | "DSN" | "SIGNATURE")
}

/// Takes out a secret's value: what is quoted, or all of it where nothing is quoted. Expressions
/// that only read it from elsewhere stay.
fn redact_value(value: &str) -> String {
    let trimmed = value.trim();
    if trimmed.is_empty()
        || matches!(trimmed, "None" | "null" | "True" | "False" | "true" | "false")
    {
        return value.to_owned();
    }
    if value.contains(['"', '\'']) {
        return redact_literals(value);
    }
    if trimmed.contains(['(', '[', '{', '$']) && !trimmed.contains("$2") {
        return value.to_owned();
    }
    REDACTED.to_owned()
}

/// Takes out the text between quotes, unless it is the name of a variable.
fn redact_literals(value: &str) -> String {
    let (mut clean, mut rest) = (String::new(), value);
    while let Some(at) = rest.find(['"', '\'']) {
        let quote = &rest[at..=at];
        let inner = &rest[at + 1..];
        let end = end_of_literal(inner, quote);
        let literal = &inner[..end];
        let is_name = !literal.is_empty()
            && literal.bytes().all(|b| b.is_ascii_uppercase() || b == b'_' || b.is_ascii_digit())
            && literal.contains('_')
            && literal.bytes().filter(u8::is_ascii_digit).count() < 4;
        clean.push_str(&rest[..=at]);
        clean.push_str(if literal.is_empty() || is_name { literal } else { REDACTED });
        rest = &inner[end..];
        if let Some(after) = rest.strip_prefix(quote) {
            clean.push_str(quote);
            rest = after;
        }
    }
    clean.push_str(rest);
    clean
}

/// Takes out the values of secret names anywhere in a line: in dictionaries, in the parameters of a
/// URL or of a connection, after the options of a command.
fn redact_pairs(body: &str) -> Option<(String, Vec<String>)> {
    let (mut clean, mut done, mut names) = (String::new(), 0, Vec::new());
    for (at, c) in body.char_indices() {
        if at < done || !matches!(c, ':' | '=' | ' ') {
            continue;
        }
        let before = body[done..at].trim_end().trim_end_matches(['"', '\'']);
        let is_part = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        let start = before.rfind(|c| !is_part(c)).map_or(0, |at| at + 1);
        let name = &before[start..];
        if !is_secret_name(name) || (c == ' ' && !name.starts_with("--")) {
            continue;
        }
        let blank = |c| matches!(c, ' ' | '\t' | '=' | '>');
        let value_at = body.len() - body[at + 1..].trim_start_matches(blank).len();
        let value = &body[value_at..];
        let unprefixed = value.trim_start_matches(['b', 'r', 'f', 'u']);
        let (from, length) = match unprefixed.chars().next() {
            Some(quote @ ('"' | '\'')) => {
                let from = body.len() - unprefixed.len() + 1;
                (from, end_of_literal(&body[from..], quote.encode_utf8(&mut [0; 4])))
            }
            _ => (value_at, value.find(ends_bare_value).unwrap_or(value.len())),
        };
        let secret = &body[from..from + length];
        if secret != REDACTED && is_value(secret) {
            clean.push_str(&body[done..from]);
            clean.push_str(REDACTED);
            done = from + length;
            names.push(name.trim_start_matches('-').to_owned());
        }
    }
    clean.push_str(&body[done..]);
    (!names.is_empty()).then_some((clean, names))
}

fn ends_bare_value(c: char) -> bool {
    c.is_whitespace() || matches!(c, ',' | ';' | '&' | ')' | '}' | ']' | '"' | '\'')
}

/// Whether this is a value and not an expression that reads it from elsewhere.
fn is_value(text: &str) -> bool {
    !text.is_empty()
        && !matches!(text, "None" | "null" | "True" | "False" | "true" | "false")
        && !text.contains(['(', '[', '{', '$'])
}

fn end_of_literal(inner: &str, quote: &str) -> usize {
    let mut escaped = false;
    for (at, c) in inner.char_indices() {
        if escaped {
            escaped = false;
        } else if c == '\\' {
            escaped = true;
        } else if quote.starts_with(c) {
            return at;
        }
    }
    inner.len()
}

/// Takes the password out of `scheme://user:password@host`.
fn redact_url(body: &str) -> Option<String> {
    let (mut clean, mut rest, mut changed) = (String::new(), body, false);
    while let Some(at) = rest.find("://") {
        let after = &rest[at + 3..];
        let end = after
            .find(|c: char| c.is_whitespace() || matches!(c, '/' | '"' | '\''))
            .unwrap_or(after.len());
        clean.push_str(&rest[..at + 3]);
        rest = after;
        // A password may hold `/` and `@` unescaped: the last `@` before a blank or quote counts.
        let word = after
            .find(|c: char| c.is_whitespace() || matches!(c, '"' | '\''))
            .unwrap_or(after.len());
        let user_info = after[..end].rfind('@').or_else(|| after[..word].rfind('@'));
        if let Some(host) = user_info
            && let Some(colon) = after[..host].find(':')
            && host > colon + 1
            && after[colon + 1..host] != *REDACTED
        {
            clean.push_str(&after[..=colon]);
            clean.push_str(REDACTED);
            rest = &after[host..];
            changed = true;
        }
    }
    clean.push_str(rest);
    changed.then_some(clean)
}

/// Takes out runs of characters that are too even to be words: 20 and more of base64 or
/// hexadecimal with over 3.5 bits of entropy in each.
fn redact_random(body: &str) -> Option<String> {
    let is_part = |c: char| {
        c.is_ascii_alphanumeric()
            || matches!(
                c,
                '+' | '/' | '_' | '-' | '=' | '!' | '$' | '%' | '^' | '&' | '*' | '#' | '@'
            )
    };
    let mut clean = String::new();
    let mut changed = false;
    for run in body.split_inclusive(|c| !is_part(c)) {
        let word = run.trim_end_matches(|c| !is_part(c));
        let (lead, word) = match word.rfind('=').filter(|at| at + 1 < word.len()) {
            Some(at) if !word[at..].starts_with("==") => word.split_at(at + 1),
            _ => ("", word),
        };
        if looks_random(word) {
            clean.push_str(lead);
            clean.push_str(REDACTED);
            clean.push_str(&run[lead.len() + word.len()..]);
            changed = true;
        } else {
            clean.push_str(run);
        }
    }
    changed.then_some(clean)
}

fn looks_random(word: &str) -> bool {
    let count = |of: fn(&u8) -> bool| word.bytes().filter(of).count();
    let (digits, letters) = (count(u8::is_ascii_digit), count(u8::is_ascii_alphabetic));
    let path_like = word.contains('/') && word.split('/').all(|part| part.len() < 20);
    word.len() >= 20
        && digits >= 2
        && letters >= 2
        && !path_like
        && word != REDACTED
        && entropy(word) > 3.5
}

/// Shannon's entropy in bits per byte.
fn entropy(word: &str) -> f64 {
    let mut counts = [0_u32; 256];
    word.bytes().for_each(|byte| counts[usize::from(byte)] += 1);
    let length = f64::from(u32::try_from(word.len()).unwrap_or(u32::MAX));
    let part = |&count: &u32| {
        let share = f64::from(count) / length;
        -share * share.log2()
    };
    counts.iter().filter(|count| **count > 0).map(part).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"# settings
DEBUG = False
SECRET_KEY=django-insecure-abc
DATABASE_URL=postgres://edms:s3cr3t@db:5432/edms
EMAIL_HOST_PASSWORD = 'hunter2'
AWS_ACCESS_KEY_ID="AKIAIOSFODNN7EXAMPLE"
SIGNING_KEY = os.environ["SIGNING_KEY"]
API_TOKEN = os.environ.get("API_TOKEN", "fallback-token")
"password": "in a dictionary",
ALLOWED_HOSTS=edms.example.org,www.example.org
CERTIFICATE = """-----BEGIN PRIVATE KEY-----
MIIEvQIBADANBgkqhkiG9w0BAQEFAASC
-----END PRIVATE KEY-----"""
FERNET = Z2FBQUFBQm1vZXhhbXBsZQ9xK7pLmN3vB8
JWT_SECRET = """
over
lines
"""
KEYS_SECRET = [
    "first one",
    "second one",
]
LANGUAGE = "en-us"
"#;

    #[test]
    fn no_secret_survives_and_the_rest_does() {
        let redacted = redact(FILE);
        for secret in [
            "django-insecure-abc",
            "s3cr3t",
            "hunter2",
            "AKIAIOSFODNN7EXAMPLE",
            "fallback-token",
            "in a dictionary",
            "MIIEvQ",
            "Z2FBQUFB",
            "over",
            "lines\n",
            "first one",
            "second one",
        ] {
            assert!(!redacted.text.contains(secret), "{secret} in\n{}", redacted.text);
            assert!(!redacted.found.iter().any(|found| found.contains(secret)));
        }
        for plain in [
            "DEBUG = False",
            "os.environ[\"SIGNING_KEY\"]",
            "edms.example.org",
            "@db:5432/edms",
            "postgres://edms:",
            "LANGUAGE = \"en-us\"",
            "# settings",
        ] {
            assert!(redacted.text.contains(plain), "{plain} not in\n{}", redacted.text);
        }
        assert!(redacted.found.len() >= 9, "{:?}", redacted.found);
    }

    #[test]
    fn secrets_in_the_middle_of_a_line_are_found() {
        for (line, clean) in [
            (
                "DB = {'USER': 'a', 'PASSWORD': 'hunter2', 'HOST': 'h'}",
                "DB = {'USER': 'a', 'PASSWORD': '~', 'HOST': 'h'}",
            ),
            (
                r#"{"db": {"password": "hunter2", "port": 5}}"#,
                r#"{"db": {"password": "~", "port": 5}}"#,
            ),
            (
                "DSN_TEXT = 'host=db password=hunter2 user=a'",
                "DSN_TEXT = 'host=db password=~ user=a'",
            ),
            ("run --user a --password hunter2 --now", "run --user a --password ~ --now"),
            ("a: https://h/?x=1&token=hunter2&y=2", "a: https://h/?x=1&token=~&y=2"),
            ("{a: 1, api-key: hunter2, b: 2}", "{a: 1, api-key: ~, b: 2}"),
        ] {
            let redacted = redact(line);
            assert_eq!(redacted.text, clean.replace('~', REDACTED));
            assert_eq!(redacted.found.len(), 1, "{:?}", redacted.found);
        }
        let line = "A = {'KEY': os.environ['DB_KEY'], 'TOKEN': None, 'PASSWORD': get('X')}";
        assert_eq!(redact(line).text, line);
    }

    #[test]
    fn a_file_without_secrets_stays_as_it_is() {
        let text = "DEBUG=True\nTIME_ZONE = \"Asia/Almaty\"\nSTORAGE_ROOT=/srv/edms/storage\r\nSECRET_KEY=\n";
        assert_eq!(redact(text), Redacted { text: text.to_owned(), found: Vec::new() });
    }
}
