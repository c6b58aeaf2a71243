//! Real services from PyPI, asked by a client while memray attaches: no request fails, and the leak that was put into a
//! handler is the first row of what attach prints. `scripts/services` has more of them, and the latencies.

use crate::support::{Tool, interpreters, process, root, skip, skip_optional, tool};
use std::time::Duration;

#[test]
fn gunicorn() {
    attend("gunicorn");
}

#[test]
fn uvicorn() {
    attend("uvicorn");
}

fn attend(name: &str) {
    if !process::is_root() {
        return skip("scripts/services attaches to what it started, which may need root");
    }
    let Some(python) = interpreters::minor(12).or_else(interpreters::any) else {
        return skip("no interpreter");
    };
    let memray = tool::binary().to_str().expect("UTF-8");
    let python = python.path.to_str().expect("UTF-8");
    let arguments = ["--memray", memray, "--python", python, "--only", name, "--seconds", "2"];
    let output = Tool::program(root().join("scripts/services"), &arguments)
        // Seven seconds once the packages are there.
        .deadline(Duration::from_secs(400))
        .run();
    if output.status.code() == Some(77) {
        return skip_optional("a service from PyPI", output.stdout.trim());
    }
    output.assert_code(0).assert_says("0 failed  leak in row 1");
}
