//! A headless Chromium, driven over its debugging pipe: pages are looked at and used as people do.

use super::{Dir, skip_optional};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde_json::{Value, json};
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Only catches hangs: a page opens within seconds.
const DEADLINE: Duration = Duration::from_secs(120);
pub const WIDTH: u32 = 1400;
pub const HEIGHT: u32 = 900;

pub struct Browser {
    child: Child,
    to: File,
    from: File,
    received: Vec<u8>,
    last_id: u64,
    session: String,
    /// What the page complained of: exceptions, and what its policy forbade.
    pub complaints: Vec<String>,
    _profile: Dir,
}

/// Where Chromium is, if it is here.
fn program() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("MEMRAY_TEST_CHROMIUM") {
        return Some(PathBuf::from(path));
    }
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let path = std::env::var_os("PATH")?;
    let directories: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let files = names
        .iter()
        .flat_map(|name| directories.iter().map(move |it| it.join(name)));
    files.into_iter().find(|file| file.is_file())
}

impl Browser {
    /// A browser with this page, whose scripts have run; or an optional skip.
    pub fn open(page: &str) -> Option<Self> {
        let Some(program) = program() else {
            skip_optional("chromium", "it is not installed");
            return None;
        };
        let profile = Dir::new();
        let (theirs_in, to) = pipe();
        let (from, theirs_out) = pipe();
        let mut command = Command::new(program);
        command
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-sync",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--remote-debugging-pipe",
            ])
            .arg(format!("--window-size={WIDTH},{HEIGHT}"))
            .arg(format!("--user-data-dir={}", profile.file("profile")))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let (input, output) = (theirs_in.as_raw_fd(), theirs_out.as_raw_fd());
        // SAFETY: between fork and exec only fcntl and dup2 are called, which are async-signal-safe.
        unsafe {
            command.pre_exec(move || {
                // Out of the way first: either may be one of the two numbers wanted.
                let input = libc::fcntl(input, libc::F_DUPFD_CLOEXEC, 10);
                let output = libc::fcntl(output, libc::F_DUPFD_CLOEXEC, 10);
                if input < 0 || output < 0 || libc::dup2(input, 3) < 0 || libc::dup2(output, 4) < 0 {
                    return Err(std::io::Error::last_os_error());
                }
                Ok(())
            });
        }
        let child = command.spawn().expect("start Chromium");
        let mut browser = Self {
            child,
            to,
            from,
            received: Vec::new(),
            last_id: 0,
            session: String::new(),
            complaints: Vec::new(),
            _profile: profile,
        };
        let target = browser.call("Target.createTarget", json!({"url": "about:blank"}));
        let target = target["targetId"].as_str().expect("a target").to_owned();
        let attached = browser.call("Target.attachToTarget", json!({"targetId": target, "flatten": true}));
        browser.session = attached["sessionId"].as_str().expect("a session").to_owned();
        for domain in ["Page", "Runtime", "Log"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        let url = format!("file://{}", Path::new(page).canonicalize().expect("the page").display());
        browser.call("Page.navigate", json!({"url": url}));
        let deadline = Instant::now() + DEADLINE;
        while browser.evaluate("document.readyState === 'complete' && location.protocol === 'file:'") != json!(true) {
            assert!(Instant::now() < deadline, "the page does not load");
        }
        Some(browser)
    }

    /// What an expression of JavaScript gives in the page, once two frames have been drawn.
    pub fn evaluate(&mut self, expression: &str) -> Value {
        let drawn = "await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))";
        let expression = format!("(async () => {{ {drawn}; return {expression}; }})()");
        let parameters = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let answer = self.call("Runtime.evaluate", parameters);
        assert!(answer.get("exceptionDetails").is_none(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    pub fn click(&mut self, x: f64, y: f64) {
        self.mouse("mouseMoved", x, y);
        self.mouse("mousePressed", x, y);
        self.mouse("mouseReleased", x, y);
    }

    /// Clicks into the middle of an element.
    pub fn click_on(&mut self, selector: &str) {
        let script = format!(
            "(() => {{ const box = document.querySelector({selector:?}).getBoundingClientRect(); \
             return [box.left + box.width / 2, box.top + box.height / 2]; }})()"
        );
        let place = self.evaluate(&script);
        self.click(place[0].as_f64().expect("x"), place[1].as_f64().expect("y"));
    }

    pub fn drag(&mut self, from: (f64, f64), to: (f64, f64)) {
        self.mouse("mouseMoved", from.0, from.1);
        self.mouse("mousePressed", from.0, from.1);
        self.mouse("mouseMoved", to.0, to.1);
        self.mouse("mouseReleased", to.0, to.1);
    }

    pub fn mouse(&mut self, kind: &str, x: f64, y: f64) {
        let buttons = u8::from(kind != "mouseReleased");
        let button = if kind == "mouseMoved" { "none" } else { "left" };
        let parameters = json!({"type": kind, "x": x, "y": y, "button": button, "buttons": buttons, "clickCount": 1});
        self.call("Input.dispatchMouseEvent", parameters);
    }

    /// A key by its name: `i`, `Escape`, `ArrowDown`.
    pub fn press(&mut self, key: &str) {
        let text = if key.chars().count() == 1 { key } else { "" };
        let down = if text.is_empty() { "rawKeyDown" } else { "keyDown" };
        self.call(
            "Input.dispatchKeyEvent",
            json!({"type": down, "key": key, "text": text}),
        );
        self.call("Input.dispatchKeyEvent", json!({"type": "keyUp", "key": key}));
    }

    pub fn insert(&mut self, text: &str) {
        self.call("Input.insertText", json!({"text": text}));
    }

    fn call(&mut self, method: &str, parameters: Value) -> Value {
        self.last_id += 1;
        let id = self.last_id;
        let mut message = json!({"id": id, "method": method, "params": parameters});
        if !self.session.is_empty() {
            message["sessionId"] = json!(self.session);
        }
        let mut bytes = message.to_string().into_bytes();
        bytes.push(0);
        self.to.write_all(&bytes).expect("Chromium listens");
        loop {
            let answer = self.receive(method);
            if answer["id"] == json!(id) {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].clone();
            }
            if ["Runtime.exceptionThrown", "Log.entryAdded"]
                .iter()
                .any(|it| answer["method"] == *it)
            {
                self.complaints.push(answer["params"].to_string());
            }
        }
    }

    fn receive(&mut self, what: &str) -> Value {
        let deadline = Instant::now() + DEADLINE;
        loop {
            if let Some(end) = self.received.iter().position(|&byte| byte == 0) {
                let message: Vec<u8> = self.received.drain(..=end).collect();
                return serde_json::from_slice(&message[..end]).expect("JSON");
            }
            assert!(Instant::now() < deadline, "no answer to {what}");
            let mut files = [PollFd::new(self.from.as_fd(), PollFlags::POLLIN)];
            if poll(&mut files, PollTimeout::from(1000u16)).expect("poll") > 0 {
                let mut piece = vec![0; 1 << 16];
                let count = self.from.read(&mut piece).expect("read from Chromium");
                assert!(count > 0, "Chromium has ended, asked for {what}");
                self.received.extend_from_slice(&piece[..count]);
            }
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Politely first: then its children are gone, and nobody writes into its profile any more.
        let _ = self.to.write_all(b"{\"id\":0,\"method\":\"Browser.close\"}\0");
        let deadline = Instant::now() + Duration::from_secs(10);
        while Instant::now() < deadline && matches!(self.child.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The reading and the writing end; both are closed in programs that are executed.
fn pipe() -> (File, File) {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    (
        File::from(std::os::fd::OwnedFd::from(reader)),
        File::from(std::os::fd::OwnedFd::from(writer)),
    )
}
