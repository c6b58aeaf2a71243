//! Control files: how a session is found from any terminal. One small JSON file for each, written by its collector,
//! in a directory that only its user can enter, and a socket beside it for those who want to watch.
//!
//! Nothing in such a file is believed by itself: it may have been left behind, and root reads those of every user.
//! [`super::status`] holds each against the processes that it names.

use crate::capture::Losses;
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
use nix::sys::stat::Mode;
use nix::unistd::{UnlinkatFlags, geteuid, unlinkat};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// Version of [`Record`]: changes only when a field changes its meaning.
const SCHEMA: u32 = 1;
/// Longest file that is read: a path of 4 KiB, escaped, and some numbers.
const FILE_BYTES_MAX: u64 = 64 << 10;
/// Files that are looked at in one directory, and users whose directories root looks at.
const FILES_MAX: usize = 1000;
const USERS_MAX: usize = 1000;
const SUFFIX: &str = ".json";
const SOCKET_SUFFIX: &str = ".sock";
const NAME: &str = "memray";

/// What a collector says of its session.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Record {
    pub schema: u32,
    pub target_pid: i32,
    pub target_start_ticks: u64,
    pub collector_pid: i32,
    pub collector_start_ticks: u64,
    pub guardian_pid: i32,
    pub guardian_start_ticks: u64,
    /// Inode of the PID namespace in which these numbers mean something.
    pub pid_namespace: u64,
    /// Milliseconds since the epoch.
    pub started_ms: u64,
    pub updated_ms: u64,
    /// As text: bytes that are none are replaced.
    pub capture: String,
    pub written_bytes: u64,
    pub allocations_count: u64,
    pub frees_count: u64,
    pub live_bytes: u64,
    pub losses: Losses,
}

/// A directory of control files, open.
pub struct Directory {
    file: File,
    path: PathBuf,
    uid: u32,
}

/// A record and where it was read.
pub struct Found {
    pub record: Record,
    /// Who owns the directory and the file.
    pub uid: u32,
    name: String,
    index: usize,
}

/// All records that this user may read.
pub struct Records {
    directories: Vec<Directory>,
    pub found: Vec<Found>,
}

/// The collector's own file; removed when dropped.
pub struct ControlFile {
    directory: Directory,
    name: String,
}

impl Directory {
    /// This user's directory, made where it is missing.
    pub fn own() -> io::Result<Self> {
        let uid = geteuid().as_raw();
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for path in places(uid) {
            match Self::make(&path, uid) {
                Ok(directory) => return Ok(directory),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    /// Where [`Self::own`] would find or make it.
    pub fn own_path() -> io::Result<PathBuf> {
        let uid = geteuid().as_raw();
        let is_usable = |path: &PathBuf| match Self::open(path, uid) {
            Ok(_) => true,
            Err(error) => {
                let parent = path.parent().unwrap_or(Path::new("/"));
                let may_write = nix::unistd::access(parent, nix::unistd::AccessFlags::W_OK).is_ok();
                error.kind() == io::ErrorKind::NotFound && may_write
            }
        };
        let place = places(uid).into_iter().find(is_usable);
        place.ok_or_else(|| io::Error::other("no directory of this user's can be written"))
    }

    fn make(path: &Path, uid: u32) -> io::Result<Self> {
        match std::fs::DirBuilder::new().mode(0o700).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        Self::open(path, uid)
    }

    /// Opens it if it is a directory, not a link to one, of this user, and closed to everybody else.
    fn open(path: &Path, uid: u32) -> io::Result<Self> {
        let flags = libc::O_DIRECTORY | libc::O_NOFOLLOW;
        let file = File::options().read(true).custom_flags(flags).open(path)?;
        let metadata = file.metadata()?;
        if metadata.uid() != uid || metadata.permissions().mode() & 0o077 != 0 {
            let path = path.display();
            return Err(io::Error::other(format!(
                "{path} is not this user's own, closed to others"
            )));
        }
        Ok(Self {
            file,
            path: path.to_owned(),
            uid,
        })
    }

    /// Names of records, of one target's alone where that is given: those of others must not keep it from being found.
    fn names(&self, target_pid: Option<i32>) -> Vec<String> {
        let prefix = target_pid.map_or(String::new(), |pid| format!("{pid}-"));
        // By the descriptor: the name may lead elsewhere by now.
        let Ok(mut directory) = nix::dir::Dir::openat(&self.file, ".", OFlag::O_DIRECTORY, Mode::empty()) else {
            return Vec::new();
        };
        let entries = directory.iter().filter_map(Result::ok);
        entries
            .filter_map(|entry| entry.file_name().to_str().ok().map(str::to_owned))
            .filter(|name| name.ends_with(SUFFIX) && !name.starts_with('.') && name.starts_with(&prefix))
            .take(FILES_MAX)
            .collect()
    }

    fn read(&self, name: &str) -> Option<Record> {
        // Without waiting for a writer, should it be a pipe.
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC | OFlag::O_NOCTTY;
        let file = File::from(openat(&self.file, name, flags, Mode::empty()).ok()?);
        let metadata = file.metadata().ok()?;
        if !metadata.is_file() || metadata.uid() != self.uid {
            return None;
        }
        let mut text = Vec::new();
        file.take(FILE_BYTES_MAX).read_to_end(&mut text).ok()?;
        let record: Record = serde_json::from_slice(&text).ok()?;
        (record.schema == SCHEMA).then_some(record)
    }

    /// Removes a record and the socket beside it.
    fn forget(&self, name: &str) {
        self.remove(name);
        self.remove(&socket_name(name));
    }

    /// A path of a name in this very directory, wherever that is by now, and short enough for a socket.
    fn path_of(&self, name: &str) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}/{name}", self.file.as_raw_fd()))
    }

    fn remove(&self, name: &str) {
        // Whoever was faster is welcome.
        let _ = unlinkat(&self.file, name, UnlinkatFlags::NoRemoveDir);
    }

    /// Readers see the old record or the new one.
    fn write(&self, name: &str, record: &Record) -> io::Result<()> {
        let new = format!(".{name}.new");
        let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let mode = Mode::S_IRUSR | Mode::S_IWUSR;
        let opened = match openat(&self.file, new.as_str(), flags, mode) {
            Err(Errno::EEXIST) => {
                self.remove(&new);
                openat(&self.file, new.as_str(), flags, mode)
            }
            result => result,
        };
        let mut record = record.clone();
        record.schema = SCHEMA;
        let written = File::from(opened?).write_all(&serde_json::to_vec(&record)?);
        let renamed = written.and_then(|()| {
            let here = self.file.as_fd();
            Ok(nix::fcntl::renameat(here, new.as_str(), here, name)?)
        });
        if renamed.is_err() {
            self.remove(&new);
        }
        renamed
    }
}

impl ControlFile {
    pub fn create(record: &Record) -> io::Result<Self> {
        let directory = Directory::own()?;
        let name = file_name(record.target_pid, record.collector_pid, record.collector_start_ticks);
        directory.write(&name, record)?;
        Ok(Self { directory, name })
    }

    pub fn update(&self, record: &Record) -> io::Result<()> {
        self.directory.write(&self.name, record)
    }

    /// Where those who want to watch the session find its collector.
    pub fn listener(&self) -> io::Result<UnixListener> {
        let name = socket_name(&self.name);
        self.directory.remove(&name);
        UnixListener::bind(self.directory.path_of(&name))
    }
}

impl Drop for ControlFile {
    fn drop(&mut self) {
        self.directory.forget(&self.name);
    }
}

impl Records {
    /// Reads this user's, and root everybody's; those of one target alone where that is given.
    pub fn read(target_pid: Option<i32>) -> Self {
        let uid = geteuid().as_raw();
        let mut owners = vec![uid];
        if uid == 0 {
            owners.extend(other_users());
        }
        let places = owners
            .into_iter()
            .flat_map(|uid| places(uid).into_iter().map(move |path| (path, uid)));
        let mut directories: Vec<Directory> = Vec::new();
        for (path, uid) in places {
            if !directories.iter().any(|known| known.path == path)
                && let Ok(directory) = Directory::open(&path, uid)
            {
                directories.push(directory);
            }
        }
        let found = directories.iter().enumerate().flat_map(|(index, directory)| {
            let names = directory.names(target_pid).into_iter();
            names.filter_map(move |name| {
                let record = directory.read(&name)?;
                let uid = directory.uid;
                Some(Found {
                    record,
                    uid,
                    name,
                    index,
                })
            })
        });
        let found = found.collect();
        Self { directories, found }
    }

    /// Removes the file of a session that is over.
    pub fn forget(&self, found: &Found) {
        self.directories[found.index].forget(&found.name);
    }

    /// Connects with the collector that has this number, and with nobody else.
    pub fn connect(&self, collector_pid: i32) -> io::Result<UnixStream> {
        let mut last = io::Error::from(io::ErrorKind::NotFound);
        for found in self.found.iter().filter(|it| it.record.collector_pid == collector_pid) {
            let path = self.directories[found.index].path_of(&socket_name(&found.name));
            let stream = match UnixStream::connect(path) {
                Ok(stream) => stream,
                Err(error) => {
                    last = error;
                    continue;
                }
            };
            // A user's directory may hold links to anybody's sockets.
            let peer = getsockopt(&stream, PeerCredentials)?;
            if (peer.pid(), peer.uid()) == (collector_pid, found.uid) {
                return Ok(stream);
            }
            last = io::Error::other("another process answers in its place");
        }
        Err(last)
    }
}

/// Removes the file of a collector that is dead and whose target is put back.
pub fn forget(target_pid: i32, collector_pid: i32, collector_start_ticks: u64) {
    let name = file_name(target_pid, collector_pid, collector_start_ticks);
    let records = Records::read(Some(target_pid));
    for directory in &records.directories {
        directory.forget(&name);
    }
}

fn socket_name(name: &str) -> String {
    format!("{}{SOCKET_SUFFIX}", name.strip_suffix(SUFFIX).unwrap_or(name))
}

fn file_name(target_pid: i32, collector_pid: i32, collector_start_ticks: u64) -> String {
    format!("{target_pid}-{collector_pid}-{collector_start_ticks}{SUFFIX}")
}

/// Where a user's control files may be, the best first. The environment says so of ourselves alone.
fn places(uid: u32) -> Vec<PathBuf> {
    let belongs = |path: &PathBuf| std::fs::symlink_metadata(path).is_ok_and(|it| it.is_dir() && it.uid() == uid);
    let mut places = Vec::new();
    if uid == 0 {
        places.push(Path::new("/run").join(NAME));
    } else {
        let named = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from);
        let named = named.filter(|path| path.is_absolute() && uid == geteuid().as_raw());
        let parents = named.into_iter().chain([PathBuf::from(format!("/run/user/{uid}"))]);
        places.extend(parents.filter(belongs).map(|parent| parent.join(NAME)));
    }
    // Containers often have neither.
    places.push(PathBuf::from(format!("/tmp/{NAME}-{uid}")));
    places
}

/// Users that have or may have sessions: those logged in, and those without a runtime directory.
fn other_users() -> Vec<u32> {
    let names = |directory: &str| {
        let entries = std::fs::read_dir(directory)
            .into_iter()
            .flatten()
            .filter_map(Result::ok);
        entries.filter_map(|entry| entry.file_name().into_string().ok())
    };
    let logged_in = names("/run/user").filter_map(|name| name.parse().ok());
    let others = names("/tmp").filter_map(|name| name.strip_prefix(NAME)?.strip_prefix('-')?.parse().ok());
    let mut users: Vec<u32> = logged_in
        .chain(others)
        .filter(|&uid| uid != 0)
        .take(USERS_MAX)
        .collect();
    users.sort_unstable();
    users.dedup();
    users
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temporary(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("memray-control-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn a_record_is_replaced_as_a_whole_and_read_again() {
        let path = temporary("record");
        let directory = Directory::make(&path, geteuid().as_raw()).expect("a directory of our own");
        let mut record = Record {
            schema: SCHEMA,
            target_pid: 7,
            capture: "/tmp/a\n\u{1b}b".to_owned(),
            ..Record::default()
        };
        for allocations_count in [1, u64::MAX] {
            record.allocations_count = allocations_count;
            directory.write("7-8-9.json", &record).expect("it can be written");
            assert_eq!(directory.names(None), ["7-8-9.json"]);
            assert_eq!(directory.read("7-8-9.json").as_ref(), Some(&record));
        }
        assert_eq!(directory.names(Some(7)), ["7-8-9.json"]);
        assert_eq!(directory.names(Some(70)), [""; 0]);
        // Leftovers of other targets, however many, do not hide it.
        for pid in 1000..1000 + 2 * FILES_MAX {
            std::fs::write(path.join(format!("{pid}-8-9.json")), "").expect("write");
        }
        assert_eq!(directory.names(Some(7)), ["7-8-9.json"]);
        assert_eq!(directory.names(None).len(), FILES_MAX);
        directory.remove("7-8-9.json");
        assert_eq!(directory.names(Some(7)), [""; 0]);
        std::fs::remove_dir_all(&path).expect("remove it");
    }

    #[test]
    fn what_is_not_ours_and_closed_is_not_used() {
        let path = temporary("foreign");
        let uid = geteuid().as_raw();
        let directory = Directory::make(&path, uid).expect("a directory of our own");
        assert!(Directory::open(&path, uid + 1).is_err(), "another user's");
        std::fs::write(path.join("good.json"), r#"{"schema":1,"target_pid":7}"#).expect("write");
        assert_eq!(directory.read("good.json").map(|record| record.target_pid), Some(7));
        let long = format!(r#"{{"schema":1,"capture":"{}"}}"#, "x".repeat(FILE_BYTES_MAX as usize));
        for (name, text) in [
            ("next.json", r#"{"schema":2}"#),
            ("none.json", ""),
            ("lie.json", r#"{"schema":1,"target_pid":"7"}"#),
            ("long.json", long.as_str()),
        ] {
            std::fs::write(path.join(name), text).expect("write");
            assert_eq!(directory.read(name), None, "{name}");
        }
        std::os::unix::fs::symlink(path.join("good.json"), path.join("link.json")).expect("link");
        assert_eq!(directory.read("link.json"), None, "a link");
        nix::unistd::mkfifo(&path.join("pipe.json"), Mode::S_IRWXU).expect("make a pipe");
        assert_eq!(directory.read("pipe.json"), None, "a pipe");
        let link = temporary("link");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(&path, &link).expect("link");
        assert!(Directory::make(&link, uid).is_err(), "a link to a directory");
        std::fs::remove_file(&link).expect("remove it");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("open it");
        assert!(Directory::open(&path, uid).is_err(), "open to others");
        std::fs::remove_dir_all(&path).expect("remove it");
    }
}
