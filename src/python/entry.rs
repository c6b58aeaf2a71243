//! The first frame of the user's program, recognised as the interpreter is about to run it.
//!
//! A program is started as usual and stopped from outside, by breakpoints: once at [`PLACES`]`.0`, where the interpreter
//! is set up and `site` imported, then at each entry of the evaluation loop. From the one to the other it is a handful
//! of stops (a hundred and more with `-m`, whose `runpy` has to be imported). What is run first with no frame below is
//! the program: the module of a script or of `-c`, or the function of `runpy` that finds and runs a module, which may
//! be the user's code already (the packages around it).

use super::find::Runtime;
use super::layout::Layout;
use super::memory::{Memory, at};
use super::objects;
use super::threads;
use super::walk;

/// Functions that every supported CPython exports: entered once it is set up; the evaluation loop.
pub const PLACES: (&str, &str) = ("Py_RunMain", "_PyEval_EvalFrameDefault");

/// From here on the loop's first argument is the thread state, its second the frame; before, the frame alone.
const THREAD_STATE_SINCE: u8 = 9;

/// A frame that the loop was entered with, and whose.
#[derive(Clone, Copy, Debug)]
pub struct ProgramFrame {
    thread_state: u64,
    frame: u64,
}

impl ProgramFrame {
    /// The frame behind the evaluation loop's arguments, if it is the program's first.
    pub fn of_arguments(memory: &dyn Memory, runtime: &Runtime, arguments: [u64; 2]) -> Option<Self> {
        let [first, second] = arguments;
        let found = if runtime.version.minor() >= THREAD_STATE_SINCE {
            Self {
                thread_state: first,
                frame: second,
            }
        } else {
            Self {
                thread_state: threads::thread_states(memory, runtime).ok()?.first()?.address,
                frame: first,
            }
        };
        let layout = &runtime.layout;
        let is_outermost = !walk::runs_code(memory, layout, found.thread_state).ok()?;
        (is_outermost && found.is_program(memory, layout)).then_some(found)
    }

    /// Whether the thread has it as its innermost frame, so that a walk finds it.
    pub fn is_linked(self, memory: &dyn Memory, runtime: &Runtime) -> bool {
        walk::innermost(memory, &runtime.layout, self.thread_state) == Ok(self.frame)
    }

    fn is_program(self, memory: &dyn Memory, layout: &Layout) -> bool {
        let Ok(code) = memory.u64(at(self.frame, layout.frame.code)) else {
            return false;
        };
        let code = walk::code_in(layout, code);
        let text = |offset| {
            let object = memory.u64(at(code, offset)).ok()?;
            objects::string(memory, layout, object)
        };
        match text(layout.code.name).as_deref() {
            // Parts of the interpreter itself are frozen.
            Some("<module>") => text(layout.code.filename).is_some_and(|file| !file.starts_with("<frozen ")),
            Some("_run_module_as_main") => true,
            _ => false,
        }
    }
}
