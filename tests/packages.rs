//! Packages on the command line: sealed, of EDMS's second method, unpacked, and by the names that
//! EDMS's operators type.
#![allow(missing_docs, clippy::missing_panics_doc, reason = "a test")]
#![allow(clippy::disallowed_methods, reason = "a test writes files as applications do")]

#[path = "common/cluster.rs"]
#[expect(dead_code, reason = "each file of tests needs a part of it")]
mod cluster;
#[path = "common/world.rs"]
mod world;

use std::process::Output;

use serde_json::Value;

use cluster::Cluster;
use world::{World, failure, lines, text};

/// Runs with the password of the package in the environment.
fn with_password(world: &World, password: &str, arguments: &[&str]) -> Output {
    let mut command = world.coeval();
    command.env("COEVAL_PACKAGE_PASSWORD", password).args(arguments).output().expect("it runs")
}

fn fine(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    text(&output.stdout)
}

/// Runs a program of others.
fn stock(world: &World, program: &str, arguments: &[&str]) -> String {
    fine(&world.command(program).args(arguments).output().expect("it is installed"))
}

fn secret_world() -> World {
    let world = World::new();
    world.write(".env", "DEBUG=1\nSECRET_KEY=hunter2-hunter2\n");
    world.backup();
    world
}

#[test]
fn a_package_is_sealed_with_a_password_and_opened_by_stock_gpg() {
    let world = secret_world();
    world.write("password", "sesame\n");
    let file = "package.tar.gz.gpg";
    world.ok(&[
        "export",
        "latest",
        "-o",
        file,
        "--encrypt",
        "--include-secrets",
        "--package-password-file",
        "password",
    ]);
    let home = world.path("gnupg");
    std::fs::create_dir(&home).expect("a folder");
    std::fs::set_permissions(&home, std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .expect("private");
    let home = home.display().to_string();
    stock(
        &world,
        "gpg",
        &[
            "--batch",
            "--homedir",
            &home,
            "--pinentry-mode",
            "loopback",
            "--passphrase-file",
            "password",
            "--output",
            "plain.tar.gz",
            "--decrypt",
            file,
        ],
    );
    stock(&world, "gpgconf", &["--homedir", &home, "--kill", "gpg-agent"]);
    let env =
        stock(&world, "tar", &["-xzOf", "plain.tar.gz", "configuration/environment_variables.env"]);
    assert!(env.contains("hunter2"), "{env}");
    // Every command that opens a package opens a sealed one.
    let inspected = fine(&with_password(&world, "sesame", &["package", "inspect", file]));
    assert!(inspected.contains("of coeval, format 1"), "{inspected}");
    fine(&with_password(&world, "sesame", &["package", "verify", file]));
    let imported = fine(&with_password(&world, "sesame", &["import", file, "-q"]));
    assert!(world.ok(&["diff", "latest~1", imported.trim()]).starts_with("no difference"));
    let complaint = failure(12, &with_password(&world, "open", &["import", file]));
    assert!(complaint.contains("the password does not open the package"), "{complaint}");
    let complaint = world.fails(12, &["import", file]);
    assert!(complaint.contains("--package-password-file"), "{complaint}");
}

#[test]
fn a_package_is_sealed_for_recipients() {
    let world = secret_world();
    let recipient = "age1zvkyg2lqzraa2lnjvqej32nkuu0ues2s82hzrye869xeexvn73equnujwj";
    world.write(
        "identity",
        "# public key: …\nAGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX\n",
    );
    let file = "package.tar.gz.age";
    world.ok(&["export", "latest", "-o", file, "--recipient", recipient, "--include-secrets"]);
    assert!(std::fs::read(world.path(file)).expect("a file").starts_with(b"age-encryption.org/v1"));
    world.ok(&["package", "verify", file, "--identity", "identity"]);
    world.ok(&["import", file, "--identity", "identity"]);
    assert!(world.ok(&["cat", "latest:/configuration/.env"]).contains("hunter2"));
    let complaint = world.fails(12, &["import", file]);
    assert!(complaint.contains("--identity"), "{complaint}");
    world.fails(2, &["export", "latest", "-o", "x", "--recipient", "age1nobody"]);
}

#[test]
fn secrets_leave_only_sealed_or_with_a_word_about_it() {
    let world = secret_world();
    let export =
        |more: &[&str]| world.run(&[&["export", "latest", "-o", "p.tar.gz"], more].concat());
    let complaint = failure(2, &export(&["--include-secrets"]));
    assert!(complaint.contains("--encrypt"), "{complaint}");
    failure(
        2,
        &with_password(&world, "x", &["export", "latest", "-o", "p", "--encrypt", "--plaintext"]),
    );
    failure(2, &export(&["--package-password-file", "x"]));
    assert!(!world.path("p.tar.gz").exists());
    let loud = export(&["--plaintext"]);
    assert!(text(&loud.stderr).contains("SECRETS ARE IN THE CLEAR"), "{}", text(&loud.stderr));
    assert!(text(&loud.stderr).contains("environment_variables.env"));
    let quiet = export(&[]);
    assert!(!text(&quiet.stderr).contains("CLEAR"));
    assert!(text(&quiet.stdout).contains("secrets were taken out (line 2: SECRET_KEY)"));
    // Nobody is asked where nobody can answer.
    let complaint = failure(12, &export(&["--encrypt"]));
    assert!(complaint.contains("COEVAL_PACKAGE_PASSWORD"), "{complaint}");
}

#[test]
fn a_folder_that_a_package_was_unpacked_into_is_a_package() {
    let world = World::new();
    world.backup();
    world.ok(&["export", "latest", "-o", "package.tar.gz"]);
    std::fs::create_dir(world.path("unpacked")).expect("a folder");
    stock(&world, "tar", &["-xzf", "package.tar.gz", "-C", "unpacked"]);
    let inspect = |file| {
        let mut found = world.json(&["package", "inspect", file]).remove(0);
        found.as_object_mut().expect("an object").remove("compressed");
        found
    };
    assert_eq!(inspect("package.tar.gz"), inspect("unpacked"));
    // An archive of coeval's has no members for the folders themselves.
    let checks = |file| world.json(&["package", "verify", file]).split_off(1);
    assert_eq!(checks("unpacked"), checks("package.tar.gz"));
    world.ok(&["import", "unpacked"]);
    assert!(world.ok(&["diff", "latest~1", "latest"]).starts_with("no difference"));
    // Nothing but the package is taken, and no link is followed.
    world.write("unpacked/notes.txt", "mine");
    assert!(world.fails(1, &["import", "unpacked"]).contains("--allow-extra"));
    world.ok(&["import", "unpacked", "--allow-extra", "--dry-run"]);
    std::fs::remove_file(world.path("unpacked/notes.txt")).expect("removed");
    std::os::unix::fs::symlink("/etc", world.path("unpacked/storage/documents/etc"))
        .expect("a link");
    assert!(world.fails(1, &["package", "verify", "unpacked"]).contains("points out"));
    std::fs::remove_file(world.path("unpacked/storage/documents/etc")).expect("removed");
    std::fs::remove_file(world.path("unpacked/storage/documents/a.txt")).expect("removed");
    let damaged = world.run(&["package", "verify", "unpacked"]);
    assert_eq!(damaged.status.code(), Some(13));
    assert!(text(&damaged.stdout).contains("storage/documents/a.txt is missing"));
}

#[test]
fn what_was_named_one_by_one_is_restored_from_a_package_too() {
    let world = World::new();
    world.write("list", "docs/a.txt\ndocs/sub\n");
    let snapshot = world.ok(&["backup", "-q", "--files-from-verbatim", "list"]);
    world.ok(&["export", snapshot.trim(), "-o", "package.tar.gz"]);
    world.ok(&["import", "package.tar.gz"]);
    world.ok(&["restore", "latest", "--target", "out"]);
    assert_eq!(world.read("out/storage/docs/sub/b.txt"), "below\n");
}

#[test]
fn inspecting_says_everything_without_a_repository() {
    let world = secret_world();
    world.ok(&["export", "latest", "-o", "package.tar.gz"]);
    std::fs::remove_dir_all(world.path("repo")).expect("gone");
    let found = world.json(&["package", "inspect", "package.tar.gz"]).remove(0);
    assert_eq!(found["form"], "coeval");
    assert_eq!(found["format"], 1);
    assert!(found["written_by"].as_str().expect("a program").starts_with("coeval "));
    assert_eq!(found["application"], "app");
    assert_eq!((&found["files"], &found["file_bytes"]), (&Value::from(2), &Value::from(12)));
    let records = found["total_records"].as_u64().unwrap_or(0)
        + found["raw"]["main/users"].as_u64().unwrap_or(0);
    assert_eq!(records, 3, "{found}");
    assert_eq!(found["missing"][0]["item"], "configuration/.env");
    let names: Vec<&str> = found["members"]
        .as_array()
        .expect("members")
        .iter()
        .filter_map(|m| m["name"].as_str())
        .collect();
    assert!(names.contains(&"storage/documents/sub/b.txt"), "{names:?}");
    for key in ["exported", "captured", "snapshot", "root", "instant", "host"] {
        assert!(found[key].as_str().is_some_and(|text| !text.is_empty()), "{key} in {found}");
    }
    let said = world.ok(&["package", "inspect", "package.tar.gz"]);
    for part in ["of coeval, format 1", "2 files, 12 B", "left out:      configuration/.env"] {
        assert!(said.contains(part), "{part} in\n{said}");
    }
    let checks = world.json(&["package", "verify", "package.tar.gz"]);
    assert!(checks.iter().all(|check| check["outcome"] != "damaged"));
    assert_eq!(checks.last().expect("a summary")["message_type"], "summary");
}

/// What EDMS's second method makes: pg_dump, and tar of the uploads, packed in one more tar.
struct Hybrid {
    world: World,
    cluster: Cluster,
    _parent: tempfile::TempDir,
}

impl Hybrid {
    fn new() -> Self {
        let parent = tempfile::Builder::new().prefix("h-").tempdir().expect("a folder");
        let cluster = Cluster::start(parent.path());
        cluster.sql(
            "CREATE TABLE documents (id serial PRIMARY KEY, name text NOT NULL);
             INSERT INTO documents (name) SELECT 'n' || i FROM generate_series(1, 100) i;
             CREATE ROLE scratch LOGIN;",
        );
        cluster.sql("CREATE DATABASE scratch OWNER scratch TEMPLATE template0");
        let world = World::new();
        std::fs::create_dir(world.path("tmp_1")).expect("a folder");
        let hybrid = Self { world, cluster, _parent: parent };
        let dump = hybrid.world.path("tmp_1/database.dump").display().to_string();
        stock(&hybrid.world, "pg_dump", &["-Fc", "-f", &dump, "-d", &hybrid.cluster.url]);
        std::fs::create_dir_all(hybrid.world.path("app/storage/media")).expect("a folder");
        hybrid.world.write("app/storage/media/m.txt", "media\n");
        stock(&hybrid.world, "tar", &["-czf", "tmp_1/storage.tar.gz", "-C", "app", "storage"]);
        stock(&hybrid.world, "tar", &["-czf", "hybrid.tar.gz", "tmp_1"]);
        hybrid
    }

    /// The scratch database, as this user.
    fn scratch(&self, user: &str) -> String {
        let (server, _) = self.cluster.url.rsplit_once('/').expect("a database");
        let (_, host) = server.rsplit_once('@').expect("a user");
        format!("postgres://{user}@{host}/scratch")
    }
}

#[test]
fn a_package_of_the_second_method_becomes_records_through_pg_restore() {
    let hybrid = Hybrid::new();
    let world = &hybrid.world;
    let kept = world.run(&["import", "hybrid.tar.gz"]);
    assert!(text(&kept.stderr).contains("--load-into"), "{}", text(&kept.stderr));
    assert_eq!(world.ok(&["cat", "latest:/storage/media/m.txt"]), "media\n");
    world.ok(&["restore", "latest:/storage/dump", "--target", "out"]);
    assert_eq!(
        std::fs::read(world.path("out/storage/dump/database.dump")).expect("the dump"),
        std::fs::read(world.path("tmp_1/database.dump")).expect("the dump"),
    );
    assert_eq!(world.json(&["package", "inspect", "hybrid.tar.gz"])[0]["form"], "pg-dump");
    // A superuser would run what the dump says.
    let superuser = hybrid.cluster.url.split(['/', '@', ':']).nth(3).expect("a user");
    let superuser = hybrid.scratch(superuser);
    let complaint = world.fails(2, &["import", "hybrid.tar.gz", "--load-into", &superuser]);
    assert!(complaint.contains("superuser"), "{complaint}");
    let scratch = hybrid.scratch("scratch");
    let loaded = world.ok(&["import", "hybrid.tar.gz", "--load-into", &scratch]);
    assert!(loaded.contains("100 records"), "{loaded}");
    assert!(world.ok(&["cat", "latest:/database/main/documents/42"]).contains("n42"));
    let complaint = world.fails(2, &["import", "hybrid.tar.gz", "--load-into", &scratch]);
    assert!(complaint.contains("is not empty"), "{complaint}");
}

/// Failure 39: errors of pg_restore were filtered away, and "restored" was printed.
#[test]
fn failure_39_what_pg_restore_complains_about_ends_the_import() {
    let hybrid = Hybrid::new();
    let world = &hybrid.world;
    let dump = std::fs::read(world.path("tmp_1/database.dump")).expect("the dump");
    std::fs::write(world.path("tmp_1/database.dump"), &dump[..dump.len() - 200]).expect("written");
    stock(world, "tar", &["-czf", "cut.tar.gz", "tmp_1"]);
    let complaint =
        world.fails(1, &["import", "cut.tar.gz", "--load-into", &hybrid.scratch("scratch")]);
    assert!(complaint.contains("pg_restore did not load the dump"), "{complaint}");
    assert_eq!(world.ok(&["snapshots", "--json"]), "", "nothing was stored");
}

#[test]
fn what_edms_operators_type_works_and_says_what_to_type() {
    let world = World::new();
    let made = world.run(&[
        "create_backup",
        "--type",
        "export",
        "--output",
        "p.tar.gz",
        "--include-users",
        "--verify",
    ]);
    fine(&made);
    assert!(
        text(&made.stderr).contains("`coeval export latest -o p.tar.gz`"),
        "{}",
        text(&made.stderr)
    );
    stock(&world, "gzip", &["-t", "p.tar.gz"]);
    fine(&world.run(&["create_backup", "--type", "files", "--output", "files.tar.gz"]));
    let listed = stock(&world, "tar", &["-tzf", "files.tar.gz"]);
    assert!(listed.contains("storage/manifest.json") && !listed.contains("database/"), "{listed}");
    fine(&world.run(&["create_backup", "--type", "database", "--output", "db.json"]));
    let fixture: Value = serde_json::from_str(&world.read("db.json")).expect("JSON");
    assert!(fixture.is_array());
    fine(&world.run(&["create_backup", "--type", "database", "--output", "db.json.gz"]));
    assert_eq!(stock(&world, "gzip", &["-dc", "db.json.gz"]), world.read("db.json"));

    let before = world.state();
    world.sql("DELETE FROM users WHERE id > 1");
    world.write("docs/a.txt", "changed\n");
    let full = ["restore_backup", "--package", "p.tar.gz", "--type", "full", "--verify"];
    let snapshots = world.json(&["snapshots"]).len();
    let plan = fine(&world.run(&[&full[..], &["--dry-run"]].concat()));
    for part in ["2 inserted, 0 updated", "0 inserted, 1 updated", "nothing was changed"] {
        assert!(plan.contains(part), "{part} in\n{plan}");
    }
    assert_eq!(world.read("docs/a.txt"), "changed\n");
    let cache = std::fs::read_dir(world.path("cache")).expect("the cache");
    let left = cache.map(|entry| entry.expect("an entry").file_name().display().to_string());
    assert_eq!(left.filter(|name| name.starts_with('.')).count(), 0, "nothing lies about");
    assert_eq!(world.json(&["snapshots"]).len(), snapshots);
    let restored = world.run(&full);
    fine(&restored);
    assert!(text(&restored.stderr).contains("`coeval import p.tar.gz`"));
    assert_eq!(world.state(), before);
    world.fails(2, &["restore_backup", "--type", "full"]);
}

/// A folder of uploads that is called as the folder of all uploads is.
#[test]
fn uploads_that_are_called_storage_come_back() {
    let world = World::bare();
    let config = world.read("coeval.toml").replace("[storage.documents]", "[storage.storage]");
    world.write("coeval.toml", &format!("{config}\n[storage.documents]\npath = \"other\"\n"));
    std::fs::create_dir_all(world.path("docs/storage/documents")).expect("a folder");
    std::fs::create_dir(world.path("other")).expect("a folder");
    world.write("docs/storage/a.txt", "deep\n");
    world.write("docs/storage/documents/a.txt", "deeper\n");
    world.write("other/a.txt", "other\n");
    world.ok(&["init", "-q"]);
    world.backup();
    world.ok(&["export", "latest", "-o", "package.tar.gz"]);
    let found = world.json(&["package", "verify", "package.tar.gz"]);
    assert!(found.iter().all(|check| check["outcome"] != "warning"), "{found:?}");
    world.ok(&["import", "package.tar.gz"]);
    assert!(world.ok(&["diff", "latest~1", "latest"]).starts_with("no difference"));
    assert_eq!(world.ok(&["cat", "latest:/storage/storage/storage/a.txt"]), "deep\n");
    // Where only those files are exported, too.
    world.ok(&["export", "latest", "-o", "part.tar.gz", "--only", "storage", "--path", "storage"]);
    let listed = stock(&world, "tar", &["-tzf", "part.tar.gz"]);
    assert!(listed.contains("storage/storage/storage/a.txt"), "{listed}");
    assert!(!listed.contains("storage/documents/a.txt\nstorage/manifest"), "{listed}");
}

#[test]
fn refusals_are_told_to_programs_too() {
    let world = World::new();
    world.write("none.tar.gz", "\0none");
    let output = world.run(&["import", "none.tar.gz", "--json"]);
    let error = lines(&text(&output.stderr)).remove(0);
    assert_eq!(error["code"], 1);
    assert!(error["message"].as_str().expect("a message").contains("no package"));
}

/// Lines of configuration files as people write them, `@` in place of each secret.
const PLANTED: [(&str, &[&str]); 8] = [
    (
        ".env",
        &[
            "SECRET_KEY=@",
            "export DJANGO_SECRET_KEY='@'",
            "DATABASE_URL=postgres://edms:@@db:5432/edms",
            "CELERY_BROKER_URL=\"redis://:@@cache:6379/0\"",
            "EMAIL_HOST_PASSWORD=@",
            "AWS_SECRET_ACCESS_KEY=@",
            "GITHUB_TOKEN=ghp_@",
            "SENTRY_DSN=https://@@o1.ingest.sentry.io/2",
            "STRIPE_KEY = sk_live_@",
            "JWT_SIGNING_KEY=@",
            "ADMIN_PASS=@",
            "DB_PWD=@",
            "API_KEYS=@",
        ],
    ),
    (
        "settings/base.py",
        &[
            "SECRET_KEY = 'django-insecure-@'",
            "SECRET_KEY = os.environ.get('SECRET_KEY', '@')",
            "DATABASES = {'default': {'USER': 'edms', 'PASSWORD': '@', 'HOST': 'db'}}",
            "    'password': \"@\",",
            "SIGNING_KEYS = [",
            "    '@',",
            "    \"@\",",
            "]",
            "ENCRYPTION_KEY: bytes = b'@'",
            "EMAIL_HOST_PASSWORD = config('EMAIL_HOST_PASSWORD', default='@')",
            "FIELD_TOKEN = f\"@\"",
            "CACHES = {'default': {'LOCATION': 'redis://user:@@cache/1'}}",
            "AUTH_SALT = r'@'",
            "PRIVATE_KEY = \"\"\"-----BEGIN PRIVATE KEY-----",
            "@",
            "-----END PRIVATE KEY-----\"\"\"",
            "JWT_SECRET = \"\"\"",
            "@",
            "\"\"\"",
        ],
    ),
    (
        "config.yaml",
        &[
            "secret_key: @",
            "  password: \"@\"",
            "  - token: '@'",
            "url: amqp://guest:@@mq:5672//",
            "api-key: @",
            "client_secret: @",
            "private_key: |",
            "  -----BEGIN RSA PRIVATE KEY-----",
            "  @",
            "  -----END RSA PRIVATE KEY-----",
        ],
    ),
    (
        "config.json",
        &[
            "{\"secretKey\": \"@\",",
            " \"db\": {\"user\": \"edms\", \"password\": \"@\"},",
            " \"access_token\": \"@\",",
            " \"webhook\": \"https://user:@@hooks.example.org/x\",",
            " \"apiKey\": \"@\"}",
        ],
    ),
    (
        "app.ini",
        &[
            "[database]",
            "password = @",
            "[api]",
            "token=@",
            "passphrase : @",
            "url = mysql://u:@@h/d",
        ],
    ),
    ("app.toml", &["[auth]", "secret = \"@\"", "keys = [\"@\", '@']", "credential.value = '@'"]),
    (
        "id.pem",
        &["-----BEGIN OPENSSH PRIVATE KEY-----", "@", "@", "-----END OPENSSH PRIVATE KEY-----"],
    ),
    (
        "other.conf",
        &["fernet Zx9@Qw7pLmV3rT8yUk2", "curl -H 'Authorization: Bearer eyJ@hbGci1NiJ9'"],
    ),
];

/// Writes the files, and says what must not be seen of them.
fn plant(world: &World) -> Vec<String> {
    let mut secrets = Vec::new();
    std::fs::create_dir_all(world.path("settings")).expect("a folder");
    for (file, lines) in PLANTED {
        let mut content = String::new();
        for line in lines {
            let mut rest = *line;
            // In a URL the second of two is the one that stands before the host.
            while let Some(at) = rest.find('@') {
                let secret = format!("pl4nted{:02}Zq", secrets.len());
                content.push_str(&rest[..at]);
                content.push_str(&secret);
                secrets.push(secret);
                rest = &rest[at + 1..];
                if let Some(host) = rest.strip_prefix('@') {
                    content.push('@');
                    rest = host;
                }
            }
            content.push_str(rest);
            content.push('\n');
        }
        world.write(file, &content);
    }
    secrets
}

/// Fifty secrets of all kinds stay at home: in no package, and in nothing that a command says that
/// touches them. `cat` prints a file because that is what it is for, and is not among them.
#[test]
fn planted_secrets_are_never_seen() {
    let world = World::new();
    let secrets = plant(&world);
    assert!(secrets.len() >= 50, "{}", secrets.len());
    let config = world.read("coeval.toml").replace(
        "files = [\".env\"]",
        "files = [\".env\", \"settings/*.py\", \"config.*\", \"app.*i*\", \"app.toml\", \"*.pem\", \"other.conf\"]",
    );
    world.write("coeval.toml", &config);
    world.ok(&["backup", "-v"]);
    let mut said = String::new();
    let mut run = |arguments: &[&str]| {
        for more in [&[][..], &["--json"], &["-v"]] {
            let output = world.run(&[arguments, more].concat());
            said.push_str(&text(&output.stdout));
            said.push_str(&text(&output.stderr));
        }
    };
    run(&["export", "latest", "-o", "package.tar.gz"]);
    run(&["package", "inspect", "package.tar.gz"]);
    run(&["package", "verify", "package.tar.gz"]);
    run(&["import", "package.tar.gz"]);
    for (file, _) in PLANTED {
        world.write(file, "SECRET_KEY=other\n");
    }
    run(&["backup"]);
    run(&["diff", "latest~2", "latest"]);
    run(&["snapshots"]);
    run(&["ls", "latest"]);
    run(&["restore", "latest", "--target", "out", "--dry-run"]);
    // What the reader stumbles over is not repeated either.
    for garbage in ["SECRET_KEY=@", "RuntimeWarning: MASTER_KEY=@\n[]"] {
        world.write("garbage", &garbage.replace('@', &secrets[0]));
        run(&["import", "garbage"]);
        run(&["package", "verify", "garbage"]);
    }
    std::fs::create_dir(world.path("unpacked")).expect("a folder");
    stock(&world, "tar", &["-xzf", "package.tar.gz", "-C", "unpacked"]);
    let mut packed = stock(&world, "grep", &["-rh", "", "unpacked"]);
    packed.push_str(&stock(&world, "find", &["unpacked"]));
    let configurations = stock(&world, "find", &["unpacked/configuration", "-type", "f"]);
    assert!(configurations.lines().count() >= PLANTED.len() + 2, "{configurations}");
    let seen = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| line.contains("pl4nted"));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(seen(&packed), Vec::<String>::new(), "in the package");
    assert_eq!(seen(&said), Vec::<String>::new(), "in what was said");
}

/// Names that a reader would refuse do not go into a package, and are listed.
#[test]
fn what_is_exported_can_be_imported_whatever_files_are_called() {
    let world = World::new();
    for name in
        ["a\nb", "a\\b", "tab\t", "caf\u{e9}", "UPPER", "upper", " blank ", "\u{202e}gpj.exe"]
    {
        world.write(&format!("docs/{name}"), name);
    }
    world.backup();
    let exported = world.json(&["export", "latest", "-o", "package.tar.gz"]).remove(0);
    let missing = exported["missing"].as_array().expect("a list");
    assert_eq!(missing.len(), 3, "{missing:?}");
    world.ok(&["import", "package.tar.gz"]);
    world.ok(&["restore", "latest", "--target", "out"]);
    assert_eq!(world.read("out/storage/documents/upper"), "upper");
    assert_eq!(world.read("out/storage/documents/caf\u{e9}"), "caf\u{e9}");
}
