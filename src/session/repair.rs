//! Putting a target back from what its landing says, whoever made the session and however it ended.

use super::blank;
use super::error::Error;
use super::exchange;
use super::landing::{Landing, Owner};
use super::late_writers::LateWriters;
use super::lock::AttachLock;
use super::place::{RegionOwner, Wreck};
use super::{control, target};
use inject::{BorrowOptions, Handle, Mapping, Process, RemoteAddr, Topic};
use std::time::{Duration, Instant};
use wire::landing::{FLAG_OFF, JOURNAL_BYTES};
use wire::region::RegionHeader;

/// A thread that saw the flag on gets this long to leave the recording part of a hook.
const IN_FLIGHT: Duration = Duration::from_millis(5);
/// A collector shows a sign of life at least this often.
const HEARTBEAT_MAX: Duration = Duration::from_secs(5);
/// How long `memray detach` waits for a collector to close its capture.
const DETACH_MAX: Duration = Duration::from_secs(120);
/// How long it waits for one that a debugger or a frozen cgroup keeps from running.
const HELD_MAX: Duration = Duration::from_secs(3);
/// How often a read or write that puts something back is tried: nobody else may be left to do it.
const TRIES: u32 = 3;
/// Between two tries of a repair; grows by as much each time.
const RETRY_STEP: Duration = Duration::from_millis(2);

/// Refuses if somebody tracks this process; cleans up if somebody did and is dead. True if it cleaned up.
pub fn take_over(process: &Process, maps: &[Mapping]) -> Result<bool, Error> {
    let mut repaired = false;
    for mut landing in Landing::find_all(process, maps) {
        match claim(process, &landing) {
            // No session is without a mark; should one ever be, here it ends. A landing that is not complete belongs to
            // nobody: who makes one holds the lock that we hold.
            None if landing.is_unsealed() || landing.header.journal_count != 0 => {
                repair(process, &mut landing, RegionOwner::Itself)?;
            }
            None => continue,
            Some(Claim::Live(owner)) => return Err(busy(process, owner)),
            Some(Claim::Dead(_)) => repair(process, &mut landing, RegionOwner::Itself)?,
            Some(Claim::Inherited(_)) => repair(process, &mut landing, RegionOwner::Parent)?,
        }
        repaired = true;
    }
    Ok(blank::clear_locked(process, maps)? || repaired)
}

/// `memray doctor --repair`: cleans up what a dead session left or a parent handed down. True if there was any.
pub fn repair_left_overs(pid: i32) -> Result<bool, Error> {
    let facts = inject::facts(pid);
    if facts.obstacle().is_some() {
        // Doctor says so.
        return Ok(false);
    }
    let process = Process::open(pid)?;
    let _lock = AttachLock::take(&process, facts.inner_pid())?;
    let taken_over = process
        .maps()
        .map_err(Error::from)
        .and_then(|maps| take_over(&process, &maps));
    match taken_over {
        Err(Error::Busy { .. }) => Ok(false),
        result => result.map_err(|error| error.or_left(&process)),
    }
}

/// What a session mark amounts to.
#[derive(Clone, Debug)]
pub enum Claim {
    /// Its collector drains.
    Live(Owner),
    /// Its collector is dead.
    Dead(Owner),
    /// A fork copied it: the session is or was the parent's.
    Inherited(Owner),
}

/// Who claims the process by this landing; takes seconds where the collector runs in another PID namespace.
pub fn claim(process: &Process, landing: &Landing) -> Option<Claim> {
    let owner = landing.owner(process)?;
    Some(if owner.is_inherited {
        Claim::Inherited(owner)
    } else if owner_lives(process, landing, &owner) {
        Claim::Live(owner)
    } else {
        Claim::Dead(owner)
    })
}

/// The refusal of a process that somebody tracks.
pub fn busy(process: &Process, owner: Owner) -> Error {
    let owner_name = target::user_name(owner.uid);
    Error::Busy {
        pid: process.pid(),
        owner,
        owner_name,
    }
}

/// Ends the window on a process, from anywhere. Returns what to tell the user.
pub fn detach(pid: i32) -> Result<String, Error> {
    let facts = inject::facts(pid);
    // Not for what only forbids borrowing a thread: the collector is asked to end, and does what it still can.
    let mut topics = [Topic::Process, Topic::Permission].into_iter();
    if let Some(obstacle) = topics.find_map(|topic| facts.obstacle_of(topic)) {
        return Err(Error::Obstacle(obstacle));
    }
    let process = Process::open(pid)?;
    detach_from(&process).map_err(|error| error.or_left(&process))
}

fn detach_from(process: &Process) -> Result<String, Error> {
    let pid = process.pid();
    let maps = process.maps()?;
    let landings = Landing::find_all(process, &maps);
    let mut marked = landings
        .iter()
        .filter_map(|landing| Some((*landing, landing.owner(process)?)));
    let Some((mut landing, owner)) = marked.next() else {
        for mut landing in landings {
            if landing.header.journal_count != 0 {
                repair(process, &mut landing, RegionOwner::Itself)?;
                return Ok(format!("cleaned up what a memray had left in {pid}"));
            }
        }
        if withdraw_all_forgotten(process)? {
            return Ok(format!(
                "withdrew the ring that an earlier detach had to leave in {pid}"
            ));
        }
        return match blank::clear(process)? {
            true => Ok(format!("cleaned up what a memray that was killed had left in {pid}")),
            false => Err(Error::NoSession),
        };
    };
    if owner.is_inherited {
        repair(process, &mut landing, RegionOwner::Parent)?;
        return Ok(format!(
            "cleaned up what {pid} inherited from its parent, which is or was tracked"
        ));
    }
    if owner_lives(process, &landing, &owner) {
        ask_to_end(process, &owner)?;
        wait_for_end(process, &mut landing, &owner)?;
        if landing.owner(process).is_none() || !process.is_alive() {
            let left = match withdraw_all_forgotten(process) {
                Err(error) if process.is_alive() => {
                    format!("; its ring stays mapped, switched off and empty: {error}; detaching again withdraws it")
                }
                _ => String::new(),
            };
            return Ok(format!(
                "the window on {pid} has ended; the capture is {}{left}",
                owner.path.display()
            ));
        }
    }
    repair(process, &mut landing, RegionOwner::Itself)?;
    Ok(format!(
        "cleaned up after a memray that was killed; its capture, up to then, is {}",
        owner.path.display()
    ))
}

/// Withdraws every ring whose session has ended without being able to do that itself.
fn withdraw_all_forgotten(process: &Process) -> Result<bool, Error> {
    let maps = process.maps()?;
    let mut is_done = false;
    for mut landing in Landing::find_all(process, &maps) {
        if landing.owner(process).is_none() {
            is_done |= withdraw_forgotten(process, &maps, &mut landing)?;
        }
    }
    Ok(is_done)
}

/// A ring without a session: no thread could be stopped when its window ended.
fn withdraw_forgotten(process: &Process, maps: &[Mapping], landing: &mut Landing) -> Result<bool, Error> {
    let is_mapped = !landing.is_unsealed() && Wreck::of(process, maps, landing)?.is_mapped;
    if is_mapped {
        repair(process, landing, RegionOwner::Itself)?;
    }
    Ok(is_mapped)
}

/// Repairs what the tool with this pid and start time has left, in up to so many tries. False if something stays.
/// The guardian's work once the tool is dead, and the tool's own where a detach or an attach failed half-way.
pub fn after_death(process: &Process, tool_pid: i32, tool_start_ticks: u64, tries: u32) -> bool {
    let is_its = |owner: Owner| (owner.pid, owner.start_ticks) == (tool_pid, tool_start_ticks) && !owner.is_inherited;
    for attempt in 0..tries {
        std::thread::sleep(RETRY_STEP * attempt);
        if !process.is_alive() {
            return true;
        }
        let repaired = process.maps().map_err(Error::from).and_then(|maps| {
            let mut landings = Landing::find_all(process, &maps);
            landings.retain(|landing| landing.owner(process).is_some_and(is_its));
            if landings.is_empty() {
                // It may have died in the middle of making one.
                inject::send_abandoned_threads_home(process, &maps)?;
                blank::clear(process)?;
            }
            landings
                .iter_mut()
                .try_for_each(|landing| repair(process, landing, RegionOwner::Itself))
        });
        // What fails every time, the next attach or detach repairs.
        if repaired.is_ok() {
            return true;
        }
    }
    false
}

/// The same for what this process has left.
pub fn after_failure(process: &Process) -> bool {
    after_death(process, std::process::id() as i32, target::own_start_ticks(), TRIES)
}

/// Switches off, puts slots back, withdraws the memory, takes the mark away. May be repeated at any point.
fn repair(process: &Process, landing: &mut Landing, region: RegionOwner) -> Result<(), Error> {
    insist(|| landing.set_flag(process, FLAG_OFF))?;
    if let Ok(maps) = process.maps() {
        exchange::put_back(process, &maps, landing, &BorrowOptions::default());
    }
    // Before anything else that stops a thread: a process that stands still can't be stopped, and needs this as much.
    restore_slots(process, landing)?;
    std::thread::sleep(IN_FLIGHT);
    // A call that the dead tool gave to a thread must not come after what is done here.
    inject::send_abandoned_threads_home(process, &process.maps()?)?;
    let maps = process.maps()?;
    let wreck = Wreck::of(process, &maps, landing)?;
    // A forked child has none of the threads of its parent's table.
    let may_be_busy = region == RegionOwner::Itself;
    let late = if may_be_busy && wreck.is_mapped {
        LateWriters::find(process, landing)
    } else {
        Some(LateWriters::default())
    };
    if late != Some(LateWriters::default()) {
        landing.taint_reservation(process)?;
    }
    wreck.clear(process, &maps, landing, region)?;
    if let Some(late) = late.filter(|late| *late != LateWriters::default()) {
        // Without it the range is not used again, which harms nobody.
        let _ = late.note(process, landing);
    }
    let owner = landing.owner(process);
    if !landing.is_unsealed() {
        insist(|| landing.end_session(process))?;
    }
    if let Some(owner) = owner.filter(|owner| !owner.is_inherited) {
        control::forget(process.pid(), owner.pid, owner.start_ticks);
    }
    Ok(())
}

/// Tries again what failed, since a slot or a flag that stays as it is would be a hook that stays.
fn insist<T>(mut action: impl FnMut() -> Result<T, inject::Error>) -> Result<T, inject::Error> {
    for _ in 1..TRIES {
        if let Ok(value) = action() {
            return Ok(value);
        }
    }
    action()
}

/// Puts every journalled slot back, only where our hook still stands, in a file's mapping: where a module was unloaded,
/// what is mapped in its place may hold a copy of the hook's address, which is the program's, and works as it is. Where one fails the
/// journal stays as it is.
pub fn restore_slots(process: &Process, landing: &mut Landing) -> Result<(), Error> {
    if landing.header.journal_count == 0 {
        return Ok(());
    }
    let maps = insist(|| process.maps())?;
    let map_of = |address: u64| {
        let position = maps.partition_point(|map| map.end <= address);
        maps.get(position).filter(|map| map.start <= address)
    };
    let mut failed = Vec::new();
    // The last entry first: should two name the same slot, it is what the slot held last.
    for entry in insist(|| landing.journal(process))?.iter().rev() {
        if map_of(entry.slot).is_none_or(|map| map.inode == 0) {
            continue;
        }
        let is_code = map_of(entry.old).is_some_and(Mapping::is_executable);
        let value = if is_code { entry.old } else { entry.real };
        if let Err(error) = insist(|| process.compare_and_write_word(RemoteAddr(entry.slot), entry.new, value)) {
            failed.push((entry.slot, error));
        }
    }
    if !failed.is_empty() {
        // Most likely their module is being unloaded.
        let maps = insist(|| process.maps())?;
        let is_mapped = |slot: u64| maps.iter().any(|map| (map.start..map.end).contains(&slot));
        if let Some((_, error)) = failed.into_iter().find(|(slot, _)| is_mapped(*slot)) {
            return Err(error.into());
        }
    }
    insist(|| landing.set_journal_count(process, 0))?;
    Ok(())
}

/// Whether the process that a mark names still drains. The mark lies in the target, which may have written anything into
/// it: a process that has not the target's memory open is no collector of it. In another PID namespace its number says
/// nothing, so there the heartbeat in the region decides.
fn owner_lives(process: &Process, landing: &Landing, owner: &Owner) -> bool {
    if owner.pid_namespace == target::own_pid_namespace() {
        return target::is_running(owner.pid, owner.start_ticks)
            && Handle::open(owner.pid, owner.start_ticks)
                .is_some_and(|handle| handle.holds_memory_of(process.pid()) != Some(false));
    }
    let region = landing.header.journal.wrapping_add(JOURNAL_BYTES);
    let heartbeat = region.wrapping_add(std::mem::offset_of!(RegionHeader, heartbeat_ticks) as u64);
    let read = || process.read_u64(RemoteAddr(heartbeat)).ok();
    let first = read();
    let deadline = Instant::now() + HEARTBEAT_MAX;
    while Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(20));
        if read() != first {
            return true;
        }
    }
    false
}

/// Sends the collector SIGTERM, and nobody else; one that was stopped (SIGSTOP) is to go on, so that it can end.
fn ask_to_end(process: &Process, owner: &Owner) -> Result<(), Error> {
    if owner.pid_namespace != target::own_pid_namespace() {
        return Err(Error::ElsewhereOwned(owner.clone()));
    }
    // One that could not be opened for another reason than its end would be waited for in vain.
    let Some(collector) = (0..TRIES).find_map(|_| Handle::open(owner.pid, owner.start_ticks)) else {
        return Ok(());
    };
    // Where neither can be looked at, the kernel will not let us send it a signal either, or it has rights of its own.
    let is_it = collector.runs_us_or("memray") != Some(false);
    if !is_it || collector.holds_memory_of(process.pid()) == Some(false) {
        // One that is being killed has closed its files, and has no program, a moment before it has ended.
        return match target::has_ended(owner.pid) {
            true => Ok(()),
            false => Err(Error::NoCollector(owner.pid)),
        };
    }
    match collector.ask_to_end() {
        Ok(()) => {
            if is_in_state(owner, "T") {
                let _ = collector.wake();
            }
            Ok(())
        }
        Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        Err(_) => Err(Error::ForeignOwner(owner.clone(), target::user_name(owner.uid))),
    }
}

/// Whether a collector is in one of these states of proc(5).
fn is_in_state(owner: &Owner, states: &str) -> bool {
    inject::stat_field(owner.pid, 3).is_some_and(|state| states.contains(&state))
}

/// Whether a collector can't run: stopped again, by a debugger, or in a frozen cgroup.
fn is_held(owner: &Owner) -> bool {
    is_in_state(owner, "Tt") || inject::is_frozen(owner.pid)
}

fn wait_for_end(process: &Process, landing: &mut Landing, owner: &Owner) -> Result<(), Error> {
    let began = Instant::now();
    let mut free = began;
    while began.elapsed() < DETACH_MAX && free.elapsed() < HELD_MAX {
        if !is_held(owner) {
            free = Instant::now();
        }
        let is_over = !landing.refresh(process) || landing.owner(process).is_none();
        let owner_is_gone = !target::is_running(owner.pid, owner.start_ticks);
        if owner_is_gone || (is_over && process.is_alive()) {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    Err(Error::DeafOwner {
        owner_pid: owner.pid,
        is_held: is_held(owner),
    })
}
