//! Whose code a file is: the application's, a library's, or Python's own.

/// Whose code a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// No frame was known.
    Unknown,
    /// Native code that lies nowhere in particular.
    Native,
    /// Python's standard library, frozen modules included.
    StandardLibrary,
    /// Installed packages.
    SitePackages,
    /// Code without a file: `<string>`, `<stdin>`, `<attrs generated init …>`.
    Generated,
    /// Everything else.
    Application,
}

impl Origin {
    /// Whether a reader of the report wants to know which line of theirs led here.
    pub fn is_library(self) -> bool {
        matches!(
            self,
            Self::Native | Self::StandardLibrary | Self::SitePackages | Self::Generated
        )
    }
}

/// The interpreter's search paths, as a capture's header has them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Origins<'a> {
    /// Directory of the standard library; empty where unknown.
    pub libdest: &'a str,
    pub site_packages: &'a [String],
}

impl Origins<'_> {
    /// Whose code `file` (a code object's `co_filename`) is. Installed packages are looked at first, because
    /// their directory lies within the standard library's. Where the paths don't tell, as in a virtual
    /// environment or a capture without paths, the usual names of directories do.
    pub fn of(&self, file: &str) -> Origin {
        if file.is_empty() || file == super::input::UNKNOWN {
            return Origin::Unknown;
        }
        if file.starts_with('<') {
            // Importlib and, from 3.11 on, the modules needed at start-up.
            return if file.starts_with("<frozen ") {
                Origin::StandardLibrary
            } else {
                Origin::Generated
            };
        }
        let is_installed = self.site_packages.iter().any(|directory| is_below(file, directory));
        if is_installed || file.contains("/site-packages/") || file.contains("/dist-packages/") {
            return Origin::SitePackages;
        }
        if is_below(file, self.libdest) || self.libdest.is_empty() && has_python_directory(file) {
            return Origin::StandardLibrary;
        }
        if is_native(file) {
            return Origin::Native;
        }
        Origin::Application
    }
}

/// Whether it is native code's: a source file, or the library itself where that is all that is known.
fn is_native(file: &str) -> bool {
    let name = file.rsplit('/').next().unwrap_or(file);
    let extension = name.rsplit_once('.').map_or("", |(_, extension)| extension);
    let sources = ["c", "cc", "cpp", "cxx", "h", "hh", "hpp", "S", "rs", "pyx", "so"];
    // `libxml2.so.2.9.14`.
    let is_version = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    let has_version = name.split_once(".so.").is_some_and(|(_, version)| is_version(version));
    sources.contains(&extension) || has_version || file == "[vdso]"
}

/// Whether `file` lies in `directory` or deeper.
fn is_below(file: &str, directory: &str) -> bool {
    path_below(file, directory).is_some()
}

/// The rest of the path of a file that lies in `directory` or deeper.
pub fn path_below<'a>(file: &'a str, directory: &str) -> Option<&'a str> {
    let directory = directory.trim_end_matches('/');
    if directory.is_empty() {
        return None;
    }
    file.strip_prefix(directory)?.strip_prefix('/')
}

/// Whether a directory `lib/python3.N` (or a `python3N.zip`) is on the way to `file`.
fn has_python_directory(file: &str) -> bool {
    let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    file.split('/').collect::<Vec<_>>().windows(2).any(|pair| {
        let name = pair[1].strip_prefix("python3");
        pair[0].starts_with("lib")
            && name.is_some_and(|rest| {
                rest.strip_prefix('.')
                    .is_some_and(|minor| is_digits(minor.trim_end_matches('t')))
                    || rest.strip_suffix(".zip").is_some_and(is_digits)
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_belong_to_whom_their_directory_belongs() {
        let site_packages = ["/usr/lib/python3.11/site-packages".to_owned(), "/opt/extra/".to_owned()];
        let origins = Origins {
            libdest: "/usr/lib/python3.11",
            site_packages: &site_packages,
        };
        for (file, origin) in [
            ("/usr/lib/python3.11/json/decoder.py", Origin::StandardLibrary),
            ("/usr/lib/python3.11/site-packages/django/db.py", Origin::SitePackages),
            ("/usr/lib/python3.110/x.py", Origin::Application),
            ("/opt/extra/numpy/core.py", Origin::SitePackages),
            ("/opt/extravagant/app.py", Origin::Application),
            ("/srv/venv/lib/python3.11/site-packages/x.py", Origin::SitePackages),
            ("/usr/lib/python3/dist-packages/x.py", Origin::SitePackages),
            ("/srv/app/lib/python3.11/main.py", Origin::Application),
            ("app.py", Origin::Application),
            ("<frozen importlib._bootstrap>", Origin::StandardLibrary),
            ("/usr/lib/libxml2.so.2.9.14", Origin::Native),
            ("/usr/lib/python3.11/lib-dynload/_json.so", Origin::StandardLibrary),
            ("/opt/extra/numpy/_core.so", Origin::SitePackages),
            ("src/alloc.c", Origin::Native),
            ("/rustc/abc/library/alloc/src/vec/mod.rs", Origin::Native),
            ("[vdso]", Origin::Native),
            ("/srv/app.so.py", Origin::Application),
            ("<string>", Origin::Generated),
            ("<stdin>", Origin::Generated),
            ("", Origin::Unknown),
            ("???", Origin::Unknown),
        ] {
            assert_eq!(origins.of(file), origin, "{file}");
        }
    }

    #[test]
    fn without_paths_the_usual_directories_tell() {
        let origins = Origins::default();
        assert_eq!(origins.of("/usr/lib/python3.9/threading.py"), Origin::StandardLibrary);
        assert_eq!(
            origins.of("/usr/lib64/python3.13t/threading.py"),
            Origin::StandardLibrary
        );
        assert_eq!(
            origins.of("/usr/lib/python311.zip/threading.py"),
            Origin::StandardLibrary
        );
        assert_eq!(origins.of("/srv/python3/app.py"), Origin::Application);
        assert_eq!(origins.of("/srv/lib/python3.x/app.py"), Origin::Application);
    }
}
