//! Which processes a command is about: numbers, a name, a process and its children.

use super::failure::Failure;
use crate::session::{PythonProcess, family, pythons};
use clap::Args;

#[derive(Args, Clone, Debug)]
pub struct TargetArgs {
    /// The process; several at once have a capture each
    #[arg(value_name = "PID", value_parser = clap::value_parser!(i32).range(1..),
        required_unless_present_any = ["all", "children"])]
    pub pids: Vec<i32>,
    /// All Python processes whose executable, script or module has this name; without root, your own
    #[arg(long, value_name = "NAME", conflicts_with = "pids")]
    pub all: Option<String>,
    /// This process and all below it: a pool of workers
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(i32).range(1..), conflicts_with_all = ["pids", "all"])]
    pub children: Option<i32>,
}

impl TargetArgs {
    /// The one process that was named by its number.
    pub fn only(&self) -> Option<i32> {
        match (self.pids.as_slice(), &self.all, self.children) {
            ([pid], None, None) => Some(*pid),
            _ => None,
        }
    }

    /// All of them: numbers as they were given, each once, whatever they are; else those that run Python.
    pub fn resolve(&self) -> Result<Vec<i32>, Failure> {
        let mut found = Vec::new();
        if let Some(name) = &self.all {
            let own_uid = nix::unistd::geteuid();
            let is_ours = |it: &PythonProcess| own_uid.is_root() || own_uid.as_raw() == it.uid;
            let named = pythons().into_iter().filter(|it| is_ours(it) && it.is_named(name));
            found.extend(named.map(|it| it.pid));
            if found.is_empty() {
                let what = format!("no Python process has an executable, script or module called {name}");
                return Err(Failure::new(what, Some("memray ps, which lists them".to_owned())));
            }
        } else if let Some(pid) = self.children {
            let pythons = family(pid)
                .into_iter()
                .filter(|&pid| PythonProcess::look_at(pid).is_some());
            found.extend(pythons);
            if found.is_empty() {
                let what = format!("neither {pid} nor a process below it runs Python");
                return Err(Failure::new(
                    what,
                    Some("memray ps, which lists those that do".to_owned()),
                ));
            }
        } else {
            for &pid in &self.pids {
                if !found.contains(&pid) {
                    found.push(pid);
                }
            }
        }
        Ok(found)
    }
}
