//! What passes between a collector and those who watch its window: a socket beside the control file, one byte for each
//! question, and an answer of JSON with, where it was asked for, an image of what lives behind it.
//!
//! Neither side believes the other: lengths are bounded, texts are shown with nothing in them that steers a terminal, and
//! an image is read as any stranger's capture is.

use super::checkpoint::Kept;
use crate::capture::Image;
use crate::ui::ProgressState;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

/// Changes when an answer's field changes its meaning.
const SCHEMA: u32 = 1;
/// Longest JSON of an answer: a path of 4 KiB, escaped, and some numbers.
const TEXT_BYTES_MAX: u32 = 64 << 10;
/// Largest image that is taken: one of some ten million places.
const IMAGE_BYTES_MAX: u64 = 1 << 30;

/// What a viewer asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// How it goes, and with an image what lives.
    Look { with_image: bool },
    /// Puts all that was recorded so far into the capture.
    Write,
}

/// How a window goes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Look {
    elapsed_ms: u64,
    remaining_ms: Option<u64>,
    live_bytes: u64,
    allocations_per_second: f64,
    lost_count: u64,
    pub rss_bytes: u64,
    pub pause_us: u64,
}

/// How a window ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct LastWords {
    /// A clause.
    pub why: String,
    /// As text: bytes that are none are replaced.
    pub capture: String,
    pub lost_count: u64,
    pub warnings: Vec<String>,
}

/// One answer, without the image that follows it.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Answer {
    schema: u32,
    look: Option<Look>,
    said: Option<String>,
    ended: Option<LastWords>,
    image_bytes: u64,
}

/// What a viewer is told.
pub enum Told {
    Look(Look, Option<Kept>),
    Said(String),
    Ended(LastWords),
}

impl Request {
    pub fn byte(self) -> u8 {
        match self {
            Self::Look { with_image: false } => b'l',
            Self::Look { with_image: true } => b'i',
            Self::Write => b'w',
        }
    }

    pub fn of_byte(byte: u8) -> Option<Self> {
        match byte {
            b'l' => Some(Self::Look { with_image: false }),
            b'i' => Some(Self::Look { with_image: true }),
            b'w' => Some(Self::Write),
            _ => None,
        }
    }
}

impl Look {
    pub fn new(state: &ProgressState, rss_bytes: u64, pause_us: u64) -> Self {
        let ms = |duration: Duration| duration.as_millis() as u64;
        Self {
            elapsed_ms: ms(state.elapsed),
            remaining_ms: state.remaining.map(ms),
            live_bytes: state.live_bytes,
            allocations_per_second: state.allocations_per_second,
            lost_count: state.lost_count,
            rss_bytes,
            pause_us,
        }
    }

    pub fn state(&self) -> ProgressState {
        ProgressState {
            elapsed: Duration::from_millis(self.elapsed_ms),
            remaining: self.remaining_ms.map(Duration::from_millis),
            live_bytes: self.live_bytes,
            allocations_per_second: self.allocations_per_second,
            lost_count: self.lost_count,
        }
    }
}

pub fn send_look(stream: &mut UnixStream, look: Look, image: Option<&Image>) -> io::Result<()> {
    let failed = |error| io::Error::other(format!("{error}"));
    let kept = image.map(Kept::write).transpose().map_err(failed)?;
    let mut image = kept.map(|kept| File::open(kept.path())).transpose()?;
    let image_bytes = image
        .as_ref()
        .map_or(Ok(0), |file| file.metadata().map(|it| it.len()))?;
    send(
        stream,
        &Answer {
            look: Some(look),
            image_bytes,
            ..Answer::default()
        },
    )?;
    if let Some(image) = &mut image {
        io::copy(image, stream)?;
    }
    Ok(())
}

pub fn send_said(stream: &mut UnixStream, said: String) -> io::Result<()> {
    send(
        stream,
        &Answer {
            said: Some(said),
            ..Answer::default()
        },
    )
}

pub fn send_ended(stream: &mut UnixStream, words: LastWords) -> io::Result<()> {
    send(
        stream,
        &Answer {
            ended: Some(words),
            ..Answer::default()
        },
    )
}

fn send(stream: &mut UnixStream, answer: &Answer) -> io::Result<()> {
    let answer = serde_json::to_value(answer).map(|mut answer| {
        answer["schema"] = SCHEMA.into();
        answer.to_string()
    })?;
    let mut message = (answer.len() as u32).to_le_bytes().to_vec();
    message.extend_from_slice(answer.as_bytes());
    stream.write_all(&message)
}

/// Reads one answer.
pub fn receive(stream: &mut impl Read) -> io::Result<Told> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let length = u32::from_le_bytes(length);
    if length > TEXT_BYTES_MAX {
        return Err(bad("an answer that is none"));
    }
    let mut text = vec![0; length as usize];
    stream.read_exact(&mut text)?;
    let answer: Answer = serde_json::from_slice(&text)?;
    match answer {
        Answer { schema, .. } if schema != SCHEMA => Err(bad("the session is another version's of memray")),
        Answer { image_bytes, .. } if image_bytes > IMAGE_BYTES_MAX => Err(bad("an image without bounds")),
        Answer { ended: Some(words), .. } => Ok(Told::Ended(words)),
        Answer { said: Some(said), .. } => Ok(Told::Said(said)),
        Answer {
            look: Some(look),
            image_bytes,
            ..
        } => {
            let image = (image_bytes > 0).then(|| Kept::read(stream, image_bytes));
            Ok(Told::Look(look, image.transpose()?))
        }
        _ => Err(bad("an answer that is none")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(write: impl FnOnce(&mut UnixStream) -> io::Result<()>) -> io::Result<Told> {
        let (mut one, mut other) = UnixStream::pair()?;
        write(&mut one)?;
        drop(one);
        receive(&mut other)
    }

    #[test]
    fn what_is_sent_is_what_is_told() {
        let look = Look {
            elapsed_ms: 1500,
            remaining_ms: Some(2),
            live_bytes: u64::MAX,
            allocations_per_second: 0.5,
            lost_count: 3,
            rss_bytes: 4,
            pause_us: 5,
        };
        assert_eq!(Look::new(&look.state(), 4, 5), look);
        match told(|stream| send_look(stream, look, None)) {
            Ok(Told::Look(received, None)) => assert_eq!(received, look),
            _ => panic!("no look"),
        }
        let words = LastWords {
            why: "the process ended".to_owned(),
            lost_count: 7,
            ..LastWords::default()
        };
        match told(|stream| send_ended(stream, words.clone())) {
            Ok(Told::Ended(received)) => assert_eq!(received, words),
            _ => panic!("no last words"),
        }
        for byte in 0..=u8::MAX {
            assert!(Request::of_byte(byte).is_none_or(|request| request.byte() == byte));
        }
    }

    #[test]
    fn what_is_no_answer_is_an_error() {
        let message = |text: &str| {
            let mut bytes = (text.len() as u32).to_le_bytes().to_vec();
            bytes.extend_from_slice(text.as_bytes());
            bytes
        };
        for bytes in [
            b"".to_vec(),
            vec![1, 0],
            u32::MAX.to_le_bytes().to_vec(),
            vec![9, 0, 0, 0, b'{'],
            message("{}"),
            message(r#"{"schema":2,"said":"x"}"#),
            message(r#"{"schema":1}"#),
            message(r#"{"schema":1,"look":{},"image_bytes":18446744073709551615}"#),
            message(r#"{"schema":1,"look":{},"image_bytes":10}"#),
            message(r#"{"schema":1,"look":7}"#),
            message("[[[[[[["),
        ] {
            assert!(receive(&mut bytes.as_slice()).is_err(), "{bytes:?}");
        }
    }
}
