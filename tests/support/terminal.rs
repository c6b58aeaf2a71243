//! A program before a real terminal: a pseudo-terminal of its own, what is typed into it, and what stands on its screen.

use nix::fcntl::OFlag;
use nix::poll::{PollFd, PollFlags, poll};
use nix::pty::{Winsize, grantpt, posix_openpt, ptsname_r, unlockpt};
use nix::sys::stat::Mode;
use nix::sys::termios::{LocalFlags, tcgetattr};
use std::fs::File;
use std::io::{Read, Write};
use std::num::NonZeroU16;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long a screen is waited for. Only a hang takes as long.
const DEADLINE: Duration = Duration::from_secs(60);

nix::ioctl_write_ptr_bad!(set_size, nix::libc::TIOCSWINSZ, Winsize);

/// A running program and its terminal; killed when dropped.
pub struct Terminal {
    child: Child,
    /// The end that whoever sits before it has; `None` once it was closed.
    master: Option<File>,
    /// Kept open, so that modes can be read after the program's end.
    slave: Option<OwnedFd>,
    screen: Arc<Mutex<vt100::Parser>>,
    /// Reads what the program writes, until it is told that that is over.
    reader: Option<JoinHandle<()>>,
    is_over: Arc<AtomicBool>,
}

fn winsize(lines: u16, columns: u16) -> Winsize {
    Winsize {
        ws_row: lines,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    }
}

fn count(number: u16) -> NonZeroU16 {
    NonZeroU16::new(number).expect("lines and columns")
}

fn size(parser: &vt100::Parser) -> (u16, u16) {
    let (lines, columns) = parser.screen().size();
    (lines.get(), columns.get())
}

impl Terminal {
    /// `memray` with these arguments on a terminal of this size.
    pub fn memray(arguments: &[&str], lines: u16, columns: u16) -> Self {
        let mut command = Command::new(super::tool::binary());
        command
            .args(arguments)
            .env("TERM", "xterm-256color")
            .env_remove("NO_COLOR");
        Self::start(command, lines, columns)
    }

    pub fn start(mut command: Command, lines: u16, columns: u16) -> Self {
        // Closed in programs that other tests start meanwhile, which would keep it from being hung up.
        let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        let master = posix_openpt(flags).expect("a pseudo-terminal");
        grantpt(&master)
            .and_then(|()| unlockpt(&master))
            .expect("its other end");
        let name = ptsname_r(&master).expect("its name");
        let slave = nix::fcntl::open(name.as_str(), flags, Mode::empty()).expect("open its other end");
        // SAFETY: as in `resize`.
        unsafe { set_size(master.as_raw_fd(), &winsize(lines, columns)) }.expect("its size");
        let stream = || slave.try_clone().expect("another descriptor");
        command.env_remove("COLUMNS").env_remove("LINES");
        command.stdin(stream()).stdout(stream()).stderr(stream());
        // SAFETY: between fork and exec only two system calls are made.
        unsafe {
            command.pre_exec(|| {
                nix::unistd::setsid()?;
                match nix::libc::ioctl(0, nix::libc::TIOCSCTTY, 0) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                }
            });
        }
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        drop(command);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(count(lines), count(columns), 0)));
        let master = File::from(OwnedFd::from(master));
        let is_over = Arc::new(AtomicBool::new(false));
        let (mut output, shared, is_told) = (
            master.try_clone().expect("another descriptor"),
            screen.clone(),
            is_over.clone(),
        );
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while !is_told.load(Ordering::Relaxed) {
                let mut descriptors = [PollFd::new(output.as_fd(), PollFlags::POLLIN)];
                if poll(&mut descriptors, 20u16) != Ok(1) {
                    continue;
                }
                // Ends with the terminal.
                let Ok(count @ 1..) = output.read(&mut bytes) else {
                    break;
                };
                shared.lock().expect("a screen").process(&bytes[..count]);
            }
        });
        Self {
            child,
            master: Some(master),
            slave: Some(slave),
            screen,
            reader: Some(reader),
            is_over,
        }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn text(&self) -> String {
        self.screen.lock().expect("a screen").screen().contents()
    }

    /// Whether a program has the whole of it.
    pub fn is_taken_over(&self) -> bool {
        self.screen.lock().expect("a screen").screen().alternate_screen()
    }

    /// Whether any character on it has a colour.
    pub fn has_color(&self) -> bool {
        let parser = self.screen.lock().expect("a screen");
        let (lines, columns) = size(&parser);
        let cells = (0..lines).flat_map(|line| (0..columns).map(move |column| (line, column)));
        let mut cells = cells.filter_map(|(line, column)| parser.screen().cell(line, column));
        cells.any(|cell| cell.fgcolor() != vt100::Color::Default || cell.bgcolor() != vt100::Color::Default)
    }

    /// The line that is marked as selected.
    pub fn selected(&self) -> Option<String> {
        let parser = self.screen.lock().expect("a screen");
        let (lines, columns) = size(&parser);
        let is_marked = |&line: &u16| parser.screen().cell(line, 0).is_some_and(vt100::Cell::inverse);
        let line = (0..lines).find(is_marked)?;
        Some(parser.screen().contents_between(line, 0, line, columns))
    }

    pub fn send(&self, keys: &str) {
        let mut master = self.master.as_ref().expect("open");
        master.write_all(keys.as_bytes()).expect("type");
    }

    pub fn resize(&self, lines: u16, columns: u16) {
        self.screen
            .lock()
            .expect("a screen")
            .screen_mut()
            .set_size(count(lines), count(columns));
        let master = self.master.as_ref().expect("open");
        // SAFETY: the descriptor is open, and the kernel reads a structure that lives as long as the call.
        unsafe { set_size(master.as_raw_fd(), &winsize(lines, columns)) }.expect("another size");
    }

    /// Takes the terminal away, as a closed window or a lost connection does.
    pub fn hang_up(&mut self) {
        self.slave = None;
        self.end_reading();
        // The last descriptor of this side: the kernel hangs up.
        self.master = None;
    }

    fn end_reading(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(reader) = self.reader.take() {
            reader.join().expect("the reading thread");
        }
    }

    /// Waits until what stands there is as wanted; gives it.
    pub fn wait_for(&mut self, what: &str, mut is_so: impl FnMut(&Self, &str) -> bool) -> String {
        let end = Instant::now() + DEADLINE;
        loop {
            let text = self.text();
            if is_so(self, &text) {
                return text;
            }
            let ended = self.child.try_wait().expect("wait");
            assert!(
                Instant::now() < end && ended.is_none(),
                "never came: {what} (ended: {ended:?}). The screen:\n{}",
                self.text()
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn wait_for_text(&mut self, text: &str) -> String {
        self.wait_for(text, |_, screen| screen.contains(text))
    }

    /// The same for what a program that has ended left behind.
    pub fn wait_ended_text(&self, text: &str) {
        super::eventually(text, DEADLINE, || self.text().contains(text).then_some(()));
    }

    /// Waits for the program's end.
    pub fn wait(&mut self) -> ExitStatus {
        super::eventually("the program before the terminal ends", DEADLINE, || {
            self.child.try_wait().expect("wait")
        })
    }

    /// Fails unless the terminal is as it was: lines are edited and echoed, the cursor is seen, the screen is the first.
    pub fn assert_restored(&self) {
        let modes = tcgetattr(self.slave.as_ref().expect("open")).expect("the terminal's modes");
        for flag in [LocalFlags::ICANON, LocalFlags::ECHO, LocalFlags::ISIG] {
            assert!(modes.local_flags.contains(flag), "{flag:?} is missing\n{}", self.text());
        }
        super::eventually("the screen is given back", DEADLINE, || {
            let parser = self.screen.lock().expect("a screen");
            (!parser.screen().alternate_screen() && !parser.screen().hide_cursor()).then_some(())
        });
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended in the meantime.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.end_reading();
    }
}
