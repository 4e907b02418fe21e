//! Whether an application answers all through a restore, as one of its users sees it.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

// The provider of that name, which TLS connections use; nothing is sealed with it here.
use rustls::crypto::aws_lc_rs as cryptography;
use serde::Serialize;
use ureq::Agent;
use ureq::http::{HeaderName, HeaderValue, Uri};
use ureq::tls::TlsConfig;

use super::error::{failed, usage};
use crate::hint::Failure;
use crate::time::{Clock, Timestamp};

/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The options.
#[derive(Debug, Clone, Default, clap::Args)]
#[expect(clippy::struct_field_names, reason = "they are named as the flags are")]
pub struct ProbeArgs {
    /// Ask for this page all through the restore, and report the longest time without a good
    /// answer
    #[arg(long, value_name = "URL")]
    probe_url: Option<String>,
    /// Send this header with it, as in 'Cookie: sessionid=…'; may be given several times
    #[arg(long, value_name = "HEADER", requires = "probe_url")]
    probe_header: Vec<Header>,
    /// How long to wait between an answer and the next question
    #[arg(long, value_name = "TIME", default_value = "20ms", value_parser = parse_duration)]
    probe_every: Duration,
}

/// A header, which may be somebody's password: no text shows its value.
#[derive(Clone)]
struct Header(HeaderName, HeaderValue);

impl std::str::FromStr for Header {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let malformed = "write it as 'Name: value'";
        let (name, value) = text.split_once(':').ok_or(malformed)?;
        let name = name.trim().parse().map_err(|_| malformed)?;
        Ok(Self(name, value.trim().parse().map_err(|_| malformed)?))
    }
}

impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Header({}: ***)", self.0)
    }
}

fn parse_duration(text: &str) -> Result<Duration, &'static str> {
    let malformed = "write it as 20ms or 1s";
    let (number, unit) = match text.strip_suffix("ms") {
        Some(number) => (number, 1),
        None => (text.strip_suffix('s').ok_or(malformed)?, 1000),
    };
    let number: u32 = number.trim().parse().map_err(|_| malformed)?;
    Ok(Duration::from_millis(u64::from(number) * unit))
}

/// What the probe saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Probed {
    /// How often the page was asked for.
    pub requests: u64,
    /// How many answers were not like the first: an error, a redirection to a login page, none.
    pub failures: u64,
    /// The longest time from one good answer to the next.
    pub longest_gap_ms: u64,
}

/// Asks for a page.
struct Probe<'a> {
    args: &'a ProbeArgs,
    uri: Uri,
    agent: Agent,
}

impl ProbeArgs {
    /// Does `work`, and asks for the page meanwhile. Before the work begins, the answer must be a
    /// good one.
    pub fn during<T>(
        &self,
        clock: &dyn Clock,
        work: impl FnOnce() -> Result<T, Failure>,
    ) -> Result<(T, Option<Probed>), Failure> {
        let Some(url) = &self.probe_url else { return Ok((work()?, None)) };
        let probe = Probe::new(self, url)?;
        let expected = match probe.ask() {
            Ok(status) if status < 400 => status,
            answer => {
                let what = match answer {
                    Ok(status) => format!("is answered with status {status}"),
                    Err(error) => format!("is not answered: {error}"),
                };
                return Err(usage(
                    format!("before the restore, the page of --probe-url {what}"),
                    "correct the URL, or give --probe-header what a user of it would send",
                ));
            }
        };
        let over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let asking = scope.spawn(|| probe.watch(expected, clock, &over));
            let stop = Stop(&over);
            let done = work();
            drop(stop);
            let probed = asking.join().map_err(|_| failed("the probe ended without an answer"));
            Ok((done?, Some(probed?)))
        })
    }
}

/// Stops the asking, also when the work ends by a panic.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl<'a> Probe<'a> {
    fn new(args: &'a ProbeArgs, url: &str) -> Result<Self, Failure> {
        let uri: Result<Uri, _> = url.parse();
        let uri = uri.ok().filter(|uri| matches!(uri.scheme_str(), Some("http" | "https")));
        let uri = uri.ok_or_else(|| {
            usage("--probe-url is no URL of a page", "write it as https://app.example/profile")
        })?;
        let provider = Arc::new(cryptography::default_provider());
        let tls = TlsConfig::builder().unversioned_rustls_crypto_provider(provider).build();
        let agent = Agent::config_builder()
            .tls_config(tls)
            // What a variable of the environment says is for others.
            .proxy(None)
            // A redirection to the login page is what must not happen.
            .max_redirects(0)
            .http_status_as_error(false)
            .timeout_global(Some(TIMEOUT))
            .build()
            .new_agent();
        Ok(Self { args, uri, agent })
    }

    /// The status of one answer, which is read to its end.
    fn ask(&self) -> Result<u16, ureq::Error> {
        let mut request = self.agent.get(self.uri.clone());
        for Header(name, value) in &self.args.probe_header {
            request = request.header(name.clone(), value.clone());
        }
        let mut answer = request.call()?;
        std::io::copy(&mut answer.body_mut().as_reader(), &mut std::io::sink())?;
        Ok(answer.status().as_u16())
    }

    fn watch(&self, expected: u16, clock: &dyn Clock, over: &AtomicBool) -> Probed {
        let mut probed = Probed { requests: 0, failures: 0, longest_gap_ms: 0 };
        let mut good = clock.now();
        let mut gap = |now: Timestamp| {
            let gap = u64::try_from(now.since(good).as_millis()).unwrap_or(u64::MAX);
            good = now;
            gap
        };
        loop {
            // Asked once more after the work has ended: what it did must not come out later.
            let last = over.load(Ordering::Relaxed);
            probed.requests += 1;
            if matches!(self.ask(), Ok(status) if status == expected) {
                probed.longest_gap_ms = probed.longest_gap_ms.max(gap(clock.now()));
            } else {
                probed.failures += 1;
            }
            if last {
                break;
            }
            std::thread::sleep(self.args.probe_every);
        }
        // Without a good answer at the end the gap is not over.
        if probed.failures > 0 {
            probed.longest_gap_ms = probed.longest_gap_ms.max(gap(clock.now()));
        }
        probed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_in_no_text() {
        let header: Header = "Cookie: sessionid=hunter2".parse().unwrap();
        assert!(!format!("{header:?}").contains("hunter2"));
        assert!("hunter2".parse::<Header>().is_err());
    }

    #[test]
    fn times_are_read() {
        assert_eq!(parse_duration("20ms"), Ok(Duration::from_millis(20)));
        assert_eq!(parse_duration("2s"), Ok(Duration::from_secs(2)));
        assert!(parse_duration("2").is_err());
    }
}
