//! `memray status`: which sessions there are, held against the processes that their control files and marks name.

use super::control::{Found, Record, Records};
use super::error::Error;
use super::landing::{Landing, Owner};
use super::repair::{self, Claim};
use super::sampler::now_ms;
use super::target;
use crate::analyze::{LossSummary, losses};
use inject::{Process, Topic};

/// A collector refreshes its control file each second.
const FRESH_MS: u64 = 5_000;
/// A file of another PID namespace that was not refreshed for so long is removed. If its collector was only held up,
/// it writes it again.
const ABANDONED_MS: u64 = 60_000;

/// How a session is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Live,
    /// Live, but should its collector be killed, nobody puts the target back at once.
    LiveUnguarded,
    /// Its collector is dead, and the guardian is at work.
    BeingRepaired,
    /// Collector and guardian are dead: the hooks still stand, and pass through.
    Orphaned,
    /// Its collector is dead, and the target can't be read from here.
    Unreadable,
    /// Not a session: a fork copied the parent's hooks, which pass through.
    Inherited,
}

/// One session, as far as it is known.
#[derive(Clone, Debug)]
pub struct Listed {
    pub target_pid: i32,
    /// The kernel's short name of it.
    pub target_name: String,
    pub state: State,
    /// Whether its numbers are those of another PID namespace.
    pub is_elsewhere: bool,
    pub owner_uid: u32,
    pub owner_name: String,
    pub collector_pid: i32,
    pub guardian_pid: Option<i32>,
    pub started_ms: u64,
    pub capture: String,
    /// What only the control file knows.
    pub progress: Option<Progress>,
}

/// How far a session has come.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    pub updated_ms: u64,
    pub written_bytes: u64,
    pub allocations_count: u64,
    pub frees_count: u64,
    pub live_bytes: u64,
    pub losses: LossSummary,
}

impl Progress {
    /// How long ago the collector last told of itself, where that is longer than it should be.
    pub fn silence_ms(&self) -> Option<u64> {
        let silence_ms = (now_ms() as u64).saturating_sub(self.updated_ms);
        (silence_ms >= FRESH_MS).then_some(silence_ms)
    }
}

/// The sessions that this user may know of, or those of one process. Control files of sessions that are over are
/// removed.
pub fn sessions(pid: Option<i32>) -> Result<Vec<Listed>, Error> {
    let facts = pid.map(inject::facts);
    if let Some(obstacle) = facts.as_ref().and_then(|facts| facts.obstacle_of(Topic::Process)) {
        return Err(Error::Obstacle(obstacle));
    }
    let records = Records::read(pid);
    let mut listed = Vec::new();
    let mut known = Vec::new();
    for found in &records.found {
        let record = &found.record;
        if pid.is_some_and(|pid| pid != record.target_pid || is_elsewhere(record)) {
            continue;
        }
        match judge(found) {
            Verdict::Over => records.forget(found),
            Verdict::Unknown => {}
            Verdict::Is(state) => {
                known.push((record.collector_pid, record.collector_start_ticks));
                listed.push(from_record(found, state));
            }
        }
    }
    if let Some(facts) = &facts {
        match facts.obstacle_of(Topic::Permission) {
            Some(obstacle) if listed.is_empty() => return Err(Error::Obstacle(obstacle)),
            Some(_) => {}
            None => listed.extend(from_marks(facts.pid, &known)?),
        }
    }
    listed.sort_by_key(|session| (session.target_pid, session.started_ms));
    Ok(listed)
}

enum Verdict {
    Is(State),
    Over,
    /// Nothing that could be said of it from here.
    Unknown,
}

fn is_elsewhere(record: &Record) -> bool {
    record.pid_namespace != target::own_pid_namespace()
}

/// Holds a record against what runs.
fn judge(found: &Found) -> Verdict {
    let record = &found.record;
    if is_elsewhere(record) {
        return match (now_ms() as u64).saturating_sub(record.updated_ms) {
            ..FRESH_MS => Verdict::Is(State::Live),
            ABANDONED_MS.. => Verdict::Over,
            _ => Verdict::Unknown,
        };
    }
    let has_guardian = target::is_running(record.guardian_pid, record.guardian_start_ticks);
    let collector = record.collector_pid;
    if target::is_running(collector, record.collector_start_ticks) {
        // The file of one user must not speak for the process of another.
        let is_its = inject::facts(collector).uids.get(1) == Some(&found.uid);
        return match (is_its, has_guardian) {
            (false, _) => Verdict::Unknown,
            (true, true) => Verdict::Is(State::Live),
            (true, false) => Verdict::Is(State::LiveUnguarded),
        };
    }
    if !target::is_running(record.target_pid, record.target_start_ticks) {
        return Verdict::Over;
    }
    if inject::facts(record.target_pid)
        .obstacle_of(Topic::Permission)
        .is_some()
    {
        return Verdict::Is(State::Unreadable);
    }
    let is_its = |owner: &Owner| (owner.pid, owner.start_ticks) == (collector, record.collector_start_ticks);
    match claims(record.target_pid) {
        Ok(claims) => {
            let is_marked = claims
                .iter()
                .any(|claim| matches!(claim, Claim::Dead(owner) if is_its(owner)));
            match (is_marked, has_guardian) {
                (true, true) => Verdict::Is(State::BeingRepaired),
                (true, false) => Verdict::Is(State::Orphaned),
                (false, _) => Verdict::Over,
            }
        }
        Err(_) => Verdict::Unknown,
    }
}

/// What the marks in a process say, which is only looked at.
fn claims(pid: i32) -> Result<Vec<Claim>, Error> {
    let process = Process::open_to_look(pid)?;
    let landings = Landing::find_all(&process, &process.maps()?);
    Ok(landings
        .iter()
        .filter_map(|landing| repair::claim(&process, landing))
        .collect())
}

fn from_record(found: &Found, state: State) -> Listed {
    let record = &found.record;
    let has_guardian = target::is_running(record.guardian_pid, record.guardian_start_ticks);
    Listed {
        target_pid: record.target_pid,
        target_name: if is_elsewhere(record) {
            String::new()
        } else {
            inject::facts(record.target_pid).name
        },
        state,
        is_elsewhere: is_elsewhere(record),
        owner_uid: found.uid,
        owner_name: target::user_name(found.uid),
        collector_pid: record.collector_pid,
        guardian_pid: has_guardian.then_some(record.guardian_pid),
        started_ms: record.started_ms,
        capture: record.capture.clone(),
        progress: Some(Progress {
            updated_ms: record.updated_ms,
            written_bytes: record.written_bytes,
            allocations_count: record.allocations_count,
            frees_count: record.frees_count,
            live_bytes: record.live_bytes,
            losses: losses(&record.losses),
        }),
    }
}

/// Sessions that only the marks in the process tell of: without a control file, or with one that is not ours to read.
fn from_marks(pid: i32, known: &[(i32, u64)]) -> Result<Vec<Listed>, Error> {
    let name = inject::facts(pid).name;
    let listed = claims(pid)?.into_iter().filter_map(|claim| {
        let (owner, state) = match claim {
            Claim::Live(owner) => (owner, State::Live),
            Claim::Dead(owner) => (owner, State::Orphaned),
            Claim::Inherited(owner) => (owner, State::Inherited),
        };
        let is_known = known.contains(&(owner.pid, owner.start_ticks));
        (!is_known).then(|| Listed {
            target_pid: pid,
            target_name: name.clone(),
            state,
            is_elsewhere: owner.pid_namespace != target::own_pid_namespace(),
            owner_uid: owner.uid,
            owner_name: target::user_name(owner.uid),
            collector_pid: owner.pid,
            guardian_pid: None,
            started_ms: owner.started_ms,
            capture: owner.path.to_string_lossy().into_owned(),
            progress: None,
        })
    });
    Ok(listed.collect())
}
