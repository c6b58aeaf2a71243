//! Cargo's build script: builds the freestanding payload and hands its path to `src/session/payload.rs`.
//!
//! The payload is a package of its own, built by a second cargo into this package's output folder: always in release
//! and always with the flags below, whatever this build is (debug, test, clippy) and whatever the user's environment asks
//! for. `cargo install` so needs nothing but the sources.

use std::env;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};

/// Targets for which the payload has entries.
const TARGETS: &[&str] = &["x86_64-unknown-linux-gnu"];

/// For the payload's own code alone. The base instruction set, since the target's CPU need not be the builder's.
const CODE_FLAGS: &[&str] = &[
    "-Cpanic=abort",
    "-Crelocation-model=pic",
    "-Ctarget-cpu=x86-64",
    "-Cforce-unwind-tables=no",
    "-Coverflow-checks=no",
    "-Cdebug-assertions=no",
];

/// For the image that walks native stacks, too: by them it finds the way out of its own frames. The other goes without,
/// since the walk of Python's frames wants every register.
const NATIVE_FLAGS: &[&str] = &["-Cforce-frame-pointers=yes"];

/// No libc and no start-up files, nothing undefined, calls and statics bound inside; segments that never share a
/// page; no RELRO, which a loader would protect by a call that the landing has no use for.
const LINK_FLAGS: &[&str] = &[
    "-nostdlib",
    "-nostartfiles",
    "-Wl,-z,defs",
    "-Wl,-Bsymbolic",
    "-Wl,-z,noexecstack",
    "-Wl,-z,norelro",
    "-Wl,-z,separate-code",
    "-Wl,-z,max-page-size=4096",
    "-Wl,--build-id=none",
    "-Wl,--no-eh-frame-hdr",
];

/// What this build's environment would otherwise change in the other: flags, folders, profiles.
const LEAKING_PREFIXES: &[&str] = &[
    "CARGO_BUILD_",
    // A linker of its own among them.
    "CARGO_TARGET_",
    "CARGO_PROFILE_",
    "CARGO_FEATURE_",
    "CARGO_CFG_",
    "CARGO_PKG_",
    "CARGO_UNSTABLE_",
    "DEP_",
];
const LEAKING: &[&str] = &[
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "RUSTFLAGS",
    "OUT_DIR",
    "TARGET",
    "HOST",
    "PROFILE",
];

fn main() {
    let payload = PathBuf::from(variable("CARGO_MANIFEST_DIR")).join("payload");
    for watched in ["Cargo.toml", "Cargo.lock", "src", "wire/Cargo.toml", "wire/src"] {
        println!("cargo:rerun-if-changed={}", payload.join(watched).display());
    }
    println!("cargo:rerun-if-changed=scripts/build_payload.rs");

    let target = variable("TARGET");
    if !TARGETS.contains(&target.as_str()) {
        fail(&format!(
            "there is no payload for {target}; supported: {}",
            TARGETS.join(", ")
        ));
    }
    let out = PathBuf::from(variable("OUT_DIR"));
    let image = build(&payload, &target, &out.join("payload"), &[], &[]);
    println!("cargo:rustc-env=MEMRAY_PAYLOAD={}", image.display());
    let image = build(
        &payload,
        &target,
        &out.join("payload-native"),
        &["--features", "native"],
        NATIVE_FLAGS,
    );
    println!("cargo:rustc-env=MEMRAY_PAYLOAD_NATIVE={}", image.display());
    // For `memray -V`.
    println!("cargo:rustc-env=MEMRAY_TARGET={target}");
}

/// Runs the second cargo and gives the path of the finished image.
fn build(payload: &Path, target: &str, target_dir: &Path, features: &[&str], flags: &[&str]) -> PathBuf {
    let mut cargo = Command::new(variable("CARGO"));
    for (name, _) in env::vars_os() {
        let leaks =
            |name: &str| LEAKING.contains(&name) || LEAKING_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
        if name.to_str().is_some_and(leaks) {
            cargo.env_remove(&name);
        }
    }
    // Set to nothing rather than removed: an empty value also overrules the user's cargo configuration.
    cargo
        .env("CARGO_ENCODED_RUSTFLAGS", "")
        .env("RUSTC_WRAPPER", "")
        .env("RUSTC_WORKSPACE_WRAPPER", "");
    // The same bytes from every build, so that one session can recognise the landing of another.
    cargo.env("CARGO_INCREMENTAL", "0");
    cargo.args(["rustc", "--release", "--lib", "--target", target]);
    cargo.arg("--manifest-path").arg(payload.join("Cargo.toml"));
    cargo.arg("--target-dir").arg(target_dir).args(features);
    cargo
        .arg("--")
        .args(CODE_FLAGS)
        .args(flags)
        .arg(format!("-Clink-args={}", LINK_FLAGS.join(" ")));
    match cargo.status() {
        Ok(status) if status.success() => {}
        Ok(status) => fail(&format!("building the payload failed ({status}); its errors are above")),
        Err(error) => fail(&format!("cargo could not be started to build the payload: {error}")),
    }
    let image = target_dir.join(target).join("release").join("libpayload.so");
    if !image.is_file() {
        fail(&format!("cargo built no {}", image.display()));
    }
    image
}

/// A variable that cargo sets for every build script.
fn variable(name: &str) -> String {
    env::var(name).unwrap_or_else(|_| fail(&format!("cargo did not set {name}")))
}

fn fail(message: &str) -> ! {
    eprintln!("memray's build: {message}");
    exit(1)
}
