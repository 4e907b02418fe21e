//! What a person, or a program, sees of work in progress: bars on a terminal, else a line now and
//! then, always on the standard error; JSON status lines on the standard output.

use std::io::{self, IsTerminal as _, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use super::output::{Output, Verbosity, size};
use crate::report::{Event, Exclusion, Fate, Reporter};
use crate::time::{Clock as _, SystemClock, Timestamp};

/// Time between two lines where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(30);
/// Time between two status messages.
const STATUS_EVERY: Duration = Duration::from_secs(1);
/// Time between two drawings of the bar.
const REDRAW_EVERY: Duration = Duration::from_millis(100);

/// How long a phase must last before it is told how long it will.
const ESTIMATE_AFTER: Duration = Duration::from_secs(3);

/// Which single entries are shown as they are captured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Listing {
    /// None.
    Nothing,
    /// What is new, another, or gone.
    Changes,
    /// And what was left out.
    Everything,
}

/// Shows the events of an operation, and remembers what was skipped.
#[derive(Debug)]
pub struct Progress {
    output: Arc<Output>,
    bar: Option<ProgressBar>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    phase: String,
    expected: Option<u64>,
    items: u64,
    bytes: u64,
    /// When the phase began.
    begun: Timestamp,
    shown: Timestamp,
    skipped: u64,
    listing: Listing,
}

impl Progress {
    /// Progress beside an output.
    pub fn new(output: Arc<Output>) -> Self {
        let on_terminal = io::stderr().is_terminal();
        let bar = (on_terminal && !output.is_json() && !output.is_quiet()).then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar
        });
        let state = State {
            phase: String::new(),
            expected: None,
            items: 0,
            bytes: 0,
            begun: SystemClock.now(),
            shown: SystemClock.now(),
            skipped: 0,
            listing: Listing::Nothing,
        };
        Self { output, bar, state: Mutex::new(state) }
    }

    /// How many items were skipped.
    pub fn skipped(&self) -> u64 {
        self.state().skipped
    }

    /// Lists single entries from now on.
    pub fn list(&self, listing: Listing) {
        self.state().listing = listing;
    }

    /// Takes the bar from the screen.
    pub fn finish(&self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }

    /// Writes a line to the standard error.
    pub fn say(&self, line: &str) {
        // There is nobody left to tell that the standard error is closed.
        let write = || drop(writeln!(io::stderr(), "{line}"));
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn phase(&self, what: String, expected: Option<u64>) {
        if self.output.verbosity == Verbosity::Verbose && !self.output.is_json() {
            self.say(&what);
        }
        if let Some(bar) = &self.bar {
            bar.set_message(what.clone());
            bar.tick();
        }
        let mut state = self.state();
        (state.phase, state.expected, state.items, state.bytes) = (what, expected, 0, 0);
        state.begun = SystemClock.now();
    }

    fn progress(&self, items: u64, bytes: u64) {
        let now = SystemClock.now();
        let mut state = self.state();
        state.items += items;
        state.bytes += bytes;
        let every = match &self.bar {
            Some(_) => REDRAW_EVERY,
            None if self.output.is_json() => STATUS_EVERY,
            None => LINE_EVERY,
        };
        if self.output.is_quiet() || now.since(state.shown) < every {
            return;
        }
        state.shown = now;
        if let Some(bar) = &self.bar {
            bar.set_message(state.text());
            bar.tick();
        } else if self.output.is_json() {
            // A closed output is found by the result, which follows.
            drop(self.output.json_now(&state.status()));
        } else {
            self.say(&state.text());
        }
    }

    fn entry(&self, item: &str, fate: Fate, bytes: u64) {
        let is_wanted = match fate {
            Fate::LeftOut(_) => Listing::Everything,
            Fate::Added | Fate::Changed | Fate::Removed => Listing::Changes,
        };
        if self.state().listing < is_wanted {
            return;
        }
        let (action, mark, reason) = match fate {
            Fate::Added => ("new", '+', None),
            Fate::Changed => ("modified", 'M', None),
            Fate::Removed => ("removed", '-', None),
            Fate::LeftOut(reason) => ("excluded", 'x', Some(reason)),
        };
        // A closed output is found by the result, which follows.
        if self.output.is_json() {
            drop(self.output.json(&serde_json::json!({
                "message_type": "verbose_status",
                "action": action,
                "item": item,
                "data_size": bytes,
                "reason": reason,
            })));
            return;
        }
        let size = if bytes > 0 { format!("  {}", size(bytes)) } else { String::new() };
        let reason = reason.map_or_else(String::new, |reason| format!("  ({})", why(reason)));
        let write = || drop(self.output.line(format!("{mark}  {item}{size}{reason}")));
        match &self.bar {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }

    fn skip(&self, item: &str, reason: &str) {
        self.state().skipped += 1;
        if self.output.is_json() {
            let message = serde_json::json!({
                "message_type": "error",
                "item": item,
                "error": { "message": reason },
            });
            self.say(&message.to_string());
        } else {
            self.say(&format!("skipped: {item}: {reason}"));
        }
    }
}

impl Reporter for Progress {
    fn report(&self, event: Event) {
        match event {
            Event::Phase { what, items } => self.phase(what, items),
            Event::Progress { items, bytes } => self.progress(items, bytes),
            Event::Skipped { item, reason } => self.skip(&item, &reason),
            Event::Note(text) if self.output.is_quiet() || self.output.is_json() => drop(text),
            Event::Note(text) => self.say(&format!("note: {text}")),
            Event::Warning(text) if self.output.is_json() => {
                let message = serde_json::json!({ "message_type": "warning", "message": text });
                self.say(&message.to_string());
            }
            Event::Warning(text) => self.say(&format!("warning: {text}")),
            Event::Entry { item, fate, bytes } => self.entry(&item, fate, bytes),
            Event::Unchanged { .. } | Event::LeftOut(_) => {}
        }
    }

    fn wants_entries(&self) -> bool {
        self.state().listing > Listing::Nothing
    }
}

/// Why something was left out, in words.
pub const fn why(reason: Exclusion) -> &'static str {
    match reason {
        Exclusion::Pattern => "by pattern",
        Exclusion::TooLarge => "too large",
        Exclusion::Cache => "in caches",
        Exclusion::Tagged => "in tagged folders",
        Exclusion::OtherFileSystem => "on other file systems",
    }
}

impl State {
    fn text(&self) -> String {
        let of = self.expected.map_or_else(String::new, |all| format!(" of {all}"));
        let bytes = if self.bytes > 0 { format!(", {}", size(self.bytes)) } else { String::new() };
        let left = self.seconds_left().map_or_else(String::new, |left| match left {
            0..100 => format!(", about {left} s left"),
            _ => format!(", about {} min left", left.div_ceil(60)),
        });
        format!("{}: {}{of}{bytes}{left}", self.phase, self.items)
    }

    fn status(&self) -> serde_json::Value {
        serde_json::json!({
            "message_type": "status",
            "action": self.phase,
            "files_done": self.items,
            "bytes_done": self.bytes,
            "total_files": self.expected,
            "seconds_remaining": self.seconds_left(),
        })
    }

    /// How long the phase will go on if it goes on like this, where it is known how much there is.
    fn seconds_left(&self) -> Option<u64> {
        let took = self.shown.since(self.begun);
        let left = self.expected?.checked_sub(self.items)?;
        let took = (took >= ESTIMATE_AFTER).then_some(took.as_millis())?;
        let left = took.checked_mul(u128::from(left))?.checked_div(u128::from(self.items))?;
        u64::try_from(left / 1000).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_told_from_what_was_done() {
        let begun = Timestamp { seconds: 1000, nanoseconds: 0 };
        let state = |seconds: i64, items, expected| State {
            phase: "reading table t".to_owned(),
            expected,
            items,
            bytes: 0,
            begun,
            shown: Timestamp { seconds: 1000 + seconds, nanoseconds: 0 },
            skipped: 0,
            listing: Listing::Nothing,
        };
        let text = |seconds: i64, items, expected| state(seconds, items, expected).text();
        assert_eq!(text(10, 25, Some(100)), "reading table t: 25 of 100, about 30 s left");
        assert_eq!(text(10, 1, Some(100)), "reading table t: 1 of 100, about 17 min left");
        // Too early, unknown, or more than was expected.
        assert_eq!(text(1, 25, Some(100)), "reading table t: 25 of 100");
        assert_eq!(text(10, 25, None), "reading table t: 25");
        assert_eq!(text(10, 125, Some(100)), "reading table t: 125 of 100");
        assert_eq!(text(10, 0, Some(100)), "reading table t: 0 of 100");
        assert_eq!(state(10, 25, Some(100)).status()["seconds_remaining"], 30);
    }
}
