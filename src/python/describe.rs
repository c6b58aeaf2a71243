//! What the capture's header says about the target, read from its memory. Each value on its own falls back
//! to something plain: a header field is no reason to refuse a target.

use super::allocators;
use super::find::Runtime;
use super::layout::Layout;
use super::memory::{Memory, at};
use super::objects;
use super::threads;

/// The target in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Description {
    /// `PY_VERSION_HEX`.
    pub version_hex: u32,
    /// `" ".join(sys.argv)`; `None` where `sys.argv` is missing or no list of strings.
    pub command_line: Option<String>,
    /// The directory of the standard library; empty where unknown.
    pub libdest: String,
    /// The directories of installed packages, as `site.getsitepackages()` has them; the user's own at the
    /// end where it is in use.
    pub site_packages: Vec<String>,
    /// `site.USER_SITE`, whether it exists or not.
    pub user_site: Option<String>,
    /// The strings in `sys.path`, absolute, without the empty one.
    pub sys_path: Vec<String>,
    /// 1 pymalloc, 2 pymalloc_debug, 3 malloc, 4 other, 5 mimalloc, 6 mimalloc_debug.
    pub python_allocator: u8,
}

/// Reads the target's description. `cwd` is its working directory, which relative paths start from.
pub fn describe(memory: &dyn Memory, runtime: &Runtime, cwd: &str) -> Description {
    let minor = runtime.version.minor();
    let sys = Module::sys(memory, runtime);
    let string = |name| sys.as_ref().and_then(|sys| sys.string(name));
    let strings = |name| sys.as_ref().and_then(|sys| sys.strings(name));

    let sys_path: Vec<String> = strings("path").unwrap_or_default();
    let sys_path: Vec<String> = sys_path
        .iter()
        .filter(|it| !it.is_empty())
        .map(|it| absolute(cwd, it))
        .collect();
    let site = sys.as_ref().and_then(|sys| sys.other("site"));
    let user_site = site
        .as_ref()
        .and_then(|site| site.string("USER_SITE"))
        .map(|it| absolute(cwd, &it));

    let prefixes = Prefixes {
        prefix: string("prefix"),
        exec_prefix: string("exec_prefix"),
        base_prefix: string("base_prefix"),
        platlibdir: string("platlibdir").unwrap_or_else(|| "lib".to_owned()),
    };
    let mut site_packages = site_packages(&prefixes, minor, &sys_path);
    site_packages.extend(user_site.iter().filter(|it| sys_path.contains(it)).cloned());
    site_packages = site_packages.iter().map(|it| absolute(cwd, it)).collect();

    // `os` is never in an archive but for frozen programs; its directory is the standard library.
    let os_file = sys.as_ref().and_then(|sys| sys.other("os")?.string("__file__"));
    let libdest = os_file
        .as_deref()
        .and_then(|file| file.rsplit_once('/'))
        .map(|(directory, _)| directory.to_owned())
        .or_else(|| prefixes.base_prefix.map(|it| format!("{it}/lib/python3.{minor}")))
        .map(|it| absolute(cwd, &it))
        .unwrap_or_default();

    Description {
        version_hex: runtime.version.hex,
        command_line: strings("argv").map(|argv| argv.join(" ")),
        libdest,
        site_packages,
        user_site,
        sys_path,
        python_allocator: allocators::python_allocator(memory, runtime).unwrap_or(allocators::PYMALLOC),
    }
}

/// The dict of a module of the main interpreter.
pub(super) struct Module<'a> {
    memory: &'a dyn Memory,
    layout: &'a Layout,
    dict: u64,
}

impl<'a> Module<'a> {
    pub fn sys(memory: &'a dyn Memory, runtime: &'a Runtime) -> Option<Self> {
        let layout = &runtime.layout;
        let interpreter = threads::main_interpreter(memory, runtime)?;
        let dict = memory.u64(at(interpreter, layout.interpreter.sysdict)).ok()?;
        Some(Self { memory, layout, dict })
    }

    /// Tries again: the target may be writing to the dict or replacing its table.
    pub fn value(&self, name: &str) -> Option<u64> {
        const TRIES: usize = 3;
        (0..TRIES).find_map(|_| objects::dict_value(self.memory, self.layout, self.dict, name))
    }

    fn string(&self, name: &str) -> Option<String> {
        objects::string(self.memory, self.layout, self.value(name)?)
    }

    fn strings(&self, name: &str) -> Option<Vec<String>> {
        objects::strings(self.memory, self.layout, self.value(name)?)
    }

    /// Another module by `sys.modules`.
    pub fn other(&self, name: &str) -> Option<Self> {
        let modules = Module {
            dict: self.value("modules")?,
            ..*self
        };
        let dict = objects::module_dict(self.memory, self.layout, modules.value(name)?)?;
        Some(Module { dict, ..*self })
    }
}

/// `sys.prefix` and its kin.
struct Prefixes {
    prefix: Option<String>,
    exec_prefix: Option<String>,
    base_prefix: Option<String>,
    platlibdir: String,
}

/// The rule of `site.getsitepackages()`, or Debian's where the interpreter follows that: its `sys.path` or
/// that of the installation it is a virtual environment of has `dist-packages`.
fn site_packages(prefixes: &Prefixes, minor: u8, sys_path: &[String]) -> Vec<String> {
    let is_venv = prefixes.base_prefix != prefixes.prefix;
    let is_debian = sys_path.iter().any(|it| it.ends_with("/dist-packages"))
        || (is_venv && prefixes.base_prefix.as_deref() == Some("/usr"));
    let mut libdirs = vec![prefixes.platlibdir.as_str()];
    if prefixes.platlibdir != "lib" {
        libdirs.push("lib");
    }
    let mut list = Vec::new();
    let mut seen: Vec<&str> = Vec::new();
    for prefix in [&prefixes.prefix, &prefixes.exec_prefix].into_iter().flatten() {
        if prefix.is_empty() || seen.contains(&prefix.as_str()) {
            continue;
        }
        seen.push(prefix);
        if !is_debian {
            list.extend(
                libdirs
                    .iter()
                    .map(|it| format!("{prefix}/{it}/python3.{minor}/site-packages")),
            );
            continue;
        }
        if is_venv {
            list.push(format!("{prefix}/lib/python3.{minor}/site-packages"));
        }
        list.push(format!("{prefix}/local/lib/python3.{minor}/dist-packages"));
        list.push(format!("{prefix}/lib/python3/dist-packages"));
        list.extend(
            libdirs
                .iter()
                .map(|it| format!("{prefix}/{it}/python3.{minor}/dist-packages")),
        );
    }
    list
}

/// `os.path.abspath`: absolute, without `.`, `..`, doubled or trailing slashes; symlinks stay.
fn absolute(cwd: &str, path: &str) -> String {
    let joined = if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{cwd}/{path}")
    };
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    format!("/{}", parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absolute_paths_are_those_of_os_path_abspath() {
        assert_eq!(absolute("/home/me", "a/./b/../c/"), "/home/me/a/c");
        assert_eq!(absolute("/home/me", "/usr//lib/../../.."), "/");
        assert_eq!(absolute("/", "x"), "/x");
    }
}
