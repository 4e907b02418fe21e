//! Packages that are sealed as a whole, beside stock gpg and the words of age.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use age::secrecy::ExposeSecret as _;
use zeroize::Zeroizing;

use super::{ExportOptions, Silent, edms, export, open, packed, put};
use crate::context::Context;
use crate::export::package::SecretsPolicy;
use crate::export::package::open::{OpenOptions, Package};
use crate::export::package::read::{Extra, Limits};
use crate::export::package::seal::{self, Identity, Keys, Recipient, Seal, sealed};
use crate::hint::{ErrorKind, Failure};

const PASSWORD: &str = "correct horse \u{e9}";
/// The key of age's own test vectors (c2sp.org/CCTV/age).
const IDENTITY: &str = "# created: 2026-11-21T00:00:00Z\n\
     AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX\n";
const RECIPIENT: &str = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";

fn by_password() -> Seal {
    Seal::Password(Zeroizing::new(PASSWORD.to_owned()))
}

fn exported(seal: Option<Seal>) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let secrets = if seal.is_some() { SecretsPolicy::Sealed } else { SecretsPolicy::Redact };
    let scratch = folder.path().to_owned();
    let options = ExportOptions { seal, ..ExportOptions::new(secrets, scratch) };
    let mut out = Vec::new();
    export(&edms(), &mut out, &options, &Context::new()).unwrap();
    out
}

/// Opens a file with these keys.
fn opened(bytes: &[u8], password: &str, identity: Option<&str>) -> Result<Package, Failure> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("package");
    put(&path, bytes);
    let scratch = tempfile::tempdir().unwrap();
    let options = OpenOptions {
        scratch: scratch.path().to_owned(),
        limits: Limits::default(),
        extra: Extra::Refuse,
    };
    let give = || Ok(Zeroizing::new(password.to_owned()));
    let identities =
        identity.map_or_else(Vec::new, |text| Identity::parse_file(text, "x").unwrap());
    let keys = Keys { password: &give, identities };
    let ctx = Context { reporter: std::sync::Arc::new(Silent), ..Context::new() };
    Package::open_path(&path, &keys, &options, &ctx)
}

/// gpg with a home of its own, as anybody has it.
struct Gpg(tempfile::TempDir);

impl Gpg {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        std::fs::set_permissions(home.path(), PermissionsExt::from_mode(0o700)).unwrap();
        put(&home.path().join("password"), PASSWORD.as_bytes());
        Self(home)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, arguments: &[&str], input: &[u8]) -> (bool, Vec<u8>, String) {
        let mut child = Command::new("gpg")
            .args(["--batch", "--no-tty", "--pinentry-mode", "loopback", "--homedir"])
            .arg(self.0.path())
            .arg("--passphrase-file")
            .arg(self.path("password"))
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        let output = std::thread::scope(|scope| {
            scope.spawn(move || drop(stdin.write_all(input)));
            child.wait_with_output().unwrap()
        });
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        (output.status.success(), output.stdout, said)
    }
}

impl Drop for Gpg {
    fn drop(&mut self) {
        let mut stop = Command::new("gpgconf");
        stop.arg("--homedir").arg(self.0.path()).args(["--kill", "gpg-agent"]);
        assert!(stop.status().unwrap().success());
    }
}

fn has_secrets(package: &Package) -> bool {
    let names = package.archived.members.iter().filter(|(n, _)| n.starts_with("configuration/"));
    names.clone().count() > 0
        && names.filter_map(|(name, _)| package.archived.file(name)).any(|span| {
            let bytes = package.archived.spool.read(&span).unwrap();
            String::from_utf8_lossy(&bytes).contains("top-secret-value")
        })
}

/// Failure 36: "encrypted: true", and nothing was.
#[test]
fn failure_36_a_sealed_package_says_so_and_is() {
    for seal in [by_password(), Seal::Recipients(vec![Recipient::parse(RECIPIENT).unwrap()])] {
        let bytes = exported(Some(seal));
        for plain in [&b"metadata.json"[..], b"top-secret-value", b"ustar"] {
            assert!(!bytes.windows(plain.len()).any(|window| window == plain));
        }
        assert!(open(&bytes).is_err());
        let package = opened(&bytes, PASSWORD, Some(IDENTITY)).unwrap();
        assert!(has_secrets(&package));
        let span = package.archived.file("metadata.json").unwrap();
        let metadata = package.archived.spool.read(&span).unwrap();
        let metadata: serde_json::Value = serde_json::from_slice(&metadata).unwrap();
        assert_eq!(metadata["export_options"]["encrypt"], true);
    }
    assert!(!has_secrets(&open(&exported(None)).unwrap()));
}

#[test]
fn stock_gpg_opens_what_is_sealed_with_a_password() {
    let gpg = Gpg::new();
    let bytes = exported(Some(by_password()));
    let (well, plain, said) = gpg.run(&["--decrypt"], &bytes);
    assert!(well, "{said}");
    assert!(said.contains("AES256"), "{said}");
    assert!(!said.to_lowercase().contains("warning: message was not integrity"), "{said}");
    assert!(has_secrets(&open(&plain).unwrap()));
    // One that was cut, or bent anywhere, is none.
    for at in [bytes.len() / 2, bytes.len() - 3] {
        assert!(!gpg.run(&["--decrypt"], &bytes[..at]).0);
    }
}

#[test]
fn what_stock_gpg_seals_is_opened() {
    let gpg = Gpg::new();
    let plain = packed(&edms(), SecretsPolicy::Redact);
    let bare = br#"[{"model": "a.b", "pk": 1, "fields": {}}]"#;
    for extra in [
        &["--cipher-algo", "AES256"][..],
        &["--cipher-algo", "AES256", "--armor"],
        &["--compress-algo", "zlib", "-z", "9"],
        &["--compress-algo", "none", "--s2k-mode", "1"],
    ] {
        for content in [&plain[..], bare] {
            let (well, bytes, said) = gpg.run(&[extra, &["--symmetric"]].concat(), content);
            assert!(well, "{said}");
            let package = opened(&bytes, PASSWORD, None).unwrap();
            assert!(package.fixture().is_some(), "{extra:?}");
            assert_eq!(package.archived.compressed, bytes.len() as u64);
            let wrong = opened(&bytes, "wrong", None).unwrap_err();
            assert_eq!(wrong.kind(), ErrorKind::WrongKey, "{wrong}");
        }
    }
}

#[test]
fn a_sealed_package_is_opened_only_with_its_key() {
    let kind = |sealed: Result<Package, Failure>| sealed.map(|_| ()).unwrap_err().kind();
    let bytes = exported(Some(by_password()));
    assert_eq!(kind(opened(&bytes, "wrong", None)), ErrorKind::WrongKey);
    let other = age::x25519::Identity::generate();
    let bytes = exported(Some(Seal::Recipients(vec![
        Recipient::parse(&other.to_public().to_string()).unwrap(),
        Recipient::parse(RECIPIENT).unwrap(),
    ])));
    assert!(opened(&bytes, "", Some(IDENTITY)).is_ok());
    assert_eq!(kind(opened(&bytes, "", None)), ErrorKind::WrongKey);
    let stranger = age::x25519::Identity::generate();
    let text = stranger.to_string().expose_secret().to_owned();
    assert_eq!(kind(opened(&bytes, "", Some(&text))), ErrorKind::WrongKey);
    assert!(Recipient::parse("age1nobody").is_err());
    let failure = Identity::parse_file("AGE-SECRET-KEY-1NOBODY", "keys.txt").unwrap_err();
    assert!(failure.to_string().contains("keys.txt") && !failure.to_string().contains("NOBODY"));
}

#[test]
fn what_was_changed_on_the_way_is_damage() {
    for (seal, step) in
        [(by_password(), 997), (Seal::Recipients(vec![Recipient::parse(RECIPIENT).unwrap()]), 997)]
    {
        let bytes = exported(Some(seal));
        // Nothing at all opens, as a fixture without records, and is refused when it is read.
        let empty = opened(&[], PASSWORD, Some(IDENTITY)).unwrap();
        assert!(empty.into_sources(None, &Context::new()).is_err());
        for end in (step..bytes.len()).step_by(step).chain([bytes.len() - 1]) {
            assert!(opened(&bytes[..end], PASSWORD, Some(IDENTITY)).is_err(), "cut at {end}");
        }
        for at in (200..bytes.len()).step_by(step) {
            let mut bent = bytes.clone();
            bent[at] ^= 1;
            assert!(opened(&bent, PASSWORD, Some(IDENTITY)).is_err(), "bent at {at}");
        }
    }
}

/// A disk without space.
struct Full;
impl std::io::Write for Full {
    fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
        Err(std::io::Error::other("no space left"))
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// A failure in the middle must not leave something behind that opens as if it were whole.
#[test]
fn what_could_not_be_written_to_its_end_does_not_open() {
    let mut out = Vec::new();
    let failure = sealed(&mut out, &by_password(), |plain| {
        plain.write_all(&vec![7; 3 << 20]).unwrap();
        Err::<(), _>(Failure::message(ErrorKind::Busy, "the disk is asleep", None))
    });
    assert_eq!(failure.unwrap_err().kind(), ErrorKind::Busy);
    let keys = Keys { password: &|| Ok(Zeroizing::new(PASSWORD.to_owned())), identities: vec![] };
    let opened = seal::open(Box::new(&out[..]), &keys);
    assert!(
        opened.map_or(true, |mut reader| std::io::copy(&mut reader, &mut std::io::sink()).is_err())
    );
    // Where nothing can be written, that is what is said.
    let failure = sealed(&mut Full, &by_password(), |plain| {
        let written = plain.write_all(&vec![7; 3 << 20]);
        written.map_err(|e| Failure::message(ErrorKind::Failed, e.to_string(), None))
    });
    assert!(failure.unwrap_err().to_string().contains("no space left"));
}

#[test]
fn what_only_gpg_can_open_is_said_to_be_so() {
    let gpg = Gpg::new();
    let made = gpg.run(&["--quick-generate-key", "a@example.org", "future-default", "-", "0"], b"");
    assert!(made.0, "{}", made.2);
    let to = ["--trust-model", "always", "--recipient", "a@example.org", "--encrypt"];
    let (well, bytes, said) = gpg.run(&to, b"[]");
    assert!(well, "{said}");
    let failure = opened(&bytes, PASSWORD, None).unwrap_err();
    assert!(failure.to_string().contains("an OpenPGP key"), "{failure}");
    assert!(failure.hint().unwrap().contains("gpg --decrypt"));
}
