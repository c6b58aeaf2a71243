//! The live view: a thread's work that draws, takes keys, and asks for what it shows.
//!
//! Whoever answers may be this process' own window or, through a socket, that of another memray; the view knows neither.
//! It asks once a second and waits for nobody: an answer that does not come is said on the screen.

use crate::analyze::{self, FunctionRow, FunctionTable, Gatherer, Keys, Location, Mode, Snapshot, Stacks, functions};
use crate::capture::{Image, Reader, SourceFile};
use crate::session::{Kept, Look, Request, SourceReader};
use crate::ui::{self, Input, Key, ProgressState, Screen};
use crate::view::{LiveFacts, LiveFrame, LivePoint, LiveStep, LiveView, draw_live};
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::time::{Duration, Instant};

/// How often the table is worked out anew.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// How long a key may have to wait, and how often answers are looked for.
const INPUT_WAIT: Duration = Duration::from_millis(50);
/// An answer that takes longer is missed.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// Frames of the selected row's stack that are shown at most.
const FRAMES_MAX: usize = 64;
/// Points of memory over time that are kept: more than any terminal has columns.
const POINTS_MAX: usize = 2048;

/// What the view is told.
pub enum Update {
    Look(Box<Look>, Option<Shown>),
    Said(String),
}

/// What lives, in either form.
pub enum Shown {
    Image(Box<Image>),
    Kept(Kept),
}

/// Why the view was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Left {
    /// By a key.
    Quit,
    /// Nobody is before the terminal any more.
    Closed,
    /// By a signal, where those are the screen's affair.
    Signal(Signal),
    /// There is nobody to answer any more.
    WindowOver,
}

/// What is watched.
pub struct Subject {
    pub pid: i32,
    pub command_line: String,
    pub sources: Option<SourceReader>,
    /// What `q` does, in a word or two.
    pub quit: &'static str,
}

/// The last image, read.
struct Picture {
    reader: Reader,
    snapshot: Snapshot,
}

/// Lines of source code by file.
type Sources = BTreeMap<String, SourceFile>;

/// The view.
pub struct Watch {
    subject: Subject,
    requests: Sender<Request>,
    updates: Receiver<Update>,
    view: LiveView,
    picture: Option<Picture>,
    state: ProgressState,
    pause_us: u64,
    points: Vec<LivePoint>,
    stack: Vec<LiveFrame>,
    message: String,
    /// For how long an answer has been missing.
    silence: Option<Duration>,
    /// Lines that were read, and those that were asked for, by file.
    known_sources: Sources,
    new_sources: (Sender<Sources>, Receiver<Sources>),
    asked: BTreeMap<String, BTreeSet<u32>>,
}

impl Watch {
    pub fn new(subject: Subject, requests: Sender<Request>, updates: Receiver<Update>) -> Self {
        Self {
            subject,
            requests,
            updates,
            view: LiveView::default(),
            picture: None,
            state: ProgressState::default(),
            pause_us: 0,
            points: Vec::new(),
            stack: Vec::new(),
            message: String::new(),
            silence: None,
            known_sources: BTreeMap::new(),
            new_sources: channel(),
            asked: BTreeMap::new(),
        }
    }

    /// Until it is left, or the window has ended.
    pub fn run(mut self, screen: &mut Screen) -> Left {
        let color = ui::use_color();
        let mut refresh_due = Instant::now();
        let mut asked_at = None;
        let mut is_stale = true;
        let mut drawn_area = screen.area();
        loop {
            let now = Instant::now();
            if asked_at.is_none() && now >= refresh_due {
                let with_image = !self.view.is_paused || self.picture.is_none();
                if self.requests.send(Request::Look { with_image }).is_err() {
                    return Left::WindowOver;
                }
                (asked_at, refresh_due) = (Some(now), now + REFRESH_EVERY);
            }
            let silence = asked_at.map(|at| now.saturating_duration_since(at));
            let silence = silence.filter(|silence| *silence >= SILENCE_MAX);
            let in_seconds = |silence: Option<Duration>| silence.map(|it| it.as_secs());
            is_stale |= in_seconds(silence) != in_seconds(self.silence);
            self.silence = silence;
            let area = screen.area();
            if is_stale || area != drawn_area {
                // Where drawing fails the terminal is gone.
                if screen.draw(|buffer| self.draw(color, buffer)).is_err() {
                    return Left::Closed;
                }
                (is_stale, drawn_area) = (false, area);
            }
            match screen.input(INPUT_WAIT) {
                Input::Nothing => {}
                Input::Signal(signal) => return Left::Signal(signal),
                Input::Closed => return Left::Closed,
                Input::Key(key) => {
                    if let Some(left) = self.press(key) {
                        return left;
                    }
                    is_stale = true;
                }
            }
            match self.updates.try_recv() {
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return Left::WindowOver,
                Ok(Update::Said(text)) => {
                    self.message = ui::escape::printable(&text).into_owned();
                    is_stale = true;
                }
                Ok(Update::Look(look, shown)) => {
                    self.take(&look, shown);
                    (asked_at, is_stale) = (None, true);
                }
            }
            if let Ok(sources) = self.new_sources.1.try_recv() {
                self.known_sources.extend(sources);
                self.find_stack();
                is_stale = true;
            }
        }
    }

    /// Why the view is left, if it is.
    fn press(&mut self, key: Key) -> Option<Left> {
        self.message.clear();
        match self.view.press(key) {
            LiveStep::Stay => self.find_stack(),
            LiveStep::Quit => return Some(Left::Quit),
            LiveStep::Write => {
                self.message = "writing".to_owned();
                return self.requests.send(Request::Write).err().map(|_| Left::WindowOver);
            }
            LiveStep::OtherThread => self.show(),
        }
        None
    }

    fn take(&mut self, look: &Look, shown: Option<Shown>) {
        self.state = look.state();
        self.pause_us = look.pause_us;
        self.points.push(LivePoint {
            rss_bytes: look.rss_bytes,
            heap_bytes: self.state.live_bytes,
        });
        if self.points.len() > POINTS_MAX {
            self.points.remove(0);
        }
        if shown.is_none() && self.picture.is_none() {
            self.message = "too much code was met to show what lives; the capture will have all of it".to_owned();
        }
        let picture = shown.and_then(read);
        if let Some(picture) = picture.filter(|_| !self.view.is_paused || self.picture.is_none()) {
            let threads = picture.snapshot.rows.iter().map(|row| row.tid).collect();
            self.view.set_threads(threads);
            self.picture = Some(picture);
            self.show();
        }
    }

    /// Works out the table of the thread that is shown.
    fn show(&mut self) {
        if let Some(picture) = &self.picture {
            self.view.show(picture.table(self.view.thread()));
            self.find_stack();
        }
    }

    /// The largest stack through the selected row.
    fn find_stack(&mut self) {
        self.stack.clear();
        let (Some(picture), Some(row)) = (&self.picture, self.view.selected_row()) else {
            return;
        };
        self.stack = picture.stack_through(row, self.view.thread());
        let mut wanted = BTreeMap::new();
        for frame in &mut self.stack {
            let known = self.known_sources.get(&frame.file);
            frame.source = known.and_then(|file| file.lines.get(&frame.line)).cloned();
            let asked = self.asked.entry(frame.file.clone()).or_default();
            if frame.line > 0 && asked.insert(frame.line) {
                // With all that was ever asked for: what comes replaces what was there.
                wanted.insert(frame.file.clone(), asked.clone());
            }
        }
        if let Some(sources) = self.subject.sources.clone().filter(|_| !wanted.is_empty()) {
            let found = self.new_sources.0.clone();
            let _ = std::thread::Builder::new().spawn(move || found.send(sources.lines(wanted)));
        }
    }

    fn draw(&mut self, color: bool, buffer: &mut ratatui::buffer::Buffer) {
        let name = self.view.thread().and_then(|tid| {
            let name = self.picture.as_ref()?.reader.thread_name(tid)?;
            Some(name.to_owned()).filter(|name| !name.is_empty())
        });
        let silence = self.silence.map(|silence| {
            let seconds = silence.as_secs();
            format!("no answer for {seconds} s: the collector is stopped, or ends the window")
        });
        let facts = LiveFacts {
            pid: self.subject.pid,
            command_line: &self.subject.command_line,
            quit: self.subject.quit,
            elapsed: self.state.elapsed,
            remaining: self.state.remaining,
            allocations_per_second: self.state.allocations_per_second,
            lost_count: self.state.lost_count,
            pause_us: self.pause_us,
            thread: name.as_deref().unwrap_or("without a name"),
            points: &self.points,
            stack: &self.stack,
            message: silence.as_ref().unwrap_or(&self.message),
            color,
        };
        draw_live(&mut self.view, &facts, buffer);
    }
}

/// `None` where there is no memory for it.
fn read(shown: Shown) -> Option<Picture> {
    let kept = match shown {
        Shown::Image(image) => Kept::write(&image).ok()?,
        Shown::Kept(kept) => kept,
    };
    let mut reader = Reader::open(&kept.path()).ok()?;
    let mut gatherer = Gatherer::new(Mode::Leaks, true);
    reader.for_each_batch(|events| gatherer.apply_all(events));
    let snapshot = gatherer.snapshot(None);
    Some(Picture { reader, snapshot })
}

impl Picture {
    fn table(&self, thread: Option<u64>) -> FunctionTable {
        let Some(tid) = thread else {
            return functions(&self.snapshot, &self.reader, Keys::default());
        };
        let rows = self.snapshot.rows.iter().filter(|row| row.tid == tid).cloned();
        functions(&analyze::Snapshot::of(rows, None), &self.reader, Keys::default())
    }

    fn stack_through(&self, row: &FunctionRow, thread: Option<u64>) -> Vec<LiveFrame> {
        let is_it = |frame: Location<'_>| frame.function == row.function && frame.file == row.file;
        let is_known = |function: &str| function != analyze::UNKNOWN;
        let mut held: Vec<_> = self.snapshot.rows.iter().collect();
        held.retain(|held| thread.is_none_or(|tid| tid == held.tid));
        held.sort_by_key(|held| std::cmp::Reverse(held.bytes));
        let through = held
            .iter()
            .find(|held| self.reader.frames(held.tid, held.stack).any(is_it));
        let Some(through) = through.filter(|_| is_known(&row.function)) else {
            return Vec::new();
        };
        let frame = |frame: Location<'_>| LiveFrame {
            function: frame.function.to_owned(),
            file: frame.file.to_owned(),
            line: frame.line,
            source: None,
        };
        self.reader
            .frames(through.tid, through.stack)
            .take(FRAMES_MAX)
            .map(frame)
            .collect()
    }
}
