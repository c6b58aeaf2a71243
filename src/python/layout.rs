//! Where CPython's structures have their fields: one const table per minor version, offsets in bytes,
//! `None` where the version has no such field.
//!
//! Source: `offsetof` in a C program with `Py_BUILD_CORE` against the headers of 3.7.16, 3.8.18, 3.9.18, 3.10.13,
//! 3.11.7, 3.12.1, 3.13.0, 3.14.10 and 3.15.2, x86_64; release and debug builds agree. Structures of objects, frames and thread states are
//! frozen within a minor version; `_PyRuntime` and the interpreter state may shift between patch releases,
//! so what is read from them is proven by its content (`find`, `recipe`, `allocators`).

/// The versions that have a table, for messages.
pub const SUPPORTED: &str = "3.7 to 3.15";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub runtime: RuntimeLayout,
    pub interpreter: InterpreterLayout,
    pub thread: ThreadLayout,
    pub frame: FrameLayout,
    pub code: CodeLayout,
    pub object: ObjectLayout,
    pub unicode: UnicodeLayout,
    pub dict: DictLayout,
    pub instance: InstanceLayout,
}

/// `_PyRuntimeState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuntimeLayout {
    /// `interpreters.head`.
    pub interpreters_head: u32,
    /// `_finalizing`: non-zero once the runtime is shutting down.
    pub finalizing: u32,
    /// `autoTSSkey`, a `Py_tss_t`: int `_is_initialized`, then the pthread key. From 3.15 a thread finds its state in a
    /// thread-local variable of the compiler's.
    pub auto_tss_key: Option<u32>,
    /// `main_thread` (`ceval.pending.main_thread` in 3.7): `pthread_self()` of the thread that initialised Python.
    pub main_thread: u32,
    /// `allocators.standard`: raw, mem, obj, each a `PyMemAllocatorEx`. Private variables before 3.12.
    pub allocators: Option<u32>,
}

/// `PyInterpreterState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InterpreterLayout {
    pub next: u32,
    /// `id`, an i64: 0 is the main interpreter.
    pub id: u32,
    /// `tstate_head`, `threads.head` from 3.11.
    pub threads_head: u32,
    /// `sysdict`: the dict of module `sys`.
    pub sysdict: u32,
}

/// `PyThreadState`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ThreadLayout {
    pub next: u32,
    pub interp: u32,
    /// `pthread_self()`.
    pub thread_id: u32,
    /// `gettid()`, an unsigned long.
    pub native_thread_id: Option<u32>,
    /// The innermost frame, or the `_PyCFrame` that points to it.
    pub frame: u32,
    /// `_PyCFrame.current_frame`.
    pub cframe_frame: Option<u32>,
}

/// `PyFrameObject` up to 3.10, `_PyInterpreterFrame` from 3.11.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameLayout {
    pub code: u32,
    pub previous: u32,
    pub instruction: Instruction,
    pub owner: Option<u32>,
    /// Owners from this value on are shims of the C stack, which have no code object.
    pub owner_shim_min: Option<u8>,
    /// Bits of the word at `code` that are a reference's tag and no address (`_PyStackRef`, from 3.14).
    pub code_tag: u64,
    /// `is_entry`, 3.11.
    pub is_entry: Option<u32>,
}

/// How a frame tells which instruction it is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Instruction {
    /// `f_lasti` at `offset`, an int; `unit` bytes of code for one step. The code is the bytes object at
    /// `code_bytes` of the code object.
    Index {
        offset: u32,
        unit_bytes: u32,
        code_bytes: u32,
    },
    /// A pointer at `offset` into the code that begins at `code_start` of the code object.
    Pointer { offset: u32, code_start: u32 },
}

/// `PyCodeObject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CodeLayout {
    pub filename: u32,
    pub name: u32,
    pub qualname: Option<u32>,
    pub firstlineno: u32,
    /// `co_lnotab` up to 3.9, then `co_linetable`.
    pub linetable: u32,
    /// `co_version`.
    pub version: Option<u32>,
}

/// `PyObject`, `PyVarObject`, `PyTypeObject`, `PyBytesObject`, `PyListObject`, `PyTupleObject`,
/// `PyModuleObject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ObjectLayout {
    pub ob_type: u32,
    pub ob_size: u32,
    pub type_flags: u32,
    pub bytes_data: u32,
    /// `ob_item`, a pointer to the items.
    pub list_items: u32,
    /// The items themselves.
    pub tuple_items: u32,
    pub module_dict: u32,
}

/// `PyASCIIObject` and `PyCompactUnicodeObject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnicodeLayout {
    pub length: u32,
    pub state: u32,
    /// The characters of a compact ASCII string: the size of `PyASCIIObject`.
    pub ascii_data: u32,
    /// The characters of another compact string: the size of `PyCompactUnicodeObject`.
    pub compact_data: u32,
    /// Whether bit 7 of the state says that the string is ready.
    pub has_ready_bit: bool,
}

/// `PyDictObject` and `PyDictKeysObject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DictLayout {
    pub keys: u32,
    /// `ma_values`: non-null for a split table.
    pub values: u32,
    pub table: DictKeys,
}

/// Instances of classes, and `PyHeapTypeObject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InstanceLayout {
    /// `tp_dictoffset`, for classes whose dict is not managed.
    pub type_dictoffset: u32,
    pub dict: InstanceDict,
    /// Where the pointers begin in what `ma_values` points to.
    pub values: u32,
}

/// Where an instance of an ordinary class keeps its attributes. `cached_keys` is `ht_cached_keys`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InstanceDict {
    /// Up to 3.10: a dict at `tp_dictoffset`.
    Offset,
    /// 3.11: values 4 words before the object, or a dict 3 words before it.
    TwoPointers { cached_keys: u32 },
    /// 3.12: either, 3 words before the object.
    Tagged { cached_keys: u32 },
    /// 3.13: a dict 3 words before the object, or values behind its `tp_basicsize` bytes.
    Inline { cached_keys: u32, type_basicsize: u32 },
}

/// The shape of `PyDictKeysObject`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DictKeys {
    /// Up to 3.10: the size itself (Py_ssize_t); entries of hash, key, value.
    Sized { size: u32, nentries: u32, indices: u32 },
    /// From 3.11: the size of the index as a power of two; entries of key, value where every key is a str.
    Log2 {
        log2_index_bytes: u32,
        kind: u32,
        nentries: u32,
        indices: u32,
    },
}

impl Layout {
    /// The table for CPython 3.`minor`.
    pub fn of(minor: u8) -> Option<Self> {
        match minor {
            7 => Some(V3_7),
            8 => Some(V3_8),
            9 => Some(V3_9),
            10 => Some(V3_10),
            11 => Some(V3_11),
            12 => Some(V3_12),
            13 => Some(V3_13),
            14 => Some(V3_14),
            15 => Some(V3_15),
            _ => None,
        }
    }
}

const V3_7: Layout = Layout {
    runtime: RuntimeLayout {
        interpreters_head: 24,
        finalizing: 8,
        auto_tss_key: Some(1504),
        main_thread: 720,
        allocators: None,
    },
    interpreter: InterpreterLayout {
        sysdict: 56,
        ..V3_8.interpreter
    },
    frame: FrameLayout {
        instruction: Instruction::Index {
            offset: 104,
            unit_bytes: 1,
            code_bytes: 40,
        },
        ..V3_8.frame
    },
    code: CodeLayout {
        filename: 96,
        name: 104,
        firstlineno: 36,
        linetable: 112,
        ..V3_8.code
    },
    ..V3_8
};

const V3_8: Layout = Layout {
    runtime: RuntimeLayout {
        interpreters_head: 32,
        finalizing: 16,
        auto_tss_key: Some(1392),
        main_thread: 72,
        allocators: None,
    },
    interpreter: InterpreterLayout {
        next: 0,
        id: 16,
        threads_head: 8,
        sysdict: 72,
    },
    thread: ThreadLayout {
        next: 8,
        interp: 16,
        thread_id: 176,
        native_thread_id: None,
        frame: 24,
        cframe_frame: None,
    },
    frame: FrameLayout {
        code: 32,
        previous: 24,
        instruction: Instruction::Index {
            offset: 104,
            unit_bytes: 1,
            code_bytes: 48,
        },
        owner: None,
        owner_shim_min: None,
        code_tag: 0,
        is_entry: None,
    },
    code: CodeLayout {
        filename: 104,
        name: 112,
        qualname: None,
        firstlineno: 40,
        linetable: 120,
        version: None,
    },
    object: ObjectLayout {
        ob_type: 8,
        ob_size: 16,
        type_flags: 168,
        bytes_data: 32,
        list_items: 24,
        tuple_items: 24,
        module_dict: 16,
    },
    unicode: UnicodeLayout {
        length: 16,
        state: 32,
        ascii_data: 48,
        compact_data: 72,
        has_ready_bit: true,
    },
    dict: DictLayout {
        keys: 32,
        values: 40,
        table: DictKeys::Sized {
            size: 8,
            nentries: 32,
            indices: 40,
        },
    },
    instance: InstanceLayout {
        type_dictoffset: 288,
        dict: InstanceDict::Offset,
        values: 0,
    },
};

const V3_9: Layout = Layout {
    runtime: RuntimeLayout {
        auto_tss_key: Some(584),
        ..V3_8.runtime
    },
    interpreter: InterpreterLayout {
        id: 24,
        sysdict: 872,
        ..V3_8.interpreter
    },
    ..V3_8
};

const V3_10: Layout = Layout {
    frame: FrameLayout {
        instruction: Instruction::Index {
            offset: 96,
            unit_bytes: 2,
            code_bytes: 48,
        },
        ..V3_9.frame
    },
    ..V3_9
};

const V3_11: Layout = Layout {
    runtime: RuntimeLayout {
        interpreters_head: 40,
        finalizing: 24,
        auto_tss_key: Some(592),
        main_thread: 80,
        allocators: None,
    },
    interpreter: InterpreterLayout {
        next: 0,
        id: 48,
        threads_head: 16,
        sysdict: 904,
    },
    thread: ThreadLayout {
        next: 8,
        interp: 16,
        thread_id: 152,
        native_thread_id: Some(160),
        frame: 56,
        cframe_frame: Some(8),
    },
    frame: FrameLayout {
        code: 32,
        previous: 48,
        instruction: Instruction::Pointer {
            offset: 56,
            code_start: 184,
        },
        owner: Some(69),
        owner_shim_min: None,
        code_tag: 0,
        is_entry: Some(68),
    },
    code: CodeLayout {
        filename: 112,
        name: 120,
        qualname: Some(128),
        firstlineno: 72,
        linetable: 136,
        version: None,
    },
    dict: DictLayout {
        table: DictKeys::Log2 {
            log2_index_bytes: 9,
            kind: 10,
            nentries: 24,
            indices: 32,
        },
        ..V3_10.dict
    },
    instance: InstanceLayout {
        dict: InstanceDict::TwoPointers { cached_keys: 872 },
        ..V3_10.instance
    },
    ..V3_10
};

const V3_12: Layout = Layout {
    runtime: RuntimeLayout {
        interpreters_head: 40,
        finalizing: 24,
        auto_tss_key: Some(1544),
        main_thread: 64,
        allocators: Some(96),
    },
    interpreter: InterpreterLayout {
        next: 0,
        id: 8,
        threads_head: 72,
        sysdict: 352,
    },
    thread: ThreadLayout {
        thread_id: 136,
        native_thread_id: Some(144),
        cframe_frame: Some(0),
        ..V3_11.thread
    },
    frame: FrameLayout {
        code: 0,
        previous: 8,
        instruction: Instruction::Pointer {
            offset: 56,
            code_start: 192,
        },
        owner: Some(70),
        // FRAME_OWNED_BY_CSTACK.
        owner_shim_min: Some(3),
        code_tag: 0,
        is_entry: None,
    },
    code: CodeLayout {
        firstlineno: 68,
        version: Some(92),
        ..V3_11.code
    },
    unicode: UnicodeLayout {
        ascii_data: 40,
        compact_data: 56,
        has_ready_bit: false,
        ..V3_11.unicode
    },
    instance: InstanceLayout {
        dict: InstanceDict::Tagged { cached_keys: 880 },
        ..V3_11.instance
    },
    ..V3_11
};

const V3_13: Layout = Layout {
    runtime: RuntimeLayout {
        interpreters_head: 632,
        finalizing: 608,
        auto_tss_key: Some(2160),
        main_thread: 656,
        allocators: Some(704),
    },
    interpreter: InterpreterLayout {
        next: 7264,
        id: 7272,
        threads_head: 7344,
        sysdict: 7640,
    },
    thread: ThreadLayout {
        thread_id: 152,
        native_thread_id: Some(160),
        frame: 72,
        cframe_frame: None,
        ..V3_12.thread
    },
    frame: FrameLayout {
        instruction: Instruction::Pointer {
            offset: 56,
            code_start: 200,
        },
        ..V3_12.frame
    },
    instance: InstanceLayout {
        dict: InstanceDict::Inline {
            cached_keys: 880,
            type_basicsize: 32,
        },
        values: 8,
        ..V3_12.instance
    },
    ..V3_12
};

const V3_14: Layout = Layout {
    runtime: RuntimeLayout {
        interpreters_head: 808,
        finalizing: 784,
        auto_tss_key: Some(2336),
        main_thread: 832,
        allocators: Some(880),
    },
    interpreter: InterpreterLayout {
        next: 7272,
        id: 7280,
        threads_head: 7344,
        sysdict: 7672,
    },
    frame: FrameLayout {
        instruction: Instruction::Pointer {
            offset: 56,
            code_start: 208,
        },
        owner: Some(74),
        // FRAME_OWNED_BY_INTERPRETER, then FRAME_OWNED_BY_CSTACK.
        owner_shim_min: Some(3),
        code_tag: 3,
        ..V3_13.frame
    },
    object: ObjectLayout {
        tuple_items: 32,
        ..V3_13.object
    },
    ..V3_13
};

const V3_15: Layout = Layout {
    runtime: RuntimeLayout {
        interpreters_head: 936,
        finalizing: 912,
        auto_tss_key: None,
        main_thread: 960,
        allocators: Some(1008),
    },
    interpreter: InterpreterLayout {
        next: 7264,
        id: 7272,
        threads_head: 7336,
        sysdict: 7576,
    },
    thread: ThreadLayout {
        thread_id: 176,
        native_thread_id: Some(184),
        ..V3_14.thread
    },
    instance: InstanceLayout {
        dict: InstanceDict::Inline {
            cached_keys: 888,
            type_basicsize: 32,
        },
        ..V3_14.instance
    },
    ..V3_14
};
