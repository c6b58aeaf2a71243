//! Python objects as they lie in memory, in the layouts of 3.8 to 3.13, built without the walker's help. Offsets measured
//! with offsetof in release builds for x86_64 Linux.

use std::cell::{Cell, RefCell};
use wire::NONE;
use wire::config::PythonLayout;

/// Versions whose frames differ.
pub const VERSIONS: [u32; 5] = [8, 10, 11, 12, 13];

/// The layout of CPython 3.`minor`; `finalizing` and `code_type` as [`FakePython`] has them.
fn layout(minor: u32) -> PythonLayout {
    let common = PythonLayout {
        enabled: 1,
        tstate_offset: 0x40,
        tstate_second: NONE,
        object_type: 8,
        unicode_length: 16,
        unicode_state: 32,
        unicode_ascii_data: 48,
        unicode_compact_data: 72,
        bytes_size: 16,
        bytes_data: 32,
        ..PythonLayout::OFF
    };
    let frame_objects = PythonLayout {
        tstate_thread_id: 176,
        tstate_frame: 24,
        frame_code: 32,
        frame_previous: 24,
        frame_instr: 104,
        code_filename: 104,
        code_name: 112,
        code_firstlineno: 40,
        code_linetable: 120,
        ..common
    };
    let interpreter_frames = PythonLayout {
        frame_instr: 56,
        code_filename: 112,
        code_name: 120,
        code_qualname: 128,
        code_linetable: 136,
        ..common
    };
    let short_strings = PythonLayout {
        frame_code: 0,
        frame_previous: 8,
        frame_owner: 70,
        owner_shim_min: 3,
        code_firstlineno: 68,
        code_version: 92,
        unicode_ascii_data: 40,
        unicode_compact_data: 56,
        ..interpreter_frames
    };
    match minor {
        8 => frame_objects,
        10 => PythonLayout {
            frame_instr: 96,
            ..frame_objects
        },
        11 => PythonLayout {
            tstate_thread_id: 152,
            tstate_frame: 56,
            cframe_frame: 8,
            frame_code: 32,
            frame_previous: 48,
            frame_owner: 69,
            frame_is_entry: 68,
            code_firstlineno: 72,
            code_instructions: 184,
            ..interpreter_frames
        },
        12 => PythonLayout {
            tstate_thread_id: 136,
            tstate_frame: 56,
            cframe_frame: 0,
            code_instructions: 192,
            ..short_strings
        },
        13 => PythonLayout {
            tstate_thread_id: 152,
            tstate_frame: 72,
            code_instructions: 200,
            ..short_strings
        },
        _ => unreachable!("no such layout"),
    }
}

/// An interpreter's memory: one thread with a chain of frames.
pub struct FakePython {
    pub layout: PythonLayout,
    objects: RefCell<Vec<Box<[u64]>>>,
    innermost: Cell<u64>,
    /// Stands for libc's thread descriptor; its address is the thread pointer.
    pub thread_pointer: u64,
    pub thread_state: u64,
    cframe: u64,
    /// The code that shims have, and no function.
    trampoline: u64,
}

/// Size of a code object with its instructions.
const CODE_BYTES: usize = 400;

/// What one code object is made of.
pub struct FakeCode<'a> {
    pub filename: &'a str,
    pub name: &'a str,
    pub firstlineno: u32,
    pub linetable: &'a [u8],
}

/// What a frame holds, apart from the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FakeLink {
    pub code: u64,
    pub offset: i32,
    /// 3 and above: a shim, on the versions that have them.
    pub owner: u8,
    /// Looked at on 3.11 alone.
    pub is_entry: bool,
}

/// A kind of frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Entered {
    /// By a call within the evaluation loop.
    ByPython,
    /// By C code.
    ByC,
}

impl FakePython {
    pub fn new(minor: u32) -> Self {
        let mut python = FakePython {
            layout: layout(minor),
            objects: RefCell::new(Vec::new()),
            innermost: Cell::new(0),
            thread_pointer: 0,
            thread_state: 0,
            cframe: 0,
            trampoline: 0,
        };
        python.layout.code_type = python.object(64);
        python.layout.finalizing = python.object(8);
        python.thread_pointer = python.object(0x80);
        python.thread_state = python.object(256);
        python.cframe = python.object(32);
        python.put(python.thread_pointer, python.layout.tstate_offset, python.thread_state);
        python.put(
            python.thread_state,
            python.layout.tstate_thread_id,
            python.thread_pointer,
        );
        python.trampoline = python.function("<interpreter trampoline>");
        python
    }

    /// Zeroed memory that lives as long as `self`.
    pub fn object(&self, bytes: usize) -> u64 {
        let object = vec![0u64; bytes.div_ceil(8)].into_boxed_slice();
        let address = object.as_ptr() as u64;
        self.objects.borrow_mut().push(object);
        address
    }

    /// Stores a word in an object of this interpreter.
    pub fn put(&self, object: u64, offset: u32, value: u64) {
        self.put_bytes(object, offset, &value.to_le_bytes());
    }

    fn put_bytes(&self, object: u64, offset: u32, bytes: &[u8]) {
        // The walker reads through the same provenance-less addresses, so the store goes the same way.
        // SAFETY: the objects live as long as `self`, and every caller stays within one: the tests run under
        // address checks in `inside`.
        unsafe {
            assert!(
                self.inside(object + offset as u64, bytes.len()),
                "outside of every object"
            );
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), (object + offset as u64) as *mut u8, bytes.len());
        }
    }

    fn inside(&self, address: u64, bytes: usize) -> bool {
        self.objects.borrow().iter().any(|object| {
            let start = object.as_ptr() as u64;
            start <= address && address + bytes as u64 <= start + object.len() as u64 * 8
        })
    }

    /// A str as PyUnicode_New makes it: the narrowest kind that holds all characters.
    pub fn string(&self, text: &str) -> u64 {
        let widest = text.chars().map(u32::from).max().unwrap_or(0);
        let (kind, ascii) = match widest {
            0..0x80 => (1, true),
            0x80..0x100 => (1, false),
            0x100..0x10000 => (2, false),
            _ => (4, false),
        };
        let data = if ascii {
            self.layout.unicode_ascii_data
        } else {
            self.layout.unicode_compact_data
        };
        let string = self.object(data as usize + (text.chars().count() + 1) * kind);
        self.put(string, self.layout.unicode_length, text.chars().count() as u64);
        // Interned, kind, compact, ASCII.
        let state = 1 | (kind as u32) << 2 | 1 << 5 | (ascii as u32) << 6;
        self.put_bytes(string, self.layout.unicode_state, &state.to_le_bytes());
        for (index, character) in text.chars().enumerate() {
            let bytes = (character as u32).to_le_bytes();
            self.put_bytes(string, data + (index * kind) as u32, &bytes[..kind]);
        }
        string
    }

    /// A bytes object.
    pub fn bytes(&self, content: &[u8]) -> u64 {
        let object = self.object(self.layout.bytes_data as usize + content.len() + 1);
        self.put(object, self.layout.bytes_size, content.len() as u64);
        // The cached hash, which changes when someone asks for it.
        self.put(object, 24, u64::MAX);
        self.put_bytes(object, self.layout.bytes_data, content);
        object
    }

    /// A code object.
    pub fn code(&self, code: &FakeCode) -> u64 {
        let object = self.object(CODE_BYTES);
        self.put(object, self.layout.object_type, self.layout.code_type);
        // `ob_size`: instructions of two bytes, up to the end of the object.
        if self.layout.code_instructions != NONE {
            let units = (CODE_BYTES as u64 - self.layout.code_instructions as u64) / 2;
            self.put(object, self.layout.object_type + 8, units);
        }
        self.put(object, self.layout.code_filename, self.string(code.filename));
        self.put(object, self.layout.code_name, self.string(code.name));
        if self.layout.code_qualname != NONE {
            self.put(
                object,
                self.layout.code_qualname,
                self.string(&format!("Class.{}", code.name)),
            );
        }
        self.put_bytes(object, self.layout.code_firstlineno, &code.firstlineno.to_le_bytes());
        self.put(object, self.layout.code_linetable, self.bytes(code.linetable));
        if self.layout.code_version != NONE {
            let version = self.objects.borrow().len() as u32;
            self.put_bytes(object, self.layout.code_version, &version.to_le_bytes());
        }
        object
    }

    /// A code object with this name and nothing else of interest.
    pub fn function(&self, name: &str) -> u64 {
        self.code(&FakeCode {
            filename: "/srv/app.py",
            name,
            firstlineno: 7,
            linetable: &[1, 2, 3, 4, 5, 6, 7, 8, 9],
        })
    }

    /// Calls a function: a new innermost frame, at `offset` (in the unit of the version; -1: not started).
    pub fn call(&self, code: u64, offset: i32, entered: Entered) {
        if self.layout.frame_owner != NONE && self.layout.frame_is_entry == NONE && entered == Entered::ByC {
            self.push_shim();
        }
        let frame = self.push_frame(code, 0);
        if self.layout.code_instructions == NONE {
            self.put_bytes(frame, self.layout.frame_instr, &offset.to_le_bytes());
        } else {
            let first = code + self.layout.code_instructions as u64;
            self.put(frame, self.layout.frame_instr, first.wrapping_add_signed(offset as i64));
        }
        if self.layout.frame_is_entry != NONE {
            self.put_bytes(frame, self.layout.frame_is_entry, &[(entered == Entered::ByC) as u8]);
        }
    }

    /// What the evaluation loop puts on the stack when C enters it, from 3.12.
    pub fn push_shim(&self) {
        self.push_frame(self.trampoline, 3);
    }

    /// Writes all that a walk reads of a frame, over whatever was there. `offset` as in [`Self::call`].
    pub fn fill_frame(&self, frame: u64, previous: u64, mut link: FakeLink) {
        if u32::from(link.owner) >= self.layout.owner_shim_min {
            link.code = self.trampoline;
        }
        self.put(frame, self.layout.frame_code, link.code);
        self.put(frame, self.layout.frame_previous, previous);
        if self.layout.code_instructions == NONE {
            self.put_bytes(frame, self.layout.frame_instr, &link.offset.to_le_bytes());
        } else {
            let first = link.code + self.layout.code_instructions as u64;
            self.put(
                frame,
                self.layout.frame_instr,
                first.wrapping_add_signed(link.offset as i64),
            );
        }
        if self.layout.frame_owner != NONE {
            self.put_bytes(frame, self.layout.frame_owner, &[link.owner]);
        }
        if self.layout.frame_is_entry != NONE {
            self.put_bytes(frame, self.layout.frame_is_entry, &[link.is_entry as u8]);
        }
    }

    /// Makes another code object of this one, at the same address.
    pub fn redefine(&self, code: u64, name: u64, version: u32) {
        self.put(code, self.layout.code_name, name);
        if self.layout.code_version != NONE {
            self.put_bytes(code, self.layout.code_version, &version.to_le_bytes());
        }
    }

    /// Makes a frame, or 0, the innermost.
    pub fn enter(&self, frame: u64) {
        self.innermost.set(frame);
        if self.layout.cframe_frame == NONE {
            self.put(self.thread_state, self.layout.tstate_frame, frame);
        } else {
            self.put(self.thread_state, self.layout.tstate_frame, self.cframe);
            self.put(self.cframe, self.layout.cframe_frame, frame);
        }
    }

    /// A frame with whatever in the place of its code. Gives its address.
    pub fn push_frame(&self, code: u64, owner: u8) -> u64 {
        let frame = self.object(120);
        self.put(frame, self.layout.frame_code, code);
        self.put(frame, self.layout.frame_previous, self.innermost.get());
        if self.layout.frame_owner != NONE {
            self.put_bytes(frame, self.layout.frame_owner, &[owner]);
        }
        self.enter(frame);
        frame
    }
}
