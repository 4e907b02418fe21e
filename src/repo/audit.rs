//! The audit log. Every entry is an object of its own, created once, so writers need nothing but
//! what all objects need; and every entry holds the hash of the one before it, so that none can be
//! removed, moved or altered without the next one telling.
//!
//! Each host has a chain of its own, which it alone writes; there is nothing that hosts have to
//! agree on. What joins the chains are entries that hold the last entries of all others; what holds
//! the end of a chain, of which no later entry tells, is the memory of the hosts that saw it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::check::Finding;
use super::error::RepoError;
use super::format::audit::{Entry, Head, Link};
use super::format::name;
use super::history::kept;
use super::open::Repo;
use crate::context::Context;
use crate::crypto::{ObjectKind, random};
use crate::id::{ChainId, hex, unhex};
use crate::report::Event;

/// Other chains that one entry names at most.
const HEADS_MAX: usize = 4096;

/// Whether an entry names the last entries of other chains, which costs a listing of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heads {
    /// Only the first entry of a chain does.
    Usual,
    /// It does.
    All,
}

/// An entry and where it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbered {
    /// The chain of the host that wrote it.
    pub chain: ChainId,
    /// Its number there, from 0.
    pub number: u64,
    /// What it says.
    pub entry: Entry,
}

/// The whole log.
#[derive(Debug, Default)]
pub struct AuditLog {
    /// All that can be read, by chain and number.
    pub entries: Vec<Numbered>,
    /// How many chains there are.
    pub chains: usize,
    /// What is missing, moved or altered.
    pub findings: Vec<Finding>,
}

/// What this host knows of the log: its own chain, and the last entries that it has seen.
#[derive(Debug, Default, PartialEq, Eq, Clone)]
struct Known {
    own: Option<ChainId>,
    heads: BTreeMap<ChainId, Head>,
}

impl Repo {
    /// Adds an entry to this host's chain, durably, and gives its number.
    pub fn audit(&self, entry: &Entry, heads: Heads) -> Result<u64, RepoError> {
        let mut known = self.known_chains()?;
        let mut last = known.own.and_then(|chain| known.heads.get(&chain).copied());
        let chain = match last {
            Some(last) => last.chain,
            None => ChainId::new(random()?),
        };
        let others = match (last, heads) {
            (Some(_), Heads::Usual) => Vec::new(),
            _ => self.heads_but(chain)?,
        };
        let nonce = random()?;
        let head = loop {
            let number = last.map_or(0, |last| last.number + 1);
            let previous = last.map(|last| last.hash);
            let link = Link::new(nonce, previous, others.clone(), entry.clone()).encode()?;
            let name = name::entry(&chain, number);
            let object = self.sealer.seal_object(ObjectKind::Audit, &name, &link)?;
            let head = Head { chain, number, hash: *blake3::hash(&link).as_bytes() };
            if self.backend.create(&name, &object)? == crate::backend::Created::New {
                break head;
            }
            // Of another process of this host; or our own, whose acknowledgement was lost.
            let there = self.read_link(&name)?;
            if there == link {
                break head;
            }
            last = Some(Head { hash: *blake3::hash(&there).as_bytes(), ..head });
        };
        known.own = Some(chain);
        known.heads.insert(chain, head);
        self.remember_chains(&known)?;
        Ok(head.number)
    }

    /// Reads the log, and finds what is missing, moved or altered in it: within each chain by the
    /// hashes, at its end by what other chains and this host have seen.
    pub fn audit_log(&self, ctx: &Context) -> Result<AuditLog, RepoError> {
        let mut log = AuditLog::default();
        let chains = self.list_chains(&mut log.findings)?;
        let before = self.known_chains()?;
        let mut known = before.clone();
        let mut seen: HashMap<(ChainId, u64), [u8; 32]> = HashMap::new();
        let mut claims: Vec<(String, Head)> = Vec::new();
        log.chains = chains.len();
        ctx.phase("reading the audit log", Some(chains.values().map(|c| c.len() as u64).sum()));
        for (chain, numbers) in &chains {
            let mut last: Option<Head> = None;
            for number in numbers {
                ctx.check_cancelled()?;
                let object = name::entry(chain, *number);
                let expected = last.map_or(0, |last| last.number + 1);
                if *number > expected {
                    find(&mut log.findings, &object, gap(expected, *number));
                }
                let link = self.read_link(&object).and_then(|bytes| {
                    let hash = *blake3::hash(&bytes).as_bytes();
                    Ok((Link::decode(&bytes)?, hash))
                });
                let (link, hash) = match link {
                    Ok(link) => link,
                    Err(error @ (RepoError::Open(_) | RepoError::Format(_))) => {
                        find(&mut log.findings, &object, error.to_string());
                        last = Some(Head { chain: *chain, number: *number, hash: [0; 32] });
                        continue;
                    }
                    Err(error) => return Err(error),
                };
                let follows = link.previous == last.map(|last| last.hash);
                let readable = last.is_none_or(|last| last.hash != [0; 32]);
                if *number == expected && readable && !follows {
                    let problem = "it does not follow the entry before it".to_owned();
                    find(&mut log.findings, &object, problem);
                }
                let head = Head { chain: *chain, number: *number, hash };
                seen.insert((*chain, *number), hash);
                claims.extend(link.heads.into_iter().map(|head| (object.clone(), head)));
                log.entries.push(Numbered { chain: *chain, number: *number, entry: link.entry });
                last = Some(head);
                ctx.report(Event::Progress { items: 1, bytes: 0 });
            }
            if let Some(last) = last.filter(|last| last.hash != [0; 32])
                && known.heads.get(chain).is_none_or(|known| known.number <= last.number)
            {
                known.heads.insert(*chain, last);
            }
        }
        let path = self.memory.path(&self.list_name());
        let by_memory = before.heads.values().map(|head| (String::new(), *head));
        for (by, head) in claims.into_iter().chain(by_memory) {
            let there = seen.get(&(head.chain, head.number));
            if there == Some(&head.hash) {
                continue;
            }
            let what = if there.is_some() { "it was another one" } else { "it was there" };
            let problem = match by.as_str() {
                "" => format!(
                    "{what} when this host last looked; if that is as it should be, delete {}",
                    path.display()
                ),
                by => format!("{what} when {by} was written"),
            };
            find(&mut log.findings, &name::entry(&head.chain, head.number), problem);
        }
        if known != before {
            self.remember_chains(&known)?;
        }
        Ok(log)
    }

    /// The numbers of the entries of each chain.
    fn list_chains(
        &self,
        findings: &mut Vec<Finding>,
    ) -> Result<BTreeMap<ChainId, BTreeSet<u64>>, RepoError> {
        let mut chains: BTreeMap<ChainId, BTreeSet<u64>> = BTreeMap::new();
        for object in self.backend.list(name::AUDIT)? {
            let rest = object.name.strip_prefix(name::AUDIT).and_then(|rest| rest.split_once('-'));
            let parsed = rest.and_then(|(chain, number)| {
                let (chain, number) = (chain.parse::<ChainId>().ok()?, number.parse().ok()?);
                (name::entry(&chain, number) == object.name).then_some((chain, number))
            });
            match parsed {
                Some((chain, number)) => drop(chains.entry(chain).or_default().insert(number)),
                None => find(findings, &object.name, "no entry has such a name".to_owned()),
            }
        }
        Ok(chains)
    }

    /// The last entries of all chains but this one.
    fn heads_but(&self, own: ChainId) -> Result<Vec<Head>, RepoError> {
        let chains = self.list_chains(&mut Vec::new())?;
        let mut heads = Vec::new();
        for (chain, numbers) in chains.into_iter().filter(|(chain, _)| *chain != own) {
            let Some(number) = numbers.last().copied() else { continue };
            // What cannot be read is for who verifies the log to tell.
            let bytes = match self.read_link(&name::entry(&chain, number)) {
                Ok(bytes) => bytes,
                Err(RepoError::Open(_)) => continue,
                Err(error) => return Err(error),
            };
            heads.push(Head { chain, number, hash: *blake3::hash(&bytes).as_bytes() });
            if heads.len() == HEADS_MAX {
                break;
            }
        }
        Ok(heads)
    }

    fn read_link(&self, name: &str) -> Result<Vec<u8>, RepoError> {
        Ok(self.sealer.open_object(ObjectKind::Audit, name, &self.backend.get(name)?)?)
    }

    /// The list in the cache. A second place of the repository has a chain of its own: what is
    /// written there is not written here.
    fn list_name(&self) -> String {
        let place = blake3::hash(self.backend.place().as_bytes());
        format!("audit-{}", hex(&place.as_bytes()[..8]))
    }

    fn known_chains(&self) -> Result<Known, RepoError> {
        let mut known = Known::default();
        for line in self.memory.recall(&self.list_name()).map_err(RepoError::Scratch)? {
            let words: Vec<&str> = line.split(' ').collect();
            let [kind, chain, number, hash] = words[..] else { continue };
            let hash = unhex(hash).and_then(|hash| hash.try_into().ok());
            let (Ok(chain), Ok(number), Some(hash)) = (chain.parse(), number.parse(), hash) else {
                continue;
            };
            known.heads.insert(chain, Head { chain, number, hash });
            if kind == "own" {
                known.own = Some(chain);
            }
        }
        Ok(known)
    }

    fn remember_chains(&self, known: &Known) -> Result<(), RepoError> {
        let lines = known.heads.values().map(|Head { chain, number, hash }| {
            let kind = if known.own == Some(*chain) { "own" } else { "seen" };
            format!("{kind} {chain} {number} {}", hex(hash))
        });
        kept(self.memory.remember(&self.list_name(), lines))
    }
}

fn gap(from: u64, to: u64) -> String {
    match to - from {
        1 => "the entry before it is missing".to_owned(),
        count => format!("the {count} entries before it are missing"),
    }
}

fn find(findings: &mut Vec<Finding>, object: &str, problem: String) {
    findings.push(Finding { object: object.to_owned(), problem });
}
