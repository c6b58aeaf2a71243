//! Who was started by whom.

use std::io;
use std::sync::OnceLock;

/// The processes that a process has started and not yet collected, dead ones included; in no order.
///
/// The kernel lists them for each thread (`CONFIG_PROC_CHILDREN`); where it does not, every process is asked for its
/// parent.
pub fn children(pid: i32) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    if !lists_children() {
        let is_child = |&other: &i32| super::stat::stat_field(other, 4).and_then(|it| it.parse().ok()) == Some(pid);
        return Ok(processes()?.into_iter().filter(is_child).collect());
    }
    for entry in std::fs::read_dir(format!("/proc/{pid}/task"))? {
        let path = entry?.path().join("children");
        // A thread that ends meanwhile hands its children to another.
        let text = std::fs::read_to_string(path).unwrap_or_default();
        found.extend(
            text.split_ascii_whitespace()
                .filter_map(|word| word.parse::<i32>().ok()),
        );
    }
    Ok(found)
}

/// All processes that can be seen from here.
pub fn processes() -> io::Result<Vec<i32>> {
    let entries = std::fs::read_dir("/proc")?;
    let numbers = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    Ok(numbers.collect())
}

fn lists_children() -> bool {
    static LISTS: OnceLock<bool> = OnceLock::new();
    *LISTS.get_or_init(|| std::path::Path::new("/proc/thread-self/children").exists())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn children_of_every_thread_are_found() {
        let start = || Command::new("cat").stdin(Stdio::piped()).spawn().expect("start cat");
        let mut first = start();
        let mut second = std::thread::spawn(start).join().expect("a thread");
        let own_pid = std::process::id() as i32;
        let found = children(own_pid).expect("own children");
        for child in [&first, &second] {
            assert!(found.contains(&(child.id() as i32)), "{found:?}");
            assert!(processes().expect("processes").contains(&(child.id() as i32)));
        }
        for child in [&mut first, &mut second] {
            child.kill().expect("end it");
            child.wait().expect("collect it");
            assert!(!children(own_pid).expect("own children").contains(&(child.id() as i32)));
        }
    }
}
