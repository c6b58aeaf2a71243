//! On files that the compilers of this machine make.

use super::*;
use std::path::Path;
use std::process::Command;

const SOURCE: &str = "\
static inline __attribute__((always_inline)) int inlined(volatile int *p) {\n\
    return *p + 1;\n\
}\n\
__attribute__((noinline)) int outer(volatile int *p) {\n\
    return inlined(p);\n\
}\n";

struct Built {
    directory: PathBuf,
    library: PathBuf,
}

impl Built {
    fn make(name: &str, suffix: &str, source: &str, flags: &[&str]) -> Option<Self> {
        let directory = std::env::temp_dir().join(format!("memray-symbolize-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&directory).expect("a directory");
        let (file, library) = (directory.join(format!("source.{suffix}")), directory.join("library.so"));
        std::fs::write(&file, source).expect("a source");
        let compiler = if suffix == "c" { "cc" } else { "c++" };
        let output = Command::new(compiler)
            .args(["-O1", "-shared", "-fPIC", "-Wl,--build-id", "-o"])
            .args([&library, &file])
            .args(flags)
            .output();
        let built = Self { directory, library };
        match output {
            Ok(output) if output.status.success() => Some(built),
            _ => {
                eprintln!("skipped: no compiler for {suffix}");
                None
            }
        }
    }

    fn address_of(&self, symbol: &str) -> u64 {
        use object::ObjectSymbol;
        let bytes = std::fs::read(&self.library).expect("the library");
        let elf = object::File::parse(&*bytes).expect("an ELF file");
        let found = elf.dynamic_symbols().find(|it| it.name() == Ok(symbol));
        found.expect("a symbol").address()
    }

    fn symbolize(&self, address: u64, directories: &[PathBuf]) -> Vec<NativeFrame> {
        let source = Source {
            file: File::open(&self.library).expect("the library"),
            path: "/target/library.so",
            debug_directories: directories,
            fetch_until: None,
        };
        let mut all = symbolize(&source, &[address]);
        assert_eq!(all.len(), 1);
        all.remove(0)
    }

    fn run(&self, program: &str, arguments: &[&Path]) -> bool {
        let status = Command::new(program)
            .args(arguments)
            .current_dir(&self.directory)
            .status();
        status.is_ok_and(|status| status.success())
    }
}

impl Drop for Built {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn functions(frames: &[NativeFrame]) -> Vec<&str> {
    frames.iter().map(|frame| frame.function.as_str()).collect()
}

#[test]
fn inlined_functions_files_and_lines_come_from_debug_information() {
    let Some(built) = Built::make("inlined", "c", SOURCE, &["-g"]) else {
        return;
    };
    let frames = built.symbolize(built.address_of("outer"), &[]);
    assert_eq!(functions(&frames), ["inlined", "outer"]);
    assert!(
        frames.iter().all(|frame| frame.file.ends_with("source.c")),
        "{frames:?}"
    );
    assert_eq!((frames[0].line, frames[1].line), (2, 5));
}

#[test]
fn without_debug_information_symbols_name_the_function() {
    let Some(built) = Built::make("plain", "c", SOURCE, &["-s"]) else {
        return;
    };
    let frames = built.symbolize(built.address_of("outer"), &[]);
    assert_eq!(functions(&frames), ["outer"]);
    assert_eq!((frames[0].file.as_str(), frames[0].line), ("/target/library.so", 0));
    assert_eq!(functions(&built.symbolize(1 << 40, &[])), [""]);
}

#[test]
fn a_debug_file_is_found_by_build_id_alone() {
    let Some(built) = Built::make("build-id", "c", SOURCE, &["-g"]) else {
        return;
    };
    let address = built.address_of("outer");
    let bytes = std::fs::read(&built.library).expect("the library");
    let id = object::File::parse(&*bytes)
        .expect("ELF")
        .build_id()
        .expect("notes")
        .expect("an id")
        .to_vec();
    let hex: String = id.iter().map(|byte| format!("{byte:02x}")).collect();
    let debug = built.directory.join("debug");
    let place = debug.join(".build-id").join(&hex[..2]);
    std::fs::create_dir_all(&place).expect("a directory");
    let file = place.join(format!("{}.debug", &hex[2..]));
    std::fs::copy(&built.library, &file).expect("a copy");
    if !built.run("strip", &[&built.library]) {
        return;
    }
    assert_eq!(functions(&built.symbolize(address, &[])), ["outer"]);
    assert_eq!(
        functions(&built.symbolize(address, std::slice::from_ref(&debug))),
        ["inlined", "outer"]
    );
    // Another file under this name is not believed.
    let mut other = bytes;
    let at = other
        .windows(id.len())
        .position(|window| window == id)
        .expect("the note");
    other[at] ^= 1;
    std::fs::write(&file, other).expect("a file");
    assert_eq!(functions(&built.symbolize(address, &[debug])), ["outer"]);
}

#[test]
fn names_of_cpp_are_as_people_write_them() {
    let source = "namespace a { struct B { int c(int); }; __attribute__((noinline)) int B::c(int x) { return x; } }";
    let Some(built) = Built::make("cpp", "cc", source, &["-s"]) else {
        return;
    };
    let frames = built.symbolize(built.address_of("_ZN1a1B1cEi"), &[]);
    assert_eq!(functions(&frames), ["a::B::c(int)"]);
}

#[test]
fn names_of_rust_are_as_people_write_them() {
    let symbol = "_ZN5store5Cache6insert17h0123456789abcdefE";
    let source = format!("int f(int x) __asm__(\"{symbol}\"); int f(int x) {{ return x; }}");
    let Some(built) = Built::make("rust", "c", &source, &["-s"]) else {
        return;
    };
    let frames = built.symbolize(built.address_of(symbol), &[]);
    assert_eq!(functions(&frames), ["store::Cache::insert"]);
}

#[test]
fn a_file_of_nonsense_gives_no_names() {
    let directory = std::env::temp_dir().join(format!("memray-symbolize-nonsense-{}", std::process::id()));
    for bytes in [&b""[..], b"\x7fELF", &[0x7f; 4096]] {
        std::fs::write(&directory, bytes).expect("a file");
        let source = Source {
            file: File::open(&directory).expect("the file"),
            path: "/x",
            debug_directories: &[],
            fetch_until: None,
        };
        assert_eq!(functions(&symbolize(&source, &[1, 2]).concat()), ["", ""]);
    }
    std::fs::remove_file(&directory).expect("the file");
}
