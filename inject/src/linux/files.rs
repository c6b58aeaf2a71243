//! Files as a process sees them: by its own paths, below its own root, and with no more rights than it has.
//!
//! A path that comes from the process may be anything. No symbolic link, absolute or by `..`, leads out of its root: a
//! container's path never names a file of the host. And where this program is root and the process is not, files are
//! opened with the rights of the process, lest it be shown, by a path that it made up, what it may not read itself.

use super::process::proc_text;
use super::stat::start_ticks;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::Mode;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

/// The file system of one process. Stays usable when the process has ended, as far as its mounts do.
pub struct Files {
    root: OwnedFd,
    /// Whether that is this program's own root.
    is_own_root: bool,
    /// Its working directory, as it sees it.
    directory: PathBuf,
    rights: Option<Rights>,
    started: Option<SystemTime>,
}

/// Whose files one may open.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Rights {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl Files {
    pub fn of(pid: i32) -> io::Result<Self> {
        let link = |name: &str| std::fs::read_link(format!("/proc/{pid}/{name}"));
        let root_path = format!("/proc/{pid}/root");
        let root = File::options()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY | libc::O_CLOEXEC)
            .open(&root_path)?;
        let (theirs, ours) = (root.metadata()?, std::fs::metadata("/")?);
        let is_own_mount_namespace = link("ns/mnt").ok() == std::fs::read_link("/proc/self/ns/mnt").ok();
        let is_own_root = is_own_mount_namespace && (theirs.dev(), theirs.ino()) == (ours.dev(), ours.ino());
        // Both links are told as seen from here; what is below its root it sees without that.
        let (root_link, directory) = (link("root")?, link("cwd").unwrap_or_else(|_| "/".into()));
        let directory = match directory.strip_prefix(&root_link) {
            Ok(below) => Path::new("/").join(below),
            Err(_) => directory,
        };
        let status = proc_text(&format!("/proc/{pid}/status"))?;
        let is_root = nix::unistd::geteuid().is_root();
        Ok(Self {
            root: root.into(),
            is_own_root,
            directory,
            rights: rights(&status).filter(|rights| is_root && rights.uid != 0),
            started: start_time(pid),
        })
    }

    /// When the process was started, give or take a second.
    pub fn started(&self) -> Option<SystemTime> {
        self.started
    }

    /// Takes away from this thread, for the rest of its life, the rights that the process does not have. Goes before
    /// [`Self::open`], in a thread that ends thereafter.
    pub fn take_on_rights(&self) -> io::Result<()> {
        let Some(Rights { uid, gid, groups }) = &self.rights else {
            return Ok(());
        };
        // The call itself: glibc's function of the name does it for all threads.
        // SAFETY: setgroups reads `groups.len()` numbers of 32 bits each.
        let result = unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        let (uid, gid) = (nix::unistd::Uid::from_raw(*uid), nix::unistd::Gid::from_raw(*gid));
        nix::unistd::setfsgid(gid);
        nix::unistd::setfsuid(uid);
        // Neither says whether it did; asked once more they give what is set.
        if nix::unistd::setfsgid(gid) == gid && nix::unistd::setfsuid(uid) == uid {
            Ok(())
        } else {
            Err(io::ErrorKind::PermissionDenied.into())
        }
    }

    /// Opens a regular file for reading; a relative path is taken from the working directory of the process.
    pub fn open(&self, path: &[u8]) -> io::Result<File> {
        let whole = self.directory.join(OsStr::from_bytes(path));
        // Not yet open: to open a pipe or a device may wait, or do something.
        let found = File::from(self.find(&whole)?);
        if !found.metadata()?.is_file() {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        File::options()
            .read(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY)
            .open(format!("/proc/self/fd/{}", found.as_raw_fd()))
    }

    fn find(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlag::O_PATH | OFlag::O_CLOEXEC;
        let how = OpenHow::new()
            .flags(flags)
            .mode(Mode::empty())
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        // It may be interrupted by a rename anywhere in the path, and says so.
        const TRIES: usize = 4;
        let mut result = openat2(&self.root, path, how);
        for _ in 1..TRIES {
            if !matches!(result, Err(nix::errno::Errno::EAGAIN)) {
                break;
            }
            result = openat2(&self.root, path, how);
        }
        match result {
            // Kernels before 5.6, and seccomp filters that do not know the call. Without it a link could lead out.
            Err(nix::errno::Errno::ENOSYS | nix::errno::Errno::EPERM) if self.is_own_root => {
                let options = File::options().read(true).custom_flags(flags.bits()).open(path);
                options.map(OwnedFd::from)
            }
            other => Ok(other?),
        }
    }
}

/// From `/proc/PID/status`: those by which the kernel judges access to files.
fn rights(status: &str) -> Option<Rights> {
    let numbers = |name: &str| -> Option<Vec<u32>> {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().map(|word| word.parse().ok()).collect()
    };
    Some(Rights {
        uid: *numbers("Uid:")?.get(3)?,
        gid: *numbers("Gid:")?.get(3)?,
        groups: numbers("Groups:")?,
    })
}

fn start_time(pid: i32) -> Option<SystemTime> {
    /// USER_HZ, which is 100 on every architecture that Linux calls by this interface.
    const TICKS_PER_SECOND: u64 = 100;
    let stat = proc_text("/proc/stat").ok()?;
    let boot_seconds: u64 = stat
        .lines()
        .find_map(|line| line.strip_prefix("btime "))?
        .trim()
        .parse()
        .ok()?;
    let ticks = start_ticks(pid)?;
    let since_epoch = Duration::from_secs(boot_seconds + ticks / TICKS_PER_SECOND);
    SystemTime::UNIX_EPOCH.checked_add(since_epoch)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    /// A directory that is removed.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("memray-files-{name}-{}", std::process::id()));
            std::fs::create_dir_all(path.join("root/app")).expect("a directory");
            Self(path)
        }

        /// As a process would see it whose root is the directory `root`.
        fn files(&self) -> Files {
            let own = Files::of(std::process::id() as i32).expect("own files");
            let root = File::options()
                .read(true)
                .custom_flags(libc::O_PATH)
                .open(self.0.join("root"));
            Files {
                root: root.expect("the root").into(),
                is_own_root: false,
                directory: "/app".into(),
                ..own
            }
        }

        fn write(&self, path: &str, text: &str) {
            std::fs::write(self.0.join(path), text).expect("a file");
        }

        fn link(&self, to: impl AsRef<Path>, path: &str) {
            symlink(to, self.0.join(path)).expect("a link");
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn text(files: &Files, path: &str) -> Option<String> {
        std::io::read_to_string(files.open(path.as_bytes()).ok()?).ok()
    }

    #[test]
    fn no_path_and_no_link_leads_out_of_the_root() {
        let scratch = Scratch::new("links");
        scratch.write("outside.py", "outside");
        scratch.write("root/app/a.py", "inside");
        scratch.write("root/outside.py", "the container's own");
        let outside = scratch.0.join("outside.py");
        scratch.link(&outside, "root/app/absolute.py");
        scratch.link("../../../../../outside.py", "root/app/up.py");
        scratch.link("/app/a.py", "root/app/within.py");
        scratch.link("/proc/self/root/etc/passwd", "root/app/magic.py");
        let files = scratch.files();
        for path in ["/app/a.py", "a.py", "../app/a.py", "/app/within.py"] {
            assert_eq!(text(&files, path).as_deref(), Some("inside"), "{path}");
        }
        for path in ["/../../outside.py", "up.py", "../../../outside.py"] {
            assert_eq!(text(&files, path).as_deref(), Some("the container's own"), "{path}");
        }
        let outside = outside.to_str().expect("a path");
        for path in ["absolute.py", outside, "/etc/passwd", "magic.py", "", "a\0b"] {
            assert_eq!(text(&files, path), None, "{path:?}");
        }
    }

    #[test]
    fn what_is_no_file_is_not_opened() {
        let scratch = Scratch::new("kinds");
        let pipe = scratch.0.join("root/app/pipe.py");
        nix::unistd::mkfifo(&pipe, Mode::S_IRWXU).expect("a pipe");
        let files = scratch.files();
        // A pipe without a writer would be waited for.
        assert_eq!(text(&files, "pipe.py"), None);
        assert_eq!(text(&files, "."), None);
        let own = Files::of(std::process::id() as i32).expect("own files");
        assert!(own.open(b"/dev/zero").is_err());
        assert!(own.open(b"/proc/self/exe").is_err(), "a link that is none");
        let started = own.started().expect("a start");
        assert!(started <= SystemTime::now() && started.elapsed().expect("a time") < Duration::from_secs(100_000));
    }

    #[test]
    fn rights_are_those_of_the_file_system_ids() {
        let status = "Name:\tx\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\nGroups:\t9 10 \n";
        let expected = Rights {
            uid: 4,
            gid: 8,
            groups: vec![9, 10],
        };
        assert_eq!(rights(status), Some(expected));
        assert_eq!(rights("Uid:\t1\t2\t3\nGid:\t5\t6\t7\t8\nGroups:\t\n"), None);
        assert_eq!(rights(""), None);
    }

    #[test]
    fn root_reads_no_more_than_the_process_may() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let scratch = Scratch::new("rights");
        scratch.write("root/app/secret.py", "secret");
        scratch.write("root/app/open.py", "open");
        let set_mode = |path: &str, mode| {
            let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
            std::fs::set_permissions(scratch.0.join(path), mode).expect("a mode");
        };
        set_mode("root/app/secret.py", 0o600);
        std::fs::create_dir(scratch.0.join("root/app/closed")).expect("a directory");
        scratch.write("root/app/closed/open.py", "open");
        set_mode("root/app/closed", 0o700);
        for path in ["", "root", "root/app"] {
            set_mode(path, 0o755);
        }
        let read = |rights: Option<Rights>| {
            let files = Files {
                rights,
                ..scratch.files()
            };
            let read = move || {
                files.take_on_rights().expect("the rights of another");
                ["secret.py", "open.py", "closed/open.py"].map(|path| text(&files, path))
            };
            std::thread::spawn(read).join().expect("a thread")
        };
        let all = ["secret", "open", "open"].map(|it| Some(it.to_owned()));
        assert_eq!(read(None), all);
        let nobody = Rights {
            uid: 65534,
            gid: 65534,
            groups: Vec::new(),
        };
        assert_eq!(read(Some(nobody)), [None, Some("open".to_owned()), None]);
        assert_eq!(read(None), all, "other threads keep theirs");
    }
}
