//! Whoever restores a database through an application stays logged in: a real Django, its sessions
//! in the database, asked with the caller's own cookie before, during and after.
//!
//! Needs the server's programs (`scripts/install.sh postgres`) and the network for Django.
#![expect(clippy::disallowed_methods, reason = "a test writes what it needs, not durably")]

#[path = "common/cluster.rs"]
#[expect(dead_code, reason = "each file of tests needs a part of it")]
mod cluster;

use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use cluster::Cluster;

const SETTINGS: &str = r#"
import os
from urllib.parse import urlsplit
url = urlsplit(os.environ["URL"])
SECRET_KEY, ROOT_URLCONF, USE_TZ, ALLOWED_HOSTS, DEBUG = "test", "urls", True, ["*"], False
INSTALLED_APPS = ["django.contrib." + app for app in ("auth", "contenttypes", "sessions")]
MIDDLEWARE = ["django.contrib.sessions.middleware.SessionMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware"]
DATABASES = {"default": {"ENGINE": "django.db.backends.postgresql", "HOST": url.hostname,
    "PORT": url.port, "USER": url.username, "NAME": url.path[1:], "CONN_MAX_AGE": None}}
"#;

const URLS: &str = r#"
from django.contrib.auth.decorators import login_required
from django.http import HttpResponse
from django.urls import path
urlpatterns = [path("me", login_required(lambda request: HttpResponse(request.user.username)))]
"#;

/// Gives the first account a password and a session, and prints the session's key.
const LOG_IN: &str = r#"
import django, sys
django.setup()
from django.contrib.auth import get_user_model, HASH_SESSION_KEY, SESSION_KEY, BACKEND_SESSION_KEY
from django.contrib.sessions.backends.db import SessionStore
user, _ = get_user_model().objects.get_or_create(username="ada")
user.set_password(sys.argv[1])
user.save()
session = SessionStore()
session[SESSION_KEY], session[HASH_SESSION_KEY] = str(user.pk), user.get_session_auth_hash()
session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
session.save()
print(session.session_key)
"#;

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr].concat()).into_owned()
}

fn command(program: impl AsRef<std::ffi::OsStr>, folder: &Path, url: &str) -> Command {
    let mut command = Command::new(program);
    command.current_dir(folder).env("URL", url).env("DJANGO_SETTINGS_MODULE", "settings");
    command.env("COEVAL_CACHE_DIR", folder.join("cache"));
    command
}

fn ok(command: &mut Command) -> String {
    let output = command.output().expect("it runs");
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).expect("UTF-8").trim().to_owned()
}

#[test]
fn the_session_of_whoever_restores_works_before_during_and_after() {
    let folder = tempfile::tempdir().expect("a folder");
    let cluster = Cluster::start(folder.path());
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/venv.sh");
    let python = ok(Command::new(python).arg("5.2"));
    let configuration = format!(
        "[repository]\nurl = \"repo\"\nkey-file = \"key\"\n[database.main]\nurl = \"{}\"\n",
        cluster.url
    );
    let files = [
        ("settings.py", SETTINGS),
        ("urls.py", URLS),
        ("in.py", LOG_IN),
        ("coeval.toml", &configuration),
    ];
    for (name, content) in files {
        std::fs::write(folder.path().join(name), content).expect("a file");
    }
    let run = |arguments: &[&str]| {
        let mut command = command(&python, folder.path(), &cluster.url);
        command.args(arguments).env("PYTHONPATH", folder.path());
        command
    };
    let coeval = |arguments: &[&str]| {
        let mut command = command(env!("CARGO_BIN_EXE_coeval"), folder.path(), &cluster.url);
        command.args(arguments);
        command
    };
    ok(&mut run(&["-m", "django", "migrate", "--verbosity", "0"]));
    ok(&mut run(&["in.py", "an older password"]));
    ok(&mut coeval(&["init", "-q"]));
    ok(&mut coeval(&["backup", "-q", "--tag", "good"]));
    let session = ok(&mut run(&["in.py", "a newer password"]));
    let rows =
        "INSERT INTO auth_group (name) SELECT 'group ' || n FROM generate_series(1, 3000) n;";
    cluster.sql(rows);

    let port = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("free").port();
    let place = format!("127.0.0.1:{port}");
    let mut server = run(&["-m", "django", "runserver", "--noreload", &place]);
    let server = server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("Django");
    let _server = Server(server);
    for _ in 0..300 {
        if TcpStream::connect(&place).is_ok() {
            break;
        }
        std::thread::sleep(Duration::from_millis(100));
    }
    let page = format!("http://{place}/me");
    let cookie = format!("Cookie: sessionid={session}");
    let probe = ["--json", "--probe-url", &page, "--probe-header", &cookie, "--probe-every", "1ms"];
    let probed = |arguments: &[&str]| -> (u64, u64) {
        let said = ok(&mut coeval(&[arguments, &probe].concat()));
        let summary: serde_json::Value =
            serde_json::from_str(said.lines().last().expect("a summary")).expect("JSON");
        let number = |name: &str| summary["probe"][name].as_u64().expect("a number");
        (number("requests"), number("failures"))
    };
    let restore = ["restore", "tag:good", "--in-place"];
    let (requests, failures) = probed(&[&restore[..], &["--pin-account", "auth_user/1"]].concat());
    assert!(requests > 1 && failures == 0, "{failures} of {requests}");
    // The same with what was restored taken back, which asks before and after, too.
    let (_, failures) = probed(&["undo", "--pin-account", "auth_user/1"]);
    assert_eq!(failures, 0);
    // Without the pin, the older password ends the session: the probe is able to see it.
    let (_, failures) = probed(&restore);
    assert!(failures > 0);
}

#[test]
fn an_application_is_asked_again_when_its_code_changed() {
    let folder = tempfile::tempdir().expect("a folder");
    let python = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/venv.sh");
    let python = ok(Command::new(python).arg("5.2"));
    let configuration = format!(
        "[repository]\nurl = \"repo\"\nkey-file = \"key\"\n[database.main]\n\
         url = \"sqlite://db.sqlite3\"\ndjango = {{ manage = \"manage.py\", python = \"{python}\" }}\n"
    );
    let settings = |size: u32| {
        format!(
            "from pathlib import Path\nopen('asked', 'a').write('x')\nSECRET_KEY = 'x'\n\
             INSTALLED_APPS = ['django.contrib.contenttypes', 'shop']\nDATABASES = {{'default': \
             {{'ENGINE': 'django.db.backends.sqlite3', 'NAME': 'db.sqlite3'}}}}\n# {size}\n"
        )
    };
    let manage = "import os, sys\nos.environ['DJANGO_SETTINGS_MODULE'] = 'settings'\n\
                  from django.core.management import execute_from_command_line\n\
                  execute_from_command_line(sys.argv)\n";
    let models = "from django.db import models\nclass Thing(models.Model):\n    \
                  name = models.CharField(max_length=9)\n";
    let write = |name: &str, text: &str| {
        std::fs::write(folder.path().join(name), text).expect("a file");
    };
    std::fs::create_dir(folder.path().join("shop")).expect("a folder");
    let settings_files = [
        ("coeval.toml", configuration.as_str()),
        ("settings.py", &settings(1)),
        ("manage.py", manage),
        ("shop/__init__.py", ""),
        ("shop/models.py", models),
    ];
    for (name, content) in settings_files {
        write(name, content);
    }
    let asked = || {
        let times = || std::fs::read(folder.path().join("asked")).map_or(0, |times| times.len());
        let before = times();
        ok(command(env!("CARGO_BIN_EXE_coeval"), folder.path(), "").args(["backup", "-q"]));
        times() > before
    };
    ok(command(&python, folder.path(), "").args(["manage.py", "migrate", "--run-syncdb", "-v0"]));
    ok(command(env!("CARGO_BIN_EXE_coeval"), folder.path(), "").args(["init", "-q"]));
    assert!(asked());
    // What was changed less than two seconds ago could change again and look the same.
    std::thread::sleep(Duration::from_millis(2500));
    assert!(asked());
    assert!(!asked());
    for (name, content) in [("settings.py", &settings(2)), ("shop/views.py", &String::new())] {
        write(name, content);
        assert!(asked(), "{name}");
        std::thread::sleep(Duration::from_millis(2500));
        assert!(asked() && !asked(), "{name}");
    }
    let shown = command(env!("CARGO_BIN_EXE_coeval"), folder.path(), "")
        .args(["export", "latest", "-o", "package.tar.gz"])
        .output()
        .expect("coeval");
    assert!(shown.status.success(), "{}", text(&shown));
}
