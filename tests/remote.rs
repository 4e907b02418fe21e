//! The program with its repository elsewhere: on an S3 server that is not ours, on one that fails,
//! loses answers and hears twice, and on a host by SFTP (docs/adr/0018).
#![expect(clippy::disallowed_methods, reason = "a test that runs for longer when it is told to")]

#[path = "common/moto.rs"]
mod moto;
#[path = "common/proxy.rs"]
mod proxy;
#[path = "common/sftp.rs"]
mod sftp;
#[path = "common/world.rs"]
mod world;

use std::collections::{BTreeMap, HashSet};
use std::io::{Read as _, Write as _};
use std::process::{Command, Output};

use proxy::Proxy;
use world::{World, text};

/// An application whose repository is elsewhere.
struct Remote {
    world: World,
    variables: Vec<(String, String)>,
}

impl Remote {
    /// In the bucket of a server at this port.
    fn at(port: u16, prefix: &str) -> Self {
        let variables = moto::variables(port);
        let remote = Self { world: World::bare(), variables };
        remote.place(&format!("s3://bucket/{prefix}"));
        remote
    }

    /// In a folder of a host by SFTP.
    fn by_sftp() -> Self {
        let world = World::bare();
        let command = sftp::ssh_command(&world.path(""));
        let url = format!("sftp://me@host{}/far/away", world.path("").display());
        let remote = Self { world, variables: vec![("COEVAL_SSH_COMMAND".to_owned(), command)] };
        remote.place(&url);
        remote
    }

    fn place(&self, url: &str) {
        let toml = self.world.read("coeval.toml");
        self.world.write("coeval.toml", &toml.replace("\"repo\"", &format!("\"{url}\"")));
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = self.world.coeval();
        command.envs(self.variables.iter().cloned()).args(arguments);
        command
    }

    fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("it runs")
    }

    fn ok(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments);
        let complaint = text(&output.stderr);
        assert_eq!(output.status.code(), Some(0), "{arguments:?}: {complaint}");
        text(&output.stdout)
    }

    fn fails(&self, code: i32, arguments: &[&str]) -> String {
        world::failure(code, &self.run(arguments))
    }

    fn shown(&self) -> HashSet<String> {
        let lines = world::lines(&self.ok(&["snapshots", "--json"]));
        lines.iter().map(|line| line["id"].as_str().expect("an id").to_owned()).collect()
    }
}

/// Everything that is done with a repository, once.
fn live(remote: &Remote) {
    let world = &remote.world;
    remote.fails(10, &["snapshots"]);
    remote.ok(&["init", "-q"]);
    remote.fails(1, &["init", "-q"]);
    let before = world.state();
    let first = remote.ok(&["backup", "-q"]);
    let unchanged = remote.ok(&["backup", "--json"]);
    let unchanged = world::lines(&unchanged).pop().expect("a summary");
    assert_eq!(unchanged["files_changed"], 0, "{unchanged}");

    world.write("docs/a.txt", "changed\n");
    world.sql("DELETE FROM users WHERE id = 2");
    // Two at once, who share what they store.
    let both = ["one", "two"]
        .map(|tag| remote.command(&["backup", "-q", "--tag", tag]).spawn().expect("it runs"));
    for mut writer in both {
        assert!(writer.wait().expect("an end").success());
    }
    assert_eq!(remote.shown().len(), 4);
    remote.ok(&["restore", first.trim(), "--in-place"]);
    assert_eq!(world.state(), before);

    remote.ok(&["forget", "--keep-last", "1", "--group-by", ""]);
    remote.ok(&["prune", "--immediate"]);
    remote.ok(&["check", "--read-data"]);
    assert_eq!(remote.shown().len(), 1);

    // Another host, which has no cache.
    std::fs::remove_dir_all(world.path("cache")).expect("a folder");
    remote.ok(&["check", "--read-data"]);
}

#[test]
fn a_repository_lives_its_whole_life_on_s3() {
    let server = moto::Server::start();
    let remote = Remote::at(server.port(), "edms/prod");
    live(&remote);
    let complaint = remote.fails(1, &["--repo", "s3://elsewhere/x", "snapshots"]);
    assert!(complaint.contains("NoSuchBucket") && complaint.contains("AWS_REGION"), "{complaint}");
}

/// How many objects of each storage class there are.
fn classes(port: u16) -> BTreeMap<String, usize> {
    let mut line = std::net::TcpStream::connect(("127.0.0.1", port)).expect("the server");
    let ask =
        "GET /bucket?list-type=2 HTTP/1.1\r\nHost: s3.amazonaws.com\r\nConnection: close\r\n\r\n";
    line.write_all(ask.as_bytes()).expect("a request");
    let mut answer = String::new();
    line.read_to_string(&mut answer).expect("an answer");
    assert!(answer.contains("<Contents>"), "{answer}");
    let mut classes = BTreeMap::new();
    for class in answer.split("<StorageClass>").skip(1) {
        let (class, _) = class.split_once('<').expect("an element");
        *classes.entry(class.to_owned()).or_default() += 1;
    }
    classes
}

#[test]
fn only_packs_of_content_go_to_the_colder_class() {
    let server = moto::Server::start();
    let remote = Remote::at(server.port(), "edms");
    let numbers: Vec<String> = (0..20_000_u64).map(|n| n.wrapping_pow(5).to_string()).collect();
    let noise = numbers.join("\n");
    remote.world.write("docs/large.txt", &noise);
    remote.ok(&["init", "-q"]);
    remote.ok(&["--content-class", "STANDARD_IA", "backup", "-q"]);
    let first = classes(server.port());
    assert_eq!(first.get("STANDARD_IA"), Some(&1), "{first:?}");
    assert!(first.get("STANDARD").is_some_and(|number| *number >= 4), "{first:?}");
    // Wherever it lies, it is read and collected like the rest.
    remote.world.write("docs/large.txt", &noise.replace('1', "one"));
    remote.ok(&["--content-class", "GLACIER_IR", "backup", "-q"]);
    remote.ok(&["forget", "--keep-last", "1", "--group-by", ""]);
    remote.ok(&["prune", "--immediate"]);
    remote.ok(&["check", "--read-data"]);
    assert_eq!(classes(server.port()).get("STANDARD_IA"), None);
}

#[test]
fn a_repository_lives_its_whole_life_on_a_host_by_sftp() {
    let remote = Remote::by_sftp();
    live(&remote);
    // One login for each command, whatever it does.
    let home = remote.world.path("");
    let before = sftp::logins(&home).len();
    remote.ok(&["check"]);
    assert_eq!(sftp::logins(&home).len(), before + 1);
    let nobody = [("COEVAL_SSH_COMMAND", "echo 'Permission denied (publickey).' >&2; false")];
    let output = remote.command(&["snapshots"]).envs(nobody).output().expect("it runs");
    let complaint = world::failure(1, &output);
    assert!(complaint.contains("Permission denied (publickey)"), "{complaint}");
    assert!(complaint.contains("`ssh HOST`"), "{complaint}");
}

/// What a store that fails may do to a backup, and what it may not: it may end it, which the exit
/// code tells; it may not lose what was committed, nor make a snapshot of a backup that says that
/// it failed.
#[test]
fn a_store_that_fails_loses_nothing_and_exit_codes_tell_what_was_committed() {
    let operations = std::env::var("COEVAL_S3_OPERATIONS").ok();
    let operations: u64 = operations.map_or(12, |number| number.parse().expect("a number"));
    let server = moto::Server::start();
    let proxy = Proxy::new(server.port());
    let remote = Remote::at(proxy.port(), "");
    let mut committed = HashSet::new();
    let (mut failed, mut requests) = (0, 0);
    proxy.during(|| {
        remote.ok(&["init", "-q"]);
        for number in 0..operations {
            remote.world.write("docs/a.txt", &format!("version {number}\n").repeat(3000));
            let percent = [1, 5, 10, 30][usize::try_from(number).expect("few") % 4];
            proxy.spoil(percent, number);
            let output = remote.run(&["--retry-for", "60", "backup", "-q"]);
            requests += proxy.requests();
            proxy.spoil(0, 0);
            let now = remote.shown();
            let new: Vec<_> = now.difference(&committed).cloned().collect();
            assert!(committed.is_subset(&now), "operation {number}: a snapshot is gone");
            let complaint = text(&output.stderr);
            match output.status.code() {
                Some(0) => assert_eq!(new.len(), 1, "operation {number}: said to be committed"),
                _ => {
                    failed += 1;
                    assert_eq!(
                        new.len(),
                        0,
                        "operation {number}: said to have failed: {complaint}"
                    );
                }
            }
            committed = now;
        }
        remote.ok(&["check", "--read-data"]);
    });
    let met = proxy.met.lock().expect("a list");
    let kinds: HashSet<_> = met.iter().map(|(fault, _)| *fault).collect();
    println!("{operations} backups, {failed} failed, {requests} requests, {} faults", met.len());
    assert!(kinds.len() >= 5, "{kinds:?}");
}

#[test]
fn a_store_that_goes_away_ends_a_backup_which_says_so_and_commits_nothing() {
    let server = moto::Server::start();
    let proxy = Proxy::new(server.port());
    let remote = Remote::at(proxy.port(), "deep/er");
    proxy.during(|| {
        remote.ok(&["init", "-q"]);
        remote.ok(&["backup", "-q"]);
        // What was read once is on this host.
        let requests = |arguments: &[&str]| {
            let before = proxy.requests();
            remote.ok(arguments);
            proxy.requests() - before
        };
        let [first, second] = [(); 2].map(|()| requests(&["ls", "latest:/storage/documents"]));
        assert!(second < first, "{first} requests, then {second}");
        remote.world.write("docs/a.txt", "changed\n");
        for requests in [0, 3, 7] {
            proxy.die_after(Some(requests));
            let complaint = remote.fails(1, &["--retry-for", "1", "backup", "-q"]);
            assert!(complaint.contains("AWS_ENDPOINT_URL"), "{complaint}");
            proxy.die_after(None);
            assert_eq!(remote.shown().len(), 1);
        }
        remote.ok(&["backup", "-q"]);
        remote.ok(&["check", "--read-data"]);
    });
}
