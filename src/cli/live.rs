//! The live view of a window: a thread that draws and takes keys, beside the one that drains the ring.
//!
//! Neither waits for the other. The view asks, the window answers ten times a second; a terminal that takes nothing
//! holds up the view alone. Whatever ends the view ends the window, and the other way round.

use super::failure::Failure;
use crate::analyze::{FunctionRow, FunctionTable, Gatherer, Keys, Location, Mode, Snapshot, Stacks, functions};
use crate::capture::{Image, Reader, SourceFile};
use crate::session::{End, Kept, Session, Signals, SourceReader};
use crate::ui::{Input, Key, ProgressState, Screen};
use crate::view::{LiveFacts, LiveFrame, LivePoint, LiveStep, LiveView, draw_live};
use crate::{analyze, ui};
use nix::sys::signal::Signal;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, Sender, TryRecvError, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often the table is worked out anew.
const REFRESH_EVERY: Duration = Duration::from_secs(1);
/// How long a key may have to wait, and how often the window's answers are looked for.
const INPUT_WAIT: Duration = Duration::from_millis(50);
/// A terminal that takes nothing is not waited for longer than this when the window ends.
const CLOSE_WAIT: Duration = Duration::from_secs(2);
/// Frames of the selected row's stack that are shown at most.
const FRAMES_MAX: usize = 64;
/// Points of memory over time that are kept: more than any terminal has columns.
const POINTS_MAX: usize = 2048;

enum Request {
    Look { with_image: bool },
    Write,
}

enum Update {
    Look(Box<Look>),
    Said(String),
}

struct Look {
    image: Option<Image>,
    state: ProgressState,
    point: LivePoint,
    pause_us: u64,
}

/// The window's end of it.
pub struct Live {
    requests: Receiver<Request>,
    updates: Sender<Update>,
    view: JoinHandle<()>,
}

impl Live {
    /// Takes the terminal over.
    pub fn open(session: &Session, pid: i32) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| {
            let fix = Some("memray attach --foreground tracks without a view".to_owned());
            Failure::new(format!("cannot take over the terminal: {error}"), fix)
        };
        let screen = Screen::open(false).map_err(failed)?;
        let (asking, requests) = channel();
        let (updates, answers) = channel();
        let (sources, command_line) = (session.source_reader(), session.command_line());
        let watch = move || Watch::new(pid, command_line, sources, asking, answers).run(screen);
        let view = std::thread::Builder::new()
            .name("view".into())
            .spawn(watch)
            .map_err(failed)?;
        Ok(Self {
            requests,
            updates,
            view,
        })
    }

    /// The window, watched, until something ends it.
    pub fn run(self, session: &mut Session, signals: &Signals) -> End {
        let end = session.run_with(signals, |session, state| self.answer(session, state));
        drop((self.requests, self.updates));
        let close_until = Instant::now() + CLOSE_WAIT;
        while !self.view.is_finished() && Instant::now() < close_until {
            std::thread::sleep(Duration::from_millis(2));
        }
        end
    }

    fn answer(&self, session: &mut Session, state: &ProgressState) -> Option<End> {
        loop {
            let update = match self.requests.try_recv() {
                Err(TryRecvError::Empty) => return None,
                // The view was left, or its terminal is gone.
                Err(TryRecvError::Disconnected) => return Some(End::Signal(Signal::SIGINT)),
                Ok(Request::Look { with_image }) => Update::Look(Box::new(Look {
                    image: if with_image { session.live_image() } else { None },
                    state: *state,
                    point: LivePoint {
                        rss_bytes: session.rss_bytes(),
                        heap_bytes: state.live_bytes,
                    },
                    pause_us: session.pause_us(),
                })),
                Ok(Request::Write) => Update::Said(match session.write_now() {
                    Ok(bytes) => {
                        let path = ui::escape::printable(&session.path().to_string_lossy()).into_owned();
                        format!("wrote {path}: {} so far", ui::format::bytes_short(bytes))
                    }
                    Err(error) => format!("cannot write: {error}"),
                }),
            };
            let _ = self.updates.send(update);
        }
    }
}

/// The last image, read.
struct Picture {
    reader: Reader,
    snapshot: Snapshot,
}

/// Lines of source code by file.
type Sources = BTreeMap<String, SourceFile>;

/// The view's end.
struct Watch {
    pid: i32,
    command_line: String,
    sources: Option<SourceReader>,
    requests: Sender<Request>,
    updates: Receiver<Update>,
    view: LiveView,
    picture: Option<Picture>,
    state: ProgressState,
    pause_us: u64,
    points: Vec<LivePoint>,
    stack: Vec<LiveFrame>,
    message: String,
    /// Lines that were read, and those that were asked for, by file.
    known_sources: Sources,
    new_sources: (Sender<Sources>, Receiver<Sources>),
    asked: BTreeMap<String, BTreeSet<u32>>,
}

impl Watch {
    fn new(
        pid: i32,
        command_line: String,
        sources: Option<SourceReader>,
        requests: Sender<Request>,
        updates: Receiver<Update>,
    ) -> Self {
        Self {
            pid,
            command_line,
            sources,
            requests,
            updates,
            view: LiveView::default(),
            picture: None,
            state: ProgressState::default(),
            pause_us: 0,
            points: Vec::new(),
            stack: Vec::new(),
            message: String::new(),
            known_sources: BTreeMap::new(),
            new_sources: channel(),
            asked: BTreeMap::new(),
        }
    }

    /// Until it is left, or the window has ended.
    fn run(mut self, mut screen: Screen) {
        let color = ui::use_color();
        let mut refresh_due = Instant::now();
        let mut is_asked = false;
        let mut is_stale = true;
        let mut drawn_area = screen.area();
        loop {
            let now = Instant::now();
            if !is_asked && now >= refresh_due {
                let with_image = !self.view.is_paused || self.picture.is_none();
                if self.requests.send(Request::Look { with_image }).is_err() {
                    return;
                }
                (is_asked, refresh_due) = (true, now + REFRESH_EVERY);
            }
            let area = screen.area();
            if is_stale || area != drawn_area {
                // Where drawing fails the terminal is gone.
                if screen.draw(|buffer| self.draw(color, buffer)).is_err() {
                    return;
                }
                (is_stale, drawn_area) = (false, area);
            }
            match screen.input(INPUT_WAIT) {
                Input::Nothing | Input::Signal(_) => {}
                Input::Closed => return,
                Input::Key(key) => {
                    if !self.press(key) {
                        return;
                    }
                    is_stale = true;
                }
            }
            match self.updates.try_recv() {
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return,
                Ok(Update::Said(text)) => {
                    self.message = text;
                    is_stale = true;
                }
                Ok(Update::Look(look)) => {
                    self.take(*look);
                    (is_asked, is_stale) = (false, true);
                }
            }
            if let Ok(sources) = self.new_sources.1.try_recv() {
                self.known_sources.extend(sources);
                self.find_stack();
                is_stale = true;
            }
        }
    }

    /// Whether to go on.
    fn press(&mut self, key: Key) -> bool {
        self.message.clear();
        match self.view.press(key) {
            LiveStep::Stay => self.find_stack(),
            LiveStep::Quit => return false,
            LiveStep::Write => {
                self.message = "writing".to_owned();
                return self.requests.send(Request::Write).is_ok();
            }
            LiveStep::OtherThread => self.show(),
        }
        true
    }

    fn take(&mut self, look: Look) {
        self.state = look.state;
        self.pause_us = look.pause_us;
        self.points.push(look.point);
        if self.points.len() > POINTS_MAX {
            self.points.remove(0);
        }
        let picture = look.image.as_ref().and_then(read);
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
        if let Some(sources) = self.sources.clone().filter(|_| !wanted.is_empty()) {
            let found = self.new_sources.0.clone();
            let _ = std::thread::Builder::new().spawn(move || found.send(sources.lines(wanted)));
        }
    }

    fn draw(&mut self, color: bool, buffer: &mut ratatui::buffer::Buffer) {
        let name = self.view.thread().and_then(|tid| {
            let name = self.picture.as_ref()?.reader.thread_name(tid)?;
            Some(name.to_owned()).filter(|name| !name.is_empty())
        });
        let facts = LiveFacts {
            pid: self.pid,
            command_line: &self.command_line,
            elapsed: self.state.elapsed,
            remaining: self.state.remaining,
            allocations_per_second: self.state.allocations_per_second,
            lost_count: self.state.lost_count,
            pause_us: self.pause_us,
            thread: name.as_deref().unwrap_or("without a name"),
            points: &self.points,
            stack: &self.stack,
            message: &self.message,
            color,
        };
        draw_live(&mut self.view, &facts, buffer);
    }
}

/// `None` where there is no memory for it.
fn read(image: &Image) -> Option<Picture> {
    let kept = Kept::write(image).ok()?;
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
