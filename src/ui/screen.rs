//! The whole terminal for a while: drawn on, asked for keys, and put back on every way out.
//!
//! Put back means its modes, its cursor and what stood on it. That happens when a [`Screen`] is dropped, before a panic
//! tells its message, and before a signal that ends the program is let through. Keys are read here rather than by
//! crossterm, whose reader does not return once a terminal has gone.

use std::io::{self, BufWriter, Stdout, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::{Mutex, Once};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::termios::{SetArg, SpecialCharacterIndices, Termios, cfmakeraw, tcgetattr, tcsetattr};
use ratatui::backend::{Backend, CrosstermBackend};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;

use super::keys::{Key, KeyReader};
use super::terminal;

/// The other screen, no cursor, nothing on it; and back.
const ENTER: &[u8] = b"\x1b[?1049h\x1b[?25l\x1b[0m\x1b[2J";
const LEAVE: &[u8] = b"\x1b[0m\x1b[?25h\x1b[?1049l";

/// How long the rest of an escape sequence is waited for.
const SEQUENCE_WAIT: Duration = Duration::from_millis(50);
/// How often the terminal's size is looked at where no signal tells of a new one.
const SIZE_EVERY: Duration = Duration::from_millis(250);

/// Threads that were joined are waited for at most so long to be gone.
const THREADS_WAIT: Duration = Duration::from_secs(1);

/// What came from before the terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    Key(Key),
    /// The size has changed, or it is time to look.
    Nothing,
    /// A signal that asks for the end.
    Signal(Signal),
    /// Nobody is before it any more.
    Closed,
}

/// The modes that the terminal had; `None` while it has them.
static SAVED: Mutex<Option<Termios>> = Mutex::new(None);

/// The terminal, as ours.
pub struct Screen {
    backend: CrosstermBackend<BufWriter<Stdout>>,
    shown: Buffer,
    keys: KeyReader,
    signals: Option<SignalFd>,
    mask_before: Option<SigSet>,
    is_closed: bool,
}

impl Screen {
    /// Takes the terminal over. With `takes_signals` those that would end the program are inputs meanwhile; else they
    /// are somebody else's affair.
    pub fn open(takes_signals: bool) -> io::Result<Self> {
        let (mut signals, mut mask_before) = (None, None);
        if takes_signals {
            let mut set = SigSet::empty();
            for signal in [
                Signal::SIGINT,
                Signal::SIGTERM,
                Signal::SIGHUP,
                Signal::SIGQUIT,
                Signal::SIGWINCH,
            ] {
                set.add(signal);
            }
            let mask = SigSet::thread_get_mask()?;
            signals = Some(SignalFd::with_flags(
                &set,
                SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC,
            )?);
            set.thread_block()?;
            wait_for_other_threads();
            mask_before = Some(mask);
        }
        leave_before_panics();
        let screen = Self {
            backend: CrosstermBackend::new(BufWriter::new(io::stdout())),
            shown: Buffer::empty(Rect::ZERO),
            keys: KeyReader::default(),
            signals,
            mask_before,
            is_closed: false,
        };
        enter()?;
        Ok(screen)
    }

    /// Columns and lines.
    pub fn area(&self) -> Rect {
        let (columns, lines) = terminal::screen_size();
        Rect::new(0, 0, columns, lines)
    }

    /// Draws what has changed. What `draw` leaves alone is empty.
    pub fn draw(&mut self, draw: impl FnOnce(&mut Buffer)) -> io::Result<()> {
        let area = self.area();
        if self.shown.area != area {
            self.backend.write_all(b"\x1b[0m\x1b[2J")?;
            self.shown = Buffer::empty(area);
        }
        let mut next = Buffer::empty(area);
        draw(&mut next);
        self.backend.draw(self.shown.diff(&next).into_iter())?;
        Backend::flush(&mut self.backend)?;
        self.shown = next;
        Ok(())
    }

    /// The next input; at the latest after `wait`.
    pub fn input(&mut self, wait: Duration) -> Input {
        let end = Instant::now() + wait.min(SIZE_EVERY);
        loop {
            if let Some(key) = self.keys.next(false) {
                return Input::Key(key);
            }
            if self.is_closed {
                return Input::Closed;
            }
            if let Some(signal) = self.signals.as_ref().and_then(taken) {
                return if signal == Signal::SIGWINCH {
                    Input::Nothing
                } else {
                    Input::Signal(signal)
                };
            }
            let left = end.saturating_duration_since(Instant::now());
            let left = if self.keys.is_amid() {
                left.min(SEQUENCE_WAIT)
            } else {
                left
            };
            match self.read_keys(left) {
                // What is begun stays alone.
                Ok(false) if self.keys.is_amid() => {
                    if let Some(key) = self.keys.next(true) {
                        return Input::Key(key);
                    }
                }
                Ok(false) if Instant::now() >= end => return Input::Nothing,
                Ok(_) => {}
                Err(_) => self.is_closed = true,
            }
        }
    }

    /// Waits for bytes and takes them; whether there were any.
    fn read_keys(&mut self, wait: Duration) -> io::Result<bool> {
        let stdin = io::stdin();
        let mut descriptors = vec![PollFd::new(stdin.as_fd(), PollFlags::POLLIN)];
        descriptors.extend(
            self.signals
                .as_ref()
                .map(|it| PollFd::new(it.as_fd(), PollFlags::POLLIN)),
        );
        // Rounded up, lest the last millisecond is waited for in a loop.
        let wait = PollTimeout::try_from(wait + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
        match poll(&mut descriptors, wait) {
            Err(Errno::EINTR) => return Ok(false),
            result => result?,
        };
        if descriptors[0].revents().is_none_or(|events| events.is_empty()) {
            return Ok(false);
        }
        let mut bytes = [0; 1024];
        // Not by way of `Stdin`'s buffer, where poll could not see them.
        let count = match nix::unistd::read(stdin.as_fd(), &mut bytes) {
            Err(Errno::EINTR | Errno::EAGAIN) => return Ok(false),
            result => result?,
        };
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.keys.push(&bytes[..count]);
        Ok(true)
    }

    /// Gives the terminal back, stops the program as Ctrl-Z does, and goes on once it is continued.
    pub fn suspend(&mut self) -> io::Result<()> {
        leave();
        nix::sys::signal::raise(Signal::SIGSTOP)?;
        self.shown = Buffer::empty(Rect::ZERO);
        enter()
    }

    /// Gives the terminal back and ends the program as this signal does.
    pub fn end_by(self, signal: Signal) {
        drop(self);
        let mut set = SigSet::empty();
        set.add(signal);
        // Where it is ignored the program goes on, and to its end.
        let _ = nix::sys::signal::raise(signal).and_then(|()| set.thread_unblock());
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        leave();
        if let Some(mask) = self.mask_before {
            let _ = mask.thread_set_mask();
        }
    }
}

/// One that has just been joined may not be gone yet, and would take a signal that this thread has blocked: the program
/// would end without giving the terminal back.
fn wait_for_other_threads() {
    let until = Instant::now() + THREADS_WAIT;
    let are_there = || std::fs::read_dir("/proc/self/task").is_ok_and(|threads| threads.count() > 1);
    while are_there() && Instant::now() < until {
        std::thread::sleep(Duration::from_micros(200));
    }
}

fn taken(signals: &SignalFd) -> Option<Signal> {
    let info = signals.read_signal().ok()??;
    Signal::try_from(i32::try_from(info.ssi_signo).ok()?).ok()
}

fn enter() -> io::Result<()> {
    let stdin = io::stdin();
    let modes = tcgetattr(stdin.as_fd())?;
    let mut raw = modes.clone();
    cfmakeraw(&mut raw);
    raw.control_chars[SpecialCharacterIndices::VMIN as usize] = 1;
    raw.control_chars[SpecialCharacterIndices::VTIME as usize] = 0;
    *SAVED.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) = Some(modes);
    set_modes(stdin.as_fd(), &raw)?;
    let mut stdout = io::stdout();
    stdout.write_all(ENTER).and_then(|()| stdout.flush())
}

/// Whoever is first does it; all others find nothing to do.
fn leave() {
    let saved = SAVED.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).take();
    if let Some(modes) = saved {
        // The modes first: a terminal that takes no output gets them all the same. It may be gone; then nobody misses it.
        let _ = set_modes(io::stdin().as_fd(), &modes);
        let mut stdout = io::stdout();
        let _ = stdout.write_all(LEAVE).and_then(|()| stdout.flush());
    }
}

fn set_modes(terminal: BorrowedFd<'_>, modes: &Termios) -> io::Result<()> {
    loop {
        match tcsetattr(terminal, SetArg::TCSANOW, modes) {
            Err(Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}

/// A panic's message belongs on the terminal as it was.
fn leave_before_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let next = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |information| {
            leave();
            next(information);
        }));
    });
}
