//! Those who watch a window from other processes, as its collector sees them.
//!
//! Each has a thread that waits for its questions, has them answered by the window between two looks at the ring, and
//! writes the answer. The window itself never reads or writes a socket that could make it wait: a viewer that is stopped
//! holds up its own thread, one that is killed ends it, and neither costs the target anything.

use super::viewing::{self, LastWords, Look, Request};
use crate::capture::Image;
use std::io::{self, Read};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// So many watch at a time; others are told to try later.
const VIEWERS_MAX: usize = 16;
/// A viewer that takes nothing does not get the last words, after so long.
const FAREWELL_MAX: Duration = Duration::from_millis(500);

/// A question, and where its answer goes.
pub struct Asked {
    pub request: Request,
    pub reply: Sender<Answer>,
}

pub enum Answer {
    Look(Look, Option<Arc<Image>>),
    Said(String),
}

/// What the threads and the window have in common.
#[derive(Default)]
struct Shared {
    last_words: Option<LastWords>,
    /// Those that are here, by number.
    streams: Vec<(u64, UnixStream)>,
}

type SharedCell = Arc<Mutex<Shared>>;

fn locked(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    // What is in it is whole at any time.
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

pub struct Viewers {
    listener: Option<UnixListener>,
    asking: Sender<Asked>,
    asked: Receiver<Asked>,
    shared: SharedCell,
    joined_count: u64,
}

impl Default for Viewers {
    fn default() -> Self {
        let (asking, asked) = channel();
        Self {
            listener: None,
            asking,
            asked,
            shared: SharedCell::default(),
            joined_count: 0,
        }
    }
}

impl Viewers {
    /// New ones come here from now on.
    pub fn listen(&mut self, listener: io::Result<UnixListener>) {
        let set = |listener: UnixListener| listener.set_nonblocking(true).map(|()| listener);
        self.listener = listener.and_then(set).ok();
    }

    /// How many ever came.
    pub fn joined_count(&self) -> u64 {
        self.joined_count
    }

    pub fn are_there(&self) -> bool {
        !locked(&self.shared).streams.is_empty()
    }

    /// Lets in who has come, and takes what was asked.
    pub fn questions(&mut self) -> Vec<Asked> {
        self.let_in();
        self.asked.try_iter().take(VIEWERS_MAX).collect()
    }

    fn let_in(&mut self) {
        for _ in 0..VIEWERS_MAX {
            let Some(Ok((stream, _))) = self.listener.as_ref().map(UnixListener::accept) else {
                return;
            };
            // One that can't be watched for has to come again.
            let _ = self.welcome(stream);
        }
    }

    fn welcome(&mut self, mut stream: UnixStream) -> io::Result<()> {
        stream.set_nonblocking(false)?;
        let mut shared = locked(&self.shared);
        if shared.streams.len() >= VIEWERS_MAX {
            let said = format!("{VIEWERS_MAX} watch this session already");
            // A socket that is new takes so much at once.
            let why = LastWords {
                why: said,
                ..LastWords::default()
            };
            return viewing::send_ended(&mut stream, why);
        }
        let number = self.joined_count;
        shared.streams.push((number, stream.try_clone()?));
        drop(shared);
        let here = Here {
            shared: self.shared.clone(),
            number,
        };
        let asking = self.asking.clone();
        std::thread::Builder::new()
            .name("viewer".into())
            .spawn(move || here.serve(stream, &asking))?;
        self.joined_count += 1;
        Ok(())
    }

    /// Tells those who are here how it ended.
    pub fn farewell(mut self, words: LastWords) {
        self.let_in();
        let Self { asked, shared, .. } = self;
        let mut streams = locked(&shared);
        streams.last_words = Some(words);
        for (_, stream) in &streams.streams {
            // Ends the wait for the next question; that was all that it waited for.
            let _ = stream.shutdown(Shutdown::Read);
        }
        drop(streams);
        // What was asked last is answered by the last words.
        drop(asked);
        let until = Instant::now() + FAREWELL_MAX;
        while !locked(&shared).streams.is_empty() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// One that is here; gone when dropped.
struct Here {
    shared: SharedCell,
    number: u64,
}

impl Here {
    fn serve(self, mut stream: UnixStream, asking: &Sender<Asked>) {
        loop {
            let answered = ask(&mut stream, asking);
            let last_words = locked(&self.shared).last_words.clone();
            let sent = match (answered, last_words) {
                (Some(Answer::Look(look, image)), _) => viewing::send_look(&mut stream, look, image.as_deref()),
                (Some(Answer::Said(said)), _) => viewing::send_said(&mut stream, said),
                (None, Some(words)) => {
                    let _ = viewing::send_ended(&mut stream, words);
                    return;
                }
                (None, None) => return,
            };
            if sent.is_err() {
                return;
            }
        }
    }
}

/// Reads a question and has it answered; `None` once there is nobody on one of both sides.
fn ask(stream: &mut UnixStream, asking: &Sender<Asked>) -> Option<Answer> {
    let mut byte = [0];
    stream.read_exact(&mut byte).ok()?;
    let request = Request::of_byte(byte[0])?;
    let (reply, answer) = channel();
    asking.send(Asked { request, reply }).ok()?;
    answer.recv().ok()
}

impl Drop for Here {
    fn drop(&mut self) {
        locked(&self.shared)
            .streams
            .retain(|(number, _)| *number != self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::viewing::{Told, receive};
    use std::io::Write;

    /// Viewers at a socket without a name, and one that has come.
    fn joined() -> (Viewers, UnixStream) {
        let mut viewers = Viewers::default();
        let (here, there) = UnixStream::pair().expect("a pair of sockets");
        viewers.welcome(here).expect("let in");
        (viewers, there)
    }

    fn answer_next(viewers: &mut Viewers) {
        loop {
            if let Some(asked) = viewers.questions().pop() {
                let answer = match asked.request {
                    Request::Look { .. } => Answer::Look(Look::default(), None),
                    Request::Write => Answer::Said("written".to_owned()),
                };
                asked.reply.send(answer).expect("somebody waits for it");
                return;
            }
            std::thread::yield_now();
        }
    }

    fn until_gone(viewers: &Viewers) {
        while viewers.are_there() {
            std::thread::yield_now();
        }
    }

    #[test]
    fn questions_are_answered_and_the_end_is_told() {
        let (mut viewers, mut there) = joined();
        for (byte, is_look) in [(b'l', true), (b'i', true), (b'w', false)] {
            there.write_all(&[byte]).expect("ask");
            answer_next(&mut viewers);
            let told = receive(&mut there).expect("an answer");
            assert_eq!(matches!(told, Told::Look(..)), is_look);
        }
        assert_eq!(viewers.joined_count(), 1);
        let words = LastWords {
            why: "its time was up".to_owned(),
            ..LastWords::default()
        };
        viewers.farewell(words.clone());
        match receive(&mut there).expect("an answer") {
            Told::Ended(told) => assert_eq!(told, words),
            _ => panic!("no last words"),
        }
    }

    #[test]
    fn one_that_asks_as_the_window_ends_is_told() {
        let (viewers, mut there) = joined();
        there.write_all(b"i").expect("ask");
        viewers.farewell(LastWords::default());
        assert!(matches!(receive(&mut there), Ok(Told::Ended(_))));
    }

    #[test]
    fn those_that_hang_up_or_talk_nonsense_are_forgotten() {
        let (viewers, there) = joined();
        drop(there);
        until_gone(&viewers);
        let (viewers, mut there) = joined();
        there.write_all(b"?").expect("ask");
        until_gone(&viewers);
        assert!(receive(&mut there).is_err());
    }

    #[test]
    fn one_that_takes_nothing_holds_up_nobody() {
        let (mut viewers, there) = joined();
        let mut asking = there.try_clone().expect("another descriptor");
        // Until its socket is full, and its thread hangs.
        asking.set_nonblocking(true).expect("not to wait here");
        let mut answered = 0;
        let mut last_at = Instant::now();
        while last_at.elapsed() < Duration::from_millis(300) {
            let _ = asking.write_all(b"l");
            for asked in viewers.questions() {
                answered += 1;
                last_at = Instant::now();
                let _ = asked.reply.send(Answer::Look(Look::default(), None));
            }
        }
        assert!(answered > 10, "{answered}");
        // Another one is served, and the end comes.
        let (here, mut other) = UnixStream::pair().expect("a pair of sockets");
        viewers.welcome(here).expect("let in");
        other.write_all(b"w").expect("ask");
        answer_next(&mut viewers);
        assert!(matches!(receive(&mut other), Ok(Told::Said(_))));
        let started = Instant::now();
        viewers.farewell(LastWords::default());
        assert!(started.elapsed() < 4 * FAREWELL_MAX);
        assert!(matches!(receive(&mut other), Ok(Told::Ended(_))));
    }

    #[test]
    fn one_too_many_is_told_so() {
        let (mut viewers, _first) = joined();
        let mut others = Vec::new();
        for _ in 1..VIEWERS_MAX {
            let (here, there) = UnixStream::pair().expect("a pair of sockets");
            viewers.welcome(here).expect("let in");
            others.push(there);
        }
        let (here, mut there) = UnixStream::pair().expect("a pair of sockets");
        viewers.welcome(here).expect("told");
        match receive(&mut there).expect("an answer") {
            Told::Ended(words) => assert!(words.why.contains("watch this session already"), "{words:?}"),
            _ => panic!("let in"),
        }
    }
}
