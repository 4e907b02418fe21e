//! A private S3 server: moto, which AWS's own client library is tested with (docs/adr/0018).
#![allow(dead_code, reason = "each file of tests needs a part of it")]

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::process::{Child, Command, Stdio};

const ROOT: &str = env!("CARGO_MANIFEST_DIR");
/// Ends with its standard input: however the tests end, it does not outlive them.
const PROGRAM: &str = "
import os, sys, threading
def watch():
    sys.stdin.read()
    os._exit(0)
threading.Thread(target=watch, daemon=True).start()
from moto.server import main
main(['-H', '127.0.0.1', '-p', '0'])
";

/// A server of its own, with an empty bucket called `bucket`.
pub struct Server {
    child: Child,
    port: u16,
}

impl Server {
    pub fn start() -> Self {
        let made = Command::new(format!("{ROOT}/scripts/venv.sh")).arg("moto").output();
        let made = made.expect("scripts/venv.sh runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let python = String::from_utf8(made.stdout).expect("a path");
        let mut child = Command::new(python.trim())
            .args(["-c", PROGRAM])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("python runs");
        let mut said = BufReader::new(child.stderr.take().expect("a pipe"));
        let port = loop {
            let mut line = String::new();
            assert!(said.read_line(&mut line).expect("a line") > 0, "moto ended");
            if let Some((_, port)) = line.split_once("http://127.0.0.1:") {
                break port.trim().parse().expect("a port");
            }
        };
        // Else it would block once it has said much.
        #[expect(clippy::disallowed_methods, reason = "ends with the server")]
        std::thread::spawn(move || std::io::copy(&mut said, &mut std::io::sink()));
        let server = Self { child, port };
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("a connection");
        let request = "PUT /bucket HTTP/1.1\r\nHost: s3.amazonaws.com\r\nContent-Length: 0\r\n\
                       Connection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        server
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// What leads there.
    pub fn variables(&self) -> Vec<(String, String)> {
        variables(self.port)
    }
}

/// What leads to the S3 server, or the proxy of one, at a port of this machine.
pub fn variables(port: u16) -> Vec<(String, String)> {
    let endpoint = format!("http://127.0.0.1:{port}");
    [
        ("AWS_ENDPOINT_URL", endpoint.as_str()),
        ("AWS_ALLOW_HTTP", "1"),
        ("AWS_REGION", "us-east-1"),
        ("AWS_ACCESS_KEY_ID", "key"),
        ("AWS_SECRET_ACCESS_KEY", "secret"),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec()
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}
