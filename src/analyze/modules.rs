//! Which package's code a stack is: the top-level package of the innermost frame outside of the standard library.

use super::input::Location;
use super::origin::path_below;
use rustc_hash::FxHashMap;

/// Of stacks that are nobody's: without frames, or all of the standard library.
pub const NOBODY: &str = "<root>";

/// The interpreter's search paths, as a capture's header has them.
#[derive(Clone, Copy, Debug, Default)]
pub struct SearchPaths<'a> {
    /// Directory of the standard library; empty where unknown.
    pub libdest: &'a str,
    pub site_packages: &'a [String],
    pub sys_path: &'a [String],
}

impl SearchPaths<'_> {
    /// The package of a file; `None` for the standard library. Installed packages first, since their directory lies
    /// within the standard library's.
    fn package(&self, file: &str) -> Option<String> {
        if file.starts_with("<frozen ") {
            return None;
        }
        let below = |directory: &String| path_below(file, directory);
        if let Some(path) = self.site_packages.iter().find_map(below) {
            return Some(first_part(path));
        }
        if path_below(file, self.libdest).is_some() {
            return None;
        }
        let path = self.sys_path.iter().find_map(below);
        Some(first_part(
            path.unwrap_or_else(|| file.rsplit_once('/').map_or(file, |(_, name)| name)),
        ))
    }
}

/// The first part of a module's dotted name.
fn first_part(path: &str) -> String {
    let path = path.strip_suffix("/__init__.py").unwrap_or(path);
    let path = path.strip_suffix(".py").unwrap_or(path);
    let part = path.split(['/', '.']).next().unwrap_or_default();
    if part.is_empty() { "unknown" } else { part }.to_owned()
}

/// Finds the packages of stacks, each file's once.
pub struct Modules<'a> {
    paths: SearchPaths<'a>,
    packages: FxHashMap<String, Option<String>>,
}

impl<'a> Modules<'a> {
    pub fn new(paths: SearchPaths<'a>) -> Self {
        Self {
            paths,
            packages: FxHashMap::default(),
        }
    }

    /// The package that the frames, innermost first, are of. Upstream's tracker counts as nobody.
    pub fn of<'f>(&mut self, mut frames: impl Iterator<Item = Location<'f>>) -> String {
        let package = frames.find_map(|frame| self.package(frame.file));
        package
            .filter(|package| package != "memray")
            .unwrap_or_else(|| NOBODY.to_owned())
    }

    fn package(&mut self, file: &str) -> Option<String> {
        if let Some(package) = self.packages.get(file) {
            return package.clone();
        }
        let package = self.paths.package(file);
        self.packages.insert(file.to_owned(), package.clone());
        package
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_belong_to_packages() {
        let site_packages = ["/usr/lib/python3.11/site-packages".to_owned()];
        let sys_path = [String::new(), "/srv/app".to_owned()];
        let paths = SearchPaths {
            libdest: "/usr/lib/python3.11",
            site_packages: &site_packages,
            sys_path: &sys_path,
        };
        for (file, package) in [
            ("/usr/lib/python3.11/json/decoder.py", None),
            ("<frozen importlib._bootstrap>", None),
            (
                "/usr/lib/python3.11/site-packages/django/db/__init__.py",
                Some("django"),
            ),
            ("/usr/lib/python3.11/site-packages/six.py", Some("six")),
            ("/srv/app/shop/models.py", Some("shop")),
            ("/srv/app/manage.py", Some("manage")),
            ("/elsewhere/tool.py", Some("tool")),
            ("/srv/application/x.py", Some("x")),
            ("<string>", Some("<string>")),
            ("", Some("unknown")),
        ] {
            assert_eq!(paths.package(file).as_deref(), package, "{file}");
        }
    }

    #[test]
    fn the_innermost_frame_outside_of_the_standard_library_decides() {
        let paths = SearchPaths {
            libdest: "/lib",
            ..SearchPaths::default()
        };
        let mut modules = Modules::new(paths);
        let frame = |file| Location {
            function: "f",
            file,
            line: 1,
        };
        assert_eq!(
            modules.of([frame("/lib/json.py"), frame("/a/b.py"), frame("/c.py")].into_iter()),
            "b"
        );
        assert_eq!(modules.of([frame("/lib/json.py")].into_iter()), NOBODY);
        assert_eq!(
            modules.of([frame("/x/memray.py"), frame("/a/b.py")].into_iter()),
            NOBODY
        );
        assert_eq!(modules.of(std::iter::empty()), NOBODY);
    }
}
