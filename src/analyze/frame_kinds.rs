//! Which frames seldom are what somebody looks for: the interpreter's own, and those of importing.

use super::input::Location;

/// What a frame is besides a place in somebody's code.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FrameKind {
    /// How the interpreter calls functions, or `runpy`, which starts programs.
    pub is_plumbing: bool,
    /// Executes an import statement.
    pub is_import: bool,
}

impl FrameKind {
    /// Upstream's rules. They need the files of native functions; where only their module is known, that it is the
    /// interpreter's does.
    pub fn of(frame: &Location) -> Self {
        let Location { function, file, .. } = *frame;
        let is_runpy = file.ends_with("runpy.py") || file == "<frozen runpy>";
        let is_internal = is_call_function(function) || file.contains("Objects/call.c");
        let is_import_statement = ["import_name", "import_from", "import_all_from"].contains(&function);
        Self {
            is_plumbing: is_runpy || is_internal && is_interpreter_file(file),
            is_import: file.contains("frozen importlib") || is_import_statement && file.ends_with("ceval.c"),
        }
    }
}

/// Names of functions by which the interpreter calls others.
fn is_call_function(function: &str) -> bool {
    const OTHERS: [&str; 19] = [
        "PyObject_Call",
        "call_function",
        "classmethoddescr_call",
        "cmpwrapper_call",
        "do_call_core",
        "fast_function",
        "function_call",
        "function_code_fastcall",
        "instance_call",
        "instancemethod_call",
        "methoddescr_call",
        "proxy_call",
        "slot_tp_call",
        "trace_call_function",
        "type_call",
        "weakref_call",
        "wrap_call",
        "wrapper_call",
        "wrapperdescr_call",
    ];
    ["PyEval", "_Py", "_TAIL_CALL_"]
        .iter()
        .any(|start| function.starts_with(start))
        || function.to_ascii_lowercase().contains("vectorcall")
        || OTHERS.contains(&function)
}

fn is_interpreter_file(file: &str) -> bool {
    let is_source = file.ends_with(".c") || file.ends_with(".h");
    let directories = ["Include", "Objects", "Modules", "Python", "cpython"];
    let name = file.rsplit('/').next().unwrap_or(file);
    is_source && directories.iter().any(|directory| file.contains(directory))
        || name.starts_with("libpython")
        || name.starts_with("python3") && !name.ends_with(".py")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_are_told_by_function_and_file() {
        for (function, file, is_plumbing, is_import) in [
            ("run", "/srv/app.py", false, false),
            ("_run_code", "<frozen runpy>", true, false),
            ("_run_code", "/usr/lib/python3.9/runpy.py", true, false),
            ("_PyEval_EvalFrameDefault", "/build/Python/ceval.c", true, false),
            ("_PyEval_EvalFrameDefault", "/usr/lib/libpython3.11.so.1.0", true, false),
            ("_PyObject_Vectorcall", "/usr/bin/python3.11", true, false),
            ("_PyDict_Mine", "/srv/extension.c", false, false),
            ("my_vectorcall", "/srv/numpy/core.c", false, false),
            ("_find_and_load", "<frozen importlib._bootstrap>", false, true),
            ("import_name", "/build/Python/ceval.c", false, true),
            ("import_name", "/srv/app.py", false, false),
            ("call_function", "/srv/python3_app.py", false, false),
        ] {
            let line = 1;
            let expected = FrameKind { is_plumbing, is_import };
            assert_eq!(
                FrameKind::of(&Location { function, file, line }),
                expected,
                "{function} {file}"
            );
        }
    }
}
