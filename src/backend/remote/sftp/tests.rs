//! Against OpenSSH's own server, which needs no login when it is run directly.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::atomic::AtomicUsize;

use super::*;
use crate::backend::{conformance, open};

#[path = "../../../../tests/common/sftp.rs"]
mod server;

use server::logins;

fn ssh(home: &Path) -> StoreSettings {
    StoreSettings { ssh_command: server::ssh_command(home), ..StoreSettings::default() }
}

#[test]
fn openssh_s_server_conforms() {
    let home = tempfile::tempdir().unwrap();
    let (settings, number) = (ssh(home.path()), AtomicUsize::new(0));
    conformance::run(&|| {
        let number = number.fetch_add(1, Ordering::Relaxed);
        let folder = home.path().join(format!("new/repo-{number}"));
        open(&format!("sftp://somebody@host:2222{}", folder.display()), &settings).unwrap()
    });
    let login = &logins(home.path())[0];
    let (_, arguments) = login.split_once(' ').unwrap();
    assert_eq!(
        arguments,
        "-i some-key -oServerAliveInterval=20 -oServerAliveCountMax=3 -p2222 -l somebody -s -- \
         host sftp"
    );
}

#[test]
fn objects_are_for_their_owner_and_no_temporary_file_stays() {
    let home = tempfile::tempdir().unwrap();
    let settings = ssh(home.path());
    let root = home.path().join("repo");
    let store = open(&format!("sftp://host{}", root.display()), &settings).unwrap();
    store.create("packs/ab/x", b"x").unwrap();
    assert_eq!(store.create("packs/ab/x", b"y").unwrap(), Created::Existed);
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o7777;
    for folder in ["", "packs", "packs/ab"] {
        assert_eq!(mode(&root.join(folder)), 0o700, "{folder}");
    }
    assert_eq!(mode(&root.join("packs/ab/x")), 0o400);
    assert_eq!(std::fs::read_dir(root.join("packs/ab")).unwrap().count(), 1);
    std::fs::File::create(root.join("packs/.tmp-of-a-killed-process")).unwrap();
    std::fs::File::create(root.join("packs/Notes")).unwrap();
    assert_eq!(store.list("").unwrap().len(), 1);
}

#[test]
fn a_connection_that_breaks_is_made_again() {
    let home = tempfile::tempdir().unwrap();
    let settings = ssh(home.path());
    let store = open(&format!("sftp://host{}/repo", home.path().display()), &settings).unwrap();
    store.create("config", b"x").unwrap();
    for round in 1..4 {
        let server = logins(home.path()).last().unwrap().split_once(' ').unwrap().0.to_owned();
        let killed = std::process::Command::new("kill").args(["-9", &server]).status().unwrap();
        assert!(killed.success());
        assert_eq!(store.get("config").unwrap(), "x");
        assert_eq!(store.create(&format!("packs/{round}"), b"y").unwrap(), Created::New);
        assert_eq!(logins(home.path()).len(), 1 + round);
    }
}

#[test]
fn a_host_that_lets_nobody_in_is_asked_once() {
    let ssh_command = "sh -c 'echo once >> \"$0\"; exit 255'".to_owned();
    let home = tempfile::tempdir().unwrap();
    let asked = home.path().join("asked");
    let ssh_command = ssh_command.replace("\"$0\"", &format!("\"{}\"", asked.display()));
    let settings = StoreSettings { ssh_command, ..StoreSettings::default() };
    let error = open("sftp://host/repo", &settings).unwrap().get("config").unwrap_err();
    assert_eq!(error.cause(), BackendErrorKind::Unreachable);
    assert_eq!(std::fs::read_to_string(asked).unwrap(), "once\n");
}

#[test]
fn a_url_says_where_and_nothing_else() {
    let open = |url| connect(&Url::parse(url).unwrap(), &StoreSettings::default());
    let relative = open("sftp://[::1]/~/backups/edms/").unwrap();
    assert_eq!((&*relative.login.host, &*relative.root), ("::1", "backups/edms"));
    assert_eq!(relative.place(), "sftp://[::1]/~/backups/edms");
    assert_eq!(open("sftp://host/with%20space").unwrap().root, "/with space");
    for wrong in ["sftp://host", "sftp://host/", "sftp://host/~/", "sftp://a:secret@host/x"] {
        assert_eq!(open(wrong).unwrap_err().cause(), BackendErrorKind::Usage, "{wrong}");
    }
    let shown = open("sftp://a:secret@host/x").unwrap_err().to_string();
    assert!(!shown.contains("secret"), "{shown}");
}
