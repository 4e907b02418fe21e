//! A proxy between the program and a server of HTTP that spoils a share of what passes, by a seed.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// What happens to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Fault {
    /// The connection breaks before the server hears of it.
    Reset,
    /// 500, and the server does not hear of it.
    Error,
    /// 503, and the server does not hear of it.
    Busy,
    /// The server answers, and the answer is lost.
    LostAnswer,
    /// The server hears it twice; the second answer counts.
    Twice,
    /// 503, and then the server hears of it all the same.
    Late,
    /// The connection breaks in the middle of the answer.
    Cut,
}

const FAULTS: [Fault; 7] = [
    Fault::Reset,
    Fault::Error,
    Fault::Busy,
    Fault::LostAnswer,
    Fault::Twice,
    Fault::Late,
    Fault::Cut,
];

/// Stands before a server at a port of this machine.
pub struct Proxy {
    upstream: u16,
    listener: TcpListener,
    percent: AtomicU64,
    seed: AtomicU64,
    number: AtomicU64,
    dead_from: AtomicU64,
    over: AtomicBool,
    /// The faults so far, with the method they met.
    pub met: Mutex<Vec<(Fault, String)>>,
}

impl Proxy {
    pub fn new(upstream: u16) -> Self {
        Self {
            upstream,
            listener: TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"),
            percent: AtomicU64::new(0),
            seed: AtomicU64::new(0),
            number: AtomicU64::new(0),
            dead_from: AtomicU64::new(u64::MAX),
            over: AtomicBool::new(false),
            met: Mutex::default(),
        }
    }

    fn address(&self) -> SocketAddr {
        self.listener.local_addr().expect("an address")
    }

    pub fn port(&self) -> u16 {
        self.address().port()
    }

    /// From now on, this share of requests meets a fault; requests are counted from zero.
    pub fn spoil(&self, percent: u64, seed: u64) {
        self.percent.store(percent, Ordering::SeqCst);
        self.seed.store(seed, Ordering::SeqCst);
        self.number.store(0, Ordering::SeqCst);
    }

    /// After so many more requests the server is not to be reached; `None`: it is again.
    pub fn die_after(&self, requests: Option<u64>) {
        let from = requests.map_or(u64::MAX, |more| self.requests() + more);
        self.dead_from.store(from, Ordering::SeqCst);
    }

    pub fn requests(&self) -> u64 {
        self.number.load(Ordering::SeqCst)
    }

    /// Serves while `work` runs.
    pub fn during<T>(&self, work: impl FnOnce() -> T) -> T {
        struct End<'a>(&'a Proxy);
        impl Drop for End<'_> {
            fn drop(&mut self) {
                self.0.over.store(true, Ordering::SeqCst);
                let _ = TcpStream::connect(self.0.address());
            }
        }
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for stream in self.listener.incoming() {
                    if self.over.load(Ordering::SeqCst) {
                        return;
                    }
                    let stream = stream.expect("a connection");
                    // A client that goes away in the middle is none of our concern.
                    scope.spawn(move || self.serve(&stream).err());
                }
            });
            let _end = End(self);
            work()
        })
    }

    /// One request; the connection ends with it.
    fn serve(&self, mut client: &TcpStream) -> std::io::Result<()> {
        let request = read_message(client)?;
        let method = String::from_utf8_lossy(&request).split(' ').next().unwrap_or("").to_owned();
        let number = self.number.fetch_add(1, Ordering::SeqCst);
        if number >= self.dead_from.load(Ordering::SeqCst) {
            return client.shutdown(Shutdown::Both);
        }
        let fault = self.fault(number);
        if let Some(fault) = fault {
            self.met.lock().expect("a list").push((fault, method));
        }
        let busy = b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let broken = b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
        let answer = match fault {
            None => self.forward(&request)?,
            Some(Fault::Reset) => return client.shutdown(Shutdown::Both),
            Some(Fault::Error) => broken.to_vec(),
            Some(Fault::Busy) => busy.to_vec(),
            Some(Fault::LostAnswer) => {
                self.forward(&request)?;
                return client.shutdown(Shutdown::Both);
            }
            Some(Fault::Twice) => {
                self.forward(&request)?;
                self.forward(&request)?
            }
            Some(Fault::Late) => {
                client.write_all(busy)?;
                client.shutdown(Shutdown::Both)?;
                std::thread::sleep(std::time::Duration::from_millis(200));
                self.forward(&request)?;
                return Ok(());
            }
            Some(Fault::Cut) => {
                let answer = self.forward(&request)?;
                answer[..=answer.len() / 2].to_vec()
            }
        };
        client.write_all(&answer)?;
        client.shutdown(Shutdown::Both)
    }

    fn fault(&self, number: u64) -> Option<Fault> {
        let seed = self.seed.load(Ordering::SeqCst);
        let digest = blake3::hash(&[seed.to_le_bytes(), number.to_le_bytes()].concat());
        let chance = |at: usize| {
            u64::from(digest.as_bytes()[at]) << 8 | u64::from(digest.as_bytes()[at + 1])
        };
        let meets = chance(0) % 100 < self.percent.load(Ordering::SeqCst);
        meets.then(|| FAULTS[usize::try_from(chance(2)).expect("small") % FAULTS.len()])
    }

    /// The whole answer, after which the connection ends.
    fn forward(&self, request: &[u8]) -> std::io::Result<Vec<u8>> {
        let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, self.upstream))?;
        let head = request.iter().position(|byte| *byte == b'\n').unwrap_or(0) + 1;
        server.write_all(&request[..head])?;
        server.write_all(b"Connection: close\r\n")?;
        server.write_all(&request[head..])?;
        let mut answer = Vec::new();
        server.read_to_end(&mut answer)?;
        Ok(answer)
    }
}

/// Head and body of a request.
fn read_message(stream: &TcpStream) -> std::io::Result<Vec<u8>> {
    let mut reader = BufReader::new(stream);
    let (mut message, mut length) = (Vec::new(), 0);
    loop {
        let mut line = Vec::new();
        if reader.read_until(b'\n', &mut line)? == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        let text = String::from_utf8_lossy(&line).to_ascii_lowercase();
        if let Some(value) = text.strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        message.extend_from_slice(&line);
        if line == b"\r\n" {
            break;
        }
    }
    let start = message.len();
    message.resize(start + length, 0);
    reader.read_exact(&mut message[start..])?;
    Ok(message)
}
